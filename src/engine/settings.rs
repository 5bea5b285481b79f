//! What holds for every command: where the store is, and how registries are met.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use executor::StepSettings;
use executor::isolation::Rung;
use executor::network::NetworkSettings;
use executor::source::Connectivity;
use executor::source::given::Given;
use oci::model::Platform;
use oci::registry::credentials::AskCredentials;
use oci::registry::{Client, Credential, Credentials, Tell};
use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use store::Store;

use super::history::HistorySettings;
use super::{Failure, form, words};
use crate::hosts::HostSources;
use crate::options::size::Size;

/// The hall's settings for the engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store's directory.
    pub root: PathBuf,
    /// How registries are met.
    pub registries: RegistrySettings,
    /// Whether no connection may be made: neither for images and their blobs nor for sources and caches.
    pub offline: bool,
    /// Whether images may have layers that must not be distributed.
    pub foreign_layers: bool,
    /// How large the store may become; `None` is a share of its disk.
    pub max_size: Option<Size>,
    /// How much of the disk stays free, where something is said of it.
    pub keep_free: Option<Size>,
    /// What the store may take even if others fill the disk, likewise.
    pub at_least: Option<Size>,
    /// How long what is not used stays; `None`: as long as there is room.
    pub keep_for: Option<Duration>,
    /// How large all cache mounts together may become; `None` is half of what the store may.
    pub mounts_max_size: Option<Size>,
    /// How steps are kept apart.
    pub rung: Rung,
    /// How steps with a network of their own get out.
    pub network: NetworkSettings,
    /// The machine's own platform.
    pub native_platform: Platform,
    /// Who runs this process, where it looks like root to itself.
    pub user: Option<u32>,
    /// What is kept of past builds.
    pub history: HistorySettings,
}

/// How registries are met.
#[derive(Clone, Debug, Default)]
pub struct RegistrySettings {
    /// Where mirrors, certificates and more are set.
    pub hosts: HostSources,
    /// The one file of credentials, if one was named.
    pub authfile: Option<PathBuf>,
    /// A credential for one registry, before all files.
    pub credential: Option<(String, Credential)>,
    /// Whether what CI systems put into the environment is left alone.
    pub without_job: bool,
    /// Who is asked instead of all files: the builds are somebody else's.
    pub asked: Option<Arc<dyn AskCredentials>>,
}

impl RegistrySettings {
    /// Where credentials come from, for a process that was started by `user` and looks like root to itself, if it does.
    pub fn credentials(&self, user: Option<u32>) -> Credentials {
        if let Some(asked) = &self.asked {
            return Credentials::none().asking(asked.clone());
        }
        let mut credentials = match user {
            Some(user) => Credentials::from_environment_of(user),
            None => Credentials::from_environment(),
        };
        if let Some(file) = &self.authfile {
            credentials = credentials.with_file(file);
        }
        if self.without_job {
            credentials = credentials.without_job();
        }
        if let Some((registry, credential)) = &self.credential {
            credentials = credentials.with(registry, credential.clone());
        }
        credentials
    }
}

impl Settings {
    /// Opens the store; what it noticed on the way (a rebuilt index) is told to `progress`.
    pub fn open_store(&self, progress: &Arc<dyn Progress>) -> Result<Store, Failure> {
        let store = Store::open(&self.root).map_err(|error| words::store(&error))?;
        form::check(&self.root, store.layers_dir())?;
        let vertex = VertexId::of_name("store");
        for notice in store.notices() {
            progress.event(Event::Notice { vertex, text: notice.clone() });
        }
        Ok(store)
    }

    /// Where credentials of registries come from.
    pub fn credentials(&self) -> Credentials {
        let credentials = self.registries.credentials(self.user);
        match executor::rootless::launcher() {
            Some(launcher) => credentials.with_helpers_through(oci::registry::Through {
                program: launcher.program,
                arg0: launcher.arg0.into(),
                args: launcher.args.into(),
            }),
            None => credentials,
        }
    }

    /// What a client for registries is told; what it has to tell goes to `progress`.
    pub fn client(&self, hosts: HostSources, progress: &Arc<dyn Progress>) -> oci::registry::Settings {
        let (tell, telling) = (notices(progress), notices(progress));
        let read = move || {
            let (hosts, _) = hosts.read();
            for text in hosts.warnings() {
                telling(text);
            }
            hosts
        };
        oci::registry::Settings {
            credentials: self.credentials(),
            hosts: Some(Arc::new(read)),
            tell,
            offline: self.offline,
            ..Default::default()
        }
    }

    /// Refuses what is nothing but a connection, where none may be made.
    ///
    /// # Errors
    /// With `--offline`, or what says the same.
    pub fn check_online(&self, verb: &str) -> Result<(), Failure> {
        if !self.offline {
            return Ok(());
        }
        Err(Failure::new(format!("`rbuild {verb}` asks a registry, and no connection may be made"))
            .help("`rbuild config` shows where `offline` is set"))
    }

    /// A client for registries, with the credentials and the settings of this user.
    pub fn registry(&self, progress: &Arc<dyn Progress>) -> Result<Client, Failure> {
        let settings = self.client(self.registries.hosts.clone(), progress);
        Client::new(settings).map_err(|error| words::registry(&error))
    }

    /// Whether sources may be fetched.
    pub fn connectivity(&self) -> Connectivity {
        if self.offline { Connectivity::Offline } else { Connectivity::Online }
    }

    /// Who runs operations, with directories under the names of `local://<name>`: the build context is `context`.
    ///
    /// # Errors
    /// When the store's layers cannot be opened.
    pub fn worker(
        &self,
        store: &Store,
        registry: &Client,
        local_sources: BTreeMap<String, PathBuf>,
        steps: StepSettings,
    ) -> Result<executor::Worker, Failure> {
        let given = Given::of(&steps);
        self.worker_with(store, registry, local_sources, steps, given)
    }

    /// The same; `given` is of these steps, and was perhaps used already.
    ///
    /// # Errors
    /// Likewise.
    pub fn worker_with(
        &self,
        store: &Store,
        registry: &Client,
        local_sources: BTreeMap<String, PathBuf>,
        steps: StepSettings,
        given: Given,
    ) -> Result<executor::Worker, Failure> {
        let config = executor::WorkerConfig {
            store: store.clone(),
            local_sources,
            fetcher: Arc::new(registry.clone()),
            connectivity: self.connectivity(),
            snapshots: None,
            steps: StepSettings { rung: self.rung, network: self.network.clone(), ..steps },
            clock: jiff::Timestamp::now,
        };
        let worker = executor::Worker::with(config, given).map_err(|error| words::exec(&error))?;
        if self.foreign_layers {
            worker.allow_foreign_layers();
        }
        Ok(worker)
    }
}

/// Who hears what clients of registries and of caches have to tell: which mirror served, and pauses with their reason.
pub fn notices(progress: &Arc<dyn Progress>) -> Tell {
    let (progress, vertex) = (progress.clone(), VertexId::of_name("registries"));
    Arc::new(move |text: &str| progress.event(Event::Notice { vertex, text: text.to_owned() }))
}
