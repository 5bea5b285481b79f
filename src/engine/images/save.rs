//! `save`: images of the local store as one archive.
//!
//! An image whose blobs are all here goes out as it came in, digest included. Layers that are only trees become blobs
//! first, once, and the archive's manifest then describes these; the config, and with it the image id, stays. A name
//! that means an index goes out as that when all its images are here and the archive can hold it; else its image for
//! this machine does, which is said. For `platform` always one image does.

use std::collections::BTreeMap;
use std::sync::Arc;

use executor::{StepSettings, Worker};
use oci::image::Image;
use oci::model::{Descriptor, Digest, Index, Manifest, Platform, Reference, media_type};
use solver::seam::{LogSink, Progress};
use store::{FoundImage, Layer, Store, StoredIndex};
use tokio_util::sync::CancellationToken;

use super::{find, one_for};
use crate::engine::assemble::Assembled;
use crate::engine::export::{archive, compress};
use crate::engine::task::Task;
use crate::engine::{Failure, Settings, words};
use crate::options::annotation::Annotations;
use crate::options::output::{ArchiveFormat, ArchiveOutput, ImageForm};

/// An image that is in an archive.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// Its names there.
    pub names: Vec<Reference>,
    /// The image id; of an index, its digest there.
    pub id: Digest,
    /// Its manifest or index there.
    pub manifest: Descriptor,
}

/// Writes images, each under the names it was asked for by, to `output`. An image given by its id has no name there. Of
/// an index, `platform` takes one image.
pub async fn save(
    settings: &Settings,
    images: &[Reference],
    platform: Option<&Platform>,
    output: &ArchiveOutput,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Vec<Saved>, Failure> {
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let worker = settings.worker(&store, &registry, BTreeMap::new(), StepSettings::default())?;
    let meant = meant(&store, images, platform)?;
    let may_be_index = output.format == ArchiveFormat::Oci;
    let task = Task::start("[internal] save images", &progress);
    let saving = async {
        let mut whole = Vec::with_capacity(meant.len());
        for (found, names) in &meant {
            let descriptor = top_with_blobs(&store, &worker, found, may_be_index, &task.log(), &cancel).await?;
            whole.push((names.clone(), descriptor));
        }
        let saved = whole.iter().zip(&meant).map(|((names, manifest), (found, _))| Saved {
            names: names.clone(),
            id: if is_index(manifest) { manifest.digest } else { found.image.config },
            manifest: manifest.clone(),
        });
        let saved = saved.collect();
        archive(&store, output.format, &output.dest, whole).await?;
        Ok(saved)
    };
    let saved = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(words::canceled()),
        saved = saving => saved,
    };
    task.end(saved)
}

/// The images that are meant, each once, with the names that it was meant by; of an index, the image for `platform`.
pub(super) fn meant(
    store: &Store,
    images: &[Reference],
    platform: Option<&Platform>,
) -> Result<Vec<(FoundImage, Vec<Reference>)>, Failure> {
    let mut meant: Vec<(FoundImage, Vec<Reference>)> = Vec::new();
    for image in images {
        // Not only by name: `rbuild save 12ab34cd` means the image of that id.
        let mut found = find(store, &image.familiar())?;
        if let Some(wanted) = platform {
            found.image = one_for(&found, &image.familiar(), wanted)?;
            found.index = None;
        }
        let name = found.name.clone();
        let known = meant
            .iter_mut()
            .find(|(other, _)| (&other.image.manifest, &other.index) == (&found.image.manifest, &found.index));
        match known {
            Some((_, names)) => names.extend(name.filter(|name| !names.contains(name))),
            None => meant.push((found, name.into_iter().collect())),
        }
    }
    Ok(meant)
}

fn is_index(descriptor: &Descriptor) -> bool {
    matches!(descriptor.media_type.as_str(), media_type::OCI_INDEX | media_type::DOCKER_INDEX)
}

