//! Does the operations of a graph: the solver's [`Executor`] over a store, sources, snapshots and the sandbox.
//!
//! In: one operation and the results it stands on. Out: new results, each one layer record on top of its parent's, even
//! when nothing changed. Deliberately absent: order, keys, caching (the solver's), what an image is made of (the
//! engine's). A canceled operation leaves nothing: its draft goes with it.
//!
//! Next: [`sources`] where trees come from, [`supply`] blobs that are not here yet, [`job`] what an operation makes, [`cores`] how much of that is done at once;
//! what results hold is told by [`crate::content`].

mod background;
mod cores;
mod job;
mod sources;
mod supply;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use jiff::Timestamp;
use oci::model::Platform;
use solver::graph::VertexId;
use solver::key::ContentDigest;
use solver::op::{Op, SourceOp};
use solver::seam::{Executor, Job, LogSink, Pin, Read, ResultId, Selection};
use solver::work::{Work, WorkKind};
use store::Store;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

pub(crate) use job::{Inputs, Notices, Told};
pub use sources::LocalTree;
pub(crate) use supply::Silent;

use crate::content::Contents;
use crate::emulate::{Decided, Emulated, Emulation};
use crate::error::ExecError;
use crate::isolation::Rung;
use crate::layers::Layers;
use crate::limits::Groups;
use crate::merge;
use crate::meter::Meter;
use crate::network::Networks;
use crate::ops::exec::StepError;
use crate::sandbox;
use crate::secrets::Secrets;
use crate::secrets::agent::Agents;
use crate::snapshot::overlay::MountApi;
use crate::snapshot::{CopySnapshotter, Mounted, OverlaySnapshotter, Snapshotter};
use crate::source::Connectivity;
use crate::source::fetched::Known;
use crate::source::given::Given;
use crate::source::image::{self, BlobFetcher};
use crate::source::local::LocalPatterns;
use crate::steps::StepSettings;
use crate::times::{Heritage, is_image};
use crate::userns::UsernsError;
use sources::{Local, refuse_local, unknown_kind};

/// What a worker is made of.
pub struct WorkerConfig {
    /// Where results live.
    pub store: Store,
    /// Directories of the user by the names of `local://<name>`.
    pub local_sources: BTreeMap<String, PathBuf>,
    /// Brings blobs of images.
    pub fetcher: Arc<dyn BlobFetcher>,
    /// Whether sources may be fetched. Blobs of images are `fetcher`'s business.
    pub connectivity: Connectivity,
    /// How layers are stacked; `None` is overlayfs as this kernel has it, or copies where nothing may be mounted.
    pub snapshots: Option<Arc<dyn Snapshotter>>,
    /// What steps may do, get and use.
    pub steps: StepSettings,
    /// The time of new layers.
    pub clock: fn() -> Timestamp,
}

/// Does operations. Cheap to clone; one for all tasks of a build.
#[derive(Clone)]
pub struct Worker {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    layers: Layers,
    /// Told of what is done with bytes.
    meter: Arc<Meter>,
    snapshots: Arc<dyn Snapshotter>,
    locals: BTreeMap<String, Local>,
    /// Patterns of the local sources that were run, by result.
    patterns: Mutex<BTreeMap<ResultId, Arc<LocalPatterns>>>,
    /// What was found out about sources that are fetched.
    known: Known,
    fetcher: Arc<dyn BlobFetcher>,
    clock: fn() -> Timestamp,
    /// What results hold.
    contents: Contents,
    /// What comes with results that steps stood on.
    heritages: Mutex<HashMap<ResultId, Heritage>>,
    /// Who brings blobs of layers that other machines made.
    supplier: OnceLock<Arc<dyn store::remote::Supplier>>,
    /// One per core, for our own work.
    cores: Arc<Semaphore>,
    steps: StepSettings,
    given: Given,
    /// Makes the control groups of steps.
    groups: Groups,
    /// The networks of steps; begun by the first one that needs it.
    networks: Networks,
    /// How steps of other architectures run.
    emulation: Emulation,
    /// Whether a step of this build needs a network of its own.
    wants_network: AtomicBool,
    /// Whether layers may be fetched that must not be distributed.
    foreign_layers: AtomicBool,
    /// Images that steps of this build will stand on or read.
    expected_trees: OnceLock<HashSet<String>>,
    /// Copies whose results are only put out.
    may_pack: OnceLock<HashSet<VertexId>>,
    /// Where trees are not mounted, one process at a time has one for its root.
    root_turn: Arc<tokio::sync::Mutex<()>>,
    /// Whether steps can have user namespaces; tried before the first one.
    users: OnceCell<()>,
    /// How steps are started; made by the first one.
    sandbox: OnceLock<sandbox::Settings>,
}

