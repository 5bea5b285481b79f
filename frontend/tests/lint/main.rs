//! What the linter says, mends and describes: one table for each rule, options and comments that skip, fixes that keep
//! what is built, the shapes of outline and targets, and the page about the rules.

mod call;
mod docs;
mod fixes;
mod rules;
mod skips;

use oci::model::{Config, DiffId, Digest, ImageConfig, RootFs};
use rbuild_frontend::call::{Checked, check};
use rbuild_frontend::lint::Rule;
use rbuild_frontend::{Answers, Diagnostic, ImageAnswer, ImageQuestion, PlanOptions};

/// Options of a build for linux/amd64.
fn options() -> PlanOptions {
    PlanOptions {
        platform: "linux/amd64".parse().unwrap(),
        build_platform: "linux/amd64".parse().unwrap(),
        ..PlanOptions::default()
    }
}

/// The images of these tests: `debian`, `shell` with a SHELL, `srv` with a working directory, `arm` for arm64 whatever
/// is asked; `unknown` is not known.
fn image(question: &ImageQuestion) -> Option<ImageAnswer> {
    let name = question.reference.familiar();
    let mut architecture = question.platform.architecture.clone();
    let mut config = Config { env: vec!["PATH=/bin".into(), "LANG=C".into()], ..Config::default() };
    match name.split(':').next().unwrap_or_default() {
        "unknown" => return None,
        "shell" => config.shell = vec!["/bin/bash".into(), "-c".into()],
        "srv" => config.working_dir = "/srv".into(),
        "arm" | "arm64v8/debian" => architecture = "arm64".into(),
        _ => {}
    }
    let config = ImageConfig {
        os: "linux".into(),
        architecture,
        config,
        rootfs: RootFs { diff_ids: vec![DiffId(Digest::of(b"layer"))], ..RootFs::default() },
        ..ImageConfig::default()
    };
    Some(ImageAnswer { name: None, digest: Digest::of(name.as_bytes()), config })
}

/// Checks a file with all that is known about its images.
fn checked(text: &str, options: &PlanOptions) -> Checked {
    let unknown = check(text, options, &Answers::new()).unknown;
    let answers: Answers =
        unknown.into_iter().filter_map(|asked| Some((asked.question.clone(), image(&asked.question)?))).collect();
    let checked = check(text, options, &answers);
    let starts = checked.findings.iter().map(|finding| finding.span.as_ref().map_or(usize::MAX, |span| span.start));
    assert!(starts.is_sorted(), "not in the order of the text: {:?}", checked.findings);
    for finding in &checked.findings {
        assert!(finding.help.is_some(), "no advice: {finding:?}");
    }
    checked
}

/// The findings of a rule.
fn findings(rule: Rule, text: &str, options: &PlanOptions) -> Vec<Diagnostic> {
    let found = checked(text, options).findings;
    found.into_iter().filter(|finding| finding.rule == Some(rule)).collect()
}

/// The text at the places of findings.
fn places<'a>(text: &'a str, found: &[Diagnostic]) -> Vec<&'a str> {
    found.iter().map(|finding| &text[finding.span.clone().expect("a place")]).collect()
}
