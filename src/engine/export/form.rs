//! An image in the form that an output asks for: blobs of its layers, a config and a manifest over them.
//!
//! In: an image, a form. Out: a manifest in the store, every blob of it there too, or where it came from. What was
//! compressed before, or came compressed, is taken as it is, unless the form forces its codec, or has no name for it.
//! eStargz layers unpack to more than our tars, so their image has a config of its own. Deliberately absent: sending.

use executor::Worker;
use executor::layers::take_diff_id;
use oci::layer::Dialect;
use oci::model::{Descriptor, Digest, ImageConfig, media_type};
use store::{Layer, Store};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::engine::assemble::Assembled;
use crate::engine::{Failure, words};
use crate::options::annotation::Level;
use crate::options::output::ImageForm;

/// An image in the store, ready to go.
#[derive(Clone, Debug)]
pub struct Written {
    /// Points to its manifest.
    pub manifest: Descriptor,
    /// The manifest.
    pub manifest_bytes: Vec<u8>,
    /// Digest of its config.
    pub config: Digest,
}

/// Makes a blob of every layer and stores the manifest over them. Each blob is told to `ready` as soon as it can be
/// sent, the config last.
pub async fn compress(
    store: &Store,
    worker: &Worker,
    image: &Assembled,
    form: &ImageForm,
    ready: Option<UnboundedSender<Descriptor>>,
    cancel: &CancellationToken,
) -> Result<Written, Failure> {
    let tell = |blob: &Descriptor| {
        // Who does not listen any more has failed, and says so.
        if let Some(ready) = &ready
            && let Err(error) = ready.send(blob.clone())
        {
            tracing::debug!(%error, "nobody sends the blob");
        }
    };
    let mut blobs = Vec::with_capacity(image.layers.len());
    let mut diff_ids = Vec::with_capacity(image.layers.len());
    for layer in &image.layers {
        let force = is_forced(form, layer);
        let mut blob = match layer.came_as() {
            // It is not here and nobody unpacked it: where it came from, or goes to, has it.
            Some(blob) if layer.name.is_none() && !force => blob.clone(),
            _ => {
                let (id, codec) = (layer.id.clone(), form.codec);
                let made =
                    worker.on_all_cores(cancel, move |worker| Ok(worker.layers().ensure_blob(&id, &codec, force)?));
                made.await.map_err(|error| words::exec(&error))?
            }
        };
        diff_ids.push(take_diff_id(&mut blob));
        let blob = in_dialect(blob, form.dialect);
        tell(&blob);
        blobs.push(blob);
    }
    let config_bytes = with_diff_ids(&image.config_bytes, &diff_ids)?;
    let annotations = form.annotations.of(Level::Manifest, &image.platform);
    let manifest = oci::image::assemble(&config_bytes, blobs, annotations, form.dialect)
        .map_err(|error| Failure::from_error(&error))?;
    for bytes in [&config_bytes, &manifest.manifest_bytes] {
        oci::content::put_bytes(store.blobs(), bytes).map_err(|error| words::content(&error))?;
    }
    tell(&manifest.manifest.config);
    Ok(Written {
        manifest: manifest.descriptor,
        manifest_bytes: manifest.manifest_bytes,
        config: manifest.manifest.config.digest,
    })
}

/// Whether a layer that is compressed already must be compressed anew.
pub(super) fn is_forced(form: &ImageForm, layer: &Layer) -> bool {
    // Docker has no zstd.
    let is_zstd = |blob: &Descriptor| blob.media_type.ends_with("zstd");
    form.force || form.dialect == Dialect::Docker && layer.blob.as_ref().is_some_and(is_zstd)
}

/// The config with other diff_ids where there are any.
fn with_diff_ids(config_bytes: &[u8], diff_ids: &[Option<oci::model::DiffId>]) -> Result<Vec<u8>, Failure> {
    if diff_ids.iter().all(Option::is_none) {
        return Ok(config_bytes.to_vec());
    }
    let mut config: ImageConfig = serde_json::from_slice(config_bytes)
        .map_err(|error| Failure::new("the config just made is not readable").note(error.to_string()))?;
    for (known, other) in config.rootfs.diff_ids.iter_mut().zip(diff_ids) {
        *known = other.unwrap_or(*known);
    }
    Ok(serde_json::to_vec(&config).expect("a config holds nothing that JSON cannot"))
}

/// How the local store's manifest describes a layer: as it was pulled, else uncompressed.
pub fn as_stored(layer: &Layer) -> Result<Descriptor, Failure> {
    match (&layer.blob, layer.diff_id, layer.tar_bytes) {
        (Some(blob), ..) => Ok(as_oci(blob.clone())),
        (None, Some(diff_id), Some(bytes)) => Ok(Descriptor::new(media_type::OCI_LAYER, diff_id.0, bytes)),
        _ => Err(Failure::new(format!("the store does not know the size of the layer `{}`", layer.id))),
    }
}

/// OCI's names of layers, and Docker's.
const NAMES: [(&str, &str); 3] = [
    (media_type::OCI_LAYER, media_type::DOCKER_LAYER),
    (media_type::OCI_LAYER_GZIP, media_type::DOCKER_LAYER_GZIP),
    (media_type::OCI_LAYER_ZSTD, media_type::DOCKER_LAYER_ZSTD),
];

/// Docker's names for layers have OCI ones; a manifest does not mix them.
pub fn as_oci(mut layer: Descriptor) -> Descriptor {
    if let Some((oci, _)) = NAMES.iter().find(|(_, docker)| *docker == layer.media_type) {
        layer.media_type = (*oci).to_owned();
    }
    layer
}

/// Docker's descriptors have no annotations either.
fn in_dialect(layer: Descriptor, dialect: Dialect) -> Descriptor {
    let mut layer = as_oci(layer);
    if dialect == Dialect::Docker {
        layer.annotations.clear();
        if let Some((_, docker)) = NAMES.iter().find(|(oci, _)| *oci == layer.media_type) {
            layer.media_type = (*docker).to_owned();
        }
    }
    layer
}
