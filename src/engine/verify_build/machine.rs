//! A machine that knows nothing but what it is given: a store of its own, for one build.
//!
//! In: the store of the user, on whose disk it lies (as a draft, so that it goes with the process, however that ends), and
//! images from there. Out: a build whose image stays in that store until the machine is gone. Nothing is kept under a
//! name, pushed or written anywhere, and no other cache is asked.

use std::io;
use std::sync::Arc;

use executor::source::{git, http};
use jiff::Timestamp;
use oci::content::{ContentStore, open_verified};
use oci::image::Image;
use oci::model::{Descriptor, Platform, Reference};
use solver::seam::Progress;
use store::{Draft, ImageRecord, Store};
use tokio_util::sync::CancellationToken;

use crate::engine::resolve::note_tag;
use crate::engine::task::in_background;
use crate::engine::{Begins, Failure, HistorySettings, Settings, words};
use crate::options::BuildOptions;
use crate::options::output::{ArchiveFormat, ArchiveOutput, Dest, ImageForm, Output};
use crate::options::size::Size;

/// Nothing is collected there.
const ROOM: Size = Size::Bytes(u64::MAX >> 2);

/// A store of its own, and how it is used. Dropping it removes everything.
pub struct Machine {
    /// The store.
    pub store: Store,
    settings: Settings,
    _draft: Draft,
}

impl Machine {
    /// In a draft of `above`, at this path in it.
    pub fn beneath(
        above: &Store,
        settings: &Settings,
        path: &str,
        progress: &Arc<dyn Progress>,
    ) -> Result<Self, Failure> {
        let draft = above.draft().map_err(|error| words::store(&error))?;
        let root = draft.fs().join(path);
        if let Some(parent) = root.parent() {
            std::fs::create_dir_all(parent).map_err(|error| {
                Failure::new(format!("cannot make the directory `{}`", parent.display())).note(error.to_string())
            })?;
        }
        let history = HistorySettings { keep: 0, ..settings.history };
        let settings = Settings { root, max_size: Some(ROOM), keep_for: None, history, ..settings.clone() };
        Ok(Self { store: settings.open_store(progress)?, settings, _draft: draft })
    }

    /// Gives it an image of another store, whose blobs are all there.
    pub fn give(&self, from: &Store, manifest: &Descriptor) -> Result<ImageRecord, Failure> {
        let image = Image::open(from.blobs(), manifest).map_err(|error| Failure::from_error(&error))?;
        for blob in image.manifest.layers.iter().chain([&image.manifest.config, manifest]) {
            self.copy(from, blob)?;
        }
        let config = &image.config;
        let record = ImageRecord {
            config: image.manifest.config.digest,
            top: None,
            platform: Platform::normalised(&config.os, &config.architecture, &config.variant),
            created: Timestamp::now(),
            size_bytes: image.manifest.layers.iter().map(|layer| layer.size).sum(),
            manifest: image.descriptor,
        };
        self.store.add_image(&record).map_err(|error| words::store(&error))?;
        Ok(record)
    }

    /// Gives images that are here the name that they have in the other store: that of one image, or of an index with them.
    pub fn name(&self, from: &Store, name: &Reference, images: &[ImageRecord]) -> Result<(), Failure> {
        let failed = |error: store::StoreError| words::store(&error);
        let index = from.index_of(name).map_err(failed)?;
        // A tag is this machine's own word, and no registry is asked; a digest is looked for in what a registry gave.
        if name.digest().is_some() {
            let one = images.first().map(|image| image.manifest.digest);
            let said = index.as_ref().map(store::StoredIndex::digest).or(one);
            said.map_or(Ok(()), |said| note_tag(&self.store, name, &said))?;
        }
        match index {
            Some(index) => self.store.tag_index(name, &index.document, images).map_err(failed),
            None => images.iter().try_for_each(|image| self.store.tag(name, image)).map_err(failed),
        }
    }

    /// Gives it what was fetched of the web and of repositories, for a build that may ask nobody.
    pub async fn give_fetched(&self, from: &Store, cancel: &CancellationToken) -> Result<(), Failure> {
        git::give(from, &self.store, cancel).await.map_err(|error| match error.is_canceled() {
            true => words::canceled(),
            false => Failure::from_error(&error),
        })?;
        let to = self.store.clone();
        in_background(from, move |from| http::give(from, &to).map_err(|error| Failure::from_error(&error))).await
    }

    fn copy(&self, from: &Store, blob: &Descriptor) -> Result<(), Failure> {
        let failed = |error: oci::content::ContentError| words::content(&error);
        if self.store.blobs().size(&blob.digest).map_err(failed)? == Some(blob.size) {
            return Ok(());
        }
        let mut reader = open_verified(from.blobs(), blob).map_err(failed)?;
        let mut writer = self.store.blobs().writer().map_err(failed)?;
        io::copy(&mut reader, &mut writer)
            .map_err(|error| Failure::new(format!("cannot copy the blob `{}`", blob.digest)).note(error.to_string()))?;
        writer.commit(Some(&blob.digest)).map(drop).map_err(failed)
    }

    /// Builds, and returns what the manifest or the index of the image is.
    pub async fn build(
        &self,
        options: &BuildOptions,
        progress: Arc<dyn Progress>,
        cancel: CancellationToken,
    ) -> Result<Descriptor, Failure> {
        let built = crate::engine::build(&self.settings, options, Begins::Options, progress, cancel).await?;
        let value = built.metadata["containerimage.descriptor"].clone();
        let mut descriptor: Descriptor = serde_json::from_value(value)
            .map_err(|error| Failure::new("the build does not say what it made").note(error.to_string()))?;
        descriptor.annotations.clear();
        Ok(descriptor)
    }
}

/// The same build, with nothing left of it but blobs in its store.
pub fn alone(options: &BuildOptions) -> BuildOptions {
    let form = options.outputs.iter().find_map(Output::form);
    let form = ImageForm { names: Vec::new(), ..form.cloned().unwrap_or_default() };
    let nowhere = ArchiveOutput { form, format: ArchiveFormat::Oci, dest: Dest::File("/dev/null".into()) };
    BuildOptions {
        tags: Vec::new(),
        outputs: vec![Output::Archive(nowhere)],
        iidfile: None,
        metadata_file: None,
        timings: None,
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        pull: false,
        ..options.clone()
    }
}
