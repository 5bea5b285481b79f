//! The lint rules, under the names that other builders gave them; what each is about stands in `docs/rules.md`.
//!
//! In come statements ([`statements`]), stages ([`stage`]) and, from lowering, expanded values; out come
//! [`Diagnostic`]s that name their [`Rule`]. Every rule is one function in a file of its family: [`casing`],
//! [`form`], [`comments`], [`names`], [`from`], [`command`], [`environment`], [`paths`], [`expose`]. Rules find whatever
//! there is; which findings are said is decided once, at the end ([`settle`]), by [`Checks`] and [`Skips`]. Absent:
//! errors, which are no rule's business.

mod checks;

mod skips;

mod casing;

mod form;

mod comments;

mod names;

pub(crate) mod from;

pub(crate) mod command;

mod environment;

pub(crate) mod paths;

pub(crate) mod expose;

use std::collections::BTreeSet;

use crate::ast::Ast;
use crate::error::{Diagnostic, Severity};
use crate::stage::{Dockerfile, Stage};

pub use checks::Checks;
pub(crate) use comments::description_comments;
pub(crate) use environment::{undefined, variables};
pub(crate) use form::empty_continuation;
pub(crate) use skips::Skips;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of the rules")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JSONArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 22] = [
        Self::StageNameCasing,
        Self::FromAsCasing,
        Self::NoEmptyContinuation,
        Self::ConsistentInstructionCasing,
        Self::DuplicateStageName,
        Self::ReservedStageName,
        Self::JSONArgsRecommended,
        Self::MaintainerDeprecated,
        Self::UndefinedArgInFrom,
        Self::WorkdirRelativePath,
        Self::UndefinedVar,
        Self::MultipleInstructionsDisallowed,
        Self::LegacyKeyValueFormat,
        Self::InvalidBaseImagePlatform,
        Self::RedundantTargetPlatform,
        Self::SecretsUsedInArgOrEnv,
        Self::InvalidDefaultArgInFrom,
        Self::FromPlatformFlagConstDisallowed,
        Self::CopyIgnoredFile,
        Self::InvalidDefinitionDescription,
        Self::ExposeProtoCasing,
        Self::ExposeInvalidFormat,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The rule of that name, exactly as it is written.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// The rule whose name is nearest to a wrong one.
    pub fn nearest(name: &str) -> Option<Self> {
        crate::suggest::nearest(name, Self::ALL.map(Self::name)).and_then(Self::parse)
    }

    /// What it is about, in a sentence.
    pub fn description(self) -> &'static str {
        self.facts().1
    }

    /// A page about it.
    pub fn url(self) -> String {
        let mut slug = String::new();
        // JSON is one word, unlike its letters.
        for letter in self.name().replace("JSON", "Json").chars() {
            if letter.is_ascii_uppercase() && !slug.is_empty() {
                slug.push('-');
            }
            slug.push(letter.to_ascii_lowercase());
        }
        format!("https://docs.docker.com/reference/build-checks/{slug}/")
    }

    /// Whether it counts only when it is asked for by `check=experimental=`.
    pub fn experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }

    fn facts(self) -> (&'static str, &'static str) {
        match self {
            Self::StageNameCasing => ("StageNameCasing", "The names of stages are written in small letters."),
            Self::FromAsCasing => {
                ("FromAsCasing", "FROM and AS of one line are written alike, both in capitals or both small.")
            }
            Self::NoEmptyContinuation => {
                ("NoEmptyContinuation", "No empty line stands inside a continued instruction.")
            }
            Self::ConsistentInstructionCasing => {
                ("ConsistentInstructionCasing", "All instructions of a file are in capitals, or all in small letters.")
            }
            Self::DuplicateStageName => ("DuplicateStageName", "Every stage has a name of its own."),
            Self::ReservedStageName => {
                ("ReservedStageName", "No stage is called `scratch` or `context`: both mean something else.")
            }
            Self::JSONArgsRecommended => (
                "JSONArgsRecommended",
                "CMD and ENTRYPOINT in JSON form run without a shell that keeps signals to itself.",
            ),
            Self::MaintainerDeprecated => {
                ("MaintainerDeprecated", "An author is named by a label; MAINTAINER is deprecated.")
            }
            Self::UndefinedArgInFrom => {
                ("UndefinedArgInFrom", "FROM uses only ARGs that are declared before the first FROM.")
            }
            Self::WorkdirRelativePath => (
                "WorkdirRelativePath",
                "The first WORKDIR is absolute, so that it does not hang on what the base image says.",
            ),
            Self::UndefinedVar => ("UndefinedVar", "Variables are set before they are used."),
            Self::MultipleInstructionsDisallowed => (
                "MultipleInstructionsDisallowed",
                "A stage has one CMD, one ENTRYPOINT and one HEALTHCHECK: only the last counts.",
            ),
            Self::LegacyKeyValueFormat => {
                ("LegacyKeyValueFormat", "ENV and LABEL are written `name=value`; the form with a blank is deprecated.")
            }
            Self::InvalidBaseImagePlatform => {
                ("InvalidBaseImagePlatform", "A base image is for the platform that it is used for.")
            }
            Self::RedundantTargetPlatform => {
                ("RedundantTargetPlatform", "`--platform=$TARGETPLATFORM` says what holds without it.")
            }
            Self::SecretsUsedInArgOrEnv => (
                "SecretsUsedInArgOrEnv",
                "Secrets come by `RUN --mount=type=secret`: ARG and ENV leave them in the image.",
            ),
            Self::InvalidDefaultArgInFrom => {
                ("InvalidDefaultArgInFrom", "FROM names an image even when no build arg is passed.")
            }
            Self::FromPlatformFlagConstDisallowed => (
                "FromPlatformFlagConstDisallowed",
                "The platform of a stage is a variable, so that the file builds for others too.",
            ),
            Self::CopyIgnoredFile => ("CopyIgnoredFile", "What COPY and ADD name is not excluded by the ignore file."),
            Self::InvalidDefinitionDescription => (
                "InvalidDefinitionDescription",
                "A comment right above ARG or a named FROM describes it and begins with its name.",
            ),
            Self::ExposeProtoCasing => ("ExposeProtoCasing", "Protocols of EXPOSE are written in small letters."),
            Self::ExposeInvalidFormat => {
                ("ExposeInvalidFormat", "EXPOSE names ports of the container, without addresses or ports of the host.")
            }
        }
    }
}

