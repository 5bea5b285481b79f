//! Builds of the past for clients: the records that `rbuild history` shows, whoever made them.
//!
//! In: the store's records, and word of builds that begin and end here. Out: [`BuildHistoryRecord`]s, the status of a
//! build that is over, as it was told while it ran. A client's build goes by the name that the client gave it, any other
//! by its own. Deliberately absent: writing records, which the engine does; news of builds of the command line, which are
//! in every list but reach no listener; filters, which clients apply themselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::sync::Arc;

use api::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, BuildResultInfo, Descriptor,
    Exporter, StatusResponse, UpdateBuildHistoryRequest, Vertex, VertexLog,
};
use api::rpc;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::Stream;
use jiff::Timestamp;
use serde_json::Value;
use solver::explain::Fate;
use solver::graph::VertexId;
use store::Store;
use store::history::{Build, Client, Entry, Head, Outcome, StepRecord};
use tokio::sync::broadcast;
use tonic::{Code, Status};

use super::frontend::Asked;
use super::{Silent, error, frontend, in_background};
use crate::engine::{Failure, Settings, past};
use crate::options::context::masked;

/// What is written down of what a client asked for: the head of a record is one line, read whole.
const ASKED_MAX_BYTES: usize = 256 << 10;
/// Likewise.
const EXPORTERS_MAX: usize = 64;
/// What is sent of a log at once.
const LOG_PIECE_BYTES: usize = 256 << 10;
/// Steps of a past build that are told at once.
const STEPS_AT_ONCE: usize = 256;
/// News that a slow listener may miss before it is told that it did.
const NEWS: usize = 256;

/// Word of builds that begin, end and are forgotten.
#[derive(Clone, Debug)]
pub struct News(broadcast::Sender<BuildHistoryEvent>);

impl Default for News {
    fn default() -> Self {
        Self(broadcast::channel(NEWS).0)
    }
}

