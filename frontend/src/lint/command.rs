//! CMD and ENTRYPOINT: JSONArgsRecommended.

use super::Rule;
use crate::error::{Diagnostic, Edit};
use crate::instr::CommandLine;
use crate::span::Word;

/// First words that a shell understands itself, or that mean something else to it.
const SHELL_WORDS: [&str; 42] = [
    ".", ":", "alias", "bg", "break", "builtin", "case", "cd", "command", "continue", "declare", "do", "done", "elif",
    "else", "esac", "eval", "exec", "exit", "export", "fg", "fi", "for", "function", "hash", "if", "in", "jobs", "let",
    "local", "read", "return", "select", "set", "shift", "source", "then", "trap", "umask", "unset", "until", "while",
];

/// JSONArgsRecommended: a shell form, unless a SHELL says that a shell is meant. The fix is there only when the shell
/// would do nothing but start the command.
pub(crate) fn shell_form(keyword: &str, command: &CommandLine, shell: &[String]) -> Option<Diagnostic> {
    let CommandLine::Shell(text) = command else { return None };
    if !shell.is_empty() || looks_like_json(&text.text) {
        return None;
    }
    let example = match words(&text.text) {
        Some(words) => format!("write `{keyword} {}`", json(&words)),
        None => format!("write `{keyword} [\"executable\", \"argument\"]`, or say by SHELL that a shell is meant"),
    };
    Some(
        Diagnostic::warning(text.span, format!("{keyword} runs in a shell, which gets the signals in its place"), "")
            .help(example)
            .rule(Rule::JSONArgsRecommended)
            .fix(edit(text).into_iter().collect()),
    )
}

/// That is a finding of its own, made when the line is read.
fn looks_like_json(text: &str) -> bool {
    text.strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with(['"', '\'']) && rest.ends_with(']'))
}

fn edit(text: &Word) -> Option<Edit> {
    // With a continuation inside there may be comments inside.
    let whole = text.span.end - text.span.start == text.text.len();
    let words = words(&text.text).filter(|_| whole)?;
    Some(Edit { span: (text.span.start, text.span.end), replacement: json(&words) })
}

/// The words of a command that has no shell syntax at all.
fn words(text: &str) -> Option<Vec<&str>> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/=:@%+,-".contains(&b);
    let words: Vec<&str> = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    let first = *words.first()?;
    let starts_a_program = !first.contains('=') && !SHELL_WORDS.contains(&first);
    (starts_a_program && words.iter().all(|word| word.bytes().all(plain))).then_some(words)
}

/// Words that need no escapes, as a JSON list.
fn json(words: &[&str]) -> String {
    format!("[\"{}\"]", words.join("\", \""))
}
