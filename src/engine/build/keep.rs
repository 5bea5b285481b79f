//! An image in the local store: its layers' digests, its config and manifest, its names.
//!
//! In: the top of a result, an assembled image. Out: records of the store. Several images are kept with an index of them
//! under each name. Deliberately absent: other places ([`crate::engine::export`]).

use executor::Worker;
use executor::layers::SCRATCH;
use jiff::Timestamp;
use oci::layer::{Codec, Dialect};
use oci::model::{Descriptor, Digest, Platform, Reference};
use solver::seam::ResultId;
use store::{ImageRecord, Layer, Store};
use tokio_util::sync::CancellationToken;

use crate::engine::assemble::Assembled;
use crate::engine::index::{self, AssembledIndex};
use crate::engine::{Failure, export, words};
use crate::options::BuildOptions;
use crate::options::output::Output;

/// The chain of a result, every record that is not empty with its `diff_id`. Bottom up: a chain id needs those beneath.
/// With a codec, what has to be read for its digest is compressed in the same pass.
pub async fn chain_with_diff_ids(
    worker: &Worker,
    top: Option<&ResultId>,
    codec: Option<Codec>,
    cancel: &CancellationToken,
) -> Result<Vec<Layer>, Failure> {
    let top = top.cloned().unwrap_or_else(|| ResultId(SCRATCH.to_owned()));
    let chain = async || {
        let top = top.clone();
        let chain = worker.blocking(move |worker| Ok(worker.layers().chain(&top)?)).await;
        chain.map_err(|error| words::exec(&error))
    };
    let known = chain().await?;
    let mut unknown = known.iter().filter(|layer| !layer.empty && layer.diff_id.is_none()).peekable();
    if unknown.peek().is_none() {
        return Ok(known);
    }
    for layer in unknown {
        let id = layer.id.clone();
        let hashed = match codec {
            Some(codec) => {
                let make = move |worker: &Worker| Ok(worker.layers().ensure_blob(&id, &codec, false).map(drop)?);
                worker.on_all_cores(cancel, make).await
            }
            None => worker.on_core(cancel, move |worker| Ok(worker.layers().ensure_diff_id(&id).map(drop)?)).await,
        };
        hashed.map_err(|error| words::exec(&error))?;
    }
    chain().await
}

/// Puts config and manifest into the store. The local manifest describes base layers as they were pulled and the
/// others uncompressed. `platform` is what the config says.
pub fn keep(
    store: &Store,
    image: &Assembled,
    top: Option<ResultId>,
    platform: Platform,
) -> Result<ImageRecord, Failure> {
    let layers: Vec<Descriptor> = image.layers.iter().map(export::as_stored).collect::<Result<_, _>>()?;
    let size_bytes = layers.iter().map(|layer| layer.size).sum();
    let manifest = image.manifest(layers)?;
    for bytes in [&image.config_bytes, &manifest.manifest_bytes] {
        oci::content::put_bytes(store.blobs(), bytes).map_err(|error| words::content(&error))?;
    }
    let record = ImageRecord {
        manifest: manifest.descriptor,
        config: image.id(),
        top,
        platform,
        created: Timestamp::now(),
        size_bytes,
    };
    Ok(record)
}

/// The index of kept images, as the local store names them; `None` where an image stands for itself.
pub fn local_index(options: &BuildOptions, images: &[(Assembled, ImageRecord)]) -> Option<AssembledIndex> {
    options.input.makes_index().then(|| {
        let entries: Vec<_> =
            images.iter().map(|(image, record)| (image.platform.clone(), record.manifest.clone())).collect();
        index::assemble(&entries, &[], &options.annotations, Dialect::Oci)
    })
}

/// Gives the images, or the index of them, their names.
pub fn name(
    store: &Store,
    options: &BuildOptions,
    images: &[(Assembled, ImageRecord)],
    index: Option<&AssembledIndex>,
) -> Result<(), Failure> {
    let failed = |error: store::StoreError| words::store(&error);
    let records: Vec<ImageRecord> = images.iter().map(|(_, record)| record.clone()).collect();
    for record in &records {
        store.add_image(record).map_err(failed)?;
    }
    let digest = index.map_or(records[0].manifest.digest, |index| index.descriptor.digest);
    for name in options.tags.iter().chain(&other_names(options, &digest)) {
        match index {
            Some(index) => store.tag_index(name, &index.text, &records).map_err(failed)?,
            None => store.tag(name, &records[0]).map_err(failed)?,
        }
    }
    Ok(())
}

/// The names with digests that outputs give the image in the local store.
fn other_names(options: &BuildOptions, digest: &Digest) -> Vec<Reference> {
    let mut names = Vec::new();
    for output in &options.outputs {
        let Output::Image(image) = output else { continue };
        if !image.store {
            continue;
        }
        let pinned = |name: &Reference| {
            let text = format!("{}/{}@{digest}", name.registry(), name.repository());
            text.parse::<Reference>().expect("a name with a digest for its tag is one")
        };
        if image.canonical {
            names.extend(image.form.names.iter().map(pinned));
        }
        if let Some((prefix, only_empty)) = &image.dangling
            && (!only_empty || image.form.names.is_empty())
        {
            names.push(pinned(prefix));
        }
    }
    names
}
