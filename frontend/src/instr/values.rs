//! ENV, LABEL and ARG: names and values.

use super::flags::Flags;
use crate::ast::{Keyword, Statement};
use crate::error::Diagnostic;
use crate::span::Word;
use crate::words;

/// A name with a value, both unexpanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The name.
    pub key: Word,
    /// The value.
    pub value: Word,
    /// Whether it was written in the old form, without `=`.
    pub legacy: bool,
}

/// `name` or `name=default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// The name.
    pub name: Word,
    /// The default, unexpanded.
    pub value: Option<Word>,
}

/// Reads ENV and LABEL.
pub fn read(statement: &Statement, escape: char, found: &mut Vec<Diagnostic>) -> Option<Vec<KeyValue>> {
    Flags::check(statement, &[], found)?;
    let keyword = statement.keyword.name();
    let help = format!("write `{keyword} name=value`");
    let text = statement.text();
    let ranges = words::split(text, escape);
    let Some(first) = ranges.first() else {
        let message = format!("{keyword} needs a name and a value");
        found.push(Diagnostic::error(statement.keyword_word.span, message, "nothing follows").help(help));
        return None;
    };
    if !text[first.clone()].contains('=') {
        // The old form: everything after the first blank is the value.
        let (key, rest) = words::first_field(text);
        if rest >= text.len() {
            let message = format!("`{}` has no value", &text[key.clone()]);
            found.push(Diagnostic::error(statement.word(key).span, message, "no `=` follows").help(help));
            return None;
        }
        let value = statement.word(rest..text.len());
        return Some(vec![KeyValue { key: statement.word(key), value, legacy: true }]);
    }
    let mut pairs = Vec::with_capacity(ranges.len());
    let before = found.len();
    for range in ranges {
        match text[range.clone()].find('=') {
            Some(0) => {
                let message = format!("a name is missing after {keyword}");
                found.push(Diagnostic::error(statement.word(range).span, message, "no name before `=`").help(&help));
            }
            Some(at) => pairs.push(KeyValue {
                key: statement.word(range.start..range.start + at),
                value: statement.word(range.start + at + 1..range.end),
                legacy: false,
            }),
            None if text[range.clone()].starts_with('#') => {
                let word = statement.word(range);
                found.push(Diagnostic::error(word.span, "`#` begins no comment here", "").help(super::COMMENT_HELP));
                break;
            }
            None => {
                let message = format!("`{}` has no `=`", &text[range.clone()]);
                let help = format!("write `{keyword} name=\"value with blanks\"`: a value with blanks needs quotes");
                found.push(Diagnostic::error(statement.word(range).span, message, "expected name=value").help(help));
            }
        }
    }
    (found.len() == before).then_some(pairs)
}

/// Reads ARG.
pub fn read_arg(statement: &Statement, escape: char, found: &mut Vec<Diagnostic>) -> Option<Vec<ArgDeclaration>> {
    debug_assert_eq!(statement.keyword, Keyword::Arg);
    Flags::check(statement, &[], found)?;
    let text = statement.text();
    let ranges = words::split(text, escape);
    if ranges.is_empty() {
        found.push(
            Diagnostic::error(statement.keyword_word.span, "ARG needs a name", "nothing follows")
                .help("write `ARG name` or `ARG name=default`"),
        );
        return None;
    }
    let mut declarations = Vec::with_capacity(ranges.len());
    let before = found.len();
    for range in ranges {
        match text[range.clone()].find('=') {
            Some(0) => found.push(
                Diagnostic::error(statement.word(range).span, "a name is missing after ARG", "no name before `=`")
                    .help("write `ARG name=default`"),
            ),
            Some(at) => declarations.push(ArgDeclaration {
                name: statement.word(range.start..range.start + at),
                value: Some(statement.word(range.start + at + 1..range.end)),
            }),
            None => declarations.push(ArgDeclaration { name: statement.word(range), value: None }),
        }
    }
    (found.len() == before).then_some(declarations)
}
