//! What of the linter is wanted: `skip=A,B|all;error=true;experimental=A|all`.
//!
//! In comes the text of the parser directive `# check=`, of the build arg [`BUILD_ARG`], or of a comment above an
//! instruction; out come [`Checks`] and findings about the options themselves. Next: [`super::skips`].

use std::collections::BTreeSet;

use super::Rule;
use crate::error::{Diagnostic, Severity};
use crate::plan::PlanOptions;
use crate::span::{Span, Word};
use crate::suggest;

/// The build arg that beats the directive.
pub const BUILD_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

const OPTIONS: [&str; 3] = ["skip", "error", "experimental"];

/// Which rules count, and how much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    skip: Selection,
    experimental: Selection,
    error: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Selection {
    all: bool,
    rules: BTreeSet<Rule>,
}

/// Where options stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The directive, the value's first byte.
    Directive(usize),
    /// The build arg.
    BuildArg,
    /// A comment above an instruction, the value's first byte: only `skip` makes sense.
    Comment(usize),
}

impl Place {
    fn severity(self) -> Severity {
        match self {
            Self::Comment(_) => Severity::Warning,
            Self::Directive(_) | Self::BuildArg => Severity::Error,
        }
    }

    /// A finding about a part of the options.
    fn find(self, severity: Severity, whole: &str, part: &str, message: String, help: String) -> Diagnostic {
        let found = match self {
            Self::BuildArg => Diagnostic::general(format!("in the build arg {BUILD_ARG}: {message}")),
            Self::Directive(start) | Self::Comment(start) => {
                // `part` is a piece of `whole`.
                let at = start + (part.as_ptr() as usize - whole.as_ptr() as usize);
                Diagnostic::error(Span::new(at, at + part.len()), message, "")
            }
        };
        Diagnostic { severity, ..found }.help(help)
    }
}

impl Checks {
    /// The options of a file. What is wrong with them goes to `found`: options that cannot be read are errors, as
    /// with other builders; rules that do not exist are warnings.
    pub fn of(directive: Option<&Word>, options: &PlanOptions, found: &mut Vec<Diagnostic>) -> Self {
        match (options.build_args.get(BUILD_ARG).filter(|text| !text.trim().is_empty()), directive) {
            (Some(text), _) => Self::parse(text, Place::BuildArg, found),
            (None, Some(word)) => Self::parse(&word.text, Place::Directive(word.span.start), found),
            (None, None) => Self::default(),
        }
    }

    pub(crate) fn parse(text: &str, place: Place, found: &mut Vec<Diagnostic>) -> Self {
        let mut checks = Self::default();
        for part in text.split(';').map(str::trim) {
            let bad =
                |part: &str, message: String, help: String| place.find(place.severity(), text, part, message, help);
            let Some((name, value)) = part.split_once('=') else {
                let help = "write `skip=Rule,…`, `error=true` or `experimental=Rule,…`, with `;` between them";
                found.push(bad(part, format!("`{}` is no option of `check`", shown(part)), help.into()));
                continue;
            };
            let (name, value) = (name.trim(), value.trim());
            match name {
                "skip" => checks.skip = Selection::parse(value, text, place, found),
                "experimental" | "error" if matches!(place, Place::Comment(_)) => {
                    let message = format!("`{name}` counts for whole files only");
                    found.push(bad(name, message, format!("write `# check={name}={value}` as the first line")));
                }
                "experimental" => checks.experimental = Selection::parse(value, text, place, found),
                "error" => match truth(value) {
                    Some(error) => checks.error = error,
                    None => {
                        let message = format!("`{}` is neither true nor false", shown(value));
                        found.push(bad(value, message, "write `error=true` or `error=false`".into()));
                    }
                },
                _ => {
                    let help = suggest::did_you_mean(name, OPTIONS)
                        .unwrap_or_else(|| "the options are `skip`, `error` and `experimental`".into());
                    found.push(bad(name, format!("`{}` is no option of `check`", shown(name)), help));
                }
            }
        }
        checks
    }

    /// Whether the findings of a rule are said.
    pub fn says(&self, rule: Rule) -> bool {
        if rule.experimental() {
            // `skip=all` is about the others.
            return self.experimental.has(rule) && !self.skip.rules.contains(&rule);
        }
        !self.skip.has(rule)
    }

    /// Adds what another comment above the same instruction skips.
    pub(crate) fn add_skips(&mut self, mut other: Self) {
        self.skip.all |= other.skip.all;
        self.skip.rules.append(&mut other.skip.rules);
    }

    /// Whether the comment above an instruction skips a rule.
    pub(crate) fn skips(&self, rule: Rule) -> bool {
        self.skip.has(rule)
    }

    /// Whether a finding fails the build.
    pub fn warnings_are_errors(&self) -> bool {
        self.error
    }
}

impl Selection {
    fn parse(value: &str, whole: &str, place: Place, found: &mut Vec<Diagnostic>) -> Self {
        let mut selection = Self::default();
        for name in value.split(',').map(str::trim) {
            match Rule::parse(name) {
                _ if name == "all" => selection.all = true,
                Some(rule) => _ = selection.rules.insert(rule),
                None => {
                    let help = suggest::did_you_mean(name, Rule::ALL.map(Rule::name).into_iter().chain(["all"]));
                    let help = help.unwrap_or_else(|| "rules have names like `UndefinedVar`; `all` means all".into());
                    let message = format!("there is no rule `{}`", shown(name));
                    found.push(place.find(Severity::Warning, whole, name, message, help));
                }
            }
        }
        selection
    }

