//! The instructions that are a word or a list of words: WORKDIR, USER, STOPSIGNAL, MAINTAINER, VOLUME, EXPOSE.

use super::command::not_strings;
use super::flags::Flags;
use crate::ast::Statement;
use crate::error::Diagnostic;
use crate::json::Json;
use crate::span::Word;

/// Reads an instruction whose whole text is one value.
pub fn one(statement: &Statement, example: &str, found: &mut Vec<Diagnostic>) -> Option<Word> {
    Flags::check(statement, &[], found)?;
    if statement.arguments.is_empty() {
        found.push(nothing(statement, example));
        return None;
    }
    Some(statement.word(0..statement.arguments.len()))
}

/// Reads VOLUME.
pub fn volumes(statement: &Statement, found: &mut Vec<Diagnostic>) -> Option<Vec<Word>> {
    Flags::check(statement, &[], found)?;
    let words = match &statement.json {
        Json::Strings(words) => words.clone(),
        Json::NotStrings(span) => {
            found.push(not_strings(*span));
            return None;
        }
        Json::No => statement.fields(),
    };
    if words.is_empty() {
        found.push(nothing(statement, "/data"));
        return None;
    }
    if let Some(empty) = words.iter().find(|word| word.text.trim().is_empty()) {
        found.push(Diagnostic::error(empty.span, "a volume's path is empty", "").help("write an absolute path"));
        return None;
    }
    Some(words.into_iter().map(|word| Word { text: word.text.trim().to_owned(), span: word.span }).collect())
}

/// Reads EXPOSE.
pub fn ports(statement: &Statement, found: &mut Vec<Diagnostic>) -> Option<Vec<Word>> {
    Flags::check(statement, &[], found)?;
    let mut words = statement.fields();
    if words.is_empty() {
        found.push(nothing(statement, "8080/tcp"));
        return None;
    }
    words.sort_by(|a, b| a.text.cmp(&b.text));
    Some(words)
}

fn nothing(statement: &Statement, example: &str) -> Diagnostic {
    let keyword = statement.keyword.name();
    Diagnostic::error(statement.keyword_word.span, format!("{keyword} needs a value"), "nothing follows")
        .help(format!("write `{keyword} {example}`"))
}
