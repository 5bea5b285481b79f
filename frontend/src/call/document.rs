//! Places and descriptions in a Dockerfile, in the form of BuildKit's subrequests.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::ast::{Ast, Keyword, Statement};
use crate::lint;
use crate::meter;

/// One range for each line, as BuildKit has it, up to this many: a hostile instruction has thousands of lines, and what
/// it names has each its place. The last range holds the rest.
const RANGES_MAX: usize = 20;

/// So many comment lines above an instruction may describe it: one with thousands of names is asked for each.
const COMMENTS_MAX: usize = 100;

/// Lines of the text. pb.Location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// One range for each line.
    pub ranges: Vec<LineRange>,
}

/// A line. pb.Range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LineRange {
    /// Its start.
    pub start: Position,
    /// Its end.
    pub end: Position,
}

/// A line's number. pb.Position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// From 1.
    pub line: usize,
}

/// A text, ready to be asked where things stand in it and what comments say of them.
pub(super) struct Document<'a> {
    text: &'a str,
    ast: &'a Ast,
    /// Where each line but the first starts.
    starts: Vec<usize>,
}

impl<'a> Document<'a> {
    pub fn new(text: &'a str, ast: &'a Ast) -> Self {
        Self { text, ast, starts: text.match_indices('\n').map(|(at, _)| at + 1).collect() }
    }

    /// The lines that a place reaches over.
    pub fn location(&self, place: Range<usize>) -> Location {
        let line = |at: usize| self.starts.partition_point(|start| *start <= at) + 1;
        let (first, last) = (line(place.start), line(place.end.saturating_sub(1).max(place.start)));
        let most = last.min(first + RANGES_MAX - 1);
        let range = |line| LineRange {
            start: Position { line },
            end: Position { line: if line == most { last } else { line } },
        };
        Location { ranges: (first..=most).map(range).collect() }
    }

    /// The statement around a place.
    pub fn statement(&self, at: usize) -> Option<&'a Statement> {
        let after = self.ast.statements.partition_point(|statement| statement.keyword_word.span.start <= at);
        self.ast.statements.get(after.checked_sub(1)?)
    }

    /// The FROM of every stage.
    pub fn stages(&self) -> impl Iterator<Item = &'a Statement> {
        self.ast.statements.iter().filter(|statement| statement.keyword == Keyword::From)
    }

    /// What the comments above a statement say of a name: `# name words`.
    pub fn description(&self, statement: &Statement, name: &str) -> String {
        let nearest = lint::description_comments(self.ast, statement).rev().take(COMMENTS_MAX);
        let said = nearest.filter_map(|comment| {
            meter::tick(1);
            comment.text.strip_prefix(name)?.strip_prefix(' ')
        });
        // The first one in the order of the text.
        said.last().map(str::trim).unwrap_or_default().to_owned()
    }

    /// The text, as JSON holds bytes.
    pub fn sources(&self) -> Vec<String> {
        vec![STANDARD.encode(self.text)]
    }
}
