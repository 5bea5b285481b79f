//! Caches of other machines around one build: asked when this store does not know, told when the build is over.
//!
//! In: the places of `--cache-from` and `--cache-to`. Out: a [`CacheStore`] for the solver that knows what they know
//! ([`import`]), blobs for whoever needs them ([`import::Imports`] is a [`store::remote::Supplier`]), and the caches
//! written anew ([`export`]). [`solve`] solves, again when a cache did not keep what it promised;
//! [`watch`] notes which key a vertex has, and hides that. A place that is down, slow, full or hostile costs a warning: the build does without it. Deliberately
//! absent: the format ([`store::remote`]).

mod export;
mod import;
mod mounts;
mod solve;
mod steps;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use executor::Worker;
use executor::meter::Meter;
use executor::waiting::Waiting;
use oci::http::{RealPace, Watched};
use oci::model::Reference;
use solver::key::Key;
use solver::seam::{CacheStore, KeyKind, Progress, Record, ResultId};
use store::remote::s3::S3;
use store::remote::{LocalCache, RegistryCache, Remote};
use store::{Flight, Store, StoreError};

pub use export::{Exports, inline};
pub use import::{Imports, Lost};
pub use solve::{LOSSES_MAX, LayersWanted, Solving, Wanted};
pub use steps::Steps;
pub use watch::Watch;

use super::export::Ahead;
use super::settings::notices;
use super::{Failure, Settings, words};
use crate::hosts::HostSources;
use crate::options::BuildOptions;
use crate::options::cache::{CachePlace, CacheTo};

/// A place that is open.
#[derive(Clone)]
pub struct Place {
    /// What is asked.
    pub remote: Arc<dyn Remote>,
    /// Its name, if it is a registry: a hint for later builds where its blobs are.
    pub name: Option<Reference>,
    /// `registry`, `local`, …: for messages.
    pub kind: &'static str,
}

impl Place {
    /// Opens a place that may take so long for an answer; makes no connection. `None`: there is no way to it, because the
    /// build is offline, or it is the image itself.
    ///
    /// # Errors
    /// When it cannot be one.
    pub fn open(
        place: &CachePlace,
        patience: Duration,
        settings: &Settings,
        store: &Store,
        progress: &Arc<dyn Progress>,
    ) -> Result<Option<Self>, Failure> {
        match place {
            CachePlace::Inline => Ok(None),
            CachePlace::Registry { .. } | CachePlace::S3(_) if settings.offline => Ok(None),
            CachePlace::Registry { name, insecure } => {
                let client = client(settings, insecure.then(|| name.registry()), patience, progress)?;
                let cache = RegistryCache::new(client, name.clone(), store.clone());
                let remote = Arc::new(cache.with_patience(patience));
                Ok(Some(Self { remote, name: Some(name.clone()), kind: "registry" }))
            }
            CachePlace::Local { path, tag, digest } => {
                let remote = Arc::new(LocalCache::new(path.clone(), tag.clone(), *digest));
                Ok(Some(Self { remote, name: None, kind: "local" }))
            }
            CachePlace::Theirs(cache) => Ok(Some(Self { remote: cache.0.clone(), name: None, kind: "local" })),
            CachePlace::S3(place) => {
                let pace = Watched::new(Arc::new(RealPace), notices(progress), Some(patience));
                let remote = S3::new(place, patience, Arc::new(pace)).map_err(|error| Failure::from_error(&error))?;
                let remote = Arc::new(remote);
                Ok(Some(Self { remote, name: None, kind: "s3" }))
            }
        }
    }
}

/// The caches of other machines around one build.
pub struct Remotes {
    /// Those that are asked.
    pub imports: Arc<Imports>,
    /// Those that are told.
    pub to: Vec<(CacheTo, Place)>,
    /// Listens to the build.
    pub watch: Arc<Watch>,
}

impl Remotes {
    /// Opens them; makes no connection.
    ///
    /// # Errors
    /// Before anything is built, for those that cannot be one.
    pub fn open(
        settings: &Settings,
        options: &BuildOptions,
        store: &Store,
        registry: &oci::registry::Client,
        progress: &Arc<dyn Progress>,
    ) -> Result<Self, Failure> {
        let (mut from, mut to, mut out_of_reach) = (Vec::new(), Vec::new(), false);
        for cache in &options.cache_from {
            match Place::open(&cache.place, cache.patience, settings, store, progress)? {
                Some(place) => from.push(place),
                None => out_of_reach = true,
            }
        }
        for cache in options.cache_to.iter().filter(|cache| cache.place != CachePlace::Inline) {
            match Place::open(&cache.place, cache.patience, settings, store, progress)? {
                Some(place) => to.push((cache.clone(), place)),
                None => out_of_reach = true,
            }
        }
        let watch = Arc::new(Watch::new(progress.clone()));
        if out_of_reach {
            watch.say("the build is offline: caches of other machines are neither asked nor told");
        }
        let imports = Imports::new(from, store.clone(), registry.clone(), watch.clone());
        Ok(Self { imports: Arc::new(imports), to, watch })
    }