impl News {
    /// Everything from now on.
    pub fn listen(&self) -> broadcast::Receiver<BuildHistoryEvent> {
        self.0.subscribe()
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Tells all listeners; there may be none.
    pub fn tell(&self, kind: BuildHistoryEventType, record: BuildHistoryRecord) {
        let _ = self.0.send(BuildHistoryEvent { r#type: kind.into(), record: Some(record) });
    }
}

pub fn open(settings: &Settings) -> Result<Store, Status> {
    settings.open_store(&(Arc::new(Silent) as Arc<_>)).map_err(|failure| error::status(&failure, None))
}

fn failed(failure: Failure) -> Status {
    error::status(&failure, None)
}

/// What is known, the latest first, as far as the request wants it.
///
/// # Errors
/// When the store cannot be read.
pub fn list(settings: &Settings, request: &BuildHistoryRequest) -> Result<Vec<BuildHistoryEvent>, Status> {
    let entries = past::list(&open(settings)?, &[]).map_err(failed)?;
    let wanted = entries.iter().filter(|entry| {
        let is_meant = request.r#ref.is_empty() || name(&entry.head) == request.r#ref;
        is_meant && (!request.active_only || entry.head.outcome == Outcome::Running)
    });
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    Ok(wanted.take(limit).map(event).collect())
}

/// One build, if it is known.
///
/// # Errors
/// When the store cannot be read.
pub fn find(settings: &Settings, wanted: &str) -> Result<Option<(Store, Entry)>, Status> {
    let store = open(settings)?;
    let entries = past::list(&store, &[]).map_err(failed)?;
    let found = entries.into_iter().find(|entry| name(&entry.head) == wanted);
    Ok(found.map(|entry| (store, entry)))
}

/// Forgets a build, or keeps it for good, or does so no longer; returns what to tell listeners.
///
/// # Errors
/// When there is no such build, or it runs.
pub fn update(settings: &Settings, request: &UpdateBuildHistoryRequest) -> Result<BuildHistoryEvent, Status> {
    let Some((store, mut entry)) = find(settings, &request.r#ref)? else {
        return Err(Status::not_found(format!(
            "there is no build {} in the history of this daemon",
            request.r#ref.escape_debug()
        )));
    };
    if request.delete {
        let (gone, _) = past::forget(&store, std::slice::from_ref(&entry)).map_err(failed)?;
        if gone.is_empty() {
            return Err(Status::failed_precondition(format!("the build {} runs", request.r#ref.escape_debug())));
        }
        return Ok(BuildHistoryEvent { r#type: BuildHistoryEventType::Deleted.into(), ..event(&entry) });
    }
    // Records are final as soon as their builds have ended.
    if request.finalize {
        return Ok(event(&entry));
    }
    store.pin_build(&entry, request.pinned).map_err(|error| Status::internal(error.to_string()))?;
    entry.pinned = request.pinned;
    Ok(event(&entry))
}

/// The image that a build made.
pub fn image(head: &Head) -> Option<oci::model::Digest> {
    let client = head.client.as_ref()?;
    client.response.get("containerimage.descriptor")?.get("digest")?.as_str()?.parse().ok()
}

/// What is written down of a client's build: addresses without what must not be shown, and no more than fits.
pub fn client(name: &str, asked: &Asked, exporters: &[Exporter]) -> Client {
    let mut room = ASKED_MAX_BYTES;
    let mut fits = |key: &str, value: &str| {
        let length = key.len() + value.len();
        room = room.saturating_sub(length);
        room > 0
    };
    let shown = |key: &String, value: &String| match key.as_str() {
        "context" => masked(value),
        key if key.starts_with("context:") => masked(value),
        _ => value.clone(),
    };
    let attributes = asked.attributes.iter().map(|(key, value)| (key.clone(), shown(key, value)));
    let attributes: BTreeMap<_, _> = attributes.filter(|(key, value)| fits(key, value)).collect();
    let exporters = exporters.iter().take(EXPORTERS_MAX).map(|exporter| {
        let attributes = exporter.attrs.iter().filter(|(key, value)| fits(key, value));
        let attributes = attributes.map(|(key, value)| (key.clone(), value.clone())).collect();
        (exporter.r#type.clone(), attributes)
    });
    Client { name: name.to_owned(), attributes, exporters: exporters.collect(), response: BTreeMap::new() }
}

/// A client's build that begins.
pub fn begun(client: &Client) -> BuildHistoryRecord {
    BuildHistoryRecord {
        r#ref: client.name.clone(),
        frontend: frontend::NAME.into(),
        frontend_attrs: client.attributes.clone(),
        created_at: Some(timestamp(Timestamp::now())),
        ..BuildHistoryRecord::default()
    }
}

/// How clients call it.
fn name(head: &Head) -> &str {
    head.client.as_ref().map_or(&head.id, |client| &client.name)
}

/// A record as it is listed.
pub fn event(entry: &Entry) -> BuildHistoryEvent {
    let kind = match entry.head.outcome {
        Outcome::Running => BuildHistoryEventType::Started,
        _ => BuildHistoryEventType::Complete,
    };
    BuildHistoryEvent { r#type: kind.into(), record: Some(record(entry)) }
}

fn record(entry: &Entry) -> BuildHistoryRecord {
    let head = &entry.head;
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let completed = match head.outcome {
        Outcome::Running => None,
        // Its process died; nobody knows when.
        _ => Some(head.ended.unwrap_or(head.begun)),
    };
    let (frontend_attrs, exporters, response) = match &head.client {
        Some(client) => (client.attributes.clone(), client.exporters.clone(), client.response.clone()),
        None => (attributes(head), Vec::new(), BTreeMap::new()),
    };
    let result = result(&response);
    BuildHistoryRecord {
        r#ref: name(head).to_owned(),
        frontend: frontend::NAME.into(),
        frontend_attrs,
        exporters: exporters.into_iter().map(|(r#type, attrs)| Exporter { r#type, attrs }).collect(),
        error: trouble(head),
        created_at: Some(timestamp(head.begun)),
        completed_at: completed.map(timestamp),
        exporter_response: response.iter().map(|(key, value)| (key.clone(), text(value))).collect(),
        result,
        pinned: entry.pinned,
        num_cached_steps: number(head.cached),
        num_total_steps: number(head.steps),
        num_completed_steps: number(head.steps),
        ..BuildHistoryRecord::default()
    }
}

/// What a build of the command line was asked, in clients' words.
fn attributes(head: &Head) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([("context".to_owned(), head.context.clone())]);
    attributes.insert("filename".into(), head.dockerfile.clone().unwrap_or_else(|| "Dockerfile".into()));
    attributes.insert("platform".into(), head.platform.clone());
    attributes.extend(head.target.clone().map(|target| ("target".to_owned(), target)));
    attributes
}

fn trouble(head: &Head) -> Option<rpc::Status> {
    let (code, message) = match head.outcome {
        Outcome::Running | Outcome::Ok => return None,
        Outcome::Failed => (Code::Unknown, head.error.clone().unwrap_or_else(|| "the build failed".into())),
        // By these words clients know it.
        Outcome::Canceled => (Code::Cancelled, "context canceled".into()),
        Outcome::Interrupted => (Code::Aborted, "the build was interrupted: its process died".into()),
    };
    Some(rpc::Status { code: code as i32, message, details: Vec::new() })
}

/// What a client is told of a value: texts as they are, the rest as JSON in base64.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => BASE64.encode(value.to_string()),
    }
}

/// The image that was made.
fn result(response: &BTreeMap<String, Value>) -> Option<BuildResultInfo> {
    let value = response.get("containerimage.descriptor")?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let descriptor = Descriptor {
        media_type: text("mediaType"),
        digest: text("digest"),
        size: value.get("size").and_then(Value::as_i64).unwrap_or(0),
        annotations: BTreeMap::new(),
    };
    Some(BuildResultInfo {
        result_deprecated: Some(descriptor.clone()),
        attestations: Vec::new(),
        results: BTreeMap::from([(0, descriptor)]),
    })
}

fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// What a build that is over told while it ran: its steps, then what each printed. It is read piece by piece as the client
/// takes it, so that a slow one holds nothing but an open file.
pub fn replay(store: Store, entry: Entry) -> impl Stream<Item = Result<StatusResponse, Status>> + Send {
    let replay = Replay { store, entry, build: None, told: 0, step: 0, log: None };
    futures_util::stream::unfold(Some(replay), |replay| async {
        let mut replay = replay?;
        let read = in_background(move || Ok((replay.next(), replay))).await;
        match read {
            Ok((Ok(Some(status)), replay)) => Some((Ok(status), Some(replay))),
            Ok((Ok(None), _)) => None,
            Ok((Err(failed), _)) | Err(failed) => Some((Err(failed), None)),
        }
    })
}

/// How far a replay is.
struct Replay {
    store: Store,
    entry: Entry,
    /// Once it has been read.
    build: Option<Build>,
    /// How many of its steps have been told.
    told: usize,
    /// Whose log is next.
    step: usize,
    /// The one that is being read.
    log: Option<File>,
}

impl Replay {
    /// What is told next. Blocking.
    fn next(&mut self) -> Result<Option<StatusResponse>, Status> {
        let build = match &mut self.build {
            Some(build) => build,
            unread => unread.insert(past::open(&self.store, &self.entry).map_err(failed)?),
        };
        if self.told < build.steps.len() {
            let upto = build.steps.len().min(self.told + STEPS_AT_ONCE);
            let vertexes = vertexes(build, self.told..upto);
            self.told = upto;
            return Ok(Some(StatusResponse { vertexes, ..StatusResponse::default() }));
        }
        let unread = |error: &dyn std::error::Error| Status::internal(format!("a log cannot be read: {error}"));
        while let Some(step) = build.steps.get(self.step) {
            if self.log.is_none() && step.log.is_some() {
                self.log = self.store.build_log(&self.entry, self.step).map_err(|error| unread(&error))?;
            }
            let mut msg = vec![0; if self.log.is_some() { LOG_PIECE_BYTES } else { 0 }];
            let length = match &mut self.log {
                Some(log) => log.read(&mut msg).map_err(|error| unread(&error))?,
                None => 0,
            };
            if length == 0 {
                (self.log, self.step) = (None, self.step + 1);
                continue;
            }
            msg.truncate(length);
            let timestamp = at(build, step.ended_us.or(step.started_us));
            let log = VertexLog { vertex: digest(step), timestamp, stream: 1, msg };
            return Ok(Some(StatusResponse { logs: vec![log], ..StatusResponse::default() }));
        }
        Ok(None)
    }
}

fn at(build: &Build, micros: Option<u64>) -> Option<prost_types::Timestamp> {
    let since = jiff::SignedDuration::from_micros(i64::try_from(micros?).ok()?);
    build.head.begun.checked_add(since).ok().map(timestamp)
}

fn digest(step: &StepRecord) -> String {
    match step.vertex.is_empty() {
        true => VertexId::of_name(&step.name).to_string(),
        false => step.vertex.clone(),
    }
}

/// Some of a build's steps.
fn vertexes(build: &Build, which: Range<usize>) -> Vec<Vertex> {
    let vertex = |step: &StepRecord| {
        let canceled = (step.fate == Fate::Canceled).then(|| "context canceled".to_owned());
        Vertex {
            digest: digest(step),
            inputs: step.inputs.iter().filter_map(|input| build.steps.get(*input)).map(digest).collect(),
            name: step.name.clone(),
            cached: step.fate == Fate::Cached,
            started: at(build, step.started_us),
            completed: at(build, step.ended_us),
            error: step.error.clone().or(canceled).unwrap_or_default(),
            progress_group: None,
        }
    };
    build.steps[which].iter().filter(|step| !step.name.is_empty()).map(vertex).collect()
}
