//! Cutting the text of an instruction into words, quotes and escapes respected but kept.
//!
//! Two ways, as the language has them: [`split`] for `ENV`, `LABEL`, `ARG` (quotes hold blanks together) and
//! [`fields`] for `FROM`, `COPY`, `EXPOSE` and the like (blanks separate, whatever stands around them). Words come out
//! raw, as ranges; [`crate::expand`] removes quotes and escapes later, when variables are known.

use std::ops::Range;

use crate::meter;

/// What separates fields: not every Unicode blank, only these.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// Words separated by blanks outside quotes. A lone escape character at the very end is dropped.
pub fn split(text: &str, escape: char) -> Vec<Range<usize>> {
    meter::tick(text.len());
    let mut words = Vec::new();
    let mut start: Option<usize> = None;
    let mut quote: Option<char> = None;
    let mut end = text.len();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if start.is_none() && c.is_whitespace() {
            continue;
        }
        let word = *start.get_or_insert(at);
        if c == escape && quote != Some('\'') {
            if chars.next().is_none() {
                end = at;
            }
            continue;
        }
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c.is_whitespace() => {
                words.push(word..at);
                start = None;
            }
            None => {}
        }
    }
    match start {
        Some(start) if start < end => words.push(start..end),
        _ => {}
    }
    words
}

/// Words separated by blanks; quotes mean nothing.
pub fn fields(text: &str) -> Vec<Range<usize>> {
    meter::tick(text.len());
    let mut words = Vec::new();
    let mut start: Option<usize> = None;
    for (at, c) in text.char_indices() {
        match (BLANKS.contains(&c), start) {
            (true, Some(word)) => {
                words.push(word..at);
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    words.extend(start.map(|start| start..text.len()));
    words
}

/// The first field, and where what follows it starts.
pub fn first_field(text: &str) -> (Range<usize>, usize) {
    let start = text.len() - text.trim_start().len();
    let end = text[start..].find(BLANKS).map_or(text.len(), |length| start + length);
    let rest = &text[end..];
    (start..end, end + (rest.len() - rest.trim_start().len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str, ranges: Vec<Range<usize>>) -> Vec<&str> {
        ranges.into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn split_keeps_quoted_and_escaped_blanks_together() {
        let check = |text: &str, expected: &[&str]| assert_eq!(texts(text, split(text, '\\')), expected, "{text}");
        check("", &[]);
        check("   ", &[]);
        check("a", &["a"]);
        check("a b", &["a", "b"]);
        check("  a \t b  ", &["a", "b"]);
        check("a=b c=d", &["a=b", "c=d"]);
        check("a=\"b c\" d", &["a=\"b c\"", "d"]);
        check("a='b c' d", &["a='b c'", "d"]);
        check("a=b\\ c d", &["a=b\\ c", "d"]);
        check("a=\"b\\\" c\" d", &["a=\"b\\\" c\"", "d"]);
        check("a='b\\' c", &["a='b\\'", "c"]);
        check("a=\"b c", &["a=\"b c"]);
        check("\"\" x", &["\"\"", "x"]);
        check("a\\", &["a"]);
        check("a \\", &["a"]);
        check("\\", &[]);
        check("a=\"b\\", &["a=\"b"]);
        check("ä=ö ü", &["ä=ö", "ü"]);
        check("a\u{a0}b", &["a", "b"]);
        check("x\"y z\"w q", &["x\"y z\"w", "q"]);
        check("x'y \"z' q", &["x'y \"z'", "q"]);
    }

    #[test]
    fn split_follows_the_escape_directive() {
        let check = |text: &str, expected: &[&str]| assert_eq!(texts(text, split(text, '`')), expected, "{text}");
        check("a=b` c d", &["a=b` c", "d"]);
        check("a=b\\ c", &["a=b\\", "c"]);
        check("a=\"b`\" c\"", &["a=\"b`\" c\""]);
    }

    #[test]
    fn fields_know_only_blanks() {
        let check = |text: &str, expected: &[&str]| assert_eq!(texts(text, fields(text)), expected, "{text}");
        check("", &[]);
        check(" a  b ", &["a", "b"]);
        check("\"a b\" c", &["\"a", "b\"", "c"]);
        check("a\\ b", &["a\\", "b"]);
        check("a\u{a0}b", &["a\u{a0}b"]);
        check("a\tb\u{b}c\u{c}d\re", &["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn the_first_field_and_what_follows() {
        let check = |text: &str, first: &str, rest: &str| {
            let (range, after) = first_field(text);
            assert_eq!((&text[range], &text[after..]), (first, rest), "{text}");
        };
        check("RUN make all", "RUN", "make all");
        check("  RUN\t\tmake", "RUN", "make");
        check("RUN", "RUN", "");
        check("", "", "");
    }
}
