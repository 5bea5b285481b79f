//! `save --to`: images of the local store into docker, podman or containerd.

use std::collections::BTreeMap;
use std::sync::Arc;

use executor::{StepSettings, Worker};
use oci::image::Image;
use oci::model::Reference;
use solver::seam::{LogSink, Progress};
use store::{FoundImage, Store};
use tokio_util::sync::CancellationToken;

use super::save::{chain_of, meant, with_blobs};
use crate::engine::assemble::Assembled;
use crate::engine::load::Loader;
use crate::engine::task::Task;
use crate::engine::{Failure, Settings, words};
use crate::options::annotation::Annotations;
use crate::options::load::{LoadOutput, Target};
use crate::options::output::ImageForm;

/// Loads images, each under the names it was asked for by, into the engine that was found for `output`. Returns what was
/// done, in words.
pub async fn send(
    settings: &Settings,
    images: &[Reference],
    output: &LoadOutput,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Vec<String>, Failure> {
    let target = output.target.as_ref().ok_or_else(|| Failure::new("nobody looked for an engine"))?;
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let worker = settings.worker(&store, &registry, BTreeMap::new(), StepSettings::default())?;
    let meant = meant(&store, images)?;
    let loader = Loader { store: &store, worker: &worker, progress: &progress, cancel: &cancel };
    let sending = async {
        let mut done = Vec::with_capacity(meant.len());
        for (found, names) in &meant {
            let task = Task::start("[internal] gather layers", &progress);
            let image = gather(&store, &worker, found, &task.log()).await;
            let image = task.end(image)?;
            done.push(one(&loader, target, found, names, &image, output, &progress).await?);
        }
        Ok(done)
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(words::canceled()),
        sent = sending => sent,
    }
}

async fn one(
    loader: &Loader<'_>,
    target: &Target,
    found: &FoundImage,
    names: &[Reference],
    image: &Assembled,
    output: &LoadOutput,
    progress: &Arc<dyn Progress>,
) -> Result<String, Failure> {
    let annotations = Annotations::of_manifest(image.annotations.clone());
    let form = ImageForm { names: names.to_vec(), annotations, ..ImageForm::default() };
    let manifest = if output.keeps_blobs() {
        let task = Task::start("[internal] compress layers", progress);
        let made = with_blobs(loader.store, loader.worker, found, &task.log(), loader.cancel).await;
        Some(task.end(made)?)
    } else {
        None
    };
    loader.load(target, image, &form, manifest.as_ref()).await.map_err(Failure::from)
}

/// The image with the layers that it stands on.
async fn gather(store: &Store, worker: &Worker, found: &FoundImage, log: &dyn LogSink) -> Result<Assembled, Failure> {
    let opened = Image::open(store.blobs(), &found.image.manifest).map_err(|error| Failure::from_error(&error))?;
    let layers = chain_of(store, worker, found, &opened.manifest, log).await?;
    let platform = found.image.platform.clone();
    Ok(Assembled { config_bytes: opened.config_bytes, layers, annotations: opened.manifest.annotations, platform })
}
