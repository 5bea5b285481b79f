//! `# syntax=`: in which language the file is written.
//!
//! Other builders fetch that image and let it read the file. rbuild reads Dockerfiles itself, in the newest form of the
//! language: images that hold Docker's own Dockerfile frontend, whatever registry mirrors them, are rbuild ([`is_own`]).
//! Any other one may read the file otherwise. `rbuild serve` runs it ([`elsewhere`]); the command line runs no frontend
//! and refuses the file, or warns if the name sounds like a Dockerfile's. Named contexts do not replace it.

use oci::model::Reference;

use crate::error::{Diagnostic, Refusal};
use crate::plan::PlanOptions;
use crate::span::{Span, Word};

/// The build arg that says it in place of the file.
const BUILD_ARG: &str = "BUILDKIT_SYNTAX";
const HELP: &str = "if it is an ordinary Dockerfile, build with `--build-arg BUILDKIT_SYNTAX=docker/dockerfile:1`";

/// Whether the file is written in the language that rbuild reads; a fault if not, a warning if it is not sure.
pub fn check(directive: Option<&Word>, options: &PlanOptions) -> Option<Diagnostic> {
    let given = options.build_args.get(BUILD_ARG).filter(|value| !value.trim().is_empty());
    let (written, span) = match (given, directive) {
        (Some(value), _) => (value.as_str(), None),
        (None, Some(word)) => (word.text.as_str(), Some(word.span)),
        (None, None) => return None,
    };
    // Words after the name are arguments of the frontend.
    let name = written.split_whitespace().next()?;
    let shown: String = name.chars().take(100).collect();
    let at = |refusal: Refusal, span: Option<Span>| match span {
        Some(span) => refusal.at(span),
        None => Diagnostic::general(refusal.message).maybe_help(refusal.help),
    };
    let Ok(reference) = name.parse::<Reference>() else {
        return Some(at(Refusal::new(format!("the syntax `{shown}` is not an image name")).help(HELP), span));
    };
    if is_own(&reference) {
        return None;
    }
    let last = reference.repository().rsplit('/').next().unwrap_or_default();
    let message = format!("this file is written for `{shown}`, which rbuild does not run");
    let fault = at(Refusal::new(message).help(HELP), span);
    if !last.contains("dockerfile") {
        return Some(fault);
    }
    let message = format!("this file is written for `{shown}`; it is read as an ordinary Dockerfile");
    Some(Diagnostic { severity: crate::error::Severity::Warning, message, help: None, ..fault })
}

/// Whether a frontend is one whose language rbuild reads itself.
fn is_own(frontend: &Reference) -> bool {
    let mut parts = frontend.repository().rsplit('/');
    let (last, above) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    last == "dockerfile" || (above == "docker" && last.starts_with("dockerfile-"))
}

/// The image of a frontend that rbuild is not, of a syntax as it is written: behind the name may stand words for it.
pub fn elsewhere(written: &str) -> Option<&str> {
    let name = written.split_whitespace().next()?;
    name.parse::<Reference>().ok().filter(|frontend| !is_own(frontend)).map(|_| name)
}

/// The syntax of a file that is no Dockerfile: `//syntax=` or JSON with a `syntax`, perhaps beneath a `#!` line.
pub fn foreign(text: &str) -> Option<Word> {
    let text_only = text.strip_prefix('\u{feff}').unwrap_or(text);
    let skipped = match text_only.strip_prefix("#!") {
        Some(rest) => text_only.len() - rest.len() + rest.find('\n').map_or(rest.len(), |at| at + 1),
        None => 0,
    };
    let start = text.len() - text_only.len() + skipped;
    let rest = &text[start..];
    let line = rest.lines().next().unwrap_or_default();
    if let Some(comment) = line.strip_prefix("//") {
        let (key, value) = comment.split_once('=')?;
        if !key.trim().eq_ignore_ascii_case("syntax") || value.trim().is_empty() {
            return None;
        }
        let span = Span::new(start, start + line.trim_end().len());
        return Some(Word { text: value.trim().to_owned(), span });
    }
    if !rest.trim_start().starts_with('{') {
        return None;
    }
    let json: serde_json::Value = serde_json::from_str(rest).ok()?;
    let syntax = json.get("syntax")?.as_str()?.to_owned();
    let at = start + (rest.len() - rest.trim_start().len());
    Some(Word { text: syntax, span: Span::new(at, at + 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_that_are_dockerfiles_and_others() {
        let check = |name: &str, expected: &str| {
            let word = Word { text: name.into(), span: Span::new(0, 1) };
            let found = check(Some(&word), &PlanOptions::default());
            let found = found.map_or("fine".to_owned(), |found| format!("{:?}", found.severity));
            assert_eq!(found, expected, "{name}");
            let image = name.split_whitespace().next();
            // What is no name nobody can run.
            let is_elsewhere = expected != "fine" && image.is_some_and(|image| image.parse::<Reference>().is_ok());
            assert_eq!(elsewhere(name), image.filter(|_| is_elsewhere), "{name}");
        };
        check("docker/dockerfile", "fine");
        check("docker/dockerfile:1", "fine");
        check("docker/dockerfile:1.7-labs", "fine");
        check("docker.io/docker/dockerfile:1", "fine");
        check("docker/dockerfile-upstream:master", "fine");
        check("docker/dockerfile:experimental", "fine");
        check("docker/dockerfile-copy", "fine");
        check("mirror.example:5000/docker/dockerfile:1", "fine");
        check("mirror.example/hub/docker/dockerfile-upstream", "fine");
        check("registry.example/moby/dockerfile", "fine");
        check("docker/dockerfile:1 --opt=x", "fine");
        check("team/dockerfile-x", "Warning");
        check("mirror.example/docker_dockerfile:1", "Warning");
        check("team/packer", "Error");
        check("Not An Image", "Error");
        check("?", "Error");
    }

    #[test]
    fn files_that_are_no_dockerfiles_say_so() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(foreign(text).map(|word| word.text).as_deref(), expected, "{text}");
        };
        check("//syntax=a/b\nx", Some("a/b"));
        check("// Syntax = a/b \nx", Some("a/b"));
        check("#!/bin/x\n//syntax=a/b\n", Some("a/b"));
        check("\u{feff}//syntax=a/b", Some("a/b"));
        check("{\"syntax\": \"a/b\", \"c\": 1}", Some("a/b"));
        check("#!x\n\n {\"syntax\": \"a/b\"}", Some("a/b"));
        check("{\"c\": 1}", None);
        check("{", None);
        check("// comment", None);
        check("//syntax=", None);
        check("FROM x", None);
        check("#!x", None);
        check("# syntax=a/b\nFROM x", None);
        check("", None);
    }
}
