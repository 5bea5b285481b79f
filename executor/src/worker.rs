//! Does the operations of a graph: the solver's [`Executor`] over a store, sources, snapshots and the sandbox.
//!
//! In: one operation and the results it stands on. Out: new results, each one layer record on top of its parent's, even
//! when nothing changed. Deliberately absent: order, keys, caching (the solver's), what an image is made of (the
//! engine's). What blocks runs on the runtime's blocking threads. A canceled operation leaves nothing: its draft goes
//! with it.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::Timestamp;
use oci::model::{Descriptor, Digest, Reference};
use solver::key::ContentDigest;
use solver::op::{FileOp, Op, SourceOp};
use solver::seam::{Executor, Job, LogSink, Pin, ResultId, Selection, Stream};
use store::{Draft, Made, Store};
use tokio_util::sync::CancellationToken;

use crate::error::ExecError;
use crate::layers::{Layers, SCRATCH};
use crate::merge;
use crate::ops::file::{self, copy::CopySource};
use crate::sandbox;
use crate::snapshot::overlay::MountApi;
use crate::snapshot::{Mounted, OverlaySnapshotter, Snapshotter};
use crate::source::Connectivity;
use crate::source::SourceError;
use crate::source::address::masked;
use crate::source::fetched::Known;
use crate::source::image::{self, BlobFetcher};
use crate::source::local::{LocalPatterns, LocalSource};
use crate::times::{Heritage, is_image};

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
    /// How layers are stacked; `None` is overlayfs as this kernel has it.
    pub snapshots: Option<Arc<dyn Snapshotter>>,
    /// The time of new layers.
    pub clock: fn() -> Timestamp,
}

/// A directory of the user, with the patterns of the source operation that named it.
pub type LocalTree = (Arc<LocalSource>, Arc<LocalPatterns>);

/// Does operations. Cheap to clone; one for all tasks of a build.
#[derive(Clone)]
pub struct Worker {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    layers: Layers,
    snapshots: Arc<dyn Snapshotter>,
    locals: BTreeMap<String, Local>,
    /// Patterns of the local sources that were run, by result.
    patterns: Mutex<BTreeMap<ResultId, Arc<LocalPatterns>>>,
    /// What was found out about sources that are fetched.
    known: Known,
    fetcher: Arc<dyn BlobFetcher>,
    clock: fn() -> Timestamp,
    /// How steps are started; made by the first one.
    sandbox: OnceLock<sandbox::Settings>,
}

struct Local {
    path: PathBuf,
    /// Opened when first asked for.
    source: Mutex<Option<Arc<LocalSource>>>,
}

impl Worker {
    /// A worker. Opens nothing but the store's layers directory.
    pub fn new(config: WorkerConfig) -> Result<Self, ExecError> {
        let snapshots = match config.snapshots {
            Some(snapshots) => snapshots,
            None => Arc::new(OverlaySnapshotter::new(config.store.layers_dir(), MountApi::detect())?),
        };
        let locals =
            config.local_sources.into_iter().map(|(name, path)| (name, Local { path, source: Mutex::default() }));
        Ok(Self {
            inner: Arc::new(Inner {
                layers: Layers::new(config.store.clone()),
                store: config.store,
                snapshots,
                locals: locals.collect(),
                patterns: Mutex::default(),
                known: Known::new(config.connectivity),
                fetcher: config.fetcher,
                sandbox: OnceLock::new(),
                clock: config.clock,
            }),
        })
    }

    /// Lets steps be started by another helper than this very binary; for tests, whose binary is a harness. Does
    /// nothing after the first step.
    pub fn start_steps_with(&self, settings: sandbox::Settings) {
        self.inner.sandbox.get_or_init(|| settings);
    }

