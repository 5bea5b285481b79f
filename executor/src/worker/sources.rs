//! Where the trees of a job come from: directories of the user, images, what is fetched.
//!
//! In: source operations. Out: results. The result of a local source is `local:<name>`, with a mark of its patterns when
//! it has any; it is never recorded. Next: [`crate::source`], which does the work.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use oci::model::{Descriptor, Digest, Reference};
use solver::graph::VertexId;
use solver::op::SourceOp;
use solver::seam::{LogSink, ResultId};
use tokio_util::sync::CancellationToken;

use super::{Inner, Inputs, Worker};
use crate::error::ExecError;
use crate::layers::SCRATCH;
use crate::layers::arriving::{Arrivals, GivenUp};
use crate::source::SourceError;
use crate::source::address::masked;
use crate::source::image;
use crate::source::local::{LocalPatterns, LocalSource};
use crate::times::Heritage;

/// A directory of the user, with the patterns of the source operation that named it.
pub type LocalTree = (Arc<LocalSource>, Arc<LocalPatterns>);

/// What the results of local sources begin with.
pub(super) const LOCAL: &str = "local:";

/// A directory of the user is nothing to build upon.
pub(super) fn refuse_local(result: &ResultId) -> Result<(), ExecError> {
    if result.as_str().starts_with(LOCAL) {
        return Err(ExecError::BadInput { result: result.clone(), reason: "a tree of the store is needed" });
    }
    Ok(())
}

pub(super) struct Local {
    path: PathBuf,
    /// Opened when first asked for.
    source: Mutex<Option<Arc<LocalSource>>>,
}

impl Local {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, source: Mutex::default() }
    }

    /// Keeps what is known of its files.
    pub(super) fn keep(&self) {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner).clone();
        source.iter().for_each(|source| source.keep());
    }
}

impl Worker {
    /// Whether a result is a directory of the user.
    pub(crate) fn is_local(result: &ResultId) -> bool {
        result.as_str().starts_with(LOCAL)
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
        let result = self.fetch_image(name.clone(), manifest.digest, true, false, None, log).await?;
        Ok((result.as_str() != SCRATCH).then_some(result))
    }

    /// The same, but what is fetched stays packed.
    pub async fn image_packed(
        &self,
        name: &Reference,
        manifest: &Descriptor,
        log: &dyn LogSink,
    ) -> Result<Option<ResultId>, ExecError> {
        let result = self.fetch_image(name.clone(), manifest.digest, true, false, None, log).await?;
        Ok((result.as_str() != SCRATCH).then_some(result))
    }

    /// Lets layers be fetched that must not be distributed.
    pub fn allow_foreign_layers(&self) {
        self.inner.foreign_layers.store(true, Ordering::Relaxed);
    }

    /// Says which images (identifiers of their sources) will be trees in this build: they are unpacked as they come.
    pub fn expect_trees(&self, images: HashSet<String>) {
        self.inner.expected_trees.get_or_init(|| images);
    }

    /// Says of which copies nothing of this build looks into the results: their layers may be tars, and trees later.
    pub fn expect_packed(&self, copies: HashSet<VertexId>) {
        self.inner.may_pack.get_or_init(|| copies);
    }

    /// `in_registry` says whether blobs that are not here can be fetched under that name, `as_tree` whether what is
    /// fetched is unpacked meanwhile, `owner` for whom its layers are.
    async fn fetch_image(
        &self,
        name: Reference,
        manifest: Digest,
        in_registry: bool,
        as_tree: bool,
        owner: Option<VertexId>,
        log: &dyn LogSink,
    ) -> Result<ResultId, ExecError> {
        let reference = name.clone();
        let found = self
            .blocking(move |worker| Ok(image::record(&worker.inner.store, &reference, manifest, in_registry)?))
            .await?;
        let foreign = found.missing.iter().find(|blob| oci::layer::decompress::is_foreign(&blob.media_type));
        if let Some(blob) = foreign.filter(|_| !self.inner.foreign_layers.load(Ordering::Relaxed)) {
            let (image, media_type) = (name.to_string(), blob.media_type.clone());
            return Err(SourceError::ForeignLayer { image, digest: blob.digest, media_type }.into());
        }
        if let Some(owner) = owner.filter(|_| self.inner.meter.is_heard()) {
            let result = found.result.clone();
            let chain = self.blocking(move |worker| Ok(worker.layers().chain(&result)?)).await?;
            self.inner.meter.own(chain.iter().map(|layer| layer.id.as_str()), owner);
        }
        let arrivals = match as_tree {
            true => Arrivals::expect(found.missing.iter().map(|blob| blob.digest)),
            false => Arrivals::default(),
        };
        // Also when this future is dropped.
        let given_up = GivenUp(arrivals.clone());
        let fetch = async {
            let inner = &self.inner;
            let fetched = image::fetch_all(&inner.fetcher, &inner.store, &name, &found.missing, &arrivals, log).await;
            drop(given_up);
            fetched.map_err(|source| ExecError::Fetch { image: name.to_string(), source })
        };
        let unpack = async {
            if as_tree && !found.missing.is_empty() {
                let (result, arrivals) = (found.result.clone(), arrivals.clone());
                // It takes no core: mostly it waits for bytes. What goes wrong here is told by who needs the tree.
                let unpacked =
                    self.blocking(move |worker| Ok(worker.layers().unpack_arriving(&result, &arrivals)?)).await;
                if let Err(error) = unpacked {
                    tracing::debug!(%error, image = %name, "not unpacked as it came");
                }
            }
        };
        let (fetched, ()) = tokio::join!(fetch, unpack);
        fetched?;
        Ok(found.result)
    }

    pub(super) async fn run_source(
        &self,
        source: &SourceOp,
        vertex: VertexId,
        log: &dyn LogSink,
    ) -> Result<Vec<ResultId>, ExecError> {
        match source.scheme() {
            "local" => Ok(vec![self.inner.remember_local(source)?]),
            scheme @ ("docker-image" | "oci-layout") => {
                let (reference, digest) = image::pinned(source)?;
                let as_tree = self.inner.expected_trees.get().is_some_and(|images| images.contains(&source.identifier));
                let in_registry = scheme == "docker-image";
                Ok(vec![self.fetch_image(reference, digest, in_registry, as_tree, Some(vertex), log).await?])
            }
            _ => Err(unknown_kind(source)),
        }
    }

    /// A tree that is fetched as a whole: a layer on nothing.
    pub(super) async fn run_fetched(
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
            self.on_core(cancel, move |worker| worker.commit(&scratch, draft, &Inputs::default(), Heritage::default()))
                .await?,
        ])
    }
}

impl Inner {
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

    pub(super) fn local(&self, name: &str) -> Result<Arc<LocalSource>, SourceError> {
        let local = self.locals.get(name).ok_or_else(|| SourceError::UnknownLocal { name: name.to_owned() })?;
        let mut source = local.source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = &*source {
            return Ok(source.clone());
        }
        let opened = Arc::new(LocalSource::open(name, &local.path)?);
        opened.remember_in(&self.store)?;
        *source = Some(opened.clone());
        Ok(opened)
    }
}

pub(super) fn unknown_kind(source: &SourceOp) -> ExecError {
    SourceError::Unsupported { identifier: masked(&source.identifier) }.into()
}
