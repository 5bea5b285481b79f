//! `rbuild serve`: the engine behind the clients that people already use. Beside `cmd/`, and like it a caller of the
//! engine: it knows what the command line knows, and asks for the same things.
//!
//! In: sockets ([`listen`]) and settings. Out: BuildKit's control API, by [`control`] and [`bridge`]. Every build is a
//! [`job`]: its client's words become options ([`frontend`], [`outputs`]), its files and secrets come over its
//! [`session`], its events become [`status`], its failure an [`error`]. Deliberately absent: building anything. The
//! protocols are the crate `api`; [`docs/serve.md`](../../../docs/serve.md) says what clients may expect.

mod bridge;
mod control;
mod error;
mod frontend;
mod health;
mod job;
mod listen;
// Its reading half is not called yet: definitions of clients are not solved.
#[allow(dead_code, unused_imports)]
pub mod llb;
mod outputs;
mod session;
mod space;
mod status;

use std::path::PathBuf;
use std::sync::Arc;

use api::control::control_server::ControlServer;
use api::gateway::llb_bridge_server::LlbBridgeServer;
use api::health::health_server::HealthServer;
use executor::StepSettings;
use oci::model::Platform;
use solver::op::NetworkMode;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub use self::listen::Address;

use self::control::Control;
use self::health::Health;
use self::job::Jobs;
use self::session::Sessions;
use crate::engine::{Failure, Settings};
use crate::environment::Environment;

/// The largest message in either direction: what BuildKit's clients take and send.
pub const MESSAGE_MAX_BYTES: usize = 16 << 20;

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
}

/// What all calls share.
#[derive(Debug)]
struct Daemon {
    config: Config,
    sessions: Arc<Sessions>,
    jobs: Jobs,
    stop: CancellationToken,
}

impl Daemon {
    /// What this machine builds for.
    fn platforms(&self) -> Vec<Platform> {
        vec![self.config.settings.native_platform.clone()]
    }
}

/// Serves until `stop` fires, and then until every build has ended. `ready` is called with the addresses when all of
/// them are served.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn serve(
    config: Config,
    addresses: &[Address],
    stop: CancellationToken,
    ready: impl FnOnce(&[String]),
) -> Result<(), Failure> {
    let root: PathBuf = config.settings.root.clone();
    let daemon = Arc::new(Daemon { config, sessions: Arc::default(), jobs: Jobs::default(), stop: stop.clone() });
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        listeners.push(listen::listen(address)?);
    }
    let shown: Vec<String> = listeners.iter().map(|listener| listener.shown.clone()).collect();
    let mut serving = tokio::task::JoinSet::new();
    for listener in listeners {
        let control = ControlServer::new(Control(daemon.clone()))
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        let bridge = LlbBridgeServer::new(bridge::Bridge(daemon.clone()))
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        let router = Server::builder()
            .add_service(control)
            .add_service(bridge)
            .add_service(HealthServer::new(Health(stop.clone())));
        let stop = stop.clone();
        serving.spawn(async move {
            let (incoming, held) = listener.incoming();
            let served = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await;
            drop(held);
            served
        });
    }
    ready(&shown);
    tracing::info!(root = %root.display(), ?shown, "serving");
    stop.cancelled().await;
    daemon.jobs.end().await;
    daemon.sessions.end();
    while let Some(served) = serving.join_next().await {
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a listener ended"),
            Err(error) => tracing::debug!(%error, "a listener ended"),
        }
    }
    Ok(())
}
