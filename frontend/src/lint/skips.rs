//! `# check=skip=Rule` directly above an instruction: the rule is silent for that instruction.

use std::ops::Range;

use super::Rule;
use super::checks::{Checks, Place};
use crate::ast::{Ast, Statement};
use crate::error::{Diagnostic, Severity};
use crate::span::Word;

/// The instructions that skip rules, in the order of the text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skips {
    regions: Vec<(Range<usize>, Checks)>,
}

impl Skips {
    /// Reads them. What is wrong with them goes to `found`, as warnings: to others they are only comments.
    pub fn of(ast: &Ast, found: &mut Vec<Diagnostic>) -> Self {
        let mut regions = Vec::new();
        for statement in &ast.statements {
            let mut together: Option<Checks> = None;
            for (value, start) in own_comments(ast, statement).filter_map(value) {
                let checks = Checks::parse(value, Place::Comment(start), found);
                together.get_or_insert_default().add_skips(checks);
            }
            regions.extend(together.map(|checks| (region(statement), checks)));
        }
        Self { regions }
    }

    /// Whether a finding is skipped.
    pub fn cover(&self, finding: &Diagnostic, rule: Rule) -> bool {
        let Some(span) = finding.span.as_ref().filter(|_| finding.severity == Severity::Warning) else { return false };
        let after = self.regions.partition_point(|(region, _)| region.start <= span.start);
        let last = self.regions[..after].last();
        last.is_some_and(|(region, checks)| span.start <= region.end && checks.skips(rule))
    }
}

/// The comments above a statement that are no parser directives.
pub(super) fn own_comments<'a>(ast: &'a Ast, statement: &'a Statement) -> impl DoubleEndedIterator<Item = &'a Word> {
    let directives = [&ast.directives.syntax, &ast.directives.escape, &ast.directives.check];
    let last = directives.into_iter().flatten().map(|word| word.span.end).max().unwrap_or(0);
    // Directives stand above all other comments.
    statement.line.comments.iter().filter(move |comment| comment.span.start >= last)
}

/// The options in a comment, and where they start.
pub(super) fn value(comment: &Word) -> Option<(&str, usize)> {
    let (name, value) = comment.text.split_once('=')?;
    let trimmed = value.trim();
    // Blanks at the end of a comment are no part of its text.
    let start = comment.span.end - trimmed.len();
    name.trim().eq_ignore_ascii_case("check").then_some((trimmed, start))
}

/// From the first comment above it to its last byte, here-documents and empty continuations included.
fn region(statement: &Statement) -> Range<usize> {
    let start = statement.line.comments.first().map_or(statement.span().start, |comment| comment.span.start);
    let bodies = statement.heredocs.iter().map(|heredoc| heredoc.body.span.end);
    let blanks = statement.line.empty_continuations.iter().map(|span| span.end);
    let end = bodies.chain(blanks).fold(statement.span().end, usize::max);
    start..end
}
