//! HEALTHCHECK.

use super::command::not_strings;
use super::duration;
use super::flags::{Flags, Takes};
use crate::ast::Statement;
use crate::error::Diagnostic;
use crate::json::{self, Json};
use crate::span::Word;
use crate::suggest;
use crate::words;

/// What HEALTHCHECK says; durations in nanoseconds, 0 for the runtime's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]`, `["CMD-SHELL", command]`.
    pub test: Vec<String>,
    /// `--interval`.
    pub interval: i64,
    /// `--timeout`.
    pub timeout: i64,
    /// `--start-period`.
    pub start_period: i64,
    /// `--start-interval`.
    pub start_interval: i64,
    /// `--retries`.
    pub retries: i64,
}

const HELP: &str = "write `HEALTHCHECK [OPTIONS] CMD command` or `HEALTHCHECK NONE`";
/// Shorter times make no sense to the runtimes.
const SHORTEST_NANOSECONDS: i64 = 1_000_000;

/// Reads HEALTHCHECK.
pub fn read(statement: &Statement, found: &mut Vec<Diagnostic>) -> Option<Healthcheck> {
    let known = [
        ("interval", Takes::Text),
        ("timeout", Takes::Text),
        ("start-period", Takes::Text),
        ("start-interval", Takes::Text),
        ("retries", Takes::Text),
    ];
    let flags = Flags::check(statement, &known, found)?;
    let text = statement.text();
    let (kind, rest) = words::first_field(text);
    let kind = statement.word(kind);
    let mut check = Healthcheck::default();
    match kind.text.to_ascii_uppercase().as_str() {
        "NONE" => {
            if rest < text.len() {
                let span = statement.word(rest..text.len()).span;
                found.push(Diagnostic::error(span, "HEALTHCHECK NONE takes no arguments", "").help(HELP));
                return None;
            }
            if let Some(flag) = statement.flags.first() {
                found.push(Diagnostic::error(flag.span, "HEALTHCHECK NONE takes no flags", "").help("remove it"));
                return None;
            }
            check.test = vec!["NONE".into()];
            return Some(check);
        }
        "CMD" => {}
        "" => {
            let span = statement.keyword_word.span;
            found.push(Diagnostic::error(span, "HEALTHCHECK needs CMD or NONE", "nothing follows").help(HELP));
            return None;
        }
        _ => {
            let message = format!("`{}` is neither CMD nor NONE", kind.text);
            let help = suggest::did_you_mean(&kind.text, ["CMD", "NONE"]).unwrap_or_else(|| HELP.into());
            found.push(Diagnostic::error(kind.span, message, "CMD is expected here").help(help));
            return None;
        }
    }
    let start = statement.arguments.start + rest;
    check.test = match json::parse(&statement.line, start..statement.arguments.end) {
        Json::Strings(words) => {
            std::iter::once("CMD".to_owned()).chain(words.into_iter().map(|word| word.text)).collect()
        }
        Json::NotStrings(span) => {
            found.push(not_strings(span));
            return None;
        }
        Json::No => vec!["CMD-SHELL".into(), text[rest..].to_owned()],
    };
    if check.test.len() < 2 || check.test[1].is_empty() {
        found.push(Diagnostic::error(kind.span, "HEALTHCHECK CMD needs a command", "nothing follows").help(HELP));
        return None;
    }
    let mut time = |name: &str| match flags.text(name) {
        None => Some(0),
        Some(word) => nanoseconds(name, &word, found),
    };
    let (interval, timeout) = (time("interval"), time("timeout"));
    let (start_period, start_interval) = (time("start-period"), time("start-interval"));
    let retries = match flags.text("retries") {
        None => Some(0),
        Some(word) => match word.text.parse::<i32>() {
            Ok(number) if number >= 0 => Some(i64::from(number)),
            _ => {
                let message = format!("`{}` is no number of retries", word.text);
                found.push(Diagnostic::error(word.span, message, "").help("write a number like `--retries=3`"));
                None
            }
        },
    };
    Some(Healthcheck {
        test: check.test,
        interval: interval?,
        timeout: timeout?,
        start_period: start_period?,
        start_interval: start_interval?,
        retries: retries?,
    })
}

fn nanoseconds(name: &str, word: &Word, found: &mut Vec<Diagnostic>) -> Option<i64> {
    let message = match duration::parse(&word.text) {
        Some(0) => return Some(0),
        Some(time) if time >= SHORTEST_NANOSECONDS => return Some(time),
        Some(_) => format!("`--{name}={}` is less than a millisecond", word.text),
        None => format!("`{}` is no time", word.text),
    };
    found.push(Diagnostic::error(word.span, message, "").help("write it like `30s`, `1m30s` or `500ms`"));
    None
}
