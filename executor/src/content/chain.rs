//! The digest of a chain of layers: what a result stands on.
//!
//! In: the records of a result. Out: one digest of the image beneath, by its chain id, and of each record of the build on
//! top, by its layer's digest. Layers that have none yet are digested now, each once per store.

use std::time::Instant;

use sha2::{Digest as _, Sha256};
use solver::key::ContentDigest;
use solver::seam::ResultId;
use store::{Layer, StoreError};
use tokio_util::sync::CancellationToken;

use super::{entries, locked};
use crate::error::ExecError;
use crate::layers::{LayersError, SCRATCH};
use crate::snapshot::{SnapshotError, open_directory};
use crate::tree::TreeError;
use crate::worker::Worker;

const FORM: &[u8] = b"rbuild chain content 1";

/// A chain by who made it.
struct Parts {
    /// The digest of what is known already: the image beneath, or all but the top.
    begun: Sha256,
    /// The build's own records that are not in it, bottom first.
    built: Vec<Layer>,
    /// Whether what stands on it may go on from its digest.
    is_built: bool,
}

impl Worker {
    pub(super) async fn chain_content(
        &self,
        result: &ResultId,
        cancel: &CancellationToken,
    ) -> Result<Option<ContentDigest>, ExecError> {
        let id = result.clone();
        let parts = self.blocking(move |worker| match worker.parts_on_parent(&id)? {
            Some(parts) => Ok(Some(parts)),
            None => worker.parts(worker.layers().chain(&id)?),
        });
        let Some(Parts { begun: mut hash, built, is_built }) = parts.await? else { return Ok(None) };
        for layer in built {
            match self.layer_content(layer, cancel).await? {
                None => hash.update([2]),
                Some(content) => {
                    hash.update([3]);
                    hash.update(content.0);
                }
            }
        }
        if is_built {
            locked(&self.contents().chains).insert(result.clone(), hash.clone());
        }
        Ok(Some(ContentDigest(hash.finalize().into())))
    }

    /// Those of a result on one whose digest was made: so a build does not go down to its base for every step. Blocking.
    fn parts_on_parent(&self, result: &ResultId) -> Result<Option<Parts>, ExecError> {
        if result.as_str() == SCRATCH {
            return Ok(None);
        }
        let Some(layer) = self.store().layer(result)? else { return Ok(None) };
        let begun = layer.parent.as_ref().and_then(|parent| locked(&self.contents().chains).get(parent).cloned());
        let Some(begun) = begun.filter(|_| !layer.on_base && !layer.pulled) else { return Ok(None) };
        if self.is_image(layer.chain_id.as_ref())? {
            return Ok(None);
        }
        Ok(Some(Parts { begun, built: vec![layer], is_built: true }))
    }

    /// `None`: where the build's own layers begin cannot be told. Blocking.
    fn parts(&self, mut chain: Vec<Layer>) -> Result<Option<Parts>, ExecError> {
        let is_image = match chain.last() {
            None => true,
            Some(top) => chain.iter().all(|layer| layer.pulled) || self.is_image(top.chain_id.as_ref())?,
        };
        let begin = if is_image { Some(chain.len()) } else { chain.iter().rposition(|layer| layer.on_base) };
        let Some(begin) = begin else { return Ok(None) };
        let built = chain.split_off(begin);
        let image = chain.last().and_then(|top| top.chain_id);
        if image.is_none() && chain.iter().any(|layer| !layer.empty) {
            return Ok(None);
        }
        let mut begun = Sha256::new();
        begun.update(FORM);
        match &image {
            None => begun.update([0]),
            Some(chain_id) => {
                begun.update([1]);
                begun.update(chain_id.as_bytes());
            }
        }
        let is_built = !built.is_empty();
        Ok(Some(Parts { begun, built, is_built }))
    }

    /// The digest of a layer, made and remembered if there was none; `None` if it is empty.
    pub(super) async fn layer_content(
        &self,
        layer: Layer,
        cancel: &CancellationToken,
    ) -> Result<Option<ContentDigest>, ExecError> {
        if layer.empty || layer.content.is_some() {
            return Ok(layer.content);
        }
        let keeper = layer.origin.clone().unwrap_or_else(|| layer.id.clone());
        let _alone = self.alone(keeper.0.clone(), cancel).await?;
        let token = cancel.clone();
        self.on_core(cancel, move |worker| {
            let kept = worker.recorded(&keeper)?;
            if kept.content.is_none() {
                let tree = worker.store().layers_dir().join(worker.tree_of(kept)?);
                let begun = Instant::now();
                let digest = entries::layer_counted(std::os::fd::AsFd::as_fd(&open_directory(&tree)?), &token);
                let (digest, counted) = digest.map_err(stopped)?;
                worker.store().set_content(&keeper, digest)?;
                worker.meter().tell(keeper.as_str(), counted.work(begun));
            }
            // Of a derived one it follows.
            Ok(worker.recorded(&layer.id)?.content)
        })
        .await
    }

    /// Name of a layer's tree, which is unpacked if it was not. Blocking.
    fn tree_of(&self, layer: Layer) -> Result<String, ExecError> {
        if let Some(name) = layer.name {
            return Ok(name);
        }
        self.lowers(&layer.id)?;
        let gone = || LayersError::Gone { layer: layer.id.clone() };
        Ok(self.recorded(&layer.id)?.name.ok_or_else(gone)?)
    }

    pub(super) fn recorded(&self, id: &ResultId) -> Result<Layer, ExecError> {
        Ok(self.store().layer(id)?.ok_or_else(|| StoreError::NoSuchLayer { id: id.clone() })?)
    }
}

pub(super) fn stopped(error: TreeError) -> ExecError {
    match error {
        TreeError::Stopped => ExecError::Canceled,
        error => SnapshotError::from(error).into(),
    }
}
