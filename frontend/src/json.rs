//! The JSON form: `["executable", "argument"]`.

use std::ops::Range;

use serde_json::value::RawValue;

use crate::lines::Line;
use crate::meter;
use crate::span::{Span, Word};

/// What stands where a JSON array of strings may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// No JSON array: the other form of the instruction is meant.
    No,
    /// An array of strings, decoded.
    Strings(Vec<Word>),
    /// An array with something else in it: an error, as other builders have it. The place is that of the first such.
    NotStrings(Span),
}

/// Looks at a range of a line, blanks around it allowed.
pub fn parse(line: &Line, range: Range<usize>) -> Json {
    let text = &line.text[range.clone()];
    if !text.trim_start().starts_with('[') {
        return Json::No;
    }
    meter::tick(text.len());
    // The elements are borrowed, so that their places are known.
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(text) else { return Json::No };
    let mut words = Vec::with_capacity(elements.len());
    for element in elements {
        let raw = element.get();
        let start = range.start + (raw.as_ptr() as usize - text.as_ptr() as usize);
        let span = line.span(start..start + raw.len());
        match serde_json::from_str::<String>(raw) {
            Ok(text) => words.push(Word { text, span }),
            Err(_) => return Json::NotStrings(span),
        }
    }
    Json::Strings(words)
}
