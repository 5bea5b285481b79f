//! The rooms' errors in words: each becomes a [`Failure`] with its cause, its place and what to do.

use std::ops::Range;
use std::path::Path;

use executor::ExecError;
use executor::ops::exec::StepError;
use executor::sandbox::SandboxError;
use executor::source::SourceError;
use frontend::{Diagnostic, Severity};
use oci::registry::RegistryError;
use store::StoreError;

use super::context::Context;
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
        error => Failure::from_error(error),
    }
}

/// An error of a step. What the build context lacks is looked for under similar names, and among what is ignored.
pub fn step(error: &ExecError, context: &Context) -> Failure {
    let failure = exec(error);
    match error {
        ExecError::Source(SourceError::Ignored { position, .. }) => match ignore_place(context, *position) {
            Some(place) => failure.help(format!("the pattern stands in {place}; an exception is written `!PATH`")),
            None => failure,
        },
        ExecError::Source(SourceError::NotFound { path, .. }) => match similar(&context.dir, path) {
            Some(similar) => failure.help(format!("did you mean `{similar}`?")),
            None => {
                failure.help(format!("paths of COPY and ADD start at the build context, `{}`", context.dir.display()))
            }
        },
        ExecError::Step(StepError::Sandbox(SandboxError::Exec { program, .. })) if is_shell(program) => {
            failure.help("the image has no shell; the JSON form needs none: `RUN [\"program\", \"argument\"]`")
        }
        _ => failure,
    }
}

fn is_shell(program: &str) -> bool {
    matches!(program, "/bin/sh" | "/bin/bash" | "sh" | "bash")
}

/// `.dockerignore:4`
fn ignore_place(context: &Context, position: usize) -> Option<String> {
    let ignore = context.ignore.as_ref()?;
    Some(format!("{}:{}", ignore.text.name, ignore.lines.get(position)?.line))
}

/// A name beside the missing one that looks like it. Only names are read, and only of one directory.
fn similar(context: &Path, path: &str) -> Option<String> {
    let path = Path::new(path.trim_start_matches('/'));
    let missing = path.file_name()?.to_str()?;
    let parent = path.parent()?;
    if parent.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return None;
    }
    let names: Vec<String> = std::fs::read_dir(context.join(parent))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let nearest = frontend::nearest(missing, names.iter().map(String::as_str))?;
    Some(parent.join(nearest).display().to_string())
}
