//! Places in a Dockerfile.
//!
//! A [`Span`] is a range of bytes of *one* text, the one that was parsed. The triggers of a base image are texts of
//! their own: whoever lowers them (`lower::origin`) shows the `FROM` line instead, so spans of two texts never mix.

use std::ops::Range;

/// A range of bytes of the parsed text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The bytes from `start` up to `end`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// From the start of `self` to the end of `other`.
    pub fn to(self, other: Span) -> Self {
        Self { start: self.start, end: other.end.max(self.start) }
    }

    /// As a standard range.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// A piece of text with its place. What the text means (raw, unquoted, decoded from JSON) its holder says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The text.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}
