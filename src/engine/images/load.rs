//! `load`: archives and OCI layouts become images of the local store.
//!
//! Blobs go into the store as they are, each checked against its digest; layers are recorded and unpacked when a step
//! needs them, like those of a pulled image. Of an index, the image for this machine is taken.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use oci::export::archive::{self, Loaded};
use oci::image::{Image, find_manifest};
use oci::model::{Digest, Platform, Reference};
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
    /// The image id.
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
        let records = images.iter().map(|loaded| record(store, loaded, &platform)).collect::<Result<Vec<_>, _>>();
        let records = records.map_err(|failure| input::failed("load", path.as_deref(), failure))?;
        let mut all = Vec::new();
        // Only now that every image is known to be one: all of the archive, or nothing.
        for (loaded, record) in images.iter().zip(&records) {
            store.add_image(record).map_err(|error| words::store(&error))?;
            for name in &loaded.names {
                store.tag(name, record).map_err(|error| words::store(&error))?;
            }
            let names = loaded.names.iter().cloned().map(Some);
            let names = names.chain(loaded.names.is_empty().then_some(None));
            all.extend(names.map(|name| LoadedImage { name, id: record.config }));
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

/// What the store will know of an image. Its layers are recorded when they are first used.
fn record(store: &Store, loaded: &Loaded, wanted: &Platform) -> Result<ImageRecord, Failure> {
    let open = || {
        let manifest = find_manifest(store.blobs(), &loaded.manifest, wanted)?;
        Image::open(store.blobs(), &manifest)
    };
    let image = open().map_err(|error| Failure::from_error(&error))?;
    let config = &image.config;
    Ok(ImageRecord {
        config: image.manifest.config.digest,
        top: None,
        platform: Platform::normalised(&config.os, &config.architecture, &config.variant),
        created: Timestamp::now(),
        size_bytes: image.manifest.layers.iter().map(|layer| layer.size).sum(),
        manifest: image.descriptor,
    })
}
