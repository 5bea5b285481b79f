//! One JSON object per line, in the shape of BuildKit's `SolveStatus` (`client/graph.go`): for programs.
//!
//! Bytes are base64, times are RFC 3339, and nothing is held back or cut.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::Serialize;
use solver::graph::VertexId;
use solver::seam::{Event, Stream, Usage};

use super::Renderer;

/// What BuildKit's readers look for at the end of an error to see that it is a cancellation.
const CANCELED: &str = "context canceled";

/// See the module's words.
pub struct RawJson {
    began: Timestamp,
    vertices: HashMap<VertexId, Vertex>,
    transfers: HashMap<(VertexId, String), String>,
}

#[derive(Default, Serialize)]
struct Status<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<&'a Vertex>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<Transfer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<Log>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
}

#[derive(Serialize)]
struct Vertex {
    digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    /// What its process used: a word of ours, which BuildKit's stream has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Transfer {
    id: String,
    vertex: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    current: u64,
    timestamp: String,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Serialize)]
struct Log {
    vertex: String,
    stream: u8,
    data: String,
    timestamp: String,
}

#[derive(Serialize)]
struct Warning {
    vertex: String,
    level: u8,
    short: String,
}

impl RawJson {
    /// A display of a build that began at that time.
    pub fn new(began: Timestamp) -> Self {
        Self { began, vertices: HashMap::new(), transfers: HashMap::new() }
    }

    fn vertex(&mut self, id: VertexId) -> &mut Vertex {
        self.vertices.entry(id).or_insert_with(|| Vertex {
            digest: id.to_string(),
            inputs: Vec::new(),
            name: id.to_string(),
            started: None,
            completed: None,
            cached: false,
            error: String::new(),
            usage: None,
        })
    }
}

impl Renderer for RawJson {
    fn event(&mut self, now: Duration, event: Event, out: &mut String) {
        // A clock so far off that adding the build's time leaves the calendar shows when the build began.
        let now = self.began.checked_add(now).unwrap_or(self.began).to_string();
        let mut status = Status::default();
        match event {
            Event::Declared { vertex, name, inputs } => {
                let slot = self.vertex(vertex);
                slot.name = name;
                slot.inputs = inputs.iter().map(VertexId::to_string).collect();
                status.vertexes.push(slot);
            }
            Event::Started(vertex) => {
                let slot = self.vertex(vertex);
                slot.started = Some(now);
                status.vertexes.push(slot);
            }
            Event::Cached { vertex, .. } => {
                let slot = self.vertex(vertex);
                slot.started.get_or_insert(now.clone());
                (slot.completed, slot.cached) = (Some(now), true);
                status.vertexes.push(slot);
            }
            Event::Done(vertex) => {
                let slot = self.vertex(vertex);
                slot.completed = Some(now);
                status.vertexes.push(slot);
            }
            Event::Failed { vertex, error } => {
                let slot = self.vertex(vertex);
                (slot.completed, slot.error) = (Some(now), error);
                status.vertexes.push(slot);
            }
            Event::Canceled(vertex) => {
                let slot = self.vertex(vertex);
                (slot.completed, slot.error) = (Some(now), CANCELED.into());
                status.vertexes.push(slot);
            }
            Event::Log { vertex, stream, bytes } => status.logs.push(Log {
                vertex: vertex.to_string(),
                stream: match stream {
                    Stream::Stdout => 1,
                    Stream::Stderr => 2,
                },
                data: BASE64.encode(bytes),
                timestamp: now,
            }),
            Event::Progress { vertex, name, current_bytes, total_bytes, done } => {
                let started = self.transfers.entry((vertex, name.clone())).or_insert_with(|| now.clone()).clone();
                status.statuses.push(Transfer {
                    id: name,
                    vertex: vertex.to_string(),
                    total: total_bytes,
                    current: current_bytes,
                    started,
                    completed: done.then(|| now.clone()),
                    timestamp: now,
                });
            }
            // It comes with the end of the vertex.
            Event::Used { vertex, usage } => {
                self.vertex(vertex).usage = Some(usage);
                return;
            }
            // BuildKit's stream has no word for these.
            Event::Keyed { .. } | Event::Missed(_) | Event::Unchanged(_) | Event::Why { .. } | Event::Worked { .. } => {
                return;
            }
            Event::Notice { vertex, text } => {
                status.warnings.push(Warning { vertex: vertex.to_string(), level: 1, short: BASE64.encode(text) });
            }
        }
        out.push_str(&serde_json::to_string(&status).expect("names, numbers and times are always JSON"));
        out.push('\n');
    }

    fn finish(&mut self, _: Duration, _: &mut String) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::script::{Step, play};

    #[test]
    fn events_have_the_shape_of_solve_status() {
        let steps = [
            Step::declare(0, 1, "[1/2] FROM a"),
            Step::cached(5, 1),
            Step::declare(5, 2, "[2/2] RUN \x1b[x"),
            Step::start(6, 2),
            Step::log(7, 2, "half a line"),
            Step::transfer(8, 2, "sha256:12ab", 5, 10, false),
            Step::transfer(9, 2, "sha256:12ab", 10, 10, true),
            Step::notice(10, 2, "careful"),
            Step::fail(11, 2, "exit code: 1"),
            Step::cancel(12, 2),
        ];
        let text = play(&mut RawJson::new(Timestamp::UNIX_EPOCH), &steps);
        let text = text
            .replace(&VertexId::of_name("1").to_string(), "ONE")
            .replace(&VertexId::of_name("2").to_string(), "TWO");
        insta::assert_snapshot!(text, @r#"
        {"vertexes":[{"digest":"ONE","name":"[1/2] FROM a"}]}
        {"vertexes":[{"digest":"ONE","name":"[1/2] FROM a","started":"1970-01-01T00:00:00.005Z","completed":"1970-01-01T00:00:00.005Z","cached":true}]}
        {"vertexes":[{"digest":"TWO","name":"[2/2] RUN \u001b[x"}]}
        {"vertexes":[{"digest":"TWO","name":"[2/2] RUN \u001b[x","started":"1970-01-01T00:00:00.006Z"}]}
        {"logs":[{"vertex":"TWO","stream":1,"data":"aGFsZiBhIGxpbmU=","timestamp":"1970-01-01T00:00:00.007Z"}]}
        {"statuses":[{"id":"sha256:12ab","vertex":"TWO","total":10,"current":5,"timestamp":"1970-01-01T00:00:00.008Z","started":"1970-01-01T00:00:00.008Z"}]}
        {"statuses":[{"id":"sha256:12ab","vertex":"TWO","total":10,"current":10,"timestamp":"1970-01-01T00:00:00.009Z","started":"1970-01-01T00:00:00.008Z","completed":"1970-01-01T00:00:00.009Z"}]}
        {"warnings":[{"vertex":"TWO","level":1,"short":"Y2FyZWZ1bA=="}]}
        {"vertexes":[{"digest":"TWO","name":"[2/2] RUN \u001b[x","started":"1970-01-01T00:00:00.006Z","completed":"1970-01-01T00:00:00.011Z","error":"exit code: 1"}]}
        {"vertexes":[{"digest":"TWO","name":"[2/2] RUN \u001b[x","started":"1970-01-01T00:00:00.006Z","completed":"1970-01-01T00:00:00.012Z","error":"context canceled"}]}
        "#);
    }
}
