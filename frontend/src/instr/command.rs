//! CMD, ENTRYPOINT and SHELL, and the two forms of a command.

use super::flags::Flags;
use crate::ast::Statement;
use crate::error::Diagnostic;
use crate::json::Json;
use crate::span::{Span, Word};

/// A command as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// Text for a shell.
    Shell(Word),
    /// `["executable", "argument"]`.
    Exec(Vec<Word>),
}

/// Reads CMD and ENTRYPOINT. An empty list is fine: it clears what the base image has.
pub fn read(statement: &Statement, found: &mut Vec<Diagnostic>) -> Option<CommandLine> {
    Flags::check(statement, &[], found)?;
    let keyword = statement.keyword.name();
    let line = command_line(statement, found)?;
    if matches!(&line, CommandLine::Shell(text) if text.text.is_empty()) {
        found.push(
            Diagnostic::error(statement.keyword_word.span, format!("{keyword} needs a command"), "nothing follows")
                .help(format!("write `{keyword} [\"executable\", \"argument\"]`; `{keyword} []` clears it")),
        );
        return None;
    }
    Some(line)
}

/// Reads SHELL.
pub fn read_shell(statement: &Statement, found: &mut Vec<Diagnostic>) -> Option<Vec<Word>> {
    Flags::check(statement, &[], found)?;
    match command_line(statement, found)? {
        CommandLine::Exec(words) if !words.is_empty() => Some(words),
        _ => {
            found.push(
                Diagnostic::error(statement.arguments_span(), "SHELL needs a list in JSON form", "")
                    .help("write `SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]`"),
            );
            None
        }
    }
}

/// The arguments of a statement as a command. The text of a shell form may be empty.
pub fn command_line(statement: &Statement, found: &mut Vec<Diagnostic>) -> Option<CommandLine> {
    match &statement.json {
        Json::Strings(words) => Some(CommandLine::Exec(words.clone())),
        Json::NotStrings(span) => {
            found.push(not_strings(*span));
            None
        }
        Json::No => {
            Some(CommandLine::Shell(Word { text: statement.text().to_owned(), span: statement.arguments_span() }))
        }
    }
}

/// The error of a JSON array with something else than strings in it.
pub fn not_strings(span: Span) -> Diagnostic {
    Diagnostic::error(span, "a list in JSON form holds strings only", "not a string").help("put it in double quotes")
}
