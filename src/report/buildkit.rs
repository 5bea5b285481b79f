//! Findings as BuildKit's `frontend.lint` has them: what `docker build --check --call=check,format=json` prints.
//!
//! Lines count from 1, characters (Unicode code points) from 0. Theirs has one `buildError`, which is the first here;
//! beside it `errors` holds all, in the same form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frontend::{Diagnostic, Severity};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::place::Places;
use super::written;
use crate::engine::Checked;

/// The result. Findings are in their written form, which is a tenth of a [`Value`] in memory: there may be very many.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LintResult {
    warnings: Vec<Box<RawValue>>,
    sources: [Value; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    build_error: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Box<RawValue>>,
}

/// The result of a check.
pub fn result(checked: &Checked) -> LintResult {
    let text = &*checked.dockerfile.text;
    let mut places = Places::new(text);
    let (mut warnings, mut errors) = (Vec::new(), Vec::new());
    for found in &checked.findings {
        let location = location(found, &mut places);
        let detail = match &found.help {
            Some(help) => format!("{} ({help})", found.message),
            None => found.message.clone(),
        };
        match (found.severity, found.rule) {
            (Severity::Warning, Some(rule)) => warnings.push(written(&json!({
                "ruleName": rule.name(),
                "description": rule.description(),
                "url": rule.url(),
                "detail": detail,
                "location": location,
            }))),
            (Severity::Warning, None) => {
                warnings.push(written(&json!({ "ruleName": "", "detail": detail, "location": location })));
            }
            (Severity::Error, _) => errors.push(written(&json!({ "message": detail, "location": location }))),
        }
    }
    let source =
        json!({ "filename": checked.dockerfile.name, "language": "Dockerfile", "data": STANDARD.encode(text) });
    LintResult { warnings, sources: [source], build_error: errors.first().cloned(), errors }
}

fn location(found: &Diagnostic, places: &mut Places<'_>) -> Value {
    let ranges: Vec<Value> = found
        .span
        .iter()
        .map(|span| {
            let (start, end) = places.range(span);
            json!({
                "start": { "line": start.line, "character": start.character },
                "end": { "line": end.line, "character": end.character },
            })
        })
        .collect();
    json!({ "sourceIndex": 0, "ranges": ranges })
}
