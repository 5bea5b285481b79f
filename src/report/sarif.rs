//! Findings as SARIF 2.1.0, the form that code hosts and editors read.
//!
//! In comes a file and what was found in it, out comes one log with one run. Columns are Unicode code points from 1, the
//! end behind the last. What `--fix` would change stands with each result. Names and sections are those of the OASIS
//! standard.

use frontend::lint::Rule;
use frontend::{Diagnostic, Severity};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::place::{Places, Position};
use super::written;
use crate::engine::Checked;

/// What an error goes by, which no lint rule found: a result without a rule is not shown everywhere.
const ERROR_RULE: &str = "InvalidDockerfile";

/// A log. Standard, section 3.13.
#[derive(Debug, Serialize)]
pub struct Log {
    #[serde(rename = "$schema")]
    schema: &'static str,
    version: &'static str,
    runs: [Run; 1],
}

/// Section 3.14.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    tool: Value,
    column_kind: &'static str,
    /// Each in its written form, which is a tenth of a [`Value`] in memory: there may be very many.
    results: Vec<Box<RawValue>>,
}

/// The log of what was found, in the file of that path.
pub fn log(checked: &Checked, file: &str) -> Log {
    let text = &*checked.dockerfile.text;
    let mut places = Places::new(text);
    // Places of changes are asked for out of turn.
    let mut fix_places = Places::new(text);
    let location = json!({ "uri": uri(file) });
    let results = checked
        .findings
        .iter()
        .map(|found| written(&result(checked, found, &location, &mut places, &mut fix_places)))
        .collect();
    let lint = Rule::ALL.into_iter().map(
        |rule| json!({ "id": rule.name(), "shortDescription": { "text": rule.description() }, "helpUri": rule.url() }),
    );
    let error = json!({
        "id": ERROR_RULE,
        "shortDescription": { "text": "A Dockerfile is well-formed, and every stage and image that it names is there." },
    });
    let rules: Vec<Value> = lint.chain([error]).collect();
    Log {
        schema: "https://json.schemastore.org/sarif-2.1.0.json",
        version: "2.1.0",
        runs: [Run {
            tool: json!({ "driver": { "name": "rbuild", "version": env!("CARGO_PKG_VERSION"), "rules": rules } }),
            column_kind: "unicodeCodePoints",
            results,
        }],
    }
}

fn result(
    checked: &Checked,
    found: &Diagnostic,
    location: &Value,
    places: &mut Places<'_>,
    fix_places: &mut Places<'_>,
) -> Value {
    let error = found.severity == Severity::Error || checked.warnings_are_errors;
    let message = match &found.help {
        Some(help) => format!("{}\nhelp: {help}", found.message),
        None => found.message.clone(),
    };
    let mut physical = json!({ "artifactLocation": location });
    if let Some(span) = &found.span {
        physical["region"] = region(places.range(span));
    }
    let mut result = json!({
        "ruleId": found.rule.map_or(ERROR_RULE, Rule::name),
        "level": if error { "error" } else { "warning" },
        "message": { "text": message },
        "locations": [{ "physicalLocation": physical }],
    });
    if !found.fix.is_empty() {
        let replacements = found.fix.iter().map(|edit| {
            json!({
                "deletedRegion": region(fix_places.range(&(edit.span.0..edit.span.1))),
                "insertedContent": { "text": edit.replacement },
            })
        });
        let change = json!({ "artifactLocation": location, "replacements": replacements.collect::<Vec<_>>() });
        result["fixes"] = json!([{ "artifactChanges": [change] }]);
    }
    result
}

fn region((start, end): (Position, Position)) -> Value {
    json!({
        "startLine": start.line,
        "startColumn": start.character + 1,
        "endLine": end.line,
        "endColumn": end.character + 1,
    })
}

/// A path as a URI reference. RFC 3986, section 2.1.
fn uri(path: &str) -> String {
    use std::fmt::Write as _;
    let mut uri = String::new();
    // A colon in the first segment would end a scheme.
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            write!(uri, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    uri
}
