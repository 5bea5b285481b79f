//! What comes in: a cache is read whole, looked up by key, and becomes records of this store one result at a time.
//!
//! In: a place. Out: a [`Book`]: all that the cache knows, in memory; and for a key that it knows, layer records without
//! trees, so that nothing is brought that nobody wants. Deliberately absent: which book is asked first, and who brings
//! blobs (the engine).

use std::collections::{HashMap, HashSet};

use oci::content::read_bytes;
use oci::model::{Descriptor, Digest, Reference};
use solver::canon::Part;
use solver::key::Key;
use solver::seam::{CacheStore as _, Record, ResultId};

use super::buildkit::is_buildkits;
use super::document::Found;
use super::format::{Cache, CachedMount, CachedRecord, DOCUMENT_MAX_BYTES, MANIFEST_MAX_BYTES, Refusals};
use super::{Remote, RemoteError};
use crate::{Imported, Store, StoreError};

/// Reads the cache of a place; `None`: there is none. Second, what was left out of it.
///
/// # Errors
/// As the place has them; [`RemoteError::Malformed`] for what is no cache.
pub async fn read(place: &dyn Remote, store: &Store) -> Result<Option<(Book, Refusals)>, RemoteError> {
    let malformed = |reason: String| RemoteError::Malformed { place: place.place(), reason };
    let Some(manifest) = place.manifest(MANIFEST_MAX_BYTES).await? else { return Ok(None) };
    if is_buildkits(&manifest) {
        return Err(RemoteError::BuildKits { place: place.place() });
    }
    let found = Found::read(&manifest).map_err(malformed)?;
    place.fetch(&found.config, store.blobs(), &|_| {}).await?;
    let config = read_bytes(store.blobs(), &found.config, DOCUMENT_MAX_BYTES)?;
    let cache = found.cache(&config).map_err(malformed)?;
    if cache.is_none() && is_buildkits(&config) {
        return Err(RemoteError::BuildKits { place: place.place() });
    }
    Ok(cache.map(|(cache, refusals)| (Book::new(cache), refusals)))
}

/// A cache in memory, by key.
#[derive(Debug)]
pub struct Book {
    cache: Cache,
    by_key: HashMap<Key, usize>,
    by_operation: HashMap<Key, Vec<usize>>,
    blobs: HashSet<Digest>,
}

impl Book {
    /// Of a well-formed cache. Of several records of one key the first counts.
    pub fn new(cache: Cache) -> Self {
        let (mut by_key, mut by_operation) = (HashMap::new(), HashMap::<Key, Vec<usize>>::new());
        for (i, record) in cache.records.iter().enumerate() {
            by_key.entry(record.key).or_insert(i);
            by_operation.entry(record.operation).or_default().push(i);
        }
        let blobs = cache.layers.iter().filter_map(|layer| layer.tar.as_ref()).map(|tar| tar.blob.digest).collect();
        Self { cache, by_key, by_operation, blobs }
    }

    /// What it knows of a key.
    pub fn find(&self, key: &Key) -> Option<&CachedRecord> {
        self.by_key.get(key).map(|i| &self.cache.records[*i])
    }

    /// What it knows of an operation, each list of results once.
    pub fn of_operation(&self, operation: &Key) -> Vec<&CachedRecord> {
        let mut seen = HashSet::new();
        let records = self.by_operation.get(operation).into_iter().flatten().map(|i| &self.cache.records[*i]);
        records.filter(|record| seen.insert(&record.results)).collect()
    }

    /// The blobs of a record's results and of all beneath them.
    pub fn blobs_of<'a>(&'a self, record: &'a CachedRecord) -> impl Iterator<Item = &'a Descriptor> {
        let below = |index: &usize| self.cache.layers[*index].parent;
        let chains = record.results.iter().flat_map(move |result| std::iter::successors(Some(*result), below));
        chains.filter_map(|index| self.cache.layers[index].tar.as_ref()).map(|tar| &tar.blob)
    }

    /// The cache mounts of an id.
    pub fn mounts_of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a CachedMount> {
        self.cache.mounts.iter().filter(move |mount| mount.key.id == id)
    }

    /// Whether the place has a blob.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.contains(digest)
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.cache.records.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.cache.records.is_empty()
    }

    /// Makes layer records of a record's results, and of all beneath them, and remembers every key that led there: so
    /// the next build needs no cache of others. `source` is a name in a registry that has the blobs; `parts_of` says
    /// what a key was made of, as far as that is known. Blocking.
    pub fn adopt(
        &self,
        store: &Store,
        record: &CachedRecord,
        source: Option<&Reference>,
        parts_of: &dyn Fn(&Key) -> Vec<Part>,
    ) -> Result<Vec<ResultId>, StoreError> {
        let mut made: HashMap<usize, ResultId> = HashMap::new();
        for result in &record.results {
            self.adopt_layer(store, *result, source, &mut made)?;
        }
        let results_of = |record: &CachedRecord| -> Option<Vec<ResultId>> {
            record.results.iter().map(|result| made.get(result).cloned()).collect()
        };
        for known in &self.cache.records {
            let Some(results) = results_of(known) else { continue };
            // What is known here is as good; it is what this store stands on.
            if known.key != record.key && store.lookup_with(&known.key, &|blob| self.has_blob(blob))?.is_some() {
                continue;
            }
            let (kind, operation, parts) = (known.kind, known.operation, parts_of(&known.key));
            store.record(&known.key, &Record { kind, operation, parts: &parts, results: &results })?;
        }
        Ok(results_of(record).expect("all of its layers were made"))
    }

    fn adopt_layer(
        &self,
        store: &Store,
        index: usize,
        source: Option<&Reference>,
        made: &mut HashMap<usize, ResultId>,
    ) -> Result<(), StoreError> {
        let mut todo = Vec::new();
        let mut next = Some(index);
        while let Some(index) = next.filter(|index| !made.contains_key(index)) {
            todo.push(index);
            next = self.cache.layers[index].parent;
        }
        for index in todo.into_iter().rev() {
            let layer = &self.cache.layers[index];
            let parent = layer.parent.map(|parent| &made[&parent]);
            let id = match &layer.tar {
                Some(tar) if tar.pulled => {
                    store.add_pulled_layer(parent, tar.diff_id, layer.made.created, Some(&tar.blob), source)?
                }
                tar => {
                    let content = tar.as_ref().and_then(|tar| tar.content);
                    let imported = Imported {
                        tar: tar.as_ref().map(|tar| (tar.diff_id, tar.blob.clone())),
                        content,
                        made: layer.made,
                    };
                    let id = store.add_imported_layer(parent, &imported)?;
                    if let (Some(tar), Some(source)) = (tar, source) {
                        store.add_blob_source(&tar.blob.digest, source)?;
                    }
                    id
                }
            };
            made.insert(index, id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
