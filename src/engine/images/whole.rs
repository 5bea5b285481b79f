//! An image of the store on its way out: as it came, or with a blob made of every layer that is only a tree.
//!
//! In: what the store found. Out: [`Whole`]. An image whose layers all came as blobs goes out as it came in, digest
//! included, also when some of them are known to be in a registry and are not here. Of an image with a layer that was
//! made here, that layer has no blob that anybody knows: one is made, and with it a manifest of its own over the same
//! config. Deliberately absent: sending ([`super::push`]); archives, whose blobs must all be here ([`super::save`]).

use std::collections::BTreeMap;

use executor::Worker;
use oci::image::Image;
use oci::model::{ImageConfig, Reference};
use solver::seam::{LogSink, ResultId};
use store::{ImageRecord, Layer, Store};

use crate::engine::assemble::Assembled;
use crate::engine::{Failure, words};

/// An image on its way out.
pub enum Whole {
    /// Manifest and blobs are to be sent as they are.
    AsItIs(Box<Image>),
    /// Blobs are made of layers, and a manifest over them.
    Layers {
        /// The config and the layers.
        image: Box<Assembled>,
        /// What stands in the manifest beside them.
        annotations: BTreeMap<String, String>,
    },
}

impl Whole {
    /// Says how the image goes out. With `anew` every layer is compressed anew; those that are not here are brought
    /// first, from where they are known to be, and else from `name`.
    ///
    /// # Errors
    /// When a layer is neither here nor known to be anywhere.
    pub async fn of(
        store: &Store,
        worker: &Worker,
        record: &ImageRecord,
        anew: Option<&Reference>,
        log: &dyn LogSink,
    ) -> Result<Self, Failure> {
        let opened = Image::open(store.blobs(), &record.manifest).map_err(|error| Failure::from_error(&error))?;
        let layers = match &record.top {
            Some(top) => chain(worker, top).await?,
            None => Vec::new(),
        };
        let made_here = layers.iter().any(|layer| layer.came_as().is_none());
        let unknown = opened.manifest.layers.iter().find_map(|blob| match is_known(store, blob) {
            Ok(true) => None,
            Ok(false) => Some(Ok(blob.digest)),
            Err(error) => Some(Err(error)),
        });
        let unknown = unknown.transpose()?;
        if !made_here && anew.is_none() && unknown.is_none() {
            return Ok(Self::AsItIs(Box::new(opened)));
        }
        let layers = match anew {
            // It came whole, and perhaps nothing was built on it yet: its layers get records.
            Some(name) if !made_here => {
                let known = match opened.manifest.layers.first() {
                    Some(first) => store.blob_sources(&first.digest).map_err(|error| words::store(&error))?,
                    None => Vec::new(),
                };
                let from = known.first().unwrap_or(name);
                let top =
                    worker.image_packed(from, &record.manifest, log).await.map_err(|error| words::exec(&error))?;
                match top {
                    Some(top) => chain(worker, &top).await?,
                    None => Vec::new(),
                }
            }
            _ => layers,
        };
        let of_config = opened.config.rootfs.diff_ids.len();
        if layers.len() != of_config {
            let which = unknown.map_or_else(String::new, |digest| format!(" {digest}"));
            return Err(Failure::new(format!("a layer{which} of the image {} is not here", record.config))
                .help("pull the image again by its name"));
        }
        let annotations = opened.manifest.annotations.clone();
        let image = Assembled {
            config_bytes: opened.config_bytes,
            layers,
            annotations: BTreeMap::new(),
            platform: record.platform.clone(),
        };
        Ok(Self::Layers { image: Box::new(image), annotations })
    }

    /// Its config.
    pub fn config(&self) -> Result<ImageConfig, Failure> {
        match self {
            Self::AsItIs(image) => Ok(image.config.clone()),
            Self::Layers { image, .. } => serde_json::from_slice(&image.config_bytes)
                .map_err(|error| Failure::new("the image's config is not readable").note(error.to_string())),
        }
    }
}

/// The layers of a result that have something in them, bottom first.
async fn chain(worker: &Worker, top: &ResultId) -> Result<Vec<Layer>, Failure> {
    let top = top.clone();
    let chain = worker.blocking(move |worker| Ok(worker.layers().chain(&top)?)).await;
    let chain = chain.map_err(|error| words::exec(&error))?;
    Ok(chain.into_iter().filter(|layer| !layer.empty).collect())
}

/// Whether a blob is here, or some registry is known to have it.
fn is_known(store: &Store, blob: &oci::model::Descriptor) -> Result<bool, Failure> {
    let here = store.blobs().size(&blob.digest).map_err(|error| words::content(&error))? == Some(blob.size);
    Ok(here || !store.blob_sources(&blob.digest).map_err(|error| words::store(&error))?.is_empty())
}
