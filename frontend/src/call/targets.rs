//! The stages of a file that can be built: BuildKit's subrequest `frontend.targets` 1.0.0.

use serde::Serialize;

use super::document::{Document, Location};
use crate::error::{Diagnostic, Severity, in_order};
use crate::plan::PlanOptions;
use crate::{empty, group, parse};

/// All stages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Targets {
    /// In the order of the text.
    pub targets: Vec<Target>,
    /// The text in base64.
    pub sources: Vec<String>,
}

/// A stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its name; empty when it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether it is built when nothing else is said.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// What the comment above it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it stands on, as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// Its `--platform`, as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Its FROM.
    pub location: Location,
}

/// Lists the targets.
///
/// # Errors
/// Every fault of form, in the order of the text. A target among the options that does not exist is none.
pub fn targets(text: &str, _: &PlanOptions) -> Result<Targets, Vec<Diagnostic>> {
    if let Some(empty) = empty(text) {
        return Err(vec![empty]);
    }
    let (ast, mut found) = parse::parse(text);
    let file = group(text, ast.clone(), &mut found);
    if file.stages.is_empty() && found.is_empty() {
        found.push(Diagnostic::general("there are no targets: no FROM").help("start the file with `FROM image`"));
    }
    if found.iter().any(|fault| fault.severity == Severity::Error) {
        return Err(in_order(found));
    }
    let document = Document::new(text, &ast);
    let last = file.stages.len() - 1;
    let targets = file.stages.iter().zip(document.stages()).enumerate().map(|(index, (stage, statement))| {
        let name = stage.from.name.as_ref().map(|name| name.text.clone()).unwrap_or_default();
        Target {
            description: if name.is_empty() { String::new() } else { document.description(statement, &name) },
            name,
            default: index == last,
            base: stage.from.base.text.clone(),
            platform: stage.from.platform.as_ref().map(|word| word.text.clone()).unwrap_or_default(),
            location: document.location(statement.span().range()),
        }
    });
    let targets = targets.collect();
    Ok(Targets { targets, sources: document.sources() })
}
