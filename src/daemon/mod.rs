//! `rbuild serve`: the engine behind the clients that people already use. Beside `cmd/`, and like it a caller of the
//! engine: it knows what the command line knows, and asks for the same things.
//!
//! In: sockets ([`listen`]) and settings. Out: BuildKit's control API, by [`control`] and [`bridge`]. Every build is a
//! [`job`]: its client's words become options ([`frontend`], [`outputs`]), its definitions a graph ([`llb`], [`definition`]), its files and secrets come over its
//! [`session`], its events become [`status`], its failure an [`error`]. Deliberately absent: building anything. The
//! protocols are the crate `api`; [`docs/serve.md`](../../../docs/serve.md) says what clients may expect.

mod bridge;
mod connection;
mod content;
mod control;
mod definition;
mod error;
mod frontend;
mod gateway;
mod health;
mod history;
mod job;
mod listen;
pub mod llb;
mod names;
mod opening;
mod outputs;
mod policy;
mod question;
mod reflection;
mod session;
mod space;
mod status;
mod thread;
pub mod tls;
mod warning;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::content::content_server::ContentServer;
use api::control::control_server::ControlServer;
use api::gateway::llb_bridge_server::LlbBridgeServer;
use api::health::health_server::HealthServer;
use executor::StepSettings;
use futures_util::Stream;
use oci::model::Platform;
use solver::op::NetworkMode;
use solver::seam::Progress;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Server;

pub use self::listen::Address;

use self::control::Control;
use self::gateway::dockerfile::Shared;
use self::health::Health;
use self::history::News;
use self::job::Jobs;
use self::session::Sessions;
use crate::engine::{Failure, Settings};
use crate::environment::Environment;

/// The largest message in either direction: what BuildKit's clients take and send.
pub const MESSAGE_MAX_BYTES: usize = 16 << 20;

/// Calls of one connection at once: each build of a client takes a handful.
const STREAMS_MAX: u32 = 4096;
/// How long builds have to end when the daemon is told to stop.
const BUILDS_GRACE: Duration = Duration::from_secs(30);
/// How long clients have to take what they were told last.
const CLIENTS_GRACE: Duration = Duration::from_secs(3);

/// What the daemon is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// What holds for every build.
    pub settings: Settings,
    /// What RUN steps may do, get and use, but for what a client gives them.
    pub steps: StepSettings,
    /// How many RUN steps of a build at once.
    pub jobs: usize,
    /// The network of RUN steps, unless the client says.
    pub network: Option<NetworkMode>,
    /// What clients may be granted beyond the default: `network.host`, `security.insecure`, `device`.
    pub entitlements: Vec<String>,
    /// What the worker says of itself beside what every worker says.
    pub labels: Vec<(String, String)>,
    /// Variables that places of caches look at.
    pub environment: Environment,
    /// Who the daemon is, and whom it lets in, where it is served over a network.
    pub identity: Option<tls::Identity>,
}

/// What all calls share.
#[derive(Debug)]
struct Daemon {
    config: Config,
    sessions: Arc<Sessions>,
    jobs: Jobs,
    news: News,
    stop: CancellationToken,
    shared: Shared,
}

impl Daemon {
    /// What this machine builds for.
    fn platforms(&self) -> Vec<Platform> {
        vec![self.config.settings.native_platform.clone()]
    }
}

/// Nobody watches.
struct Silent;

impl Progress for Silent {
    fn event(&self, event: solver::seam::Event) {
        tracing::debug!(?event, "nobody watches");
    }
}

/// Work that waits for a disk, away from whoever serves.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
}

/// What comes through a channel, as a stream.
fn received<T>(mut receiver: tokio::sync::mpsc::Receiver<T>) -> impl Stream<Item = T> {
    futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))
}

/// Serves until `stop` fires, and then until every build has ended and been told of, but not much longer. `ready` is
/// called with the addresses when all of them are served.
///
/// # Errors
/// When an address cannot be listened on, and when a build does not end in time.
pub async fn serve(
    config: Config,
    addresses: &[Address],
    stop: CancellationToken,
    ready: impl FnOnce(&[String]),
) -> Result<(), Failure> {
    let root: PathBuf = config.settings.root.clone();
    let daemon = Arc::new(Daemon {
        config,
        sessions: Arc::default(),
        jobs: Jobs::default(),
        news: News::default(),
        stop: stop.clone(),
        shared: Shared::default(),
    });
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        listeners.push(listen::listen(address, daemon.config.identity.as_ref())?);
    }
    let shown: Vec<String> = listeners.iter().map(|listener| listener.shown.clone()).collect();
    let (reflection, older_reflection) = (reflection::service()?, reflection::older_service()?);
    let (mut serving, mut names) = (tokio::task::JoinSet::new(), Vec::new());
    for listener in listeners {
        let control = ControlServer::new(Control(daemon.clone()))
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        let bridge = LlbBridgeServer::new(bridge::Bridge { daemon: daemon.clone(), guest: None })
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        let router = Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .add_service(control)
            .add_service(bridge)
            .add_service(ContentServer::new(content::Content(daemon.clone())))
            .add_service(HealthServer::new(Health(stop.clone())))
            .add_service(reflection.clone())
            .add_service(older_reflection.clone());
        let (incoming, held) = listener.incoming();
        names.push(held);
        serving.spawn(router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
    }
    ready(&shown);
    tracing::info!(root = %root.display(), ?shown, "serving");
    stop.cancelled().await;
    // Nobody is let in any more.
    drop(names);
    let ended = tokio::time::timeout(BUILDS_GRACE, daemon.jobs.end()).await;
    daemon.sessions.end();
    let listeners = async {
        while let Some(served) = serving.join_next().await {
            match served {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a listener ended"),
                Err(error) => tracing::debug!(%error, "a listener ended"),
            }
        }
    };
    if tokio::time::timeout(CLIENTS_GRACE, listeners).await.is_err() {
        tracing::info!("clients that do not hang up are left");
    }
    ended.map_err(|_| {
        Failure::new("builds have not ended in the time that they had for it")
            .note(format!("they were told to {} seconds ago", BUILDS_GRACE.as_secs()))
            .help("what they have left is removed by whoever opens the store next")
    })
}