impl Worker {
    /// A worker with the secrets and agents of its settings. Opens nothing but the store's layers directory, unless steps are limited: then a control group is made
    /// and removed, so that a limit that cannot be had is told before anything runs.
    pub fn new(config: WorkerConfig) -> Result<Self, ExecError> {
        let given = Given::of(&config.steps);
        Self::with(config, given)
    }

    /// The same; `given` is of the same settings, and was perhaps used already.
    pub fn with(config: WorkerConfig, given: Given) -> Result<Self, ExecError> {
        let snapshots: Arc<dyn Snapshotter> = match config.snapshots {
            Some(snapshots) => snapshots,
            None if config.steps.rung == Rung::Chroot => Arc::new(CopySnapshotter::in_store(&config.store)),
            None => Arc::new(OverlaySnapshotter::new(config.store.layers_dir(), MountApi::detect())?),
        };
        let locals = config.local_sources.into_iter().map(|(name, path)| (name, Local::new(path)));
        let meter = Arc::new(Meter::default());
        let layers = Layers::metered(config.store.clone(), meter.clone());
        Ok(Self {
            inner: Arc::new(Inner {
                layers: if snapshots.mounts() { layers.stacked_together(snapshots.clone()) } else { layers },
                meter,
                store: config.store,
                snapshots,
                locals: locals.collect(),
                patterns: Mutex::default(),
                known: Known::new(config.connectivity, given.clone()),
                fetcher: config.fetcher,
                given,
                groups: Groups::new(config.steps.limits.clone())?,
                networks: Networks::new(config.steps.network.clone(), config.steps.dns.clone())
                    .of_users(config.steps.user_namespace.clone()),
                users: OnceCell::new(),
                wants_network: AtomicBool::new(false),
                foreign_layers: AtomicBool::new(false),
                expected_trees: OnceLock::new(),
                may_pack: OnceLock::new(),
                emulation: Emulation::new(&config.steps),
                steps: config.steps,
                root_turn: Arc::default(),
                sandbox: OnceLock::new(),
                clock: config.clock,
                contents: Contents::default(),
                heritages: Mutex::default(),
                supplier: OnceLock::new(),
                cores: cores::all(),
            }),
        })
    }

    /// Lets steps be started by another helper than this very binary; for tests, whose binary is a harness. Does
    /// nothing after the first step.
    pub fn start_steps_with(&self, settings: sandbox::Settings) {
        self.inner.sandbox.get_or_init(|| settings);
    }

    /// What steps may do, get and use.
    pub fn steps(&self) -> &StepSettings {
        &self.inner.steps
    }

    /// The secrets of this build.
    pub(crate) fn secrets(&self) -> &Secrets {
        &self.inner.given.secrets
    }

    /// The ssh agents of this build.
    pub(crate) fn agents(&self) -> &Agents {
        &self.inner.given.agents
    }

    /// Makes the control groups of steps.
    pub(crate) fn groups(&self) -> &Groups {
        &self.inner.groups
    }

    /// Says that a step of this build will need a network of its own; if none can be had, no step at all is run.
    pub fn expect_network(&self) {
        self.inner.wants_network.store(true, Ordering::Relaxed);
    }

    /// Says for which platforms steps will be; if those of one cannot run, no step at all is run.
    pub fn expect_platforms(&self, platforms: Vec<Platform>) {
        self.inner.emulation.expect(platforms);
    }

