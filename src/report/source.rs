//! The lines of a text that a report shows: found once per text, escaped, and cut to what a screen holds.
//!
//! A text may have 100,000 lines and as many findings, or one line of ten megabytes; so neither the text nor a line is
//! gone through anew for every finding.

use std::ops::Range;
use std::sync::Arc;

use solver::redact;
use unicode_width::UnicodeWidthChar as _;

use super::place::{Cursor, ceil, floor};
use crate::engine::Snippet;
use crate::escape;

/// Bytes that are kept of a line on either side of a place: more than any screen shows.
const AROUND_MAX_BYTES: usize = 1_000;
/// Where the lines of the text of the last snippet begin.
#[derive(Debug, Default)]
pub struct Lines {
    text: Option<Arc<str>>,
    starts: Vec<usize>,
    /// At the last place.
    cursor: Cursor,
}

/// What is shown of a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// The line of the place, from 1.
    pub line: usize,
    /// The character in that line, from 1.
    pub column: usize,
    /// Its lines, escaped and cut.
    pub text: String,
    /// What is meant of them, in bytes of `text`.
    pub span: Range<usize>,
}

impl Shown {
    /// As `column`, but in what is shown.
    pub fn shown_column(&self) -> usize {
        1 + self.text[..self.span.start].chars().count()
    }
}

impl Lines {
    /// The lines of a place; if there are several, each is cut to so many columns. A place beyond
    /// the text is cut, one that splits a character is widened: a wrong place must not hide the message.
    pub fn show(&mut self, snippet: &Snippet, columns: usize) -> Shown {
        let text = &snippet.text;
        if !self.text.as_ref().is_some_and(|known| Arc::ptr_eq(known, text)) {
            self.starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
            self.text = Some(text.clone());
            self.cursor = Cursor::default();
        }
        let start = floor(text, snippet.span.start);
        let end = ceil(text, snippet.span.end.max(start));
        let first = self.line_of(start);
        // A place that ends with a line break ends in that line.
        let last = self.line_of(end.saturating_sub(1).max(start)).max(first);
        let column = 1 + self.cursor.seek(text, start).character;
        let mut shown = Shown { line: first + 1, column, text: String::new(), span: 0..0 };
        for number in first..=last {
            let from = self.starts[number];
            let to = self.starts.get(number + 1).map_or(text.len(), |next| next - 1);
            let meant = start.clamp(from, to)..end.clamp(from, to);
            // What is meant of this line, and so much around it.
            let from = ceil(text, meant.start.saturating_sub(AROUND_MAX_BYTES).max(from));
            let to = floor(text, to.min(meant.start.max(from) + 2 * AROUND_MAX_BYTES));
            let meant = meant.start.max(from) - from..meant.end.min(to) - from;
            if number > first {
                shown.text.push('\n');
            }
            let line = shown.text.len();
            // Passwords of addresses are not shown again; every place stays what it is.
            let span = visible(&redact::addresses_in_place(&text[from..to]), meant, &mut shown.text);
            shown.span = if number == first { span } else { shown.span.start..span.end };
            if last > first {
                cut(&mut shown, line, columns);
            }
        }
        shown
    }

    /// The line that holds a byte, from 0.
    fn line_of(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at) - 1
    }
}

/// Cuts the last line of what is shown, which begins at `line`.
fn cut(shown: &mut Shown, line: usize, columns: usize) {
    let mut width = 0;
    let too_wide = shown.text[line..].char_indices().find(|(_, c)| {
        // The renderer shows a tab as four blanks.
        width += if *c == '\t' { 4 } else { c.width().unwrap_or(0) };
        width > columns
    });
    let Some((at, _)) = too_wide else { return };
    let kept = floor(&shown.text, line + at - 1).max(line);
    shown.text.truncate(kept);
    shown.text.push('…');
    shown.span = shown.span.start.min(kept)..shown.span.end.min(shown.text.len());
}

/// Appends a line with everything escaped that drives a terminal; returns where the place is then.
fn visible(line: &str, place: Range<usize>, out: &mut String) -> Range<usize> {
    let (mut start, mut end) = (None, None);
    let mut chars = line.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if start.is_none() && at + c.len_utf8() > place.start {
            start = Some(out.len());
        }
        if end.is_none() && at >= place.end {
            end = Some(out.len());
        }
        match c {
            // The end of a line of a text from Windows; the mark at the front of one.
            '\r' if chars.peek().is_none() => {}
            '\u{feff}' if at == 0 => {}
            c if escape::drives(c) => escape::push(c, out),
            c => out.push(c),
        }
    }
    let start = start.unwrap_or(out.len());
    start..end.unwrap_or(out.len()).max(start)
}
