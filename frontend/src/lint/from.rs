//! FROM lines: UndefinedArgInFrom, InvalidDefaultArgInFrom, RedundantTargetPlatform,
//! FromPlatformFlagConstDisallowed, InvalidBaseImagePlatform.

use std::collections::HashSet;

use oci::model::{ImageConfig, Platform, Reference};

use super::Rule;
use super::environment::{place_of_variable, variables};
use crate::error::{Diagnostic, Edit, Severity};
use crate::expand::{Budget, Expansion, Rules, expand};
use crate::instr::From;
use crate::lower::env::Env;
use crate::plan::ImageQuestion;
use crate::span::Word;
use crate::stage::Dockerfile;
use crate::suggest;

/// What FROM lines are judged by.
pub(crate) struct FromLines<'a> {
    /// The file.
    pub file: &'a Dockerfile,
    /// Variables with the build args that were passed.
    pub given: &'a Env,
    /// Variables as if none had been.
    pub defaults: &'a Env,
    /// The platform to build for.
    pub platform: &'a Platform,
    /// Bounds what is expanded.
    pub budget: &'a Budget,
}

impl FromLines<'_> {
    /// All rules about FROM lines that need no image. What is an error already is none of these, too.
    pub fn judge(&self, found: &mut Vec<Diagnostic>) {
        let errors = found.iter().filter(|fault| fault.severity == Severity::Error);
        let faulty: HashSet<usize> = errors.filter_map(|fault| Some(fault.span.as_ref()?.start)).collect();
        let declared: HashSet<&str> = self.file.global_args.iter().map(|arg| arg.name.text.as_str()).collect();
        for (index, stage) in self.file.stages.iter().enumerate() {
            let from = &stage.from;
            let words = [Some(&from.base), from.platform.as_ref()].into_iter().flatten();
            for word in words.filter(|word| word.text.contains('$') && !faulty.contains(&word.span.start)) {
                self.undefined_arg(word, &declared, found);
            }
            if !faulty.contains(&from.base.span.start) {
                found.extend(self.default_arg(index));
            }
            if let Some(platform) = &from.platform {
                found.extend(self.redundant_platform(platform, from));
                found.extend(constant_platform(platform, from));
            }
        }
    }

    fn expanded(&self, word: &Word, variables: &Env) -> Option<Expansion> {
        // What cannot be expanded is an error elsewhere.
        expand(&word.text, Rules::ordinary(self.file.escape), variables, self.budget).ok()
    }

    /// UndefinedArgInFrom.
    fn undefined_arg(&self, word: &Word, declared: &HashSet<&str>, found: &mut Vec<Diagnostic>) {
        let unset = self.expanded(word, self.given).map(|expansion| expansion.unset).unwrap_or_default();
        for name in unset.iter().filter(|name| !declared.contains(name.as_str())) {
            let without_value = self.file.global_args.iter().map(|arg| arg.name.text.as_str());
            let help = suggest::did_you_mean(name, self.given.names().chain(without_value)).unwrap_or_else(|| {
                format!("FROM sees only ARGs that stand before the first FROM: put `ARG {name}=…` there")
            });
            let shown: String = name.chars().take(60).collect();
            found.push(
                Diagnostic::warning(place_of_variable(word, name), format!("`{shown}` is not declared for FROM"), "")
                    .help(help)
                    .rule(Rule::UndefinedArgInFrom),
            );
        }
    }

    /// InvalidDefaultArgInFrom: without build args nothing valid is left.
    fn default_arg(&self, index: usize) -> Option<Diagnostic> {
        let word = &self.file.stages[index].from.base;
        if !word.text.contains('$') {
            return None;
        }
        let name = self.expanded(word, self.defaults)?;
        if self.file.base_stage(&name.text, index).is_some() || name.text.parse::<Reference>().is_ok() {
            return None;
        }
        let shown: String = word.text.chars().take(60).collect();
        let arg = name.unset.first().map_or("the ARG".to_owned(), |arg| format!("`ARG {arg}`"));
        Some(
            Diagnostic::warning(word.span, format!("`{shown}` names no image unless a build arg is passed"), "")
                .help(format!("give {arg} before the first FROM a default, or write one here: `${{name:-value}}`"))
                .rule(Rule::InvalidDefaultArgInFrom),
        )
    }

    /// RedundantTargetPlatform. The fix takes the flag away.
    fn redundant_platform(&self, word: &Word, from: &From) -> Option<Diagnostic> {
        let names = variables(&word.text, self.file.escape);
        if names.len() != 1 || !names.contains("TARGETPLATFORM") {
            return None;
        }
        if self.expanded(word, self.given)?.text != self.platform.to_string() {
            return None;
        }
        let shown: String = word.text.chars().take(60).collect();
        let fix = match from.platform_flag {
            Some(flag) => vec![Edit { span: (flag.start, from.base.span.start), replacement: String::new() }],
            None => Vec::new(),
        };
        Some(
            Diagnostic::warning(word.span, format!("`--platform={shown}` is what holds without it"), "")
                .help("remove the flag")
                .rule(Rule::RedundantTargetPlatform)
                .fix(fix),
        )
    }
}

/// FromPlatformFlagConstDisallowed. A stage whose name says its platform means it.
fn constant_platform(word: &Word, from: &From) -> Option<Diagnostic> {
    if word.text.contains('$') {
        return None;
    }
    let platform: Platform = word.text.parse().ok()?;
    let name = from.name.as_ref().map(|name| name.text.as_str()).unwrap_or_default();
    if name.contains(&platform.os) || name.contains(&platform.architecture) {
        return None;
    }
    Some(
        Diagnostic::warning(word.span, format!("the platform is always `{}`", word.text), "")
            .help("leave the flag out, write `--platform=$BUILDPLATFORM`, or name the stage after its platform")
            .rule(Rule::FromPlatformFlagConstDisallowed),
    )
}

/// InvalidBaseImagePlatform.
pub(crate) fn base_platform(base: &Word, question: &ImageQuestion, image: &ImageConfig) -> Option<Diagnostic> {
    let (wanted, os, architecture) = (&question.platform, &image.os, &image.architecture);
    let unknown = os.is_empty() || architecture.is_empty();
    let actual = Platform::normalised(os, architecture, &image.variant);
    if unknown || (actual.os == wanted.os && actual.architecture == wanted.architecture) {
        return None;
    }
    Some(
        Diagnostic::warning(base.span, format!("this image is for {actual}, and {wanted} is built"), "")
            .help("pass `--platform`, write it behind FROM, or choose an image that has this platform")
            .rule(Rule::InvalidBaseImagePlatform),
    )
}