    /// How a step of `platform` runs here; of none, by itself. What is to be said of it goes to `log`, once.
    pub(crate) async fn emulated(&self, platform: Option<&Platform>, log: &dyn LogSink) -> Result<Emulated, ExecError> {
        let (helper, platform) = (self.sandbox()?, platform.cloned().unwrap_or_else(Platform::native));
        let decided = self
            .blocking(move |worker| Ok(worker.inner.emulation.decide(&platform, &helper).map_err(StepError::from)?));
        let Decided { emulated, private, notices } = decided.await?;
        if let Some(ids) = private.filter(|_| self.steps().user_namespace.is_none()) {
            self.networks().belong_to(ids);
        }
        notices.iter().for_each(|text| log.notice(text));
        Ok(emulated)
    }

    /// Says that the graph is solved: what is known of contexts is kept, and what only steps need taken down beside what comes now. A step that comes all the
    /// same has it made again.
    pub async fn no_more_steps(&self) {
        self.inner.locals.values().for_each(Local::keep);
        self.inner.networks.end().await;
    }

    pub(crate) fn wants_network(&self) -> bool {
        self.inner.wants_network.load(Ordering::Relaxed)
    }

    /// The networks of steps.
    pub(crate) fn networks(&self) -> &Networks {
        &self.inner.networks
    }

    /// Whether trees are mounted where they are needed; otherwise each is in one place at a time.
    pub(crate) fn mounts(&self) -> bool {
        self.inner.snapshots.mounts()
    }

    /// The right to run a process in a tree, until it is dropped. The caller holds all else that it may have to wait for.
    pub(crate) async fn root_turn(&self) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        if self.mounts() { None } else { Some(Arc::clone(&self.inner.root_turn).lock_owned().await) }
    }

    /// Makes sure that steps can have user namespaces of their own, if they shall. Tried once.
    pub(crate) async fn expect_user_namespaces(&self) -> Result<(), ExecError> {
        let Some(ids) = self.inner.steps.user_namespace.clone() else { return Ok(()) };
        if self.inner.steps.rung == Rung::Chroot {
            return Err(StepError::Users(UsernsError::Chroot).into());
        }
        let helper = self.sandbox()?;
        let tried = self.inner.users.get_or_try_init(|| {
            self.blocking(move |worker| {
                let draft = worker.store().draft()?;
                Ok(crate::userns::probe::probe(&helper, draft.fs(), &ids).map_err(StepError::from)?)
            })
        });
        tried.await.copied()
    }

    /// How steps are started.
    pub(crate) fn sandbox(&self) -> Result<sandbox::Settings, ExecError> {
        match self.inner.sandbox.get() {
            Some(settings) => Ok(settings.clone()),
            None => {
                let settings = match self.steps().rung {
                    Rung::Full | Rung::Rootless => sandbox::Settings::of_this_process()?,
                    Rung::Chroot => sandbox::Settings::in_chroot()?,
                };
                Ok(self.inner.sandbox.get_or_init(|| settings).clone())
            }
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Where those who want to know what is done with bytes can listen.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.inner.meter
    }

    /// Layers as trees and blobs. Blocking.
    pub fn layers(&self) -> &Layers {
        &self.inner.layers
    }

    /// What is known of contents.
    pub(crate) fn contents(&self) -> &Contents {
        &self.inner.contents
    }

    /// How layers are stacked. Blocking.
    pub fn snapshots(&self) -> &dyn Snapshotter {
        &*self.inner.snapshots
    }

    /// Directories of a result's layers under [`Store::layers_dir`], topmost first; what was only pulled is unpacked.
    /// Blocking.
    pub fn lowers(&self, result: &ResultId) -> Result<Vec<String>, ExecError> {
        self.inner.lowers(result)
    }

    /// The merged tree of a result, read-only. Blocking.
    pub fn view(&self, result: &ResultId) -> Result<Mounted, ExecError> {
        Ok(self.inner.snapshots.view(&self.inner.lowers(result)?)?)
    }
}

impl Inner {
    fn lowers(&self, result: &ResultId) -> Result<Vec<String>, ExecError> {
        refuse_local(result)?;
        Ok(self.layers.lowers(result)?)
    }
}

impl Executor for Worker {
    type Error = ExecError;

