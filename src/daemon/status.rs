//! What a build tells its clients: events come in from many tasks, `StatusResponse`s go out to any number of readers.
//!
//! A reader may come before anything happened, or when all is over, and gets everything from the start. Nobody waits for a
//! slow one: what is too old is dropped, logs first of all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use api::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use api::pb::ProgressGroup;
use futures_util::Stream;
use prost_types::Timestamp;
use solver::graph::VertexId;
use solver::seam::{Event, Progress, Stream as LogStream};
use tokio::sync::watch;
use tonic::Status;

/// What BuildKit's readers look for at the end of an error to see that it is a cancellation.
const CANCELED: &str = "context canceled";
/// What is kept for readers who are late or slow.
const KEPT_MAX_BYTES: usize = 32 << 20;
/// What goes out at once: far below the limit of a message.
const SENT_MAX_BYTES: usize = 1 << 20;

/// One build's events.
#[derive(Debug, Default)]
pub struct Hub {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    vertices: HashMap<VertexId, Vertex>,
    transfers: HashMap<(VertexId, String), Timestamp>,
    failed: Option<VertexId>,
    told: VecDeque<(usize, StatusResponse)>,
    /// How many stood before the first of `told`.
    dropped: usize,
    bytes: usize,
    over: bool,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vertex whose failure ended the build.
    pub fn failed(&self) -> Option<VertexId> {
        self.lock().failed
    }

    /// Tells something that is no event.
    pub fn tell(&self, warnings: Vec<VertexWarning>) {
        if !warnings.is_empty() {
            self.push(StatusResponse { warnings, ..StatusResponse::default() });
        }
    }

    /// From now on the vertex is told of as one of a group.
    pub fn group(&self, vertex: VertexId, group: ProgressGroup) {
        self.lock().known(vertex).progress_group = Some(group);
    }

    /// Nothing more is told.
    pub fn end(&self) {
        self.lock().over = true;
        self.changed.send_modify(|count| *count += 1);
    }

    fn push(&self, status: StatusResponse) {
        let bytes = prost::Message::encoded_len(&status);
        {
            let mut inner = self.lock();
            inner.bytes += bytes;
            inner.told.push_back((bytes, status));
            while inner.bytes > KEPT_MAX_BYTES
                && let Some((bytes, _)) = inner.told.pop_front()
            {
                inner.bytes -= bytes;
                inner.dropped += 1;
            }
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Everything from the start, until the end.
    pub fn read(self: Arc<Self>) -> impl Stream<Item = Result<StatusResponse, Status>> + Send + 'static {
        let changed = self.changed.subscribe();
        futures_util::stream::unfold((self, changed, 0), |(hub, mut changed, mut at)| async move {
            loop {
                {
                    let inner = hub.lock();
                    let mut sent = StatusResponse::default();
                    let mut bytes = 0;
                    at = at.max(inner.dropped);
                    while let Some((length, status)) = inner.told.get(at - inner.dropped)
                        && (bytes == 0 || bytes + length <= SENT_MAX_BYTES)
                    {
                        bytes += length;
                        at += 1;
                        sent.vertexes.extend_from_slice(&status.vertexes);
                        sent.statuses.extend_from_slice(&status.statuses);
                        sent.logs.extend_from_slice(&status.logs);
                        sent.warnings.extend_from_slice(&status.warnings);
                    }
                    if bytes > 0 {
                        drop(inner);
                        return Some((Ok(sent), (hub, changed, at)));
                    }
                    if inner.over {
                        return None;
                    }
                }
                changed.changed().await.ok()?;
            }
        })
    }
}

impl Inner {
    fn known(&mut self, id: VertexId) -> &mut Vertex {
        let unheard = || Vertex { digest: id.to_string(), name: id.to_string(), ..Vertex::default() };
        self.vertices.entry(id).or_insert_with(unheard)
    }

