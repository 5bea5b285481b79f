//! Remarks of the frontend, as clients get them: in words, with the place in the Dockerfile.

use api::control::VertexWarning;
use api::pb;
use solver::graph::VertexId;

use crate::engine::Problem;
use crate::report::place::Places;

/// One remark.
pub fn told(problem: &Problem) -> VertexWarning {
    let vertex = VertexId::of_name("[internal] load build definition from Dockerfile").to_string();
    let rule = problem.rule.map(|rule| format!("{}: ", rule.name())).unwrap_or_default();
    let mut warning = VertexWarning {
        vertex,
        level: 1,
        short: format!("{rule}{}", problem.message).into_bytes(),
        detail: problem.help.iter().map(|help| help.clone().into_bytes()).collect(),
        url: problem.rule.map(|rule| rule.url().to_owned()).unwrap_or_default(),
        ..VertexWarning::default()
    };
    if let Some(snippet) = &problem.snippet {
        let (start, end) = Places::new(&snippet.text).range(&snippet.span);
        warning.short.extend_from_slice(format!(" (line {})", start.line).as_bytes());
        let position = |at: crate::report::place::Position| pb::Position {
            line: i32::try_from(at.line).unwrap_or(i32::MAX),
            character: i32::try_from(at.character).unwrap_or(i32::MAX),
        };
        warning.ranges = vec![pb::Range { start: Some(position(start)), end: Some(position(end)) }];
        warning.info = Some(pb::SourceInfo {
            filename: snippet.file.clone(),
            data: snippet.text.as_bytes().to_vec(),
            definition: None,
            language: "Dockerfile".into(),
        });
    }
    warning
}
