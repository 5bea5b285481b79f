//! Source policies as they are written: JSON, as `docker buildx` reads it from the same variable.
//!
//! ```json
//! { "version": 1, "rules": [
//!     { "action": "DENY", "selector": { "identifier": "docker-image://*", "matchType": "WILDCARD" } },
//!     { "action": "CONVERT", "selector": { "identifier": "https://h/a", "matchType": "EXACT" },
//!       "updates": { "identifier": "https://h/b", "attrs": { "http.checksum": "sha256:…" } } } ] }
//! ```
//!
//! In: the bytes of a file. Out: a [`Policy`]. Names of fields may also be written as `match_type`; actions, kinds and
//! conditions are words or numbers. Deliberately absent: what the rules do ([`crate::engine::Policy`]).

use std::collections::BTreeMap;
use std::path::Path;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::engine::{Action, Constraint, Failure, Pattern, Policy, Rule, wildcard};
use crate::environment::Environment;

/// The variable that names the file.
const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
/// The only version that there is; 0 is one that says none.
const VERSION: i64 = 1;
/// Rules of a policy; each is compared with every source.
const RULES_MAX: usize = 10_000;
/// A file of so many rules fits.
const FILE_MAX_BYTES: u64 = 16 << 20;
/// What an expression may take when it is read.
const REGEX_MAX_BYTES: usize = 1 << 20;

/// A policy, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Written {
    /// Its version.
    #[serde(default)]
    pub version: i64,
    /// Its rules.
    #[serde(default)]
    pub rules: Vec<WrittenRule>,
}

/// A rule, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct WrittenRule {
    /// `ALLOW`, `DENY`, `CONVERT`.
    #[serde(default)]
    pub action: Word,
    /// What it selects.
    pub selector: Option<Selector>,
    /// What a conversion changes.
    pub updates: Option<Update>,
}

/// What a rule selects.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Selector {
    /// The identifier.
    #[serde(default)]
    pub identifier: String,
    /// `WILDCARD`, `EXACT`, `REGEX`.
    #[serde(default, rename = "matchType", alias = "match_type")]
    pub kind: Word,
    /// What the attributes must be.
    #[serde(default)]
    pub constraints: Vec<WrittenConstraint>,
}

/// What an attribute must be.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct WrittenConstraint {
    /// Its name.
    #[serde(default)]
    pub key: String,
    /// What it is compared with.
    #[serde(default)]
    pub value: String,
    /// `EQUAL`, `NOTEQUAL`, `MATCHES`.
    #[serde(default)]
    pub condition: Word,
}

/// What a conversion changes.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Update {
    /// The identifier, unless it is empty.
    #[serde(default)]
    pub identifier: String,
    /// Attributes.
    #[serde(default)]
    pub attrs: BTreeMap<String, String>,
}

/// A choice, by its word or its number.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// Its number.
    Number(i32),
    /// Its word.
    Text(String),
}

