//! Images as trees: the layers of a pinned image become layer records of the store.
//!
//! In: `docker-image://name@digest`, whose manifest and config are blobs of the store already, or
//! `oci-layout://name@digest`, of which every blob that is needed is. Out: the result that
//! names the topmost layer. Blobs are fetched only for layers that the store has neither as a tree nor as a blob; they
//! are unpacked when a step needs the file system ([`crate::layers`]), as they come if one is known to. Deliberately absent: resolving names, picking a
//! platform, credentials.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;
use oci::content::{ContentStore, read_json};
use oci::model::{Descriptor, DiffId, Digest, ImageConfig, Manifest, Reference, chain_ids, media_type};
use solver::op::SourceOp;
use solver::seam::ResultId;
use store::Store;

use super::SourceError;
use crate::layers::arriving::{Arrivals, Watched};
use crate::layers::{OTHER_BLOB, SCRATCH};

/// containerd's limit too; a real manifest has kilobytes.
const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// Configs hold histories and labels.
const CONFIG_MAX_BYTES: u64 = 8 << 20;

/// Why a blob could not be fetched.
pub type FetchError = Box<dyn std::error::Error + Send + Sync>;

/// Brings a blob of a repository into a content store, checked against its digest and size.
pub trait BlobFetcher: Send + Sync + 'static {
    /// Fetches; a blob that is there already is fine. `progress` hears the bytes done so far.
    fn fetch<'a>(
        &'a self,
        reference: &'a Reference,
        descriptor: &'a Descriptor,
        into: &'a dyn ContentStore,
        progress: &'a (dyn Fn(u64) + Send + Sync),
    ) -> Pin<Box<dyn Future<Output = Result<(), FetchError>> + Send + 'a>>;
}

impl BlobFetcher for oci::registry::Client {
    fn fetch<'a>(
        &'a self,
        reference: &'a Reference,
        descriptor: &'a Descriptor,
        into: &'a dyn ContentStore,
        progress: &'a (dyn Fn(u64) + Send + Sync),
    ) -> Pin<Box<dyn Future<Output = Result<(), FetchError>> + Send + 'a>> {
        Box::pin(async move { Ok(self.fetch_blob(reference, descriptor, into, progress).await?) })
    }
}

/// The pinned name in a source operation.
pub fn pinned(source: &SourceOp) -> Result<(Reference, Digest), SourceError> {
    let not_pinned = || SourceError::NotPinned { identifier: source.identifier.clone() };
    let reference: Reference = source.reference().parse().map_err(|_| not_pinned())?;
    let digest = reference.digest().ok_or_else(not_pinned)?;
    Ok((reference, digest))
}

/// What an image's layers are to the store.
pub(crate) struct ImageLayers {
    /// The result.
    pub result: ResultId,
    /// Blobs that must be fetched before the result can be used.
    pub missing: Vec<Descriptor>,
}

/// Records the layers of an image and tells which blobs are missing. `in_registry` says whether they can be fetched
/// under that name. Blocking.
pub(crate) fn record(
    store: &Store,
    reference: &Reference,
    manifest: Digest,
    in_registry: bool,
) -> Result<ImageLayers, SourceError> {
    let origin = in_registry.then_some(reference);
    let image = || reference.to_string();
    let malformed = |reason: String| SourceError::MalformedImage { image: image(), reason };
    let unreadable = |source| SourceError::Image { image: image(), source };
    let blobs = store.blobs();
    let size = blobs.size(&manifest).map_err(unreadable)?.unwrap_or_default();
    let manifest = Descriptor::new(media_type::OCI_MANIFEST, manifest, size);
    let (manifest, _): (Manifest, _) = read_json(blobs, &manifest, MANIFEST_MAX_BYTES).map_err(unreadable)?;
    let (config, _): (ImageConfig, _) = read_json(blobs, &manifest.config, CONFIG_MAX_BYTES).map_err(unreadable)?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(malformed(format!(
            "its config names {} layers, its manifest {}",
            diff_ids.len(),
            manifest.layers.len()
        )));
    }
    let times = times(&config, diff_ids.len());
    let chain = chain_ids(diff_ids);
    // From the topmost layer that is known downwards, its own chain says what is there.
    let known = chain.iter().enumerate().rev().find_map(|(i, chain_id)| match store.layer_by_chain(chain_id) {
        Ok(None) => None,
        Ok(Some(id)) => Some(Ok((i + 1, id))),
        Err(error) => Some(Err(error)),
    });
    let (count, mut top) = match known.transpose()? {
        None => (0, None),
        Some((count, id)) => (count, Some(id)),
    };
    let mut missing = Vec::new();
    if let Some(top) = &top {
        let layers = store.chain(top)?.into_iter().filter(|layer| !layer.empty);
        for ((layer, blob), diff_id) in layers.zip(&manifest.layers).zip(diff_ids) {
            if layer.name.is_some() {
                continue;
            }
            check_layer(blob, diff_id).map_err(malformed)?;
            need(store, blob, &mut missing).map_err(unreadable)?;
            match &layer.blob {
                None => {
                    let parent = layer.parent.as_ref();
                    store.add_pulled_layer(parent, *diff_id, layer.created, Some(blob), origin)?;
                }
                // Another image gave another blob for this layer, and nobody has unpacked it yet: it may have lied.
                Some(known) if known.digest != blob.digest => store.add_blob_variant(diff_id, OTHER_BLOB, blob)?,
                Some(_) => {}
            }
        }
    }
    for i in count..diff_ids.len() {
        let blob = &manifest.layers[i];
        check_layer(blob, &diff_ids[i]).map_err(malformed)?;
        top = Some(store.add_pulled_layer(top.as_ref(), diff_ids[i], times[i], Some(blob), origin)?);
        need(store, blob, &mut missing).map_err(unreadable)?;
    }
    if let Some(blob) = missing.first().filter(|_| !in_registry) {
        return Err(SourceError::MissingBlob { image: image(), digest: blob.digest });
    }
    Ok(ImageLayers { result: top.unwrap_or_else(|| ResultId(SCRATCH.into())), missing })
}

