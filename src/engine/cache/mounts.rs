//! Cache mounts that travel: `--cache-to …,mounts=true` takes them along, `--cache-from` brings those that a step lacks.
//!
//! In: ids that a graph's steps name. Out: tars of the store's directories of these ids; and directories of such tars,
//! before the step that wants them runs. One that is here already stays as it is. What cannot be brought is a warning,
//! and the step starts with an empty one. Deliberately absent: the tar itself ([`Store::export_mount`]).

use std::collections::BTreeSet;
use std::io::BufReader;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use oci::content::{ContentStore as _, open_verified};
use oci::layer::{Codec, Dialect, decompress_layer};
use oci::model::Descriptor;
use solver::graph::Graph;
use solver::op::{MountKind, Op};
use solver::seam::LogSink;
use store::Store;
use store::remote::fetch_steadily;
use store::remote::format::CachedMount;

use super::Imports;
use super::import::in_words;
use crate::engine::task::in_background;
use crate::engine::{Failure, words};

/// The ids of all cache mounts of a graph.
pub fn ids(graph: &Graph) -> BTreeSet<String> {
    graph.iter().flat_map(|(_, vertex, _)| ids_of(&vertex.op)).map(str::to_owned).collect()
}

/// The ids of an operation's cache mounts.
pub fn ids_of(op: &Op) -> impl Iterator<Item = &str> {
    let mounts = match op {
        Op::Exec(exec) => exec.mounts.as_slice(),
        _ => &[],
    };
    mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Cache { id, .. } => Some(id.as_str()),
        _ => None,
    })
}

/// The store's cache mounts of these ids as blobs, of each key the one that was used last; one that a step uses now is
/// left out. Blocking.
pub fn archived(store: &Store, ids: &BTreeSet<String>, codec: &Codec) -> Result<Vec<CachedMount>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut mounts: Vec<CachedMount> = Vec::new();
    for entry in store.mounts().map_err(|error| words::store(&error))? {
        if !ids.contains(&entry.key.id) || mounts.iter().any(|mount| mount.key == entry.key) {
            continue;
        }
        let mut writer = store.blobs().writer().map_err(|error| words::content(&error))?;
        let failed = |error: std::io::Error| Failure::from_error(&error);
        let mut tar = codec.encoder(&mut writer).map_err(failed)?;
        let is_whole = store.export_mount(&entry, &mut tar).map_err(|error| words::store(&error))?;
        tar.finish().map_err(failed)?;
        if !is_whole {
            continue;
        }
        let (digest, size) = writer.commit(None).map_err(|error| words::content(&error))?;
        let blob = Descriptor::new(codec.compression().layer_media_type(Dialect::Oci), digest, size);
        mounts.push(CachedMount { key: entry.key, created: entry.created, blob });
    }
    mounts.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(mounts)
}

impl Imports {
    /// Brings the cache mounts of these ids that are not here, from the first cache that has one; each id is looked for
    /// once per build.
    pub async fn bring_mounts<'a>(&self, ids: impl Iterator<Item = &'a str>, log: &dyn LogSink) {
        if self.places.is_empty() {
            return;
        }
        for id in ids {
            if self.mounts.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned()) {
                self.bring_mount(id, log).await;
            }
        }
    }

    async fn bring_mount(&self, id: &str, log: &dyn LogSink) {
        let books = self.books().await.iter().zip(&self.places);
        for (book, source) in books.filter(|(_, source)| !source.dead.load(Ordering::Relaxed)) {
            for mount in book.iter().flat_map(|book| book.mounts_of(id)) {
                if let Err(failure) = self.take_mount(mount, &*source.place.remote, log).await {
                    let problem = &failure.problems[0];
                    log.notice(&format!("a cache mount is not taken over: {}", problem.message));
                }
            }
        }
    }

    async fn take_mount(
        &self,
        mount: &CachedMount,
        remote: &dyn store::remote::Remote,
        log: &dyn LogSink,
    ) -> Result<(), Failure> {
        if self.store.has_mount(&mount.key).map_err(|error| words::store(&error))? {
            return Ok(());
        }
        let (blob, name) = (&mount.blob, mount.blob.digest.to_string());
        let heard = |bytes: u64| log.progress(&name, bytes, Some(blob.size), false);
        let fetched = fetch_steadily(remote, blob, self.store.blobs(), &heard).await;
        fetched.map_err(|error| Failure::new(in_words(&error)))?;
        log.progress(&name, blob.size, Some(blob.size), true);
        let mount = mount.clone();
        in_background(&self.store, move |store| {
            let reader = open_verified(store.blobs(), &mount.blob).map_err(|error| words::content(&error))?;
            let tar = decompress_layer(&mount.blob.media_type, mount.blob.size, BufReader::new(reader))
                .map_err(|error| Failure::from_error(&error))?;
            store.import_mount(&mount.key, mount.created, tar).map(drop).map_err(|error| words::store(&error))
        })
        .await
    }
}
