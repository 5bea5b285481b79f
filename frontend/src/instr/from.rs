//! FROM.

use super::flags::{Flags, Takes};
use super::{COMMENT_HELP, Instruction, Kind};
use crate::ast::Statement;
use crate::error::Diagnostic;
use crate::span::{Span, Word};

/// `FROM [--platform=P] image [AS name]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// `--platform`, unexpanded.
    pub platform: Option<Word>,
    /// All of the flag.
    pub platform_flag: Option<Span>,
    /// The image or stage, unexpanded.
    pub base: Word,
    /// The stage's name, in lower case.
    pub name: Option<Word>,
}

const HELP: &str = "write `FROM image` or `FROM image AS name`";

/// Reads FROM.
pub fn read(statement: &Statement, found: &mut Vec<Diagnostic>) -> Option<From> {
    let flags = Flags::check(statement, &[("platform", Takes::Text)], found)?;
    let mut words = statement.fields().into_iter();
    let Some(base) = words.next() else {
        found.push(Diagnostic::error(statement.keyword_word.span, "FROM needs an image", "nothing follows").help(HELP));
        return None;
    };
    let name = match (words.next(), words.next(), words.next()) {
        (None, ..) => None,
        (Some(word), name, extra) if word.text.eq_ignore_ascii_case("as") => match (name, extra) {
            (Some(name), None) => Some(stage_name(name, found)?),
            (None, _) => {
                found.push(Diagnostic::error(word.span, "a stage name is missing after AS", "").help(HELP));
                return None;
            }
            (Some(_), Some(extra)) => {
                found.push(Diagnostic::error(extra.span, "FROM takes nothing after the stage name", "").help(HELP));
                return None;
            }
        },
        (Some(word), ..) => {
            let message = format!("FROM takes one image, and `{}` follows it", word.text);
            let help = if word.text.starts_with('#') { COMMENT_HELP } else { HELP };
            found.push(Diagnostic::error(word.span, message, "AS is expected here").help(help));
            return None;
        }
    };
    let platform_flag = flags.all("platform").next().map(|flag| flag.span);
    Some(From { platform: flags.text("platform"), platform_flag, base, name })
}

fn stage_name(word: Word, found: &mut Vec<Diagnostic>) -> Option<Word> {
    let name = word.text.to_ascii_lowercase();
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(ok) {
        return Some(Word { text: name, span: word.span });
    }
    let message = format!("`{}` cannot be the name of a stage", word.text);
    found.push(
        Diagnostic::error(word.span, message, "")
            .help("a name starts with a letter; letters, digits, `-`, `_` and `.` may follow"),
    );
    None
}

/// What stands for a FROM that could not be read, so that the instructions after it have a stage.
pub fn placeholder(statement: &Statement) -> Instruction {
    let base = Word { text: "scratch".into(), span: statement.keyword_word.span };
    Instruction {
        kind: Kind::From(From { platform: None, platform_flag: None, base, name: None }),
        span: statement.span(),
        source: statement.source().to_owned(),
    }
}
