//! Failures on their way to a person: what failed, where, what to do.
//!
//! Every error of the rooms is turned into a [`Failure`] in the engine; [`crate::report`] prints it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a command did not do what it was asked.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: FailureKind,
    /// What went wrong, one or several of them in the order of the file; never empty.
    pub problems: Vec<Problem>,
}

/// One thing that went wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Lower case, no trailing dot: ``unknown instruction `COYP` ``.
    pub message: String,
    /// The lint rule that found it, when it is one's finding.
    pub rule: Option<frontend::lint::Rule>,
    /// Where, if it is somewhere in a text.
    pub snippet: Option<Snippet>,
    /// Further facts: causes, the registry's own words, the last lines of a log.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

/// A place in a text.
#[derive(Clone, Debug)]
pub struct Snippet {
    /// The text's name, as the user would write it.
    pub file: String,
    /// Where it is, if it is a file of the user; absolute.
    pub path: Option<PathBuf>,
    /// All of the text.
    pub text: Arc<str>,
    /// Byte range of what is meant.
    pub span: Range<usize>,
    /// Said at the place; may be empty.
    pub label: String,
}

/// What kind of failure, for exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The build, or what it was given: exit code 1.
    Build,
    /// The user stopped it: exit code 130.
    Canceled,
    /// The command of `rbuild run` could not be executed: 127 if it is not there, else 126, as shells have it.
    NotExecuted(i32),
}

impl Problem {
    /// A problem without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), rule: None, snippet: None, notes: Vec::new(), help: None }
    }
}

impl Failure {
    /// A failure of one problem without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Build, problems: vec![Problem::new(message)] }
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.help = Some(help.into());
        }
        self
    }

    /// Adds a further fact.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.notes.push(note.into());
        }
        self
    }

    /// An error and all its causes: the error is the message, the causes are notes, but for those that it tells itself.
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut failure = Self::new(error.to_string());
        let mut source = error.source();
        let mut said = error.to_string();
        while let Some(cause) = source {
            let told = cause.to_string();
            if !said.ends_with(&told) {
                failure = failure.note(told.clone());
                said = told;
            }
            source = cause.source();
        }
        failure
    }
}
