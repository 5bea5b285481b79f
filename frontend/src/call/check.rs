//! All findings of a file.

use crate::error::{Diagnostic, Severity};
use crate::plan::{Answers, Asked, PlanOptions};
use crate::{Source, lint, lower};

/// What was found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Errors and warnings in the order of the text, those that are skipped left out.
    pub findings: Vec<Diagnostic>,
    /// Whether `check=error=true` was said: then a warning of a rule fails the build.
    pub warnings_are_errors: bool,
    /// Images that would have told more.
    pub unknown: Vec<Asked>,
}

impl Checked {
    /// Whether the file passes.
    pub fn passes(&self) -> bool {
        self.findings.iter().all(|finding| {
            finding.severity == Severity::Warning && (finding.rule.is_none() || !self.warnings_are_errors)
        })
    }
}

/// Findings of the whole file: every stage is looked at, whatever the target. Values are looked at only when the file is
/// well-formed, since nobody knows what a faulty line would have set.
pub fn check(text: &str, options: &PlanOptions, answers: &Answers) -> Checked {
    if let Some(empty) = crate::empty(text) {
        return Checked { findings: vec![empty], warnings_are_errors: false, unknown: Vec::new() };
    }
    let Source { file, skips, check, found } = Source::read(text);
    let (mut found, unknown) = lower::check(&file, options, answers, found);
    // After lowering: a fault of the options hides nothing of the file.
    let checks = lint::Checks::of(check.as_ref(), options, &mut found);
    let findings = lint::settle(found, &checks, &skips);
    Checked { findings, warnings_are_errors: checks.warnings_are_errors(), unknown }
}