    fn has(&self, rule: Rule) -> bool {
        self.all || self.rules.contains(&rule)
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_faults_named_where_they_stand() {
        let check = |text: &str, skipped: &[Rule], experimental: bool, error: bool, faults: &[(&str, &str)]| {
            let mut found = Vec::new();
            let checks = Checks::parse(text, Place::Directive(0), &mut found);
            let silent: Vec<Rule> =
                Rule::ALL.into_iter().filter(|rule| !rule.experimental() && !checks.says(*rule)).collect();
            assert_eq!(silent, skipped, "{text}");
            assert_eq!(checks.says(Rule::InvalidDefinitionDescription), experimental, "{text}");
            assert_eq!(checks.warnings_are_errors(), error, "{text}");
            let found: Vec<(&str, &str)> = found
                .iter()
                .map(|fault| (&text[fault.span.clone().expect("a place")], fault.help.as_deref().expect("advice")))
                .collect();
            assert_eq!(found, faults, "{text}");
        };
        let all: Vec<Rule> = Rule::ALL.into_iter().filter(|rule| !rule.experimental()).collect();
        let how = "write `skip=Rule,…`, `error=true` or `experimental=Rule,…`, with `;` between them";
        check("skip=UndefinedVar", &[Rule::UndefinedVar], false, false, &[]);
        check(" skip = FromAsCasing , UndefinedVar ", &[Rule::FromAsCasing, Rule::UndefinedVar], false, false, &[]);
        check("skip=all", &all, false, false, &[]);
        check("skip=all;experimental=all", &all, true, false, &[]);
        check("experimental=InvalidDefinitionDescription", &[], true, false, &[]);
        check("experimental=all;skip=InvalidDefinitionDescription", &[], false, false, &[]);
        check("error=true", &[], false, true, &[]);
        check("error=1", &[], false, true, &[]);
        check("error=FALSE", &[], false, false, &[]);
        check("error=true;skip=UndefinedVar;experimental=all", &[Rule::UndefinedVar], true, true, &[]);
        check("skip=UndefinedVar;skip=FromAsCasing", &[Rule::FromAsCasing], false, false, &[]);
        check("skip=UndefindVar", &[], false, false, &[("UndefindVar", "did you mean `UndefinedVar`?")]);
        check("skip=undefinedvar", &[], false, false, &[("undefinedvar", "did you mean `UndefinedVar`?")]);
        check("skip=ALL", &[], false, false, &[("ALL", "did you mean `all`?")]);
        check("skip=", &[], false, false, &[("", "rules have names like `UndefinedVar`; `all` means all")]);
        check(
            "skip=X,FromAsCasing",
            &[Rule::FromAsCasing],
            false,
            false,
            &[("X", "rules have names like `UndefinedVar`; `all` means all")],
        );
        check("skipp=all", &[], false, false, &[("skipp", "did you mean `skip`?")]);
        check("nothing=all", &[], false, false, &[("nothing", "the options are `skip`, `error` and `experimental`")]);
        check("error=yes", &[], false, false, &[("yes", "write `error=true` or `error=false`")]);
        check("all", &[], false, false, &[("all", how)]);
        check("error=true;", &[], false, true, &[("", how)]);
    }

    #[test]
    fn a_comment_skips_and_does_nothing_else() {
        let check = |text: &str, skips: bool, faults: usize| {
            let mut found = Vec::new();
            let checks = Checks::parse(text, Place::Comment(0), &mut found);
            assert_eq!(checks.skips(Rule::UndefinedVar), skips, "{text}");
            assert!(!checks.warnings_are_errors(), "{text}");
            assert_eq!(found.len(), faults, "{text}: {found:?}");
            assert!(found.iter().all(|fault| fault.severity == Severity::Warning), "{text}");
        };
        check("skip=UndefinedVar", true, 0);
        check("skip=all", true, 0);
        check("skip=FromAsCasing", false, 0);
        check("skip=Nothing", false, 1);
        check("error=true", false, 1);
        check("experimental=all", false, 1);
        check("everything is fine", false, 1);
    }

    #[test]
    fn the_build_arg_beats_the_directive() {
        let directive = Word { text: "skip=all".into(), span: Span::new(8, 16) };
        let check = |build_arg: Option<&str>, says: bool, faults: usize| {
            let options = PlanOptions {
                build_args: build_arg.map(|text| (BUILD_ARG.to_owned(), text.to_owned())).into_iter().collect(),
                ..PlanOptions::default()
            };
            let mut found = Vec::new();
            let checks = Checks::of(Some(&directive), &options, &mut found);
            assert_eq!(checks.says(Rule::UndefinedVar), says, "{build_arg:?}");
            assert_eq!(found.len(), faults, "{build_arg:?}");
            assert!(found.iter().all(|fault| fault.span.is_none()), "{build_arg:?}");
        };
        check(None, false, 0);
        check(Some(""), false, 0);
        check(Some("skip=FromAsCasing"), true, 0);
        check(Some("error=true"), true, 0);
        check(Some("bad"), true, 1);
    }
}