impl Default for Word {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Word {
    /// Which of these it is, in the order of their numbers.
    fn among<const N: usize>(&self, what: &str, words: [&str; N]) -> Result<usize, String> {
        let at = match self {
            Self::Number(number) => usize::try_from(*number).ok().filter(|number| *number < N),
            Self::Text(text) => words.iter().position(|word| word == text),
        };
        at.ok_or_else(|| format!("{what} is {self:?}, and none of {}", words.join(", ")))
    }
}

/// The policy of the variable, if it names a file.
///
/// # Errors
/// When that cannot be read, or is no policy.
pub fn of_environment(environment: &Environment) -> Result<Policy, Failure> {
    let Some(path) = environment.get(VARIABLE) else { return Ok(Policy::default()) };
    let path = environment.working_directory.join(Path::new(path));
    let failed = |error: String| Failure::new(format!("the source policy `{}`: {error}", path.display()));
    let facts = std::fs::metadata(&path).map_err(|error| failed(error.to_string()))?;
    if !facts.is_file() || facts.len() > FILE_MAX_BYTES {
        return Err(failed("it is no file, or too large".to_owned()));
    }
    let bytes = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
    let written = serde_json::from_slice(&bytes).map_err(|error| error.to_string());
    written.and_then(policy).map_err(|error| failed(error).help(format!("`{VARIABLE}` names that file")))
}

/// Understands one.
///
/// # Errors
/// What is wrong with it, and in which rule.
pub fn policy(written: Written) -> Result<Policy, String> {
    if written.version > VERSION {
        return Err(format!("it has version {}, and {VERSION} is known", written.version));
    }
    if written.rules.len() > RULES_MAX {
        return Err(format!("it has more than {RULES_MAX} rules"));
    }
    let numbered = written.rules.into_iter().enumerate();
    let rules = numbered.map(|(at, written)| rule(written).map_err(|error| format!("rule {}: {error}", at + 1)));
    Ok(Policy::new(rules.collect::<Result<_, _>>()?))
}

fn rule(WrittenRule { action, selector, updates }: WrittenRule) -> Result<Rule, String> {
    let Selector { identifier, kind, constraints } = selector.ok_or("it selects nothing")?;
    let action =
        [Action::Allow, Action::Deny, Action::Convert][action.among("the action", ["ALLOW", "DENY", "CONVERT"])?];
    if action == Action::Convert && updates.is_none() {
        return Err("it converts, and says nothing of what".into());
    }
    let pattern = match kind.among("the kind of match", ["WILDCARD", "EXACT", "REGEX"])? {
        0 => Pattern::Regex(wildcard(&identifier).map_err(|error| error.to_string())?),
        1 => Pattern::Exact,
        _ => Pattern::Regex(expression(&identifier)?),
    };
    let Update { identifier: converted, attrs } = updates.unwrap_or_default();
    let constraints = constraints.into_iter().map(constraint).collect::<Result<_, _>>()?;
    Ok(Rule { action, written: identifier, pattern, constraints, identifier: converted, attrs })
}

fn constraint(WrittenConstraint { key, value, condition }: WrittenConstraint) -> Result<Constraint, String> {
    Ok(match condition.among("the condition", ["EQUAL", "NOTEQUAL", "MATCHES"])? {
        0 => Constraint::Equal(key, value),
        1 => Constraint::NotEqual(key, value),
        _ => Constraint::Matches(key, expression(&value)?),
    })
}

fn expression(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(REGEX_MAX_BYTES).build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        let check = |text: &str, expected: Result<usize, &str>| {
            let written = serde_json::from_str::<Written>(text).map_err(|error| error.to_string());
            let found = written.and_then(policy).map(|policy| policy.rules().len());
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        check("{}", Ok(0));
        check(r#"{"rules":[{"action":"DENY","selector":{"identifier":"*"}}]}"#, Ok(1));
        check(r#"{"version":1,"rules":[{"action":1,"selector":{"identifier":"a","matchType":"EXACT"}}]}"#, Ok(1));
        check(
            r#"{"rules":[{"action":"CONVERT","selector":{"identifier":"^a","match_type":"REGEX","constraints":
                [{"key":"k","value":"v","condition":"MATCHES"}]},"updates":{"attrs":{"a":"b"}}}]}"#,
            Ok(1),
        );
        check(r#"{"version":2}"#, Err("version 2"));
        check("1", Err("invalid"));
        check(r#"{"rules":[{"action":"DENY"}]}"#, Err("rule 1: it selects nothing"));
        check(r#"{"rules":[{"action":"MAYBE","selector":{}}]}"#, Err("rule 1: the action"));
        check(r#"{"rules":[{"action":"CONVERT","selector":{}}]}"#, Err("says nothing of what"));
        check(r#"{"rules":[{"selector":{"identifier":"(","matchType":"REGEX"}}]}"#, Err("rule 1: "));
        check(r#"{"rules":[{"selector":{"identifier":"(x{999}){999}","matchType":2}}]}"#, Err("size limit"));
    }
}
