//! Blobs of layers that are known and not here: brought when something is about to stand on them.
//!
//! In: a result. Out: for every layer beneath it a tree or a blob in the store. A blob of an imported layer is unpacked
//! in thought as it comes: what its cache said of its tar must be true, before anything is made of it. One that cannot
//! be had, or is something else, is [`ExecError::Lost`]: whoever asked for the result may make it instead. Deliberately
//! absent: where blobs are ([`store::remote::Supplier`]).

use std::collections::HashSet;
use std::io::BufReader;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci::content::{ContentError, open_verified};
use oci::layer::{Hashing, decompress_layer};
use oci::model::{Descriptor, DiffId};
use solver::seam::{LogSink, ResultId, Stream};
use store::remote::{RemoteError, Supplier};
use store::{Layer, Store};
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::sources::LOCAL;
use crate::error::ExecError;
use crate::layers::{LayersError, SCRATCH};

/// Blobs that are brought at a time.
const PARALLEL: usize = 4;
/// What the ids of imported layers begin with.
const IMPORTED: &str = "i-";

/// A blob that must be brought, and for whom.
struct Missing {
    layer: ResultId,
    blob: Descriptor,
    /// What its tar should be.
    diff_id: Option<DiffId>,
}

impl Worker {
    /// Says who brings blobs that are not here; the first who says so stays.
    pub fn supply_from(&self, supplier: Arc<dyn Supplier>) {
        self.inner.supplier.get_or_init(|| supplier);
    }