    /// The vertex as it is told, after a change.
    fn vertex(&mut self, id: VertexId, change: impl FnOnce(&mut Vertex)) -> StatusResponse {
        let vertex = self.known(id);
        change(vertex);
        StatusResponse { vertexes: vec![vertex.clone()], ..StatusResponse::default() }
    }
}

impl Progress for Hub {
    fn event(&self, event: Event) {
        let now = Timestamp::from(SystemTime::now());
        let status = {
            let mut inner = self.lock();
            match event {
                Event::Declared { vertex, name, inputs } => inner.vertex(vertex, |slot| {
                    slot.name = name;
                    slot.inputs = inputs.iter().map(VertexId::to_string).collect();
                }),
                Event::Started(vertex) => inner.vertex(vertex, |slot| slot.started = Some(now)),
                Event::Cached { vertex, .. } => inner.vertex(vertex, |slot| {
                    slot.started.get_or_insert(now);
                    (slot.completed, slot.cached) = (Some(now), true);
                }),
                Event::Done(vertex) => inner.vertex(vertex, |slot| slot.completed = Some(now)),
                Event::Failed { vertex, error } => {
                    inner.failed.get_or_insert(vertex);
                    inner.vertex(vertex, |slot| (slot.completed, slot.error) = (Some(now), error))
                }
                Event::Canceled(vertex) => {
                    inner.vertex(vertex, |slot| (slot.completed, slot.error) = (Some(now), CANCELED.into()))
                }
                Event::Log { vertex, stream, bytes } => {
                    let stream = match stream {
                        LogStream::Stdout => 1,
                        LogStream::Stderr => 2,
                    };
                    let log = VertexLog { vertex: vertex.to_string(), timestamp: Some(now), stream, msg: bytes };
                    StatusResponse { logs: vec![log], ..StatusResponse::default() }
                }
                Event::Progress { vertex, name, current_bytes, total_bytes, done } => {
                    let started = *inner.transfers.entry((vertex, name.clone())).or_insert(now);
                    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
                    let status = VertexStatus {
                        id: name.clone(),
                        vertex: vertex.to_string(),
                        name,
                        current: number(current_bytes),
                        total: total_bytes.map_or(0, number),
                        timestamp: Some(now),
                        started: Some(started),
                        completed: done.then_some(now),
                    };
                    StatusResponse { statuses: vec![status], ..StatusResponse::default() }
                }
                Event::Notice { vertex, text } => {
                    let warning = VertexWarning {
                        vertex: vertex.to_string(),
                        level: 1,
                        short: text.into_bytes(),
                        ..VertexWarning::default()
                    };
                    StatusResponse { warnings: vec![warning], ..StatusResponse::default() }
                }
                // Clients have no words for these.
                Event::Keyed { .. }
                | Event::Missed(_)
                | Event::Unchanged(_)
                | Event::Why { .. }
                | Event::Used { .. }
                | Event::Worked { .. } => return,
            }
        };
        self.push(status);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn whoever_comes_late_gets_all_and_the_end() {
        let hub = Arc::new(Hub::default());
        let early = hub.clone().read();
        let vertex = VertexId::of_name("a");
        hub.event(Event::Declared { vertex, name: "[1/1] RUN x".into(), inputs: vec![VertexId::of_name("b")] });
        hub.event(Event::Started(vertex));
        hub.event(Event::Log { vertex, stream: LogStream::Stderr, bytes: b"half".to_vec() });
        hub.event(Event::Failed { vertex, error: "exit code: 1".into() });
        assert_eq!(hub.failed(), Some(vertex));
        hub.end();
        for reader in [early.boxed(), hub.clone().read().boxed()] {
            let told: Vec<_> = reader.map(|status| status.expect("it has no errors")).collect().await;
            let last = told.iter().flat_map(|status| &status.vertexes).next_back().expect("it was told");
            assert_eq!((last.name.as_str(), last.error.as_str()), ("[1/1] RUN x", "exit code: 1"));
            assert_eq!(last.inputs, [VertexId::of_name("b").to_string()]);
            assert!(last.started.is_some() && last.completed.is_some());
            let logs: Vec<_> = told.iter().flat_map(|status| &status.logs).collect();
            assert_eq!((logs.len(), logs[0].stream, &logs[0].msg[..]), (1, 2, &b"half"[..]));
        }
    }

    #[tokio::test]
    async fn what_nobody_reads_is_dropped_before_it_fills_the_memory() {
        let hub = Arc::new(Hub::default());
        let vertex = VertexId::of_name("a");
        for _ in 0..80 {
            hub.event(Event::Log { vertex, stream: LogStream::Stdout, bytes: vec![b'x'; 1 << 20] });
        }
        assert!(hub.lock().bytes <= KEPT_MAX_BYTES);
        hub.end();
        let read = hub.read().count().await;
        assert!((16..=32).contains(&read), "{read}");
    }
}
