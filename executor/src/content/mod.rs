//! What results hold: digests by which an operation is known to read what it once read, and a fresh result to be one
//! that was there before.
//!
//! In: results, and what is read of them ([`Read`]). Out: digests; equal ones mean that no operation can tell the results
//! apart, the times of files aside, which never count. Deliberately absent: what is done with equal digests (the
//! solver's), where those of layers are kept (`store`).
//!
//! ```text
//! entry    name, type, mode, owner, link target, device, which names share a file, extended attributes, bytes
//! layer    its own directory in overlayfs form, deletions and opaque directories included; or what its record says
//! chain    ( chain id of the image beneath, then per record of the build its layer's digest, or that it is empty )
//! selected ( whether from an image, per match its name and the selected entries beneath it )
//! ```
//! An image counts by its `diff_id`s and not by its trees: a result that is found by content keeps the chain it was made
//! on, and the layers beneath it must be those that the image's config names. Empty records count as such because history
//! entries and records pair up.
//!
//! Everything is streamed: memory does not grow with a tree. Next: [`entries`] the digests of trees, [`chain`],
//! [`selected`], [`settle`].

mod chain;
mod entries;
mod selected;
mod settle;
#[cfg(test)]
mod tests;

pub(crate) use entries::layer as layer_digest;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::model::Digest;
use sha2::Sha256;
use solver::key::ContentDigest;
use solver::seam::{Read, ResultId, Selection};
use tokio_util::sync::CancellationToken;

use crate::error::ExecError;
use crate::source::image;
use crate::worker::Worker;

/// What one process knows of contents beside what the store does.
#[derive(Default)]
pub(crate) struct Contents {
    selected: Mutex<HashMap<(ResultId, Selection), ContentDigest>>,
    images: Mutex<Images>,
    /// Digests of chains that end in a record of the build, unfinished, for what stands on them.
    chains: Mutex<HashMap<ResultId, Sha256>>,
    /// Who digests what: the same is not digested twice at once.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The images that this build reads.
#[derive(Default)]
struct Images {
    /// Manifests of which no more is known yet.
    pinned: HashSet<Digest>,
    /// Chain ids of the others.
    chains: HashSet<Digest>,
}

impl Contents {
    /// Notes that the build reads the image of this manifest.
    pub fn pinned(&self, manifest: Digest) {
        locked(&self.images).pinned.insert(manifest);
    }
}

impl Worker {
    /// As [`solver::seam::Executor::content`] says.
    pub(crate) async fn content_of(
        &self,
        result: &ResultId,
        read: &Read,
        cancel: &CancellationToken,
    ) -> Result<Option<ContentDigest>, ExecError> {
        if Worker::is_local(result) {
            return Ok(None);
        }
        match read {
            Read::Chain => self.chain_content(result, cancel).await,
            Read::Selected(selection) => self.selected_content(result, selection, cancel).await,
        }
    }

    /// Whether all layers up to this chain id are an image that the build reads. Blocking.
    fn is_image(&self, chain_id: Option<&Digest>) -> Result<bool, ExecError> {
        let Some(chain_id) = chain_id else { return Ok(false) };
        let mut images = locked(&self.contents().images);
        let pinned: Vec<Digest> = images.pinned.iter().copied().collect();
        for manifest in pinned {
            // An image that is not here yet is no result yet.
            if let Some(chain) = image::chain(self.store(), manifest)? {
                images.pinned.remove(&manifest);
                images.chains.extend(chain.last());
            }
        }
        Ok(images.chains.contains(chain_id))
    }

    /// The right to be the only one in this process who digests `what`.
    async fn alone(
        &self,
        what: String,
        cancel: &CancellationToken,
    ) -> Result<tokio::sync::OwnedMutexGuard<()>, ExecError> {
        let busy = locked(&self.contents().busy).entry(what).or_default().clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ExecError::Canceled),
            alone = busy.lock_owned() => Ok(alone),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