    /// Brings the blobs of a result that are neither here nor needed no more because there is a tree.
    ///
    /// # Errors
    /// [`ExecError::Lost`] names the lowest layer that cannot be had.
    pub async fn ensure_blobs(
        &self,
        result: &ResultId,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<(), ExecError> {
        if result.as_str() == SCRATCH || result.as_str().starts_with(LOCAL) {
            return Ok(());
        }
        let id = result.clone();
        let missing = self.blocking(move |worker| missing(worker.store(), &id)).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let Some(supplier) = self.inner.supplier.get() else { return Ok(()) };
        let brings = missing.into_iter().map(|missing| self.bring(&**supplier, missing, log, cancel));
        // In order, so that the error is that of the lowest.
        stream::iter(brings).buffered(PARALLEL).try_collect().await
    }

    /// Whether a blob is missing that [`Worker::ensure_blobs`] would bring.
    pub async fn lacks_blobs(&self, result: &ResultId) -> Result<bool, ExecError> {
        if result.as_str() == SCRATCH || result.as_str().starts_with(LOCAL) {
            return Ok(false);
        }
        let id = result.clone();
        self.blocking(move |worker| Ok(!missing(worker.store(), &id)?.is_empty())).await
    }

    /// Whether a layer that a step made, here or elsewhere, has no tree.
    pub async fn lacks_trees(&self, result: &ResultId) -> Result<bool, ExecError> {
        if result.as_str() == SCRATCH || result.as_str().starts_with(LOCAL) {
            return Ok(false);
        }
        let id = result.clone();
        self.blocking(move |worker| {
            for layer in worker.store().chain(&id)?.iter().filter(|layer| !layer.empty && !layer.pulled) {
                let origin = layer.origin.as_ref().map(|origin| worker.store().layer(origin)).transpose()?.flatten();
                if layer.name.is_none() && origin.is_none_or(|origin| origin.name.is_none()) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    /// Brings the blobs of a result and makes a tree of every layer.
    ///
    /// # Errors
    /// As [`Worker::ensure_blobs`].
    pub async fn ensure_trees(
        &self,
        result: &ResultId,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<(), ExecError> {
        self.ensure_blobs(result, log, cancel).await?;
        let id = result.clone();
        self.on_core(cancel, move |worker| worker.lowers(&id).map(drop)).await.map_err(lost)
    }

    async fn bring(
        &self,
        supplier: &dyn Supplier,
        missing: Missing,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<(), ExecError> {
        let Missing { layer, blob, diff_id } = missing;
        let name = blob.digest.to_string();
        let heard = |done: u64| log.progress(&name, done, Some(blob.size), false);
        let brought = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ExecError::Canceled),
            brought = supplier.supply(&blob, self.store().blobs(), &heard) => brought,
        };
        match brought {
            Ok(()) => {}
            // Our own disk is nobody's loss.
            Err(RemoteError::Store(error)) => return Err(error.into()),
            Err(error) => return Err(ExecError::Lost { layer, source: error.into() }),
        }
        log.progress(&name, blob.size, Some(blob.size), true);
        match diff_id {
            Some(diff_id) => self.on_core(cancel, move |worker| check(worker.store(), layer, &blob, diff_id)).await,
            None => Ok(()),
        }
    }

    /// Brings what the inputs of a job need.
    pub(super) async fn ensure_inputs(
        &self,
        inputs: &[ResultId],
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<(), ExecError> {
        for input in inputs {
            self.ensure_blobs(input, log, cancel).await?;
        }
        Ok(())
    }
}

/// What is missing beneath a result, the lowest first. Nothing is beneath a tree that is a record's own. Blocking.
fn missing(store: &Store, result: &ResultId) -> Result<Vec<Missing>, ExecError> {
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut todo = vec![result.clone()];
    while let Some(id) = todo.pop() {
        let mut next = Some(id);
        while let Some(id) = next {
            let Some(layer) = store.layer(&id)?.filter(|_| seen.insert(id)) else { break };
            if layer.name.is_some() && layer.origin.is_none() {
                break;
            }
            next = layer.parent.clone();
            if layer.empty || layer.name.is_some() {
                continue;
            }
            match &layer.origin {
                // A derived layer is unpacked where its origin stands.
                Some(origin) => todo.push(origin.clone()),
                None => found.extend(missing_of(store, layer)?),
            }
        }
    }
    found.reverse();
    Ok(found)
}

fn missing_of(store: &Store, layer: Layer) -> Result<Option<Missing>, ExecError> {
    let Some(blob) = layer.blob else { return Ok(None) };
    let failed = |source| LayersError::Content { act: "look at", layer: layer.id.clone(), source };
    if store.blobs().size(&blob.digest).map_err(failed)? == Some(blob.size) {
        return Ok(None);
    }
    let diff_id = layer.diff_id.filter(|_| layer.id.as_str().starts_with(IMPORTED));
    Ok(Some(Missing { layer: layer.id, blob, diff_id }))
}

/// Whether a blob unpacks to what was said of it, and is no bomb. Blocking.
fn check(store: &Store, layer: ResultId, blob: &Descriptor, expected: DiffId) -> Result<(), ExecError> {
    let unpacked = || -> Result<DiffId, ContentError> {
        let failed = |source| ContentError::io(format!("decompress blob `{}`", blob.digest))(source);
        let reader = BufReader::with_capacity(1 << 17, open_verified(store.blobs(), blob)?);
        let mut tar = Hashing::new(decompress_layer(&blob.media_type, blob.size, reader).map_err(failed)?);
        std::io::copy(&mut tar, &mut std::io::sink()).map_err(failed)?;
        Ok(DiffId(tar.finish().1))
    };
    match unpacked() {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => {
            let source = LayersError::WrongDiffId { layer: layer.clone(), expected, found };
            Err(ExecError::Lost { layer, source: source.into() })
        }
        Err(source) => Err(ExecError::Lost { layer, source: source.into() }),
    }
}

/// What went wrong with an imported layer is that layer's loss, and not the step's.
pub(super) fn lost(error: ExecError) -> ExecError {
    match error {
        ExecError::Layers(
            error @ (LayersError::Gone { .. }
            | LayersError::WrongDiffId { .. }
            | LayersError::Codec { .. }
            | LayersError::Unpack { .. }
            | LayersError::Content { .. }
            | LayersError::Io { .. }),
        ) => match error.layer().filter(|layer| layer.as_str().starts_with(IMPORTED)).cloned() {
            Some(layer) => ExecError::Lost { layer, source: error.into() },
            None => error.into(),
        },
        error => error,
    }
}

/// Hears nothing: for questions that nobody watches.
pub(crate) struct Silent;

impl LogSink for Silent {
    fn write(&self, _stream: Stream, _bytes: &[u8]) {}
    fn progress(&self, _name: &str, _current_bytes: u64, _total_bytes: Option<u64>, _done: bool) {}
    fn notice(&self, _text: &str) {}
}
