//! A frontend that is an image, asked as `gateway.v0` with `source=`: it runs as a container and speaks the bridge's
//! protocol over its standard streams.
//!
//! In: attributes, and definitions that it may build upon. Out: what it returns, whose references are the build's like any
//! others. It is told in its environment what BuildKit's frontends are told: attributes, session, workers. It is stopped
//! when its build is, and some time after it has returned something. Deliberately absent: the process (the engine's).

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::control::CacheOptions;
use api::gateway;
use api::gateway::llb_bridge_server::LlbBridgeServer;
use api::health::health_server::HealthServer;
use api::pb;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::transport::Server;

use crate::daemon::bridge::Bridge;
use crate::daemon::control::{settings_for, stops, worker};
use crate::daemon::frontend::{self, Asked};
use crate::daemon::health::Health;
use crate::daemon::job::Job;
use crate::daemon::session::blobs::Kept;
use crate::daemon::thread::beside;
use crate::daemon::{Daemon, MESSAGE_MAX_BYTES, error};
use crate::engine;

/// The frontend that is an image.
pub const NAME: &str = "gateway.v0";
/// Which image.
const SOURCE: &str = "source";
/// Which image reads a Dockerfile instead.
const SYNTAX: &str = "build-arg:BUILDKIT_SYNTAX";
/// What a frontend was asked for by name: who has it is that frontend.
const CMDLINE: &str = "cmdline";
/// How long a frontend that has returned may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Attributes travel in the environment of a process, which the kernel limits.
const ATTRIBUTES_MAX_BYTES: usize = 1 << 20;
/// Of frontends that ask for frontends.
const DEPTH_MAX: usize = 4;

/// Who answers a client that asks for this frontend: a Dockerfile may be for another than ours.
pub fn asked(frontend: &str, attributes: &mut BTreeMap<String, String>) -> String {
    let syntax = attributes.get(SYNTAX).filter(|syntax| !syntax.is_empty());
    match syntax.cloned() {
        Some(syntax) if frontend == frontend::NAME && forward(&syntax, attributes) => NAME.to_owned(),
        _ => frontend.to_owned(),
    }
}

/// Whether a client says in which language a Dockerfile is written, whatever that says itself.
pub fn names_syntax(attributes: &BTreeMap<String, String>) -> bool {
    attributes.get(SYNTAX).is_some_and(|syntax| !syntax.trim().is_empty())
}

/// Tells a frontend that was asked for as `syntax` who it is, unless it is rbuild, or is told already.
pub fn forward(syntax: &str, attributes: &mut BTreeMap<String, String>) -> bool {
    let image = ::frontend::syntax_elsewhere(syntax).filter(|_| !attributes.contains_key(CMDLINE));
    let Some(image) = image else { return false };
    attributes.insert(SOURCE.to_owned(), image.to_owned());
    attributes.insert(CMDLINE.to_owned(), syntax.to_owned());
    true
}

/// What a frontend in a container is to the bridge.
#[derive(Debug)]
pub struct Guest {
    /// The build that it works for.
    pub job: Arc<Job>,
    /// What it may build upon.
    pub inputs: BTreeMap<String, pb::Definition>,
    /// How many frontends stand above it.
    pub depth: usize,
    returned: Mutex<Option<oneshot::Sender<Returned>>>,
}

type Returned = Result<Option<gateway::Result>, Status>;

impl Guest {
    /// It returns something, once.
    ///
    /// # Errors
    /// When it did so before.
    pub fn returns(&self, outcome: Returned) -> Result<(), Status> {
        let waiting = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let waiting = waiting.ok_or_else(|| Status::failed_precondition("the frontend has returned already"))?;
        // A build that was stopped meanwhile waits no more.
        let _ = waiting.send(outcome);
        Ok(())
    }
}

/// What is asked of a frontend.
pub struct Wanted {
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// What it may build upon.
    pub inputs: BTreeMap<String, pb::Definition>,
    /// How many frontends stand above it.
    pub depth: usize,
}

