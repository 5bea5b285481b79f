//! What goes out: the records of a build, the layers beneath them, and of the blobs those that are missing there.
//!
//! In: keys of this store. Out: a [`Selection`] of records and layers, which becomes a [`Cache`] once every layer has a
//! blob; then [`send`] takes it to a place, the manifest last. What lies beneath the lowest step of a chain goes as an
//! image's layers, whatever it is here: so the ids that others give them are theirs by their digests. Order is by depth
//! and digest, never by this machine's names. Deliberately absent: making blobs (`executor::layers`).

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use oci::content::{ContentError, put_bytes};
use oci::model::{Descriptor, Digest};
use rusqlite::OptionalExtension as _;
use solver::key::Key;
use solver::seam::{KeyKind, ResultId};

use super::document::Document;
use super::format::{Cache, CachedLayer, CachedRecord, CachedTar, MANIFEST_MAX_BYTES};
use super::patience::{time_to_send, times};
use super::{Remote, RemoteError, Supplier, within};
use crate::layers::imported_id;
use crate::{Layer, Made, Store, StoreError};

/// Content keys of one result that go out: there is one, or few.
const CONTENT_KEYS_MAX: u32 = 8;

/// A record of this store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    key: Key,
    kind: KeyKind,
    operation: Key,
    results: Vec<ResultId>,
}

/// Records of a build and the layers beneath them.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    records: Vec<Stored>,
    /// Of every result, bottom first.
    chains: HashMap<ResultId, Vec<ResultId>>,
    /// By id.
    layers: HashMap<ResultId, Layer>,
}

impl Selection {
    /// What the store knows of these definition keys, and the content keys that led to the same results. A key whose
    /// results are no layers of this store is left out. Blocking.
    pub fn of(store: &Store, keys: &[Key]) -> Result<Self, StoreError> {
        let mut selection = Self::default();
        let mut seen = HashSet::new();
        for key in keys {
            let Some(found) = stored(store, key)? else { continue };
            if !selection.take_chains(store, &found.results)? {
                continue;
            }
            for record in by_content(store, &found)?.into_iter().chain([found]) {
                if seen.insert(record.key) {
                    selection.records.push(record);
                }
            }
        }
        selection.records.sort_by_key(|record| record.key);
        Ok(selection)
    }

    fn take_chains(&mut self, store: &Store, results: &[ResultId]) -> Result<bool, StoreError> {
        for result in results {
            if self.chains.contains_key(result) {
                continue;
            }
            let chain = match store.chain(result) {
                Ok(chain) => chain,
                Err(StoreError::NoSuchLayer { .. }) => return Ok(false),
                Err(error) => return Err(error),
            };
            self.chains.insert(result.clone(), chain.iter().map(|layer| layer.id.clone()).collect());
            self.layers.extend(chain.into_iter().map(|layer| (layer.id.clone(), layer)));
        }
        Ok(true)
    }

    /// Only what `tops` consist of: the records of its own layers, and of those that they are derived from.
    pub fn only_beneath(&mut self, store: &Store, tops: &[&ResultId]) -> Result<(), StoreError> {
        let mut within = HashSet::new();
        let chains: Vec<_> = tops.iter().map(|top| store.chain(top)).collect::<Result<_, _>>()?;
        for layer in chains.into_iter().flatten() {
            within.extend(layer.origin);
            within.insert(layer.id);
        }
        self.records.retain(|record| record.results.iter().all(|result| within.contains(result)));
        let kept: HashSet<&ResultId> = self.records.iter().flat_map(|record| &record.results).collect();
        self.chains.retain(|result, _| kept.contains(result));
        let kept: HashSet<&ResultId> = self.chains.values().flatten().collect();
        self.layers.retain(|id, _| kept.contains(id));
        Ok(())
    }

    /// The layers that need a blob, those at the bottom first.
    pub fn layers(&self) -> Vec<&Layer> {
        let mut seen = HashSet::new();
        let mut results: Vec<_> = self.chains.iter().collect();
        results.sort();
        let ids = results.into_iter().flat_map(|(_, chain)| chain).filter(|id| seen.insert(*id));
        ids.map(|id| &self.layers[id]).filter(|layer| !layer.empty).collect()
    }

