//! Findings as BuildKit's `frontend.lint` has them: what `docker build --check --call=check,format=json` prints.
//!
//! Lines count from 1, characters (Unicode code points) from 0. Theirs has one `buildError`, which is the first here;
//! beside it `errors` holds all, in the same form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frontend::{Diagnostic, Severity};
use serde_json::{Value, json};

use super::place::Places;
use crate::engine::Checked;

/// The result.
pub fn result(checked: &Checked) -> Value {
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
            (Severity::Warning, Some(rule)) => warnings.push(json!({
                "ruleName": rule.name(),
                "description": rule.description(),
                "url": rule.url(),
                "detail": detail,
                "location": location,
            })),
            (Severity::Warning, None) => {
                warnings.push(json!({ "ruleName": "", "detail": detail, "location": location }))
            }
            (Severity::Error, _) => errors.push(json!({ "message": detail, "location": location })),
        }
    }
    let mut result = json!({
        "warnings": warnings,
        "sources": [{
            "filename": checked.dockerfile.name,
            "language": "Dockerfile",
            "data": STANDARD.encode(text),
        }],
    });
    if let Some(first) = errors.first() {
        result["buildError"] = first.clone();
        result["errors"] = Value::from(errors);
    }
    result
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
