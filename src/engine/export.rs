//! Where an image goes beside the local store: registries, archives, directories.
//!
//! In comes an assembled image, out go bytes; layers are compressed here at the latest, once, and remembered. A file
//! is written aside and renamed, so nobody sees half of one; see [`super::destination`]. A layer of a cache that is
//! neither here nor where it should be is [`Unsent::Lost`]: the build can make it.

use std::collections::HashMap;
use std::sync::Arc;

use executor::Worker;
use executor::layers::SCRATCH;
use oci::layer::{Codec, Compression};
use oci::model::{Descriptor, Digest, Reference, media_type};
use oci::registry::{Client, PushBlob, PushImage};
use solver::graph::VertexId;
use solver::seam::{Event, Progress, ResultId, VertexLog};
use store::{Layer, Store};
use tokio_util::sync::CancellationToken;

use super::assemble::Assembled;
use super::cache::Lost;
use super::destination::write_to;
use super::task::in_background;
use super::{Failure, words};
use crate::options::{BuildOptions, Output, OutputKind};

/// When an image was made. image-spec annotations.md, "Pre-Defined Annotation Keys".
const CREATED: &str = "org.opencontainers.image.created";

/// Sends images out.
pub struct Exporter<'a> {
    /// Where layers are.
    pub store: &'a Store,
    /// How registries are reached.
    pub registry: &'a Client,
    /// Makes blobs and views of layers.
    pub worker: &'a Worker,
    /// Who watches.
    pub progress: &'a Arc<dyn Progress>,
    /// The user may stop it.
    pub cancel: &'a CancellationToken,
}

/// What was sent.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// The manifest of what was pushed or archived, if something was.
    pub manifest: Option<Descriptor>,
    /// In words, one per place.
    pub wrote: Vec<String>,
}

/// Why an image did not go out.
#[derive(Debug)]
pub enum Unsent {
    /// It cannot.
    Failed(Failure),
    /// A layer that a cache had promised is nowhere to be had; once its step has run, it can.
    Lost(Lost),
}

impl From<Failure> for Unsent {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Unsent> for Failure {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Failed(failure) => failure,
            Unsent::Lost(lost) => Self::new(format!("a layer of the image cannot be had: {}", lost.why)),
        }
    }
}

impl Exporter<'_> {
    /// Does everything that the options ask for, in their order, the push last.
    pub async fn export(&self, options: &BuildOptions, image: &Assembled, task: VertexId) -> Result<Sent, Unsent> {
        let mut sent = Sent::default();
        let archives = options.outputs.iter().any(|out| matches!(out.kind, OutputKind::Oci | OutputKind::Docker));
        if archives || options.push {
            let manifest = compress(self.store, self.worker, image, self.cancel).await?;
            let annotations = options.annotations.manifest_descriptor.clone();
            sent.manifest = Some(Descriptor { annotations, ..manifest });
        }
        for output in &options.outputs {
            match (output.kind, &sent.manifest) {
                (OutputKind::Oci | OutputKind::Docker, Some(manifest)) => {
                    let mut manifest = manifest.clone();
                    // As other builders do; the image's own time, so that the same image gives the same archive.
                    if let Some(created) = image.created() {
                        manifest.annotations.entry(CREATED.to_owned()).or_insert(created);
                    }
                    archive(self.store, output, vec![(options.tags.clone(), manifest)]).await?;
                }
                _ => self.tree(output, image).await?,
            }
            sent.wrote.push(in_words(output));
        }
        if let (true, Some(manifest)) = (options.push, sent.manifest.clone()) {
            for name in &options.tags {
                self.push(name, image, &manifest, task).await?;
                sent.wrote.push(format!("pushed {}@{}", name, manifest.digest));
            }
        }
        Ok(sent)
    }
}

/// Makes a blob of every layer and stores the manifest over them; its descriptor is returned. What was compressed
/// before, or came compressed, is taken as it is.
pub async fn compress(
    store: &Store,
    worker: &Worker,
    image: &Assembled,
    cancel: &CancellationToken,
) -> Result<Descriptor, Failure> {
    let codec = Codec::new(Compression::Gzip);
    let mut blobs = Vec::with_capacity(image.layers.len());
    for layer in &image.layers {
        let blob = match &layer.blob {
            // It is not here and nobody unpacked it: where it came from, or goes to, has it.
            Some(blob) if layer.name.is_none() => blob.clone(),
            _ => {
                let id = layer.id.clone();
                let made =
                    worker.on_all_cores(cancel, move |worker| Ok(worker.layers().ensure_blob(&id, &codec, false)?));
                made.await.map_err(|error| words::exec(&error))?
            }
        };
        blobs.push(as_oci(blob));
    }
    let manifest = image.manifest(blobs)?;
    oci::content::put_bytes(store.blobs(), &manifest.manifest_bytes).map_err(|error| words::content(&error))?;
    Ok(manifest.descriptor)
}