    /// The cache, its blobs being these; what has none, and what stands on it, is left out. Blocking.
    pub fn cache(&self, store: &Store, blobs: &HashMap<ResultId, Descriptor>) -> Result<Cache, StoreError> {
        let mut placed: BTreeMap<(usize, String), Placed> = BTreeMap::new();
        let mut tops: HashMap<&ResultId, (usize, String)> = HashMap::new();
        for (result, chain) in &self.chains {
            // Again: digests were learned as blobs were made.
            let chain = chain.iter().map(|id| store.layer(id)).collect::<Result<Vec<_>, _>>()?;
            let Some(chain) = chain.into_iter().collect::<Option<Vec<Layer>>>() else { continue };
            if let Some(top) = place(&chain, blobs, &mut placed) {
                tops.insert(result, top);
            }
        }
        let indexes: HashMap<&(usize, String), usize> = placed.keys().enumerate().map(|(i, at)| (at, i)).collect();
        let layers = placed.values().map(|Placed { parent, tar, made }| CachedLayer {
            parent: parent.as_ref().map(|parent| indexes[parent]),
            tar: tar.clone(),
            made: *made,
        });
        let mut records = Vec::new();
        for Stored { key, kind, operation, results } in &self.records {
            let results: Option<Vec<usize>> = results.iter().map(|id| tops.get(id).map(|at| indexes[at])).collect();
            if let Some(results) = results {
                records.push(CachedRecord { key: *key, kind: *kind, operation: *operation, results });
            }
        }
        Ok(Cache { layers: layers.collect(), records, mounts: Vec::new() })
    }
}

/// A layer of the cache, before all places are known.
struct Placed {
    parent: Option<(usize, String)>,
    tar: Option<CachedTar>,
    made: Made,
}

/// Puts a chain into the cache by depth and name; the place of its top. `None` for one that lacks a digest or a blob.
fn place(
    chain: &[Layer],
    blobs: &HashMap<ResultId, Descriptor>,
    placed: &mut BTreeMap<(usize, String), Placed>,
) -> Option<(usize, String)> {
    let lowest_step = chain.iter().rposition(|layer| layer.on_base);
    let base = lowest_step.unwrap_or_else(|| chain.iter().take_while(|layer| layer.pulled).count());
    let mut below: Option<(usize, String)> = None;
    for (i, layer) in chain.iter().enumerate() {
        let pulled = i < base;
        if pulled && layer.empty {
            continue;
        }
        let tar = match layer.empty {
            true => None,
            false => Some(CachedTar {
                diff_id: layer.diff_id?,
                blob: blobs.get(&layer.id)?.clone(),
                content: layer.content.filter(|_| !pulled),
                pulled,
            }),
        };
        let made = match pulled {
            // When it came here is nobody else's business, and nothing asks when an image's layer was made.
            true => Made::from(Timestamp::UNIX_EPOCH),
            false => Made {
                created: layer.created,
                started: layer.started,
                from_context: layer.from_context,
                on_base: layer.on_base,
            },
        };
        let name = match pulled {
            true => format!("c-{}", layer.chain_id?.hex()),
            false => {
                let parent = below.as_ref().map(|(_, name)| ResultId(name.clone()));
                imported_id(parent.as_ref(), tar.as_ref().map(|tar| &tar.diff_id), &made)
            }
        };
        let at = (below.as_ref().map_or(0, |(depth, _)| depth + 1), name);
        placed.entry(at.clone()).or_insert(Placed { parent: below, tar, made });
        below = Some(at);
    }
    below
}

