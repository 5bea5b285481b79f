//! The rooms' errors in words: each becomes a [`Failure`] with its cause, its place and what to do.

use std::ops::Range;

use executor::ExecError;
use executor::ops::exec::StepError;
use executor::ops::file::FileError;
use executor::ops::file::owner::OwnerError;
use executor::sandbox::SandboxError;
use executor::source::SourceError;
use frontend::{Diagnostic, Severity};
use oci::registry::RegistryError;
use store::StoreError;

use super::context::{Context, Tree, similar};
use super::{Failure, FailureKind, Problem, Text};

/// An error of the store.
pub fn store(error: &StoreError) -> Failure {
    Failure::from_error(error)
}

/// An error of a registry, with the registry's own advice.
pub fn registry(error: &RegistryError) -> Failure {
    let failure = Failure::from_error(error);
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// An error of content: a digest that does not match, a full disk.
pub fn content(error: &oci::content::ContentError) -> Failure {
    Failure::from_error(error)
}

/// What the frontend found in the Dockerfile.
pub fn diagnostics(found: &[Diagnostic], place: &Text) -> Failure {
    let problems = found.iter().filter(|d| d.severity == Severity::Error).map(|d| diagnostic(d, place)).collect();
    Failure { kind: FailureKind::Build, problems }
}

/// One remark of the frontend.
pub fn diagnostic(found: &Diagnostic, place: &Text) -> Problem {
    Problem {
        message: found.message.clone(),
        rule: found.rule,
        snippet: found.span.clone().map(|span| place.snippet(span, &found.label)),
        notes: Vec::new(),
        help: found.help.clone(),
    }
}

/// A failure of a step, at its place in the Dockerfile.
pub fn at(mut failure: Failure, place: &Text, span: Option<&Range<usize>>) -> Failure {
    if let (Some(problem), Some(span)) = (failure.problems.first_mut(), span) {
        problem.snippet = Some(place.snippet(span.clone(), ""));
    }
    failure
}

/// The user stopped it.
pub fn canceled() -> Failure {
    Failure { kind: FailureKind::Canceled, ..Failure::new("canceled") }
}

/// An error of the executor.
pub fn exec(error: &ExecError) -> Failure {
    match error {
        ExecError::Canceled => canceled(),
        error => {
            let mut failure = Failure::from_error(error);
            if let ExecError::Step(StepError::Network(error)) = error {
                failure = error.notes().into_iter().fold(failure, Failure::note);
            }
            if let ExecError::Step(StepError::Emulate(error)) = error {
                failure = error.note().into_iter().fold(failure, Failure::note);
            }
            match error.help() {
                Some(help) => failure.help(help),
                None => failure,
            }
        }
    }
}

/// An error of a step. What the build context lacks is looked for under similar names, and among what is ignored.
pub fn step(error: &ExecError, context: &Context) -> Failure {
    let failure = exec(error);
    match error {
        ExecError::Source(SourceError::Ignored { path, context: called, pattern, position }) => {
            match context.tree_called(called).and_then(|tree| ignore_place(tree, *position)) {
                Some(place) => Failure::new(format!("`{path}` is excluded from {called} by {place} `{pattern}`"))
                    .help(format!("to have it all the same, add the line `!{path}` below that one")),
                None => failure,
            }
        }
        ExecError::Source(SourceError::NotFound { path, context: called }) => missing(failure, path, context, called),
        ExecError::Source(SourceError::NothingMatches { context: called, .. }) => missing(failure, "", context, called),
        // Who the user is, is asked of the image's own files: no fault of the sandbox.
        ExecError::Step(StepError::Sandbox(SandboxError::Act { act, detail, errno: None }))
            if act.starts_with("user ") =>
        {
            Failure::new(detail.clone()).help(
                "USER names a user of the image: make it in a RUN before (`adduser`, `useradd`), or give its number",
            )
        }
        ExecError::File(FileError::Owner(OwnerError::Unknown { .. })) => {
            failure.help("make it in a RUN before (`adduser`, `useradd`), or give numbers, like `--chown=1000:1000`")
        }
        ExecError::Step(StepError::Sandbox(SandboxError::Exec { source, .. })) if is_foreign(source) => failure.help(
            "the program is for another architecture than the step: does the image say the right platform (`--platform`), \
             or was a program copied from another one? A script has to begin with `#!`",
        ),
        ExecError::Step(StepError::Sandbox(SandboxError::Exec { program, .. })) if is_shell(program) => {
            failure.help("the image has no shell; the JSON form needs none: `RUN [\"program\", \"argument\"]`")
        }
        _ => failure,
    }
}

/// "Exec format error": the kernel knows nobody who runs it.
fn is_foreign(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}

fn is_shell(program: &str) -> bool {
    matches!(program, "/bin/sh" | "/bin/bash" | "sh" | "bash")
}

/// `.dockerignore:4`
fn ignore_place(tree: &Tree, position: usize) -> Option<String> {
    let ignore = tree.ignore.as_ref()?;
    Some(format!("{}:{}", ignore.text.name, ignore.lines.get(position)?.line))
}

/// What to say of a path that a context lacks: where it was looked for, and what was perhaps meant.
fn missing(failure: Failure, path: &str, context: &Context, called: &str) -> Failure {
    let Some(tree) = context.tree_called(called) else { return failure };
    if let Some(why) = &tree.empty {
        return failure
            .note(why.clone())
            .help("to have files, give a directory, an archive or a repository as the context");
    }
    let failure = failure.note(format!("{called} is {}", tree.shown));
    match similar::advice(&tree.dir, &tree.ignore_patterns(), path) {
        Some(advice) => failure.help(advice),
        None => failure
            .help(format!("paths of COPY, ADD and bind mounts start at {called}, and nothing outside it can be had")),
    }
}
