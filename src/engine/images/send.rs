//! `save --to`: images of the local store into docker, podman or containerd.
//!
//! An engine that keeps blobs gets an index as it is; one that unpacks layers gets its image for this machine, which is
//! said.

use std::collections::BTreeMap;
use std::sync::Arc;

use executor::{StepSettings, Worker};
use oci::image::Image;
use oci::model::{Platform, Reference};
use solver::seam::{LogSink, Progress};
use store::{FoundImage, Store};
use tokio_util::sync::CancellationToken;

use super::save::{chain_of, meant, say_one_of, top_with_blobs};
use crate::engine::assemble::Assembled;
use crate::engine::load::{Given, Loader};
use crate::engine::task::Task;
use crate::engine::{Failure, Settings, words};
use crate::options::annotation::Annotations;
use crate::options::load::LoadOutput;
use crate::options::output::ImageForm;

/// Loads images, each under the names it was asked for by, into the engine that was found for `output`; of an index,
/// `platform` takes one image. Returns what was done, in words.
pub async fn send(
    settings: &Settings,
    images: &[Reference],
    platform: Option<&Platform>,
    output: &LoadOutput,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Vec<String>, Failure> {
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let worker = settings.worker(&store, &registry, BTreeMap::new(), StepSettings::default())?;
    let meant = meant(&store, images, platform)?;
    let loader = Loader { store: &store, worker: &worker, progress: &progress, cancel: &cancel };
    let sending = async {
        let mut done = Vec::with_capacity(meant.len());
        for (found, names) in &meant {
            done.push(one(&loader, found, names, output).await?);
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
    found: &FoundImage,
    names: &[Reference],
    output: &LoadOutput,
) -> Result<String, Failure> {
    let target = output.target.as_ref().ok_or_else(|| Failure::new("nobody looked for an engine"))?;
    let form = ImageForm { names: names.to_vec(), ..ImageForm::default() };
    if output.keeps_blobs() {
        let task = Task::start("[internal] compress layers", loader.progress);
        let top = top_with_blobs(loader.store, loader.worker, found, true, &task.log(), loader.cancel).await;
        let top = task.end(top)?;
        return loader.load(target, Given::Blobs(&top), &form).await.map_err(Failure::from);
    }
    let task = Task::start("[internal] gather layers", loader.progress);
    say_one_of(found, &format!("{} keeps no index", target.place.engine), &task.log());
    let image = gather(loader.store, loader.worker, found, &task.log()).await;
    let image = task.end(image)?;
    let form = ImageForm { annotations: Annotations::of_manifest(image.annotations.clone()), ..form };
    loader.load(target, Given::Trees(&image), &form).await.map_err(Failure::from)
}

/// The image with the layers that it stands on.
async fn gather(store: &Store, worker: &Worker, found: &FoundImage, log: &dyn LogSink) -> Result<Assembled, Failure> {
    let opened = Image::open(store.blobs(), &found.image.manifest).map_err(|error| Failure::from_error(&error))?;
    let layers = chain_of(store, worker, found, &opened.manifest, log).await?;
    let platform = found.image.platform.clone();
    Ok(Assembled { config_bytes: opened.config_bytes, layers, annotations: opened.manifest.annotations, platform })
}
