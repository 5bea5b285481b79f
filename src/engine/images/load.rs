//! `load`: archives and OCI layouts become images of the local store.
//!
//! Blobs go into the store as they are, each checked against its digest; layers are recorded and unpacked when a step
//! needs them, like those of a pulled image. Of an index, every image is taken that is in the archive, and the name means
//! the index.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use oci::export::archive::{self, Loaded};
use oci::image::{Document, Image, ImageError, find_manifest, read_document};
use oci::model::{Descriptor, Digest, Index, Manifest, Platform, Reference, media_type};
use rustix::fs::{Mode, OFlags};
use solver::seam::Progress;
use store::{ImageRecord, Store};
use tokio_util::sync::CancellationToken;

use super::input::{self, Input};
use crate::engine::task::{Task, in_background};
use crate::engine::{Failure, Settings, words};

/// An image that is in the store now.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedImage {
    /// A name that it has now; `None` if the archive names none.
    pub name: Option<Reference>,
    /// The image id; of an index, its digest.
    pub id: Digest,
}

/// Loads all images of a tar (`None`: on standard input) or of an OCI layout directory, and returns one entry per name.
pub async fn load(
    settings: &Settings,
    source: Option<&Path>,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Vec<LoadedImage>, Failure> {
    let store = settings.open_store(&progress)?;
    let task = Task::start(&format!("[internal] load images from {}", input::words(source)), &progress);
    let (path, platform) = (source.map(Path::to_owned), settings.native_platform.clone());
    let loaded = in_background(&store, move |store| {
        let images = read(store, path.as_deref(), &cancel)?;
        let found = images.iter().map(|loaded| find(store, loaded, &platform)).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|failure| input::failed("load", path.as_deref(), failure))?;
        let mut all = Vec::new();
        // Only now that every image is known to be one: all of the archive, or nothing.
        for (loaded, found) in images.iter().zip(&found) {
            let failed = |error: store::StoreError| words::store(&error);
            for record in &found.images {
                store.add_image(record).map_err(failed)?;
            }
            for name in &loaded.names {
                match &found.index {
                    Some(index) => store.tag_index(name, index, &found.images).map_err(failed)?,
                    None => store.tag(name, &found.images[0]).map_err(failed)?,
                }
            }
            let id = found.index.as_ref().map_or(found.images[0].config, |_| loaded.manifest.digest);
            let names = loaded.names.iter().cloned().map(Some);
            let names = names.chain(loaded.names.is_empty().then_some(None));
            all.extend(names.map(|name| LoadedImage { name, id }));
        }
        store.sync().map_err(|error| words::store(&error))?;
        Ok(all)
    })
    .await;
    task.end(loaded)
}

/// Brings the archive's blobs into the store.
pub fn read(store: &Store, path: Option<&Path>, cancel: &CancellationToken) -> Result<Vec<Loaded>, Failure> {
    let read = match path.map(directory).transpose()?.flatten() {
        Some(directory) => archive::read(archive::Input::Directory(directory.as_fd()), store.blobs()),
        None => {
            let stream = Input::open(path, cancel.clone())?;
            archive::read(archive::Input::Tar(Box::new(stream)), store.blobs())
        }
    };
    read.map_err(|error| match cancel.is_cancelled() {
        true => words::canceled(),
        false => input::failed("load", path, Failure::from_error(&error)),
    })
}

/// The directory of that path, if it is one.
fn directory(path: &Path) -> Result<Option<OwnedFd>, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(input::unreadable(path, &error.into())),
    }
}

/// An image, or an index with those of its images that are here.
struct Found {
    /// The text of the index.
    index: Option<String>,
    /// Never empty.
    images: Vec<ImageRecord>,
}

/// What an entry of an archive leads to; `native` is this machine.
fn find(store: &Store, loaded: &Loaded, native: &Platform) -> Result<Found, Failure> {
    let fault = |error: ImageError| Failure::from_error(&error);
    let (document, bytes) = read_document(store.blobs(), &loaded.manifest).map_err(fault)?;
    let mut images = Vec::new();
    let index = match document {
        Document::Manifest(_) => {
            images.push(record(store, &loaded.manifest, None)?);
            None
        }
        Document::Index(index) => {
            follow(store, &index, NESTING_MAX, &mut HashSet::new(), &mut images)?;
            let text = String::from_utf8(bytes);
            Some(text.map_err(|_| Failure::new(format!("the index {} is not UTF-8", loaded.manifest.digest)))?)
        }
    };
    if images.is_empty() {
        // In the words of whoever looks for one.
        find_manifest(store.blobs(), &loaded.manifest, native).map_err(fault)?;
        return Err(Failure::new(format!(
            "the index {} names no image that is in the archive",
            loaded.manifest.digest
        )));
    }
    Ok(Found { index, images })
}

/// Indexes may point to indexes; the archive was read with this bound too.
const NESTING_MAX: usize = 4;

/// Every image of an index that is here, once; attestations and other platforms' images stay behind.
fn follow(
    store: &Store,
    index: &Index,
    nesting_left: usize,
    seen: &mut HashSet<Digest>,
    images: &mut Vec<ImageRecord>,
) -> Result<(), Failure> {
    for entry in &index.manifests {
        let is_attestation = entry.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        if is_attestation || !seen.insert(entry.digest) {
            continue;
        }
        if store.blobs().size(&entry.digest).map_err(|error| words::content(&error))?.is_none() {
            continue;
        }
        match read_document(store.blobs(), entry).map_err(|error| Failure::from_error(&error))?.0 {
            Document::Manifest(manifest) if !is_image(&manifest) => {}
            Document::Manifest(_) => images.push(record(store, entry, entry.platform.as_ref())?),
            Document::Index(inner) if nesting_left > 0 => follow(store, &inner, nesting_left - 1, seen, images)?,
            Document::Index(_) => {
                return Err(Failure::new(format!("the index {} is nested too deep", entry.digest)));
            }
        }
    }
    Ok(())
}

/// An attestation has an image's config and layers that are none.
fn is_image(manifest: &Manifest) -> bool {
    matches!(manifest.config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG)
        && !manifest.layers.iter().any(|layer| layer.media_type.contains("in-toto"))
}

/// What the store will know of an image. Its layers are recorded when they are first used. For which machine
/// it is, its index has the say: `said`.
fn record(store: &Store, manifest: &Descriptor, said: Option<&Platform>) -> Result<ImageRecord, Failure> {
    let image = Image::open(store.blobs(), manifest).map_err(|error| Failure::from_error(&error))?;
    let config = &image.config;
    let own = Platform::normalised(&config.os, &config.architecture, &config.variant);
    Ok(ImageRecord {
        config: image.manifest.config.digest,
        top: None,
        platform: said.cloned().unwrap_or(own),
        created: Timestamp::now(),
        size_bytes: image.manifest.layers.iter().map(|layer| layer.size).sum(),
        manifest: image.descriptor,
    })
}