/// Chain ids of the layers of an image, bottom first; `None` if its manifest or config is not in the store. Blocking.
pub(crate) fn chain(store: &Store, manifest: Digest) -> Result<Option<Vec<Digest>>, SourceError> {
    let unreadable = |source| SourceError::Image { image: manifest.to_string(), source };
    let blobs = store.blobs();
    let Some(size) = blobs.size(&manifest).map_err(unreadable)? else { return Ok(None) };
    let descriptor = Descriptor::new(media_type::OCI_MANIFEST, manifest, size);
    let (read, _): (Manifest, _) = read_json(blobs, &descriptor, MANIFEST_MAX_BYTES).map_err(unreadable)?;
    if blobs.size(&read.config.digest).map_err(unreadable)?.is_none() {
        return Ok(None);
    }
    let (config, _): (ImageConfig, _) = read_json(blobs, &read.config, CONFIG_MAX_BYTES).map_err(unreadable)?;
    Ok(Some(chain_ids(&config.rootfs.diff_ids)))
}

fn need(store: &Store, blob: &Descriptor, missing: &mut Vec<Descriptor>) -> Result<(), oci::content::ContentError> {
    let here = store.blobs().size(&blob.digest)? == Some(blob.size);
    if !here && !missing.iter().any(|other| other.digest == blob.digest) {
        missing.push(blob.clone());
    }
    Ok(())
}

fn check_layer(blob: &Descriptor, diff_id: &DiffId) -> Result<(), String> {
    if oci::layer::decompress::is_layer(&blob.media_type) {
        return Ok(());
    }
    Err(format!("layer `{diff_id}` is of the unknown kind `{}`", blob.media_type))
}

/// When each layer was made, by the history entries that made one.
fn times(config: &ImageConfig, layers: usize) -> Vec<Timestamp> {
    let parsed = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    let image = parsed(&config.created).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut made = config.history.iter().filter(|entry| !entry.empty_layer).map(|entry| parsed(&entry.created));
    (0..layers).map(|_| made.next().flatten().unwrap_or(image)).collect()
}

/// A transfer that is under way.
type Fetch<'a> = Pin<Box<dyn Future<Output = Result<(), FetchError>> + Send + 'a>>;

/// Fetches blobs, several at a time, telling `log` (digest, bytes done, bytes in all, over). Those that `arrivals`
/// expects can be read meanwhile.
pub(crate) async fn fetch_all(
    fetcher: &Arc<dyn BlobFetcher>,
    store: &Store,
    reference: &Reference,
    missing: &[Descriptor],
    arrivals: &Arrivals,
    log: &dyn solver::seam::LogSink,
) -> Result<(), FetchError> {
    let mut fetches: Vec<Fetch<'_>> = Vec::new();
    for blob in missing {
        fetches.push(Box::pin(async move {
            let name = blob.digest.to_string();
            let progress = |done: u64| log.progress(&name, done, Some(blob.size), false);
            match arrivals.get(&blob.digest) {
                Some(arriving) => {
                    let watched = Watched { blobs: store.blobs(), arriving: arriving.clone() };
                    fetcher.fetch(reference, blob, &watched, &progress).await?;
                    arriving.arrived();
                }
                None => fetcher.fetch(reference, blob, store.blobs(), &progress).await?,
            }
            log.progress(&name, blob.size, Some(blob.size), true);
            Ok(())
        }));
    }
    join_all(fetches).await
}

/// Drives all of them at once; the first error ends it.
async fn join_all(mut fetches: Vec<Fetch<'_>>) -> Result<(), FetchError> {
    std::future::poll_fn(|context| {
        let mut failed = None;
        fetches.retain_mut(|fetch| match fetch.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(Ok(())) => false,
            std::task::Poll::Ready(Err(error)) => {
                failed.get_or_insert(error);
                false
            }
        });
        match failed {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if fetches.is_empty() => std::task::Poll::Ready(Ok(())),
            None => std::task::Poll::Pending,
        }
    })
    .await
}
