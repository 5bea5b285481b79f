//! Whether a layer's tree is still what its record says.
//!
//! In: a record with a tree of its own. Out: whole, damaged, or that there is nothing to compare it with. A built tree is
//! compared by the digest of its tar, else of its content. Of one that came as a blob our tar is not that one, so
//! where the digests differ it is unpacked once more, aside, and the two trees are compared; likewise one whose times are
//! changed, with its origin's. Deliberately absent: mending.

use std::os::fd::AsFd;

use oci::layer::{ApplyOptions, Hashing, XattrNamespace, apply_layer};
use oci::model::DiffId;
use store::Layer;
use tokio_util::sync::CancellationToken;

use super::{Layers, LayersError};
use crate::content::layer_digest;
use crate::snapshot::open_directory;
use crate::tree::TreeError;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeState {
    /// It is what the record says.
    Whole,
    /// It is not: what it should have given, and what it gives.
    Damaged(String),
    /// The record says nothing that it could be compared with, and there is no blob to unpack.
    Unknown,
}

impl Layers {
    /// Looks at the whole tree. A tree that cannot be read is damaged.
    pub fn check(&self, layer: &Layer, cancel: &CancellationToken) -> Result<TreeState, LayersError> {
        let Some(name) = &layer.name else { return Ok(TreeState::Damaged("its tree is missing".into())) };
        match self.compare(layer, name, cancel) {
            Err(
                error @ (LayersError::Codec { .. }
                | LayersError::Unpack { .. }
                | LayersError::Io { .. }
                | LayersError::Tree { .. }
                | LayersError::Snapshot(_)),
            ) if !cancel.is_cancelled() => Ok(TreeState::Damaged(words(&error))),
            other => other,
        }
    }

    fn compare(&self, layer: &Layer, name: &str, cancel: &CancellationToken) -> Result<TreeState, LayersError> {
        let tree = open_directory(&self.store.layers_dir().join(name))?;
        let id = &layer.id;
        let failed = |source: TreeError| LayersError::Tree { layer: id.clone(), source };
        if let (Some(origin), Some(_)) = (&layer.origin, &layer.times) {
            let Some(origin) = self.store.layer(origin)?.and_then(|origin| origin.name) else {
                return Ok(TreeState::Unknown);
            };
            let origin = open_directory(&self.store.layers_dir().join(origin))?;
            let (found, expected) = (
                layer_digest(tree.as_fd(), cancel).map_err(failed)?,
                layer_digest(origin.as_fd(), cancel).map_err(failed)?,
            );
            return Ok(state(found == expected, "its origin's content", &expected.to_string(), &found.to_string()));
        }
        if let Some(expected) = layer.diff_id {
            let mut tar = Hashing::new(std::io::sink());
            self.write_tar(layer, &mut tar)?;
            let (_, digest, _) = tar.finish();
            // Only of what was made here is the tar ours for certain.
            let is_ours = !layer.pulled && layer.blob.is_none();
            if is_ours || DiffId(digest) == expected {
                return Ok(state(
                    DiffId(digest) == expected,
                    "diff id",
                    &expected.to_string(),
                    &DiffId(digest).to_string(),
                ));
            }
            let Some(again) = self.unpacked_again(layer)? else { return Ok(TreeState::Unknown) };
            let (found, expected) = (
                layer_digest(tree.as_fd(), cancel).map_err(failed)?,
                layer_digest(again.fs_fd(), cancel).map_err(failed)?,
            );
            return Ok(state(found == expected, "content", &expected.to_string(), &found.to_string()));
        }
        let Some(expected) = layer.content else { return Ok(TreeState::Unknown) };
        let found = layer_digest(tree.as_fd(), cancel).map_err(failed)?;
        Ok(state(found == expected, "content", &expected.to_string(), &found.to_string()))
    }

    /// The tree that the layer's blob gives now; `None` if it is not here, or not what it should be.
    fn unpacked_again(&self, layer: &Layer) -> Result<Option<store::Draft>, LayersError> {
        let Some(blob) = &layer.blob else { return Ok(None) };
        let Ok(Some(tar)) = self.open_blob(layer, blob) else { return Ok(None) };
        let below = layer.parent.as_ref().map(|parent| self.lowers(parent)).transpose()?.unwrap_or_default();
        let parents = below.iter().map(|lower| open_directory(&self.store.layers_dir().join(lower)));
        let parents: Vec<_> = parents.collect::<Result<_, _>>()?;
        let parents: Vec<_> = parents.iter().map(AsFd::as_fd).collect();
        let draft = self.store.draft()?;
        let mut tar = Hashing::new(tar);
        let options = ApplyOptions::new(XattrNamespace::here());
        let unpacked =
            apply_layer(&mut tar, draft.fs_fd(), &parents, &options).map(drop).map_err(std::io::Error::other);
        let read = unpacked.and_then(|()| std::io::copy(&mut tar, &mut std::io::sink()).map(drop));
        let (_, digest, _) = tar.finish();
        let is_it = layer.diff_id == Some(DiffId(digest));
        Ok((read.is_ok() && is_it).then_some(draft))
    }
}

fn state(is_whole: bool, what: &str, expected: &str, found: &str) -> TreeState {
    match is_whole {
        true => TreeState::Whole,
        false => TreeState::Damaged(format!("its tree's {what} is {found}, not {expected}")),
    }
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