/// Rules about how the whole file is written.
pub(crate) fn statements(ast: &Ast, found: &mut Vec<Diagnostic>) {
    casing::instructions(ast, found);
    for statement in &ast.statements {
        found.extend(form::maintainer(statement));
    }
    comments::descriptions(ast, found);
}

/// Rules about the stages and their names.
pub(crate) fn stages(text: &str, file: &Dockerfile, found: &mut Vec<Diagnostic>) {
    names::stages(file, found);
    casing::stage_names(text, file, found);
}

/// Rules about one stage that need no values.
pub(crate) fn stage(stage: &Stage, escape: char, found: &mut Vec<Diagnostic>) {
    form::only_once(stage, found);
    for command in &stage.commands {
        form::legacy_pairs(command, escape, found);
        environment::secrets(command, found);
    }
}

/// Leaves out what is switched off; puts the rest in the order of the text, each finding once.
pub(crate) fn settle(mut found: Vec<Diagnostic>, checks: &Checks, skips: &Skips) -> Vec<Diagnostic> {
    found.retain(|finding| match finding.rule {
        None => true,
        Some(rule) => checks.says(rule) && !skips.cover(finding, rule),
    });
    crate::error::in_order(found)
}

/// The error that warnings are when `check=error=true` was said; `None` when no rule found anything.
pub(crate) fn warnings_as_error(found: &[Diagnostic], checks: &Checks) -> Option<Diagnostic> {
    let broken =
        found.iter().filter(|finding| finding.severity == Severity::Warning).filter_map(|finding| finding.rule);
    let names: BTreeSet<&str> = broken.map(Rule::name).collect();
    if !checks.warnings_are_errors() || names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    Some(
        Diagnostic::general(format!("warnings are errors here, and there are some: {}", names.join(", ")))
            .help("mend them, or skip a rule with `check=skip=…`; `check=error=true` is what makes them errors"),
    )
}
