//! `import`: a tar of a root file system becomes an image of one layer.
//!
//! The archive is unpacked, and the layer is the tree: its tar is our own, so the image depends on what the archive
//! holds and not on how it was packed. Importing the same twice gives the same image.

use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use executor::layers::{devices_left_out, disk_usage};
use jiff::Timestamp;
use oci::layer::{ExtractOptions, Hashing, LayerError, XattrNamespace, decompress, extract_archive, write_layer};
use oci::model::{DiffId, Digest, History, ImageConfig, Platform, Reference, RootFs};
use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use store::{Layer, Store};
use tokio_util::sync::CancellationToken;

use super::input::{self, Input};
use crate::engine::assemble::Assembled;
use crate::engine::build::keep;
use crate::engine::task::{Task, in_background};
use crate::engine::{Failure, Settings, words};

/// Bytes that are read from the archive at once.
const BUFFER_BYTES: usize = 1 << 17;

/// Makes an image of a tar, compressed or not (`None`: on standard input), for a platform (`None`: this machine's), names
/// it, and returns its id.
pub async fn import(
    settings: &Settings,
    source: Option<&Path>,
    name: &Reference,
    platform: Option<&Platform>,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Digest, Failure> {
    let store = settings.open_store(&progress)?;
    let task = Task::start(&format!("[internal] import {}", input::words(source)), &progress);
    let platform = platform.unwrap_or(&settings.native_platform).clone();
    let (path, name) = (source.map(Path::to_owned), name.clone());
    let listener = Arc::clone(&progress);
    let imported = in_background(&store, move |store| {
        let layer = unpack(store, path.as_deref(), &*listener, cancel)?;
        let image = Assembled {
            config_bytes: config(&layer, &platform)?,
            layers: vec![layer.clone()],
            annotations: BTreeMap::new(),
            platform: platform.clone(),
        };
        let record = keep(store, &image, Some(layer.id), platform)?;
        store.tag(&name, &record).map_err(|error| words::store(&error))?;
        store.sync().map_err(|error| words::store(&error))?;
        Ok(record.config)
    })
    .await;
    task.end(imported)
}

/// The layer of an archive's tree.
fn unpack(
    store: &Store,
    path: Option<&Path>,
    progress: &dyn Progress,
    cancel: CancellationToken,
) -> Result<Layer, Failure> {
    let draft = store.draft().map_err(|error| words::store(&error))?;
    let failed = |error: LayerError| match cancel.is_cancelled() {
        true => words::canceled(),
        false => input::failed("import", path, Failure::from_error(&error)),
    };
    let archive = BufReader::with_capacity(BUFFER_BYTES, Input::open(path, cancel.clone())?);
    let (format, tar) = decompress(archive).map_err(|error| match cancel.is_cancelled() {
        true => words::canceled(),
        false => Failure::new(format!("cannot read {}", input::words(path))).note(error.to_string()),
    })?;
    let options = ExtractOptions::new(XattrNamespace::here());
    let facts = extract_archive(tar, draft.fs_fd(), "/", &options).map_err(failed)?;
    tracing::debug!(?format, ?facts, "unpacked");
    if let Some(text) = devices_left_out(facts.devices_dropped) {
        progress.event(Event::Notice { vertex: VertexId::of_name("store"), text });
    }
    let mut tar = Hashing::new(io::sink());
    write_layer(draft.fs_fd(), &mut tar).map_err(failed)?;
    let (_, digest, tar_bytes) = tar.finish();
    let bytes = disk_usage(draft.fs_fd()).map_err(|error| Failure::from_error(&error))?;
    let recorded = || {
        let id = store.add_pulled_layer(None, DiffId(digest), Timestamp::now(), None, None)?;
        store.set_diff_id(&id, DiffId(digest), tar_bytes)?;
        store.attach_tree(&id, draft.with_bytes(bytes))?;
        store.layer(&id)?.ok_or(store::StoreError::NoSuchLayer { id })
    };
    recorded().map_err(|error| words::store(&error))
}

/// A config that says nothing but what the image is; its time is the layer's, which an earlier import may have made.
fn config(layer: &Layer, platform: &Platform) -> Result<Vec<u8>, Failure> {
    let created = Some(layer.created.to_string());
    let diff_id = layer.diff_id.ok_or_else(|| Failure::new(format!("the layer `{}` has no digest", layer.id)))?;
    let config = ImageConfig {
        created: created.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
        history: vec![History { created, created_by: "IMPORT".into(), ..History::default() }],
        ..ImageConfig::default()
    };
    Ok(serde_json::to_vec(&config).expect("a config holds nothing that JSON cannot"))
}