    /// Runs the steps of a build, or answers for one that is only imagined.
    pub fn steps(&self, worker: &Worker, imagines: bool) -> Arc<Steps> {
        let (watch, imports) = (self.watch.clone(), self.imports.clone());
        Arc::new(Steps { worker: worker.clone(), watch, imports, imagines })
    }

    /// The store, and behind it those that are asked; `ahead` and `meter` hear of results.
    pub fn memory(&self, store: &Store, ahead: Option<Arc<Ahead>>, meter: Option<Arc<Meter>>) -> Arc<Caches> {
        let (imports, watch) = (self.imports.clone(), self.watch.clone());
        Arc::new(Caches { store: store.clone(), imports, watch, ahead, meter })
    }

    /// A layer was not to be had after the build was solved: what led to it is forgotten, so that its step runs.
    ///
    /// # Errors
    /// When the store fails.
    pub fn lost(&self, lost: &Lost) -> Result<(), Failure> {
        self.imports.forget(lost).map_err(|error| words::store(&error))?;
        self.watch.say(format!("a step runs that a cache knew: {}", lost.why));
        Ok(())
    }

    /// Whether the image gets a cache into its config: not with an epoch, with which its layers are others than the
    /// results of its steps.
    pub fn is_inline_wanted(&self, options: &BuildOptions, output: &frontend::PlanOutput) -> bool {
        let wanted = options.cache_to.iter().any(|to| to.place == CachePlace::Inline);
        if wanted && output.epoch.is_some() {
            self.watch
                .say("with SOURCE_DATE_EPOCH no cache fits into the image; use `--cache-to type=registry,ref=NAME`");
        }
        wanted && output.epoch.is_none()
    }
}

/// A client that is sooner out of patience than one for images: what it would bring can be made. It asks again only as
/// long as somebody waits, so that the registry's own words are what is told.
fn client(
    settings: &Settings,
    insecure: Option<&str>,
    patience: Duration,
    progress: &Arc<dyn Progress>,
) -> Result<oci::registry::Client, Failure> {
    let hosts = settings.registries.hosts.clone();
    let hosts = insecure.into_iter().fold(hosts, HostSources::with_insecure);
    let settings = oci::registry::Settings {
        idle_timeout: patience,
        pauses_max: Some(patience),
        ..settings.client(hosts, progress)
    };
    oci::registry::Client::new(settings).map_err(|error| words::registry(&error))
}

/// This store, and behind it the caches of others.
pub struct Caches {
    /// Asked first, told of everything.
    pub store: Store,
    /// Asked for what the store does not know.
    pub imports: Arc<Imports>,
    /// Knows by whom a key is.
    pub watch: Arc<Watch>,
    /// Told of results as soon as they are final.
    pub ahead: Option<Arc<Ahead>>,
    /// Told whose a result is.
    pub meter: Option<Arc<Meter>>,
}

impl Caches {
    fn final_results(&self, key: &Key, results: &[ResultId], ran: bool) {
        let meter = self.meter.as_ref().filter(|meter| meter.is_heard());
        if self.ahead.is_none() && meter.is_none() {
            return;
        }
        for vertex in self.watch.vertices(key) {
            if let Some(ahead) = &self.ahead {
                ahead.heard(&vertex, results, ran);
            }
            if let Some(meter) = meter {
                meter.own(results.iter().map(ResultId::as_str), vertex);
            }
        }
    }
}

impl CacheStore for Caches {
    type Error = StoreError;
    type Flight = Flight;

    async fn find(&self, key: &Key) -> Result<Option<Vec<ResultId>>, StoreError> {
        let found = match self.store.lookup_with(key, &|blob| self.imports.has_blob(blob))? {
            Some(found) => Some(found),
            None => self.imports.find(key).await?,
        };
        if let Some(results) = &found {
            self.final_results(key, results, false);
        }
        Ok(found)
    }

    fn of_operation(&self, operation: &Key) -> Result<Vec<Vec<ResultId>>, StoreError> {
        let mut known = self.store.of_operation(operation)?;
        // That there is one is what counts: then its content key is asked for.
        if known.is_empty() {
            known.extend(self.imports.of_operation(operation)?);
        }
        Ok(known)
    }

    fn record(&self, key: &Key, record: &Record<'_>) -> Result<(), StoreError> {
        self.store.record(key, record)?;
        if record.kind == KeyKind::Definition {
            self.final_results(key, record.results, true);
        }
        Ok(())
    }

    fn try_claim(&self, key: &Key) -> Result<Option<Flight>, StoreError> {
        self.store.try_claim(key)
    }

    async fn claim(&self, key: &Key) -> Result<Flight, StoreError> {
        let (store, key) = (self.store.clone(), *key);
        let waiting = Waiting::start("flight", move |given_up| store.claim_unless(&key, given_up));
        let path = self.store.root().join("flights");
        let waiting = waiting.map_err(|source| StoreError::Io { act: "start a thread for", path, source })?;
        Ok(waiting.await?.expect("nobody gave up"))
    }
}