/// Runs a frontend until it has returned something.
///
/// # Errors
/// Its own, and when it cannot be run or ends without a word.
pub async fn run(daemon: &Arc<Daemon>, job: &Arc<Job>, wanted: Wanted) -> Result<Option<gateway::Result>, Status> {
    let Wanted { attributes, inputs, depth } = wanted;
    let image = attributes.get(SOURCE).filter(|image| !image.is_empty()).cloned();
    let image =
        image.ok_or_else(|| Status::invalid_argument("`gateway.v0` needs `source`: the image of a frontend"))?;
    if depth >= DEPTH_MAX {
        return Err(Status::failed_precondition(format!(
            "these are more than {DEPTH_MAX} frontends within one another"
        )));
    }
    if attributes.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > ATTRIBUTES_MAX_BYTES {
        return Err(Status::resource_exhausted(format!(
            "the attributes of the frontend have more than {ATTRIBUTES_MAX_BYTES} bytes"
        )));
    }
    let asking = &job.asking;
    let session = daemon.sessions.find(&asking.session).await?;
    let request = frontend::Request {
        exporters: Vec::new(),
        cache: CacheOptions::default(),
        entitlements: Vec::new(),
        policy: asking.policy.clone(),
        session: session.clone(),
        kept: Kept::default(),
    };
    let options = frontend::options(&daemon.config, &Asked::default(), &request);
    let options = options.map_err(|failure| error::status(&failure, None))?;
    let settings = settings_for(daemon, &session);
    let io = |error: std::io::Error| Status::internal(format!("cannot talk to the frontend: {error}"));
    let (ours, theirs) = UnixStream::pair().map_err(io)?;
    ours.set_nonblocking(true).map_err(io)?;
    let ours = tokio::net::UnixStream::from_std(ours).map_err(io)?;
    let env = environment(daemon, &session.id, &attributes);
    let (returned, mut returning) = oneshot::channel();
    let has_inputs = !inputs.is_empty();
    let guest = Arc::new(Guest { job: job.clone(), inputs, depth, returned: Mutex::new(Some(returned)) });
    let cancel = stops(job.cancel.clone(), session.lost().clone());
    let _unless_awaited = cancel.clone().drop_guard();

    let bridge = LlbBridgeServer::new(Bridge { daemon: daemon.clone(), guest: Some(guest) })
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let router = Server::builder().add_service(bridge).add_service(HealthServer::new(Health(cancel.clone())));
    // One connection: when that ends, nobody else comes.
    let incoming =
        futures_util::stream::once(async { Ok::<_, std::io::Error>(ours) }).chain(futures_util::stream::pending());
    let ended = cancel.clone();
    let serving = tokio::spawn(router.serve_with_incoming_shutdown(incoming, ended.cancelled_owned()));
    let (told, stop) = (job.told(), cancel.clone());
    let guest = engine::Guest { image, env, has_inputs, streams: theirs.into() };
    let run = || async move { Ok(engine::run_guest(&settings, &options, guest, told, stop).await) };
    let running = beside(run);
    tokio::pin!(running);
    let outcome = tokio::select! {
        biased;
        outcome = &mut returning => {
            let outcome = outcome.unwrap_or_else(|_| Err(Status::aborted("the frontend is gone")));
            // What it does after that is nobody's business, but it may end by itself.
            if tokio::time::timeout(PATIENCE, &mut running).await.is_err() {
                cancel.cancel();
                drop(running.await);
            }
            outcome
        }
        ran = &mut running => match (ran, returning.try_recv()) {
            (_, Ok(outcome)) => outcome,
            (Ok(Ok(())), Err(_)) => Err(Status::unknown("the frontend ended and returned nothing")),
            (Ok(Err(failure)), Err(_)) => Err(error::status(&failure, job.hub.failed())),
            (Err(status), Err(_)) => Err(status),
        },
    };
    cancel.cancel();
    serving.abort();
    outcome
}

/// What BuildKit tells its frontends.
fn environment(daemon: &Daemon, session: &str, attributes: &BTreeMap<String, String>) -> Vec<String> {
    let worker = worker(daemon);
    let platforms: Vec<_> = worker
        .platforms
        .iter()
        .map(|platform| {
            let mut told = json!({ "architecture": platform.architecture, "os": platform.os });
            if !platform.variant.is_empty() {
                told["variant"] = json!(platform.variant);
            }
            told
        })
        .collect();
    let workers = json!([{ "id": worker.id, "labels": worker.labels, "platforms": platforms }]);
    let mut env = vec![
        format!("BUILDKIT_SESSION_ID={session}"),
        format!("BUILDKIT_WORKERS={workers}"),
        "BUILDKIT_EXPORTEDPRODUCT=rbuild".to_owned(),
    ];
    let said = attributes.iter().filter(|(key, value)| !key.contains('\0') && !value.contains('\0'));
    env.extend(said.enumerate().map(|(at, (key, value))| format!("BUILDKIT_FRONTEND_OPT_{at}={key}={value}")));
    env
}