    async fn pin(&self, source: &SourceOp, _: &dyn LogSink, _: &CancellationToken) -> Result<Pin, ExecError> {
        match source.scheme() {
            "local" => Ok(Pin::Selected),
            "docker-image" | "oci-layout" => {
                let (_, digest) = image::pinned(source)?;
                self.inner.contents.pinned(digest);
                Ok(Pin::Content(ContentDigest(*digest.as_bytes())))
            }
            "git" | "http" | "https" => Ok(Pin::Content(self.inner.known.pin(&self.inner.store, source).await?)),
            _ => Err(unknown_kind(source)),
        }
    }

    async fn digest_selected(
        &self,
        source: &SourceOp,
        selection: &Selection,
        cancel: &CancellationToken,
    ) -> Result<ContentDigest, ExecError> {
        let (source, selection, token) = (source.clone(), selection.clone(), cancel.clone());
        self.on_core(cancel, move |worker| {
            let begun = Instant::now();
            let local = worker.inner.local(source.reference())?;
            let made = local.digest_selected(&LocalPatterns::of(&source)?, &selection, &|| token.is_cancelled());
            let made = match made {
                Err(error) if error.is_canceled() => return Err(ExecError::Canceled),
                made => made?,
            };
            worker.inner.store.keep_nodes(&made.digest, made.nodes())?;
            let work = Work {
                kind: WorkKind::Digest,
                files: made.looked as u64,
                read_bytes: made.read_bytes,
                hashed_bytes: made.read_bytes,
                written_bytes: 0,
                took: begun.elapsed(),
            };
            // Of one that was digested before in this build, nothing was done.
            if made.looked > 0 {
                worker.inner.meter.tell(&source.identifier, work);
            }
            Ok(made.digest)
        })
        .await
    }

    async fn content(
        &self,
        result: &ResultId,
        read: &Read,
        cancel: &CancellationToken,
    ) -> Result<Option<ContentDigest>, ExecError> {
        self.content_of(result, read, cancel).await
    }

    async fn settle(
        &self,
        fresh: Vec<ResultId>,
        known: &[Vec<ResultId>],
        cancel: &CancellationToken,
    ) -> Result<Vec<ResultId>, ExecError> {
        self.settled(fresh, known, cancel).await
    }

    async fn run(
        &self,
        job: Job<'_>,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<ResultId>, ExecError> {
        if cancel.is_cancelled() {
            return Err(ExecError::Canceled);
        }
        let vertex = job.id;
        let results = self.perform(job, log, cancel).await?;
        self.inner.meter.own(results.iter().map(ResultId::as_str), vertex);
        Ok(results)
    }
}

impl Worker {
    async fn perform(
        &self,
        job: Job<'_>,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<ResultId>, ExecError> {
        match &job.vertex.op {
            Op::Source(source) if matches!(source.scheme(), "git" | "http" | "https") => {
                self.run_fetched(source, log, cancel).await
            }
            Op::Source(source) => tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ExecError::Canceled),
                result = self.run_source(source, job.id, log) => result,
            },
            Op::File(op) => {
                self.ensure_inputs(&job.inputs, log, cancel).await?;
                self.run_file(op.clone(), &job, log, cancel).await.map_err(supply::lost)
            }
            Op::Exec(exec) => {
                self.ensure_inputs(&job.inputs, log, cancel).await?;
                crate::ops::exec::run(self, &job, exec, log, cancel).await.map_err(supply::lost)
            }
            Op::Merge(_) => {
                let (inputs, on_base) = (job.inputs.clone(), is_image(job.sources.first().copied().flatten()));
                let merged = self.blocking(move |worker| {
                    inputs.iter().try_for_each(refuse_local)?;
                    merge::merge(&worker.inner.layers, &worker.inner.store, &inputs, on_base)
                });
                Ok(vec![merged.await?])
            }
            Op::Diff(op) => {
                let input = |index: Option<usize>| index.and_then(|index| job.inputs.get(index).cloned());
                let (lower, upper) = (input(op.lower), input(op.upper));
                let diff = self.blocking(move |worker| {
                    lower.iter().chain(&upper).try_for_each(refuse_local)?;
                    merge::diff(&worker.inner.layers, &worker.inner.store, lower.as_ref(), upper.as_ref())
                });
                Ok(vec![diff.await?])
            }
            Op::Build(_) => Err(ExecError::Unsupported { operation: "a build inside a build" }),
        }
    }
}

#[cfg(test)]
mod tests;