fn stored(store: &Store, key: &Key) -> Result<Option<Stored>, StoreError> {
    let row: Option<(String, Option<[u8; 32]>, String)> = store.index().read("find a key", |connection| {
        let mut query = connection.prepare_cached("SELECT kind, operation, results FROM keys WHERE key = ?1")?;
        Ok(query.query_row([&key.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?)
    })?;
    // Rows of schema 2 do not know their operation; the next run of the step does.
    let Some((kind, Some(operation), results)) = row else { return Ok(None) };
    let kind = if kind == "content" { KeyKind::Content } else { KeyKind::Definition };
    let results = serde_json::from_str(&results).map_err(|_| StoreError::bad("list of results", &results))?;
    Ok(Some(Stored { key: *key, kind, operation: Key(operation), results }))
}

/// The content keys that led to the same results.
fn by_content(store: &Store, of: &Stored) -> Result<Vec<Stored>, StoreError> {
    let results = serde_json::to_string(&of.results).expect("plain data becomes JSON");
    let keys: Vec<[u8; 32]> = store.index().read("find content keys", |connection| {
        let mut query = connection.prepare_cached(
            "SELECT key FROM keys WHERE operation = ?1 AND kind = 'content' AND results = ?2 ORDER BY key LIMIT ?3",
        )?;
        let keys = query.query_map((&of.operation.0, results, CONTENT_KEYS_MAX), |row| row.get(0))?;
        Ok(keys.collect::<Result<_, _>>()?)
    })?;
    Ok(keys.into_iter().map(|key| Stored { key: Key(key), kind: KeyKind::Content, ..of.clone() }).collect())
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Blobs that were not there.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Nothing was to be done: what is there is this.
    pub unchanged: bool,
}

/// Takes a cache to a place: the blobs that it lacks, `parallel` at a time, then the manifest. A blob that is not here
/// either is brought by `supplier` first. `heard` is told of every blob that begins and ends: digest, bytes, over.
pub async fn send(
    place: &dyn Remote,
    store: &Store,
    document: &Document,
    supplier: &dyn Supplier,
    parallel: usize,
    heard: &(dyn Fn(&Descriptor, bool) + Sync),
) -> Result<Sent, RemoteError> {
    let size = document.manifest.len() as u64;
    if size > MANIFEST_MAX_BYTES {
        let reason = format!("its manifest would have {size} bytes, and registries take {MANIFEST_MAX_BYTES}");
        return Err(RemoteError::Refused { act: "written to", place: place.place(), reason });
    }
    let there = within(place.patience(), "read", place, place.manifest(MANIFEST_MAX_BYTES)).await?;
    if there.as_ref() == Some(&document.manifest) {
        return Ok(Sent { unchanged: true, ..Sent::default() });
    }
    for (_, bytes) in &document.small {
        put_bytes(store.blobs(), bytes)?;
    }
    let blobs: Vec<&Descriptor> =
        document.blobs.iter().chain(document.small.iter().map(|(descriptor, _)| descriptor)).collect();
    let missing = missing(place, &blobs).await?;
    let sends = missing.iter().map(|&blob| async move {
        heard(blob, false);
        let time = time_to_send(blob, place.patience());
        let sent = within(time, "written to", place, send_one(place, store, blob, supplier)).await;
        heard(blob, true);
        sent
    });
    stream::iter(sends).buffer_unordered(parallel.max(1)).try_collect::<()>().await?;
    within(times(place.patience(), 3), "written to", place, place.set_manifest(&document.manifest)).await?;
    Ok(Sent { blobs: missing.len(), bytes: missing.iter().map(|blob| blob.size).sum(), unchanged: false })
}

async fn missing<'a>(place: &dyn Remote, blobs: &[&'a Descriptor]) -> Result<Vec<&'a Descriptor>, RemoteError> {
    let owned: Vec<Descriptor> = blobs.iter().map(|&blob| blob.clone()).collect();
    // Dozens of small questions, several at a time.
    let patience = times(place.patience(), 1 + owned.len() as u64 / 32);
    let has = within(patience, "read", place, place.has(&owned)).await?;
    Ok(blobs.iter().zip(has).filter(|(_, has)| !has).map(|(&blob, _)| blob).collect())
}

/// Sends a blob; one that is not here is first tried without its bytes, since a registry may take it from a neighbour.
async fn send_one(
    place: &dyn Remote,
    store: &Store,
    blob: &Descriptor,
    supplier: &dyn Supplier,
) -> Result<(), RemoteError> {
    match place.send(blob, store.blobs()).await {
        Err(error) if is_missing(&error, &blob.digest) => {
            supplier.supply(blob, store.blobs(), &|_| {}).await?;
            place.send(blob, store.blobs()).await
        }
        sent => sent,
    }
}

/// Whether this store lacks the blob.
fn is_missing(error: &RemoteError, digest: &Digest) -> bool {
    matches!(error, RemoteError::Content(ContentError::Missing { digest: missing }) if missing == digest)
}
