//! What is wrong with a Dockerfile, in three parts: what, where, what to do.
//!
//! Everything in this crate that finds a fault makes a [`Diagnostic`] and goes on; [`crate::plan`] hands all of them
//! out, ordered by place. How they look on a screen is the caller's business.

use std::ops::Range;

use crate::lint::Rule;
use crate::span::Span;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is built.
    Error,
    /// It is built, but probably not what was meant.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong; lower case, no trailing dot.
    pub message: String,
    /// Where: bytes of the Dockerfile text. `None` when it is about the file as a whole or an option.
    pub span: Option<Range<usize>>,
    /// A few words that stand under the place.
    pub label: String,
    /// What to do.
    pub help: Option<String>,
    /// The lint rule that finds it, when it is one's finding.
    pub rule: Option<Rule>,
    /// What would mend it; empty when a person must decide. The plan stays what it was, but for JSONArgsRecommended,
    /// whose point is a command without a shell.
    pub fix: Box<[Edit]>,
}

/// A change of the text: what stands at `span` becomes `replacement`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edit {
    /// Bytes of the text.
    pub span: (usize, usize),
    /// What stands there afterwards.
    pub replacement: String,
}

impl Diagnostic {
    /// An error at a place.
    pub(crate) fn error(span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span: Some(span.range()),
            label: label.into(),
            help: None,
            rule: None,
            fix: Box::default(),
        }
    }

    /// A warning at a place.
    pub(crate) fn warning(span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message, label) }
    }

    /// An error without a place.
    pub(crate) fn general(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span: None,
            label: String::new(),
            help: None,
            rule: None,
            fix: Box::default(),
        }
    }

    /// The same, with advice.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, as the finding of a rule.
    pub(crate) fn rule(mut self, rule: Rule) -> Self {
        self.rule = Some(rule);
        self
    }

    /// The same, with what would mend it.
    pub(crate) fn fix(mut self, edits: Vec<Edit>) -> Self {
        self.fix = edits.into();
        self
    }

    /// The same, with advice if there is any.
    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }
}

/// Why a value is refused, before it is known where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Refusal {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The refusal, with its place.
    pub(crate) fn at(self, span: Span) -> Diagnostic {
        Diagnostic::error(span, self.message, "").maybe_help(self.help)
    }
}

/// Puts findings in the order of the text; those without a place come last.
pub(crate) fn in_order(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|found| found.span.as_ref().map_or((usize::MAX, 0), |span| (span.start, span.end)));
    diagnostics.dedup();
    diagnostics
}
