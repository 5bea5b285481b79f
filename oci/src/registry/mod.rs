//! A client for registries: OCI distribution-spec 1.1 over HTTP.
//!
//! Names and descriptors come in, bytes go into a [`ContentStore`] or out of one. [`Client::resolve`] turns a name and
//! a platform into a verified manifest and config, [`Client::fetch_blob`] brings a layer, [`Client::push_blob`] takes one
//! there, and [`Client::put_document`] gives the name its manifest. Whatever arrives is checked against its digest and size before it is committed, and what does not
//! match leaves nothing behind. The layers of this folder, outermost first:
//!
//! - [`route`]: mirrors first, then the registry itself, as [`crate::hosts`] says;
//! - [`resolve`], [`fetch`], [`push`], [`put`]: the acts, each with its own loop of tries; [`upload`]: the bytes of one
//!   blob; [`artifact`]: what is no image; [`document`]: manifests and indexes as they are; [`relay`]: blobs from one
//!   repository to another; [`login`]: who is let in;
//! - [`auth`]: challenges answered, tokens kept; [`credentials`]: whose name and password; [`challenge`]: their grammar;
//! - [`transport`]: one request and its redirects, with an idle timeout and a cap on connections per host;
//! - [`origin`]: where requests may go and who sees credentials; [`retry`]: when to try again; [`error`] and [`words`]: what went wrong,
//!   for people.
//!
//! Deliberately absent: referrers, listing, deletion.

mod route;

mod resolve;

mod fetch;

mod push;

mod upload;

mod artifact;

mod document;

mod put;

mod relay;

mod login;

mod auth;

mod challenge;

pub mod credentials;

mod transport;

pub(crate) mod origin;

pub(crate) mod retry;

mod error;

pub(crate) mod words;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use credentials::{Credential, Credentials, Found, LoginKey, Secret, Through, whose};
pub use document::{Asked, Content, Document, INDEX_ENTRIES_MAX};
pub use error::{CredentialsUsed, RegistryError, RequestName};
pub use login::Login;
pub use push::PushBlob;
pub use put::{Condition, Put};
pub use resolve::Resolved;
pub use retry::{Pace, RealPace, Tell, Watched};
pub use route::ReadHosts;

use crate::content::ContentStore;
use crate::hosts::Endpoint;
use crate::model::{Descriptor, Platform, Reference};
use auth::Site;
use transport::Wire;

/// What a client is told once.
#[derive(Clone)]
pub struct Settings {
    /// Where credentials come from.
    pub credentials: Credentials,
    /// Registries (`host` or `host:port`) that may be spoken to over plain HTTP, as loopback hosts always may. HTTPS is
    /// tried first. Credentials are never sent over plain HTTP to a host that is not loopback, listed here or not.
    pub insecure: Vec<String>,
    /// Token servers that get a registry's credentials although they are in another domain: (registry as in image
    /// names, host or `host:port` of the token server).
    pub token_servers: Vec<(String, String)>,
    /// Mirrors, certificates and more: read when the first image is asked for. `None`: there are no settings.
    pub hosts: Option<ReadHosts>,
    /// Is told what a person should know: once each, which mirror served and that none did; and of every pause that
    /// somebody who watches will notice, with its reason: a registry that limits how often it is asked, for example.
    pub tell: Tell,
    /// Certificates in PEM form, trusted beside the system's.
    pub ca_certificates: Vec<Vec<u8>>,
    /// Whether no connection may be made: then everything that needs one is [`RegistryError::Offline`].
    pub offline: bool,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// Requests to one registry at the same time.
    pub connections_per_host: usize,
    /// A blob larger than two of these is sent in chunks of this many bytes, where the registry takes them.
    pub chunk_bytes: u64,
    /// How long nothing may move. There is no limit on the whole of a transfer.
    pub idle_timeout: Duration,
    /// Clock, chance and waiting.
    pub pace: Arc<dyn Pace>,
    /// How long all pauses between the tries of one request may be together; `None`: as long as there are tries.
    pub pauses_max: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            credentials: Credentials::none(),
            insecure: Vec::new(),
            token_servers: Vec::new(),
            hosts: None,
            tell: Arc::new(|text| tracing::info!("{text}")),
            ca_certificates: Vec::new(),
            offline: false,
            user_agent: crate::http::USER_AGENT.to_owned(),
            connections_per_host: 6,
            chunk_bytes: upload::CHUNK_BYTES,
            idle_timeout: Duration::from_secs(60),
            pace: Arc::new(RealPace),
            pauses_max: None,
        }
    }
}

/// A handle on the client that a whole build shares. Cloning is cheap; clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What all handles share.
struct Shared {
    wire: Wire,
    credentials: Credentials,
    connections_per_host: usize,
    chunk_bytes: u64,
    pace: Arc<dyn Pace>,
    /// By registry as in image names.
    habits: Mutex<HashMap<String, upload::Habit>>,
    /// By endpoint; each is found out about once.
    sites: Mutex<HashMap<Endpoint, Arc<tokio::sync::OnceCell<Arc<Site>>>>>,
    /// Mirrors that are not asked again.
    lost_mirrors: Mutex<HashSet<Endpoint>>,
    tell: Tell,
    told: Mutex<HashSet<String>>,
}

impl Client {
    /// A client. Makes no connection and reads no file yet.
    ///
    /// # Errors
    /// [`RegistryError::Setup`] for certificates that are none.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let wire = Wire::new(&settings)?;
        let pace = Watched::new(settings.pace, settings.tell.clone(), settings.pauses_max);
        Ok(Self {
            shared: Arc::new(Shared {
                wire,
                credentials: settings.credentials,
                connections_per_host: settings.connections_per_host.max(1),
                chunk_bytes: settings.chunk_bytes.max(1),
                pace: Arc::new(pace),
                habits: Mutex::default(),
                sites: Mutex::default(),
                lost_mirrors: Mutex::default(),
                tell: settings.tell,
                told: Mutex::default(),
            }),
        })
    }

    /// The clock, chance and waiting that tries are made with.
    pub fn pace(&self) -> Arc<dyn Pace> {
        self.shared.pace.clone()
    }

    /// Finds the image that `reference` means on `platform`. Manifest, index and config are verified and stored in
    /// `into`; no layer is. A reference with a digest that is already in `into` asks nobody. distribution-spec,
    /// "Pulling manifests".
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        into: &dyn ContentStore,
    ) -> Result<Resolved, RegistryError> {
        self.shared.resolve(reference, platform, into).await
    }

    /// Brings a blob of the repository into `into`, unless it is there. `progress` is told how many bytes there are so
    /// far; the number may fall back when a transfer has to start again. A transfer that was cut goes on where it
    /// stopped. distribution-spec, "Pulling blobs".
    pub async fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        into: &dyn ContentStore,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        self.shared.fetch_blob(reference, descriptor, into, progress).await
    }
}

/// A lock whose data are whole after a panic, because every change is one call.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
