//! Sessions: what a client offers the daemon while its builds run, and the connection over which it is asked.
//!
//! In: the hijacked stream of `Control.Session`, inside of which the daemon is the client of an HTTP/2 connection
//! ([`pipe`]). Out: [`Session`]s by their id. A build may come before its session, so whoever looks one up waits for it,
//! but not for long. A session whose stream ends is lost; builds that stand on it end ([`Session::lost`]). Next:
//! [`alive`] for clients that only seem to be there, [`files`] and [`receive`] for contexts, [`send`] for results, [`upload`] for contexts on standard input, [`blobs`] for layouts and caches, [`auth`] and [`secrets`] for what nobody else may know.

mod alive;
pub mod auth;
pub mod blobs;
pub mod files;
mod mode;
mod pipe;
mod receive;
pub mod secrets;
pub mod send;
pub mod upload;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Response, Status};

pub use self::pipe::{Hijacked, connect};

/// How long a build waits for its session; BuildKit's clients open both at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of one client; each has a connection and some tasks.
const SESSIONS_MAX: usize = 1024;
/// How long a client may take to answer a question: it may have to ask a person, or a program that does.
const ANSWER: Duration = Duration::from_secs(60);
const ID: &str = "x-docker-expose-session-uuid";
const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
const METHOD: &str = "x-docker-expose-session-grpc-method";

/// What a client offers.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: String,
    /// What the client calls whatever it shares with its other sessions, mostly its directory; may be empty.
    pub shared_key: String,
    methods: HashSet<String>,
    channel: Channel,
    lost: CancellationToken,
}

impl Session {
    /// Of a connection, with what the call that opened it said of it.
    ///
    /// # Errors
    /// When it has no id.
    pub fn new(metadata: &MetadataMap, channel: Channel, lost: CancellationToken) -> Result<Self, Status> {
        let id = metadata.get(ID).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        if id.is_empty() {
            return Err(Status::invalid_argument("a session has no id"));
        }
        let shared_key = metadata.get(SHARED_KEY).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let methods = metadata.get_all(METHOD).iter().filter_map(|value| value.to_str().ok());
        let methods = methods.map(str::to_ascii_lowercase).collect();
        Ok(Self { id, shared_key, methods, channel, lost })
    }

    /// Whether the client has this method: `/moby.filesync.v1.FileSync/DiffCopy`.
    pub fn has(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }

    /// The connection.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The client's answer to a question, which has to come soon.
    ///
    /// # Errors
    /// What it answers, when it has gone, and when it does not answer in time.
    async fn answer<T>(&self, asked: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.answer_within(ANSWER, asked).await
    }

    async fn answer_within<T>(
        &self,
        patience: Duration,
        asked: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        tokio::select! {
            biased;
            () = self.lost.cancelled() => Err(Status::unavailable("the client has gone: its session is closed")),
            answer = tokio::time::timeout(patience, asked) => match answer {
                Ok(answer) => answer.map(Response::into_inner),
                Err(_) => {
                    Err(Status::deadline_exceeded(format!("the client has not answered in {} seconds", patience.as_secs_f32())))
                }
            },
        }
    }

    /// Fires when the connection is gone.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

/// All sessions by id.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, Arc<Session>>>,
    changed: watch::Sender<()>,
}

impl Sessions {
    /// Adds one, until it is lost.
    ///
    /// # Errors
    /// When there is one of that id, or there are too many.
    pub fn add(self: &Arc<Self>, session: Session) -> Result<Arc<Session>, Status> {
        let session = Arc::new(session);
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if open.len() >= SESSIONS_MAX {
                return Err(Status::resource_exhausted(format!("there are {SESSIONS_MAX} sessions already")));
            }
            if open.contains_key(&session.id) {
                return Err(Status::already_exists(format!("session {} exists", session.id)));
            }
            open.insert(session.id.clone(), session.clone());
        }
        self.changed.send_replace(());
        let (sessions, gone) = (self.clone(), session.clone());
        tokio::spawn(async move {
            alive::watch(gone.clone(), alive::EVERY, alive::PATIENCE).await;
            gone.lost.cancelled().await;
            sessions.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&gone.id);
        });
        Ok(session)
    }

    /// The session of that id, waited for if it is not there yet.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn find(&self, id: &str) -> Result<Arc<Session>, Status> {
        let mut changed = self.changed.subscribe();
        let look = || self.open.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(session) = look() {
                    return Some(session);
                }
                changed.changed().await.ok()?;
            }
        });
        let found = found.await.ok().flatten();
        found.ok_or_else(|| Status::not_found(format!("no active session for {id}: the client opened none")))
    }

    /// Loses all of them.
    pub fn end(&self) {
        for session in self.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            session.lost.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic::metadata::MetadataValue;
    use tonic::transport::Endpoint;

    use super::*;

    #[tokio::test]
    async fn a_question_that_nobody_answers_ends() {
        let mut metadata = MetadataMap::new();
        metadata.insert(ID, MetadataValue::from_static("one"));
        let channel = Endpoint::from_static("http://localhost").connect_lazy();
        let lost = CancellationToken::new();
        let session = Session::new(&metadata, channel, lost.clone()).expect("it has an id");
        let never = || std::future::pending::<Result<Response<()>, Status>>();
        let status = session.answer_within(Duration::from_millis(20), never()).await.expect_err("nobody answers");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.message(), "the client has not answered in 0.02 seconds");
        lost.cancel();
        let status = session.answer(never()).await.expect_err("nobody is there");
        assert_eq!(status.code(), Code::Unavailable);
    }
}
