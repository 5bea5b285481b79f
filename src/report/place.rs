//! Places of a text as programs want them: lines and columns.

use std::ops::Range;

/// A line and a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// Characters (Unicode code points) in front of it in its line.
    pub character: usize,
}

/// Finds positions. Fast where they are asked for in ascending order, even in a text of one long line.
#[derive(Debug)]
pub struct Places<'a> {
    text: &'a str,
    starts: Cursor,
    ends: Cursor,
}

/// A byte of a text whose position is known, and where its line begins.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    at: usize,
    position: Position,
    line_start: usize,
}

impl<'a> Places<'a> {
    /// Of that text.
    pub fn new(text: &'a str) -> Self {
        Self { text, starts: Cursor::default(), ends: Cursor::default() }
    }

    /// Where a range of bytes begins and ends; beyond the text it is cut.
    pub fn range(&mut self, span: &Range<usize>) -> (Position, Position) {
        let start = floor(self.text, span.start);
        let end = ceil(self.text, span.end).max(start);
        (self.starts.seek(self.text, start), self.ends.seek(self.text, end))
    }
}

/// The boundary of characters at a byte or before it; the end for what is beyond.
pub fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The boundary of characters at a byte or behind it; the end for what is beyond.
pub fn ceil(text: &str, at: usize) -> usize {
    (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

impl Default for Cursor {
    /// In front of any text.
    fn default() -> Self {
        Self { at: 0, position: Position { line: 1, character: 0 }, line_start: 0 }
    }
}

impl Cursor {
    /// The position of a byte that begins a character. The text is the same every time.
    pub fn seek(&mut self, text: &str, to: usize) -> Position {
        if to < self.at {
            let line_start = text[..to].rfind('\n').map_or(0, |at| at + 1);
            let skipped = text[line_start..self.line_start.max(line_start)].bytes().filter(|b| *b == b'\n').count();
            let position = Position { line: self.position.line - skipped, character: 0 };
            *self = Self { at: line_start, position, line_start };
        }
        for (at, c) in text[self.at..to].char_indices() {
            if c == '\n' {
                self.position = Position { line: self.position.line + 1, character: 0 };
                self.line_start = self.at + at + 1;
            } else if c != '\u{feff}' || self.at + at > 0 {
                // A byte order mark in front of the text is no character of its first line.
                self.position.character += 1;
            }
        }
        self.at = to;
        self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_of_characters() {
        const TEXT: &str = "\u{feff}FROM ü\r\nRUN 表 b\n\nlast";
        let mut places = Places::new(TEXT);
        let mut check = |meant: &str, start: (usize, usize), end: (usize, usize)| {
            let at = TEXT.find(meant).expect("the case names what is in the text");
            let (from, to) = places.range(&(at..at + meant.len()));
            assert_eq!(((from.line, from.character), (to.line, to.character)), (start, end), "{meant:?}");
        };
        check("FROM", (1, 0), (1, 4));
        check("ü", (1, 5), (1, 6));
        check("b", (2, 6), (2, 7));
        // Backwards, within the line and beyond it.
        check("表", (2, 4), (2, 5));
        check("ü\r\nRUN", (1, 5), (2, 3));
        check("last", (4, 0), (4, 4));
        check("FROM", (1, 0), (1, 4));
        check("\n\nl", (2, 7), (4, 1));
    }

    #[test]
    fn places_beyond_the_text_are_cut() {
        let position = |line, character| Position { line, character };
        for (span, start, end) in [
            (0..0, position(1, 0), position(1, 0)),
            (1..2, position(1, 0), position(1, 1)),
            (3..90, position(2, 0), position(2, 1)),
            (90..99, position(2, 1), position(2, 1)),
        ] {
            assert_eq!(Places::new("ü\nx").range(&span), (start, end), "{span:?}");
        }
    }
}
