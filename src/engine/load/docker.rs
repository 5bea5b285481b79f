//! Docker that keeps its images in containerd's store, as new installations do: blobs stay as they come, and indexes.
//!
//! It takes an OCI layout with all blobs, for its API does not say which it has, and with the names, as its images are
//! names. Docker with a store of its own unpacks layers: [`super::unpacked`].

use std::collections::BTreeSet;

use super::api::Api;
use super::blobs::Blobs;
use super::stream::Sent;
use super::unpacked::{Engine as _, Unloaded};
use super::{Loaded, Sending, words};
use crate::engine::Failure;
use crate::engine::export::Unsent;

/// Loads an image or an index, whose blobs are all in the store, under its names.
pub async fn load(api: &Api, sending: &Sending<'_>, blobs: &Blobs) -> Result<Loaded, Unsent> {
    let layers = blobs.layers();
    let total_bytes = layers.values().sum();
    let archive = blobs.archive(sending.store, sending.names, &BTreeSet::new());
    let sent = archive.sent.clone();
    let taken = api.take(archive, &|sent: &Sent| sending.report(sent, total_bytes)).await;
    taken.map_err(|unloaded| match unloaded {
        Unloaded::Refused(words) => Failure::new(format!("{} does not take the image", api.name())).note(words),
        Unloaded::Failed(failure) => failure,
    })?;
    sending.done(&sent);
    // There an image's id is the digest of what its name means: of its manifest, or of the index.
    let digest = blobs.top.digest;
    let mut known_as: Vec<String> =
        sending.names.iter().filter(|name| name.tag().is_some()).map(words::tagged).collect();
    if known_as.is_empty() {
        known_as.push(digest.to_string());
    }
    for what in known_as {
        match api.image(&what).await? {
            Some(seen) if seen.id == Some(digest) || seen.id == Some(blobs.id()) => {}
            seen => return Err(words::other_name(api.name(), &what, &digest, seen.as_ref()).into()),
        }
    }
    Ok(Loaded { id: blobs.id(), sent_bytes: sent.bytes(), sent_layers: layers.len(), layers: layers.len() })
}
