//! Docker that keeps its images in containerd's store, as new installations do: blobs stay as they come.
//!
//! It takes an OCI layout with all blobs, for its API does not say which it has, and with the names, as its images are
//! names. Docker with a store of its own unpacks layers: [`super::unpacked`].

use oci::model::Descriptor;

use super::api::Api;
use super::stream::{Archive, Sent};
use super::unpacked::{Engine as _, Unloaded};
use super::{Loaded, Sending, words};
use crate::engine::Failure;
use crate::engine::export::Unsent;

/// Loads an image, whose blobs are all in the store, under its names.
pub async fn load(api: &Api, sending: &Sending<'_>, manifest: &Descriptor) -> Result<Loaded, Unsent> {
    let opened =
        oci::image::Image::open(sending.store.blobs(), manifest).map_err(|error| Failure::from_error(&error))?;
    let layers = &opened.manifest.layers;
    let total_bytes = layers.iter().map(|layer| layer.size).sum();
    let (store, images) = (sending.store.clone(), vec![(sending.names.to_vec(), manifest.clone())]);
    let archive = Archive::of(move |out| {
        oci::export::oci_layout::write_tar(out, store.blobs(), &images).map_err(|error| Failure::from_error(&error))
    });
    let sent = archive.sent.clone();
    let taken = api.take(archive, &|sent: &Sent| sending.report(sent, total_bytes)).await;
    taken.map_err(|unloaded| match unloaded {
        Unloaded::Refused(words) => Failure::new(format!("{} does not take the image", api.name())).note(words),
        Unloaded::Failed(failure) => failure,
    })?;
    sending.done(&sent);
    // There an image's id is the digest of its manifest.
    let (id, config) = (manifest.digest, opened.manifest.config.digest);
    let mut known_as: Vec<String> =
        sending.names.iter().filter(|name| name.tag().is_some()).map(words::tagged).collect();
    if known_as.is_empty() {
        known_as.push(id.to_string());
    }
    for what in known_as {
        match api.image(&what).await? {
            Some(seen) if seen.id == Some(id) || seen.id == Some(config) => {}
            seen => return Err(words::other_name(api.name(), &what, &id, seen.as_ref()).into()),
        }
    }
    Ok(Loaded { sent_bytes: sent.bytes(), sent_layers: layers.len(), layers: layers.len() })
}
