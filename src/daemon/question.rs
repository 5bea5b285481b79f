//! What a client asks about a Dockerfile instead of building it: `--call=…`, `--check`.
//!
//! In: the question's name, `requestid` among the attributes. Out: the answer as clients know it: `result.json` for
//! programs, `result.txt` for people, the version of its form, and for a check `result.statuscode`. Deliberately absent:
//! finding anything out, which the engine does ([`Checker`]), and the forms, which are those of `rbuild build --call`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use solver::seam::Progress;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::error;
use crate::engine::{Checker, Settings};
use crate::escape;
use crate::options::BuildOptions;
use crate::report::{Style, buildkit, call};

/// The attribute.
pub const ATTRIBUTE: &str = "requestid";
/// All forms are those of BuildKit's first version of them.
const VERSION: &str = "1.0.0";

/// An answer.
pub type Answer = BTreeMap<String, Vec<u8>>;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// What is wrong with it.
    Lint,
    /// What a target takes from outside.
    Outline,
    /// Which stages can be built.
    Targets,
    /// What can be asked.
    Describe,
}

/// All of them, with what each is good for.
const ALL: [(Question, &str, &str); 4] = [
    (Question::Lint, "frontend.lint", "Check a Dockerfile without building it"),
    (Question::Outline, "frontend.outline", "List what the target takes: build args, secrets, agents, cache mounts"),
    (Question::Targets, "frontend.targets", "List the stages that can be built"),
    (Question::Describe, "frontend.subrequests.describe", "List what can be asked about a Dockerfile"),
];

impl Question {
    /// The question among a frontend's attributes, if there is one.
    ///
    /// # Errors
    /// When it is not known.
    pub fn of(attributes: &BTreeMap<String, String>) -> Result<Option<Self>, Status> {
        let Some(name) = attributes.get(ATTRIBUTE).filter(|name| !name.is_empty()) else { return Ok(None) };
        let found = ALL.iter().find(|(_, known, _)| known == name);
        found.map(|(question, ..)| Some(*question)).ok_or_else(|| {
            Status::unimplemented(format!(
                "the question `{}` about a Dockerfile is not known by this version of rbuild: {} are",
                name.escape_debug(),
                ALL.map(|(_, name, _)| name).join(", ")
            ))
        })
    }

    /// Answers it.
    ///
    /// # Errors
    /// When the Dockerfile cannot be had, or does not say what was asked.
    pub async fn answer(
        self,
        settings: &Settings,
        options: &BuildOptions,
        progress: &Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<Answer, Status> {
        if self == Self::Describe {
            return Ok(result(&described(), &describe(), None));
        }
        let checker = Checker::fetch(settings, &options.input, &options.steps, progress, cancel).await;
        let checker = checker.map_err(|failure| error::status(&failure, None))?;
        match self {
            Self::Outline => {
                let outline = checker.outline().map_err(|failure| error::status(&failure, None))?;
                Ok(result(&outline, &call::outline(&outline), None))
            }
            Self::Targets => {
                let targets = checker.targets().map_err(|failure| error::status(&failure, None))?;
                Ok(result(&targets, &call::targets(&targets), None))
            }
            Self::Lint | Self::Describe => {
                let checked = checker.check();
                let text = call::findings(&checked, Style::default()) + &call::summary(&checked);
                Ok(result(&buildkit::result(&checked), &text, Some(!checked.findings.is_empty())))
            }
        }
    }
}

/// As clients get it; `found` makes their command fail.
fn result(value: &impl serde::Serialize, text: &str, found: Option<bool>) -> Answer {
    let mut answer = Answer::from([
        ("result.json".to_owned(), escape::json(value).into_bytes()),
        ("result.txt".to_owned(), text.as_bytes().to_vec()),
        ("version".to_owned(), VERSION.into()),
    ]);
    if let Some(found) = found {
        answer.insert("result.statuscode".into(), u8::from(found).to_string().into_bytes());
    }
    answer
}

fn described() -> Value {
    let one = |(question, name, description): &(Question, &str, &str)| {
        let target = json!([{ "name": "target", "description": "The stage that is meant" }]);
        let mut value = json!({
            "name": name,
            "version": VERSION,
            "type": "rpc",
            "description": description,
            "metadata": [{ "name": "result.json" }, { "name": "result.txt" }],
        });
        if matches!(question, Question::Outline | Question::Lint) {
            value["opts"] = target;
        }
        value
    };
    ALL.iter().map(one).collect()
}

fn describe() -> String {
    let rows = ALL.map(|(_, name, description)| [name.to_owned(), VERSION.to_owned(), description.to_owned()]);
    crate::report::table::render(["NAME", "VERSION", "DESCRIPTION"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_known_or_refused_with_what_is() {
        let check = |name: &str, expected: Result<Option<Question>, tonic::Code>| {
            let found = Question::of(&BTreeMap::from([(ATTRIBUTE.to_owned(), name.to_owned())]));
            assert_eq!(found.map_err(|status| status.code()), expected, "{name}");
        };
        check("", Ok(None));
        check("frontend.lint", Ok(Some(Question::Lint)));
        check("frontend.subrequests.describe", Ok(Some(Question::Describe)));
        check("frontend.convertllb", Err(tonic::Code::Unimplemented));
        let described = described();
        assert_eq!(described.as_array().map(Vec::len), Some(ALL.len()));
        assert!(describe().lines().count() == ALL.len() + 1);
    }
}
