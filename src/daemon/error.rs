//! A failure of the engine as clients expect it: a gRPC status, with details from which they print the place in the
//! Dockerfile.
//!
//! Details are typed by the addresses that BuildKit's clients know, and JSON inside. Of several problems all are told, and
//! the first has the place.

use api::rpc;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde_json::json;
use solver::graph::VertexId;
use tonic::{Code, Status};

use crate::engine::{Failure, FailureKind, Problem, Snippet};
use crate::report::place::Places;

const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";
const VERTEX: &str = "github.com/moby/buildkit/errdefs.Vertex+json";
/// A text that is larger is not sent along: the status travels in the trailers of a call.
const TEXT_MAX_BYTES: usize = 64 << 10;
/// What a status says at most; clients limit the size of headers.
const MESSAGE_MAX_BYTES: usize = 16 << 10;

/// The status; `vertex` is what failed, if the graph knows.
pub fn status(failure: &Failure, vertex: Option<VertexId>) -> Status {
    let code = match failure.kind {
        FailureKind::Canceled => Code::Cancelled,
        // Clients print the names of other codes in front of the words.
        FailureKind::Build | FailureKind::NotExecuted(_) => Code::Unknown,
    };
    let message = words(failure);
    let mut details = Vec::new();
    if let Some(vertex) = vertex {
        details.push(detail(VERTEX, &json!({ "digest": vertex.to_string() })));
    }
    let snippet = failure.problems.iter().find_map(|problem| problem.snippet.as_ref());
    if let Some(snippet) = snippet.filter(|snippet| snippet.text.len() <= TEXT_MAX_BYTES) {
        details.push(detail(SOURCE, &source(snippet)));
    }
    if details.is_empty() {
        return Status::new(code, message);
    }
    let whole = rpc::Status { code: code as i32, message: message.clone(), details };
    Status::with_details(code, message, whole.encode_to_vec().into())
}

fn detail(url: &str, value: &serde_json::Value) -> prost_types::Any {
    prost_types::Any { type_url: url.to_owned(), value: value.to_string().into_bytes() }
}

fn source(snippet: &Snippet) -> serde_json::Value {
    let (start, end) = Places::new(&snippet.text).range(&snippet.span);
    let position = |at: crate::report::place::Position| json!({ "line": at.line, "character": at.character });
    json!({
        "info": { "filename": snippet.file, "data": BASE64.encode(snippet.text.as_bytes()), "language": "Dockerfile" },
        "ranges": [{ "start": position(start), "end": position(end) }],
    })
}

/// All that is said.
pub fn words(failure: &Failure) -> String {
    let mut text = failure.problems.iter().map(problem).collect::<Vec<_>>().join("\n");
    if text.len() > MESSAGE_MAX_BYTES {
        let end = (0..=MESSAGE_MAX_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn problem(problem: &Problem) -> String {
    let mut text = problem.message.clone();
    for note in &problem.notes {
        text.push_str(": ");
        text.push_str(note);
    }
    if let Some(help) = &problem.help {
        text.push_str("\nhelp: ");
        text.push_str(help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_where_and_what_to_do() {
        let snippet = Snippet {
            file: "Dockerfile".into(),
            path: None,
            text: "FROM a\nRUN false\n".into(),
            span: 7..16,
            label: String::new(),
        };
        let mut failure = Failure::new("the step failed").note("exit code: 1").help("look at it");
        failure.problems[0].snippet = Some(snippet);
        let status = status(&failure, Some(VertexId::of_name("a")));
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unknown, "the step failed: exit code: 1\nhelp: look at it")
        );
        let whole = rpc::Status::decode(status.details()).expect("it is one");
        assert_eq!(whole.message, status.message());
        let value = |at: usize| serde_json::from_slice::<serde_json::Value>(&whole.details[at].value).expect("JSON");
        assert_eq!(whole.details[0].type_url, VERTEX);
        assert_eq!(value(0)["digest"], VertexId::of_name("a").to_string());
        assert_eq!(whole.details[1].type_url, SOURCE);
        assert_eq!(value(1)["ranges"][0]["start"], json!({ "line": 2, "character": 0 }));
        assert_eq!(value(1)["info"]["data"], BASE64.encode("FROM a\nRUN false\n"));
        let canceled = Failure { kind: FailureKind::Canceled, ..Failure::new("canceled") };
        assert_eq!(super::status(&canceled, None).code(), Code::Cancelled);
    }
}