    /// How steps are started.
    pub(crate) fn sandbox(&self) -> Result<sandbox::Settings, ExecError> {
        match self.inner.sandbox.get() {
            Some(settings) => Ok(settings.clone()),
            None => {
                let settings = sandbox::Settings::of_this_process()?;
                Ok(self.inner.sandbox.get_or_init(|| settings).clone())
            }
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Layers as trees and blobs. Blocking.
    pub fn layers(&self) -> &Layers {
        &self.inner.layers
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

    /// Makes a layer of `draft` on top of `parent`, both of this job: what was only copied up is removed, and a draft
    /// that changes nothing becomes an empty layer. Nothing is mounted on it any more. Blocking.
    pub(crate) fn commit(
        &self,
        parent: &ResultId,
        draft: Draft,
        inputs: &Inputs,
        read: Heritage,
    ) -> Result<ResultId, ExecError> {
        self.inner.commit(parent, draft, inputs, read)
    }

    /// Where times in what a job reads may come from. Blocking.
    pub(crate) fn heritage(&self, result: &ResultId, inputs: &Inputs) -> Result<Heritage, ExecError> {
        if result.as_str().starts_with(LOCAL) {
            return Ok(Heritage { since: None, from_context: true });
        }
        if inputs.images.contains(result) {
            return Ok(Heritage::default());
        }
        Ok(Heritage::of(&self.inner.store, result)?)
    }

    /// The directory of the user that a result is, with the patterns of its source; `None` when it is a tree of the
    /// store. Blocking.
    pub fn local_of(&self, result: &ResultId) -> Result<Option<LocalTree>, ExecError> {
        let Some(rest) = result.as_str().strip_prefix(LOCAL) else { return Ok(None) };
        let name = rest.rsplit_once('@').map_or(rest, |(name, _)| name);
        let known = self.inner.patterns.lock().unwrap_or_else(PoisonError::into_inner).get(result).cloned();
        let reason = "its local source was not run in this build";
        let patterns = known.ok_or_else(|| ExecError::BadInput { result: result.clone(), reason })?;
        Ok(Some((self.inner.local(name)?, patterns)))
    }

    /// The result that an image's layers are, fetched as far as the store lacks them; `None` for an image without
    /// layers. Its manifest and config are blobs of the store.
    pub async fn image_top(
        &self,
        name: &Reference,
        manifest: &Descriptor,
        log: &dyn LogSink,
    ) -> Result<Option<ResultId>, ExecError> {
        let result = self.fetch_image(name.clone(), manifest.digest, true, log).await?;
        Ok((result.as_str() != SCRATCH).then_some(result))
    }

    /// `in_registry` says whether blobs that are not here can be fetched under that name.
    async fn fetch_image(
        &self,
        name: Reference,
        manifest: Digest,
        in_registry: bool,
        log: &dyn LogSink,
    ) -> Result<ResultId, ExecError> {
        let reference = name.clone();
        let found = self
            .blocking(move |worker| Ok(image::record(&worker.inner.store, &reference, manifest, in_registry)?))
            .await?;
        image::fetch_all(&self.inner.fetcher, &self.inner.store, &name, &found.missing, log)
            .await
            .map_err(|source| ExecError::Fetch { image: name.to_string(), source })?;
        Ok(found.result)
    }

    /// Runs what blocks on a thread that may.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, ExecError>
    where
        T: Send + 'static,
        F: FnOnce(&Worker) -> Result<T, ExecError> + Send + 'static,
    {
        let worker = self.clone();
        match tokio::task::spawn_blocking(move || work(&worker)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(error.into()),
        }
    }

    async fn run_source(&self, source: &SourceOp, log: &dyn LogSink) -> Result<Vec<ResultId>, ExecError> {
        match source.scheme() {
            "local" => Ok(vec![self.inner.remember_local(source)?]),
            scheme @ ("docker-image" | "oci-layout") => {
                let (reference, digest) = image::pinned(source)?;
                Ok(vec![self.fetch_image(reference, digest, scheme == "docker-image", log).await?])
            }
            _ => Err(unknown_kind(source)),
        }
    }

    /// A tree that is fetched as a whole: a layer on nothing.
    async fn run_fetched(
        &self,
        source: &SourceOp,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<ResultId>, ExecError> {
        let draft = self.blocking(|worker| Ok(worker.inner.store.draft()?)).await?;
        let inner = &self.inner;
        let filled = inner.known.fill(&inner.store, source, &draft, log, cancel).await;
        match filled {
            Err(error) if error.is_canceled() => return Err(ExecError::Canceled),
            filled => filled?,
        }
        let scratch = ResultId(SCRATCH.into());
        Ok(vec![
            self.blocking(move |worker| worker.commit(&scratch, draft, &Inputs::default(), Heritage::default()))
                .await?,
        ])
    }
}

fn unknown_kind(source: &SourceOp) -> ExecError {
    SourceError::Unsupported { identifier: masked(&source.identifier) }.into()
}

impl Worker {
    async fn run_file(
        &self,
        op: FileOp,
        job: &Job<'_>,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<ResultId>, ExecError> {
        let inputs = job.inputs.clone();
        let trees = JobTrees { worker: self.clone(), cancel: cancel.clone(), inputs: Inputs::of(job) };
        let (results, notices) = self
            .blocking(move |_| {
                let notices = Notices::default();
                let results = match file::run(&op, &inputs, &trees, &notices) {
                    // Whatever the operation says of being stopped half-way.
                    Err(_) if trees.cancel.is_cancelled() => return Err(ExecError::Canceled),
                    results => results?,
                };
                Ok((results, notices.0.into_inner().unwrap_or_else(PoisonError::into_inner)))
            })
            .await?;
        notices.iter().for_each(|text| log.notice(text));
        Ok(results)
    }
}

/// What the results of local sources begin with.
const LOCAL: &str = "local:";

/// A directory of the user is nothing to build upon.
fn refuse_local(result: &ResultId) -> Result<(), ExecError> {
    if result.as_str().starts_with(LOCAL) {
        return Err(ExecError::BadInput { result: result.clone(), reason: "a tree of the store is needed" });
    }
    Ok(())
}

impl Inner {
    fn lowers(&self, result: &ResultId) -> Result<Vec<String>, ExecError> {
        refuse_local(result)?;
        Ok(self.layers.lowers(result)?)
    }

    fn commit(&self, parent: &ResultId, draft: Draft, inputs: &Inputs, read: Heritage) -> Result<ResultId, ExecError> {
        let changed = self.snapshots.commit(&self.lowers(parent)?, draft.fs())?;
        let created = (self.clock)();
        let begun = draft.begun();
        let made = Made {
            created,
            started: read.since.map_or(begun, |since| since.min(begun)),
            from_context: read.from_context,
            on_base: parent.as_str() == SCRATCH || inputs.images.contains(parent),
        };
        let parent = (parent.as_str() != SCRATCH).then_some(parent);
        Ok(self.store.add_built_layer(parent, changed.then_some(draft), made)?)
    }

    /// The result of a local source: `local:<name>`, with a mark when attributes say which part of it is meant.
    fn remember_local(&self, source: &SourceOp) -> Result<ResultId, ExecError> {
        let name = source.reference();
        let mut id = format!("{LOCAL}{name}");
        if !source.attrs.is_empty() {
            let text = serde_json::to_vec(&source.attrs).expect("a map of strings becomes JSON");
            id.push_str(&format!("@{}", &Digest::of(&text).hex()[..16]));
        }
        let id = ResultId(id);
        let patterns = Arc::new(LocalPatterns::of(source)?);
        self.patterns.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), patterns);
        Ok(id)
    }

    fn local(&self, name: &str) -> Result<Arc<LocalSource>, SourceError> {
        let local = self.locals.get(name).ok_or_else(|| SourceError::UnknownLocal { name: name.to_owned() })?;
        let mut source = local.source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = &*source {
            return Ok(source.clone());
        }
        let opened = Arc::new(LocalSource::open(name, &local.path)?);
        *source = Some(opened.clone());
        Ok(opened)
    }
}

/// What is known of the inputs of a job beside what they are.
#[derive(Default)]
pub(crate) struct Inputs {
    /// Those that are images.
    images: HashSet<ResultId>,
}

impl Inputs {
    pub(crate) fn of(job: &Job<'_>) -> Self {
        let images = job.inputs.iter().zip(&job.sources).filter(|(_, source)| is_image(**source));
        Self { images: images.map(|(id, _)| id.clone()).collect() }
    }
}

/// What a file operation of one job sees.
struct JobTrees {
    worker: Worker,
    cancel: CancellationToken,
    inputs: Inputs,
}

impl file::Trees for JobTrees {
    type Error = ExecError;
    type Draft = Draft;

    fn begin(&self, base: &ResultId) -> Result<(Draft, Mounted), ExecError> {
        self.check()?;
        let inner = &self.worker.inner;
        let lowers = inner.lowers(base)?;
        let draft = inner.store.draft()?;
        let mounted = inner.snapshots.prepare(&lowers, draft.fs(), draft.work())?;
        Ok((draft, mounted))
    }

    fn commit(&self, base: &ResultId, draft: Draft, read: &[ResultId], context: bool) -> Result<ResultId, ExecError> {
        self.check()?;
        let mut heritage = Heritage { since: None, from_context: context };
        for result in read {
            heritage = heritage.and(self.worker.heritage(result, &self.inputs)?);
        }
        self.worker.inner.commit(base, draft, &self.inputs, heritage)
    }

    fn is_canceled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn open(&self, result: &ResultId) -> Result<CopySource, ExecError> {
        self.check()?;
        match self.worker.local_of(result)? {
            None => Ok(CopySource::Result(self.worker.view(result)?)),
            Some((local, patterns)) => Ok(CopySource::Local(local, patterns)),
        }
    }
}

impl JobTrees {
    fn check(&self) -> Result<(), ExecError> {
        if self.cancel.is_cancelled() { Err(ExecError::Canceled) } else { Ok(()) }
    }
}

impl Executor for Worker {
    type Error = ExecError;

    async fn pin(&self, source: &SourceOp, _: &dyn LogSink, _: &CancellationToken) -> Result<Pin, ExecError> {
        match source.scheme() {
            "local" => Ok(Pin::Selected),
            "docker-image" | "oci-layout" => {
                let (_, digest) = image::pinned(source)?;
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
        _: &CancellationToken,
    ) -> Result<ContentDigest, ExecError> {
        let (source, selection) = (source.clone(), selection.clone());
        self.blocking(move |worker| {
            let local = worker.inner.local(source.reference())?;
            let made = local.digest_selected(&LocalPatterns::of(&source)?, &selection)?;
            worker.inner.store.keep_nodes(&made.digest, &made.nodes)?;
            Ok(made.digest)
        })
        .await
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
        match &job.vertex.op {
            Op::Source(source) if matches!(source.scheme(), "git" | "http" | "https") => {
                self.run_fetched(source, log, cancel).await
            }
            Op::Source(source) => tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ExecError::Canceled),
                result = self.run_source(source, log) => result,
            },
            Op::File(op) => self.run_file(op.clone(), &job, log, cancel).await,
            Op::Exec(exec) => crate::ops::exec::run(self, &job, exec, log, cancel).await,
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

/// Keeps notices of a blocking thread until its caller, who may use the log, has them.
#[derive(Default)]
pub(crate) struct Notices(pub(crate) Mutex<Vec<String>>);

impl LogSink for Notices {
    fn write(&self, _stream: Stream, _bytes: &[u8]) {}
    fn progress(&self, _name: &str, _current_bytes: u64, _total_bytes: Option<u64>, _done: bool) {}
    fn notice(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }
}

#[cfg(test)]
mod tests;