/// What a name means, every blob of it in the store: the index, if it may be one and is whole, or else the image.
pub(super) async fn top_with_blobs(
    store: &Store,
    worker: &Worker,
    found: &FoundImage,
    may_be_index: bool,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<Descriptor, Failure> {
    let Some(stored) = &found.index else { return with_blobs(store, worker, found, log, cancel).await };
    match whole_index(stored)? {
        Some(index) if may_be_index => index_with_blobs(store, worker, found, index, log, cancel).await,
        index => {
            let why =
                if index.is_some() { "this kind of archive holds no index" } else { "not all that it names is here" };
            say_one_of(found, why, log);
            with_blobs(store, worker, found, log, cancel).await
        }
    }
}

/// Says that of an index one image goes out. Where only one of them was ever wanted, nobody thinks of an index.
pub(super) fn say_one_of(found: &FoundImage, why: &str, log: &dyn LogSink) {
    if found.index.as_ref().is_some_and(|index| index.members.len() > 1) {
        let what = found.name.as_ref().map_or_else(|| found.image.config.to_string(), Reference::familiar);
        log.notice(&format!(
            "`{what}` means images for several platforms, and {why}: only that for {} goes out (`--platform` takes another)",
            found.image.platform
        ));
    }
}

/// What an index says, if every image of it is here.
fn whole_index(stored: &StoredIndex) -> Result<Option<Index>, Failure> {
    let index = stored.index().map_err(|error| words::store(&error))?;
    let is_here = |entry: &Descriptor| stored.members.iter().any(|member| member.manifest.digest == entry.digest);
    Ok(Some(index).filter(|index| index.manifests.iter().all(is_here)))
}

/// The index with every blob of its images in the store: as it is, or over the manifests that describe these blobs.
async fn index_with_blobs(
    store: &Store,
    worker: &Worker,
    found: &FoundImage,
    mut index: Index,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<Descriptor, Failure> {
    let stored = found.index.as_ref().expect("it is what was found");
    let before = index.clone();
    for entry in &mut index.manifests {
        let member = stored.members.iter().find(|member| member.manifest.digest == entry.digest);
        let image = member.expect("all are here").clone();
        let image = FoundImage { image, name: found.name.clone(), names: found.names.clone(), index: None };
        let Descriptor { media_type, digest, size, .. } = with_blobs(store, worker, &image, log, cancel).await?;
        (entry.media_type, entry.digest, entry.size) = (media_type, digest, size);
    }
    let text = match index == before {
        true => stored.document.clone(),
        false => serde_json::to_string(&index).expect("an index holds nothing that JSON cannot say"),
    };
    let (digest, size) =
        oci::content::put_bytes(store.blobs(), text.as_bytes()).map_err(|error| words::content(&error))?;
    Ok(Descriptor::new(index.media_type.as_deref().unwrap_or(media_type::OCI_INDEX), digest, size))
}

/// A manifest of the image whose blobs are all in the store.
pub async fn with_blobs(
    store: &Store,
    worker: &Worker,
    found: &FoundImage,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<Descriptor, Failure> {
    let image = &found.image;
    let opened = Image::open(store.blobs(), &image.manifest).map_err(|error| Failure::from_error(&error))?;
    let Image { manifest, config_bytes, .. } = opened;
    if all_here(store, &manifest)? {
        return Ok(image.manifest.clone());
    }
    let layers = chain_of(store, worker, found, &manifest, log).await?;
    if all_here(store, &manifest)? {
        return Ok(image.manifest.clone());
    }
    let annotations = Annotations::of_manifest(manifest.annotations);
    let form = ImageForm { annotations, ..ImageForm::default() };
    let image = Assembled { config_bytes, layers, annotations: BTreeMap::new(), platform: image.platform.clone() };
    Ok(compress(store, worker, &image, &form, None, cancel).await?.manifest)
}

/// The layers of the image that have something in them, bottom first, as trees or blobs.
pub(super) async fn chain_of(
    store: &Store,
    worker: &Worker,
    found: &FoundImage,
    manifest: &Manifest,
    log: &dyn LogSink,
) -> Result<Vec<Layer>, Failure> {
    let image = &found.image;
    let top = match &image.top {
        Some(top) => Some(top.clone()),
        None => {
            let name = somewhere(store, found, manifest)?;
            worker.image_top(&name, &image.manifest, log).await.map_err(|error| words::exec(&error))?
        }
    };
    let chain = worker.blocking(move |worker| {
        let chain = top.map(|top| worker.layers().chain(&top)).transpose()?.unwrap_or_default();
        Ok(chain.into_iter().filter(|layer| !layer.empty).collect())
    });
    chain.await.map_err(|error| words::exec(&error))
}

fn all_here(store: &Store, manifest: &Manifest) -> Result<bool, Failure> {
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        if store.blobs().size(&blob.digest).map_err(|error| words::content(&error))? != Some(blob.size) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A name under which a registry has the image's layers.
fn somewhere(store: &Store, found: &FoundImage, manifest: &Manifest) -> Result<Reference, Failure> {
    if let Some(name) = found.name.as_ref().or(found.names.first()) {
        return Ok(name.clone());
    }
    for layer in &manifest.layers {
        let known = store.blob_sources(&layer.digest).map_err(|error| words::store(&error))?;
        if let Some(name) = known.into_iter().next() {
            return Ok(name);
        }
    }
    Err(Failure::new(format!("the layers of the image {} are not in the store", found.image.config))
        .help("pull it again by its name"))
}