/// Writes images, whose blobs are all in the store, with their names as one archive.
pub async fn archive(store: &Store, output: &Output, images: Vec<(Vec<Reference>, Descriptor)>) -> Result<(), Failure> {
    let output = output.clone();
    in_background(store, move |store| {
        write_to(output.dest.as_deref(), |out| match output.kind {
            OutputKind::Docker => oci::export::docker_archive::write(out, store.blobs(), &images),
            _ => oci::export::oci_layout::write_tar(out, store.blobs(), &images),
        })
    })
    .await
}

impl Exporter<'_> {
    /// The root file system, as a directory or a tar.
    async fn tree(&self, output: &Output, image: &Assembled) -> Result<(), Failure> {
        let top = image.layers.last().map_or_else(|| ResultId(SCRATCH.to_owned()), |layer| layer.id.clone());
        let view = self.worker.blocking(move |worker| worker.view(&top)).await.map_err(|error| words::exec(&error))?;
        let output = output.clone();
        let written = self.worker.on_core(self.cancel, move |_| {
            Ok(match (output.kind, output.dest.as_deref()) {
                (OutputKind::Local, Some(dest)) => {
                    executor::copy_tree_out(&view, dest).map_err(|error| Failure::from_error(&error))
                }
                (_, dest) => write_to(dest, |out| oci::layer::write_tree(view.fd(), out).map(drop)),
            })
        });
        written.await.map_err(|error| words::exec(&error))?
    }

    /// Brings the layers that are not here.
    async fn bring(&self, image: &Assembled, task: VertexId) -> Result<(), Unsent> {
        let log = VertexLog { vertex: task, progress: &**self.progress };
        let top = image.layers.last().map_or_else(|| ResultId(SCRATCH.to_owned()), |layer| layer.id.clone());
        self.worker.ensure_blobs(&top, &log, self.cancel).await.map_err(|error| match Lost::of(&error) {
            Some(lost) => Unsent::Lost(lost),
            None => words::exec(&error).into(),
        })
    }

    async fn push(
        &self,
        name: &Reference,
        image: &Assembled,
        manifest: &Descriptor,
        task: VertexId,
    ) -> Result<(), Unsent> {
        let bytes = super::read_blob(self.store, &manifest.digest)?;
        let parsed: oci::model::Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::new("the manifest just made is not readable").note(error.to_string()))?;
        let mut blobs = vec![PushBlob { descriptor: parsed.config, mount_from: Vec::new() }];
        for layer in parsed.layers {
            let mount_from = self.store.blob_sources(&layer.digest).map_err(|error| words::store(&error))?;
            blobs.push(PushBlob { descriptor: layer, mount_from });
        }
        debug_assert_eq!(blobs.len(), image.layers.len() + 1);
        let push = PushImage { manifest: manifest.clone(), manifest_bytes: bytes, blobs };
        let sizes: HashMap<Digest, u64> =
            push.blobs.iter().map(|blob| (blob.descriptor.digest, blob.descriptor.size)).collect();
        let report = |digest: &Digest, sent_bytes: u64| {
            let total_bytes = sizes.get(digest).copied();
            self.progress.event(Event::Progress {
                vertex: task,
                name: format!("pushing {digest}"),
                current_bytes: sent_bytes,
                total_bytes,
                done: total_bytes == Some(sent_bytes),
            });
        };
        let pushed = match self.registry.push(name, &push, self.store.blobs(), &report).await {
            // Neither here nor there: layers of a cache elsewhere.
            Err(oci::registry::RegistryError::Missing { .. }) => {
                self.bring(image, task).await?;
                self.registry.push(name, &push, self.store.blobs(), &report).await
            }
            pushed => pushed,
        };
        pushed.map_err(|error| words::registry(&error))?;
        for blob in &push.blobs {
            self.store.add_blob_source(&blob.descriptor.digest, name).map_err(|error| words::store(&error))?;
        }
        Ok(())
    }
}

/// How the local store's manifest describes a layer: as it was pulled, else uncompressed.
pub fn as_stored(layer: &Layer) -> Result<Descriptor, Failure> {
    match (&layer.blob, layer.diff_id, layer.tar_bytes) {
        (Some(blob), ..) => Ok(as_oci(blob.clone())),
        (None, Some(diff_id), Some(bytes)) => Ok(Descriptor::new(media_type::OCI_LAYER, diff_id.0, bytes)),
        _ => Err(Failure::new(format!("the store does not know the size of the layer `{}`", layer.id))),
    }
}

/// Docker's names for layers have OCI ones; a manifest does not mix them.
pub fn as_oci(mut layer: Descriptor) -> Descriptor {
    layer.media_type = match layer.media_type.as_str() {
        media_type::DOCKER_LAYER => media_type::OCI_LAYER.into(),
        media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP.into(),
        media_type::DOCKER_LAYER_ZSTD => media_type::OCI_LAYER_ZSTD.into(),
        _ => layer.media_type,
    };
    layer
}

fn in_words(output: &Output) -> String {
    let what = match output.kind {
        OutputKind::Oci => "OCI archive",
        OutputKind::Docker => "docker archive",
        OutputKind::Local => "root file system",
        OutputKind::Tar => "root file system as a tar",
    };
    match &output.dest {
        Some(dest) => format!("wrote the {what} to {}", dest.display()),
        None => format!("wrote the {what} to standard output"),
    }
}
