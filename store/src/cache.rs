//! Which key led to which results: the solver's memory.
//!
//! A key is stored with its parts, so that a later miss can be explained, and in the record file of its first result,
//! so that a rebuilt index knows it.

use std::collections::HashSet;

use oci::model::Digest;
use rusqlite::{OptionalExtension, Transaction};
use solver::canon::Part;
use solver::key::Key;
use solver::seam::{CacheStore, KeyKind, Record, ResultId};

use crate::durability::Stamp;
use crate::index::Trouble;
use crate::journal::{self, Line};
use crate::{Flight, Kind, Layer, Store, StoreError};

/// How many earlier results of one operation are worth a comparison.
const OF_OPERATION_MAX: usize = 16;
/// So many of an operation's latest keys are looked at: several keys may have led to one result.
const OF_OPERATION_KEYS_MAX: usize = 256;
/// The index has the rows of an operation in the order in which they were written, and is read backwards as far as needed.
const OF_OPERATION: &str = "SELECT results FROM keys WHERE operation = ?1 ORDER BY rowid DESC";

impl CacheStore for Store {
    type Error = StoreError;
    type Flight = Flight;

    async fn find(&self, key: &Key) -> Result<Option<Vec<ResultId>>, StoreError> {
        self.lookup(key)
    }

    fn of_operation(&self, operation: &Key) -> Result<Vec<Vec<ResultId>>, StoreError> {
        let texts: Vec<String> = self.index().read("find an operation", |connection| {
            let mut query = connection.prepare_cached(OF_OPERATION)?;
            let mut rows = query.query([&operation.0])?;
            let mut texts: Vec<String> = Vec::new();
            for _ in 0..OF_OPERATION_KEYS_MAX {
                let Some(row) = rows.next()? else { break };
                let text: String = row.get(0)?;
                if !texts.contains(&text) {
                    texts.push(text);
                }
                if texts.len() == OF_OPERATION_MAX {
                    break;
                }
            }
            Ok(texts)
        })?;
        let mut found = Vec::new();
        // `all_there` touches and looks again: what is given stays.
        for text in texts {
            let results = results_of(&text)?;
            if self.all_there(&results, &|_| false)? {
                found.push(results);
            }
        }
        Ok(found)
    }

    /// A result that is no layer of this store is remembered, but [`CacheStore::find`] never gives it.
    fn record(&self, key: &Key, record: &Record<'_>) -> Result<(), StoreError> {
        self.touch(Kind::Key, &key.to_string())?;
        self.index().write("record a key", |transaction, stamp| {
            insert(transaction, key, Some(&record.operation), record, stamp)?;
            if let Some(first) = record.results.first() {
                let line = Line::Key {
                    key: key.to_string(),
                    kind: record.kind,
                    operation: record.operation.to_string(),
                    results: record.results.to_vec(),
                    parts: record.parts.to_vec(),
                    stamp: stamp.clone(),
                };
                journal::append(self.layout(), first, &line)?;
            }
            Ok(())
        })
    }

    fn try_claim(&self, key: &Key) -> Result<Option<Flight>, StoreError> {
        self.try_flight(key)
    }

    /// On a thread of its own, which a signal alone could end: whoever waits no longer leaves it to wait on. A build waits
    /// by [`Store::claim_unless`].
    async fn claim(&self, key: &Key) -> Result<Flight, StoreError> {
        let (store, key) = (self.clone(), *key);
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("flight".into())
            .spawn(move || {
                // Who asked may be gone by now: then the flight is dropped here.
                drop(tell.send(store.claim_unless(&key, &|| false)));
            })
            .map_err(|source| StoreError::io("start a thread for", self.root(), source))?;
        let flight = told.await.expect("the thread answers before it ends")?;
        Ok(flight.expect("nobody gave up"))
    }
}

fn results_of(text: &str) -> Result<Vec<ResultId>, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::bad("list of results", text))
}

impl Store {
    /// The results of a key, one per output. `None` as well if any of the results has no record any more, or has lost its
    /// tree and cannot be unpacked again.
    pub fn lookup(&self, key: &Key) -> Result<Option<Vec<ResultId>>, StoreError> {
        self.lookup_with(key, &|_| false)
    }

    /// The same; `elsewhere` says of a blob that is not here, and of which no registry is known that has it, whether it
    /// can be brought.
    pub fn lookup_with(
        &self,
        key: &Key,
        elsewhere: &dyn Fn(&Digest) -> bool,
    ) -> Result<Option<Vec<ResultId>>, StoreError> {
        self.touch(Kind::Key, &key.to_string())?;
        let text: Option<String> = self.index().read("find a key", |connection| {
            let mut query = connection.prepare_cached("SELECT results FROM keys WHERE key = ?1")?;
            Ok(query.query_row([&key.0], |row| row.get(0)).optional()?)
        })?;
        let Some(text) = text else { return Ok(None) };
        let results = results_of(&text)?;
        Ok(self.all_there(&results, elsewhere)?.then_some(results))
    }

    /// Whether results still have what makes them results.
    fn all_there(&self, results: &[ResultId], elsewhere: &dyn Fn(&Digest) -> bool) -> Result<bool, StoreError> {
        for id in results {
            if !self.is_there(id, elsewhere)? {
                tracing::debug!(%id, "neither tree nor blob of a result is to be had");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a result has a tree, or blobs to make it of. Beneath a tree of its own everything is there; and what this
    /// process has once found here beneath others stays, with all that it stands on.
    fn is_there(&self, id: &ResultId, elsewhere: &dyn Fn(&Digest) -> bool) -> Result<bool, StoreError> {
        let mut next = Some(id.clone());
        let (mut seen, mut is_here) = (HashSet::new(), true);
        // The result itself is looked at whatever was found.
        while let Some(at) = next.filter(|at| at == id || !self.lease().has_found(at)) {
            let Some(layer) = self.layer(&at)?.filter(|_| seen.insert(at)) else { return Ok(false) };
            let origin = layer.origin.as_ref().map(|origin| self.layer(origin)).transpose()?.flatten();
            let has_tree = layer.name.is_some() || origin.as_ref().is_some_and(|origin| origin.name.is_some());
            if has_tree && origin.is_none() {
                break;
            }
            if !layer.empty && !has_tree {
                match self.has_blob_of(&layer, elsewhere)? {
                    None => return Ok(false),
                    Some(here) => is_here &= here,
                }
            }
            next = layer.parent;
        }
        if is_here {
            self.lease().found(seen);
        }
        Ok(true)
    }

    /// Whether the blob of a layer is here (`true`) or can be brought.
    fn has_blob_of(&self, layer: &Layer, elsewhere: &dyn Fn(&Digest) -> bool) -> Result<Option<bool>, StoreError> {
        let Some(blob) = &layer.blob else { return Ok(None) };
        if self.blobs().size(&blob.digest).is_ok_and(|size| size == Some(blob.size)) {
            return Ok(Some(true));
        }
        let comes = elsewhere(&blob.digest) || !self.blob_sources(&blob.digest)?.is_empty();
        Ok(comes.then_some(false))
    }

    /// What a key was made of, if it is known.
    pub fn key_parts(&self, key: &Key) -> Result<Option<Vec<Part>>, StoreError> {
        let text: Option<String> = self.index().read("find a key", |connection| {
            let mut query = connection.prepare_cached("SELECT parts FROM keys WHERE key = ?1")?;
            Ok(query.query_row([&key.0], |row| row.get(0)).optional()?)
        })?;
        text.map(|text| serde_json::from_str(&text).map_err(|_| StoreError::bad("list of parts", &text))).transpose()
    }
}

/// `operation` is `None` in rows of schema 2, which did not know it; then [`Record::operation`] says nothing.
pub(crate) fn insert(
    transaction: &Transaction<'_>,
    key: &Key,
    operation: Option<&Key>,
    record: &Record<'_>,
    stamp: &Stamp,
) -> Result<(), Trouble> {
    let results = serde_json::to_string(record.results).expect("plain data becomes JSON");
    let parts = serde_json::to_string(record.parts).expect("plain data becomes JSON");
    let kind = match record.kind {
        KeyKind::Definition => "definition",
        KeyKind::Content => "content",
    };
    // A row that is replaced becomes the latest of its operation.
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO keys (key, kind, operation, results, parts, boot, generation)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute((
            &key.0,
            kind,
            operation.map(|operation| operation.0),
            results,
            parts,
            &stamp.boot,
            stamp.generation,
        ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    /// What asking for one operation costs SQLite, in steps of its machine, when each of `operations` has `keys` keys.
    fn steps(operations: u32, keys: u32) -> i32 {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open_in_boot(&dir.path().join("store"), "boot").expect("a store");
        let name = |kind: u8, number: u32| {
            let mut bytes = [kind; 32];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            Key(bytes)
        };
        let filled = store.index().write("fill", |transaction, stamp| {
            for number in 0..operations * keys {
                let (operation, results) = (name(1, number % operations), [ResultId(format!("b-{number}"))]);
                let record = Record { kind: KeyKind::Content, operation, parts: &[], results: &results };
                insert(transaction, &name(2, number), Some(&operation), &record, stamp)?;
            }
            Ok(())
        });
        filled.expect("the keys are remembered");
        let looked = store.index().read("look", |connection| {
            let mut query = connection.prepare(OF_OPERATION)?;
            let mut rows = query.query([&name(1, 0).0])?;
            let mut latest = Vec::new();
            while latest.len() < OF_OPERATION_MAX
                && let Some(row) = rows.next()?
            {
                latest.push(row.get::<_, String>(0)?);
            }
            drop(rows);
            assert_eq!(latest[0], format!("[\"b-{}\"]", operations * (keys - 1)), "the latest comes first");
            assert_eq!(query.get_status(StatementStatus::FullscanStep), 0);
            assert_eq!(query.get_status(StatementStatus::Sort), 0);
            Ok(query.get_status(StatementStatus::VmStep))
        });
        looked.expect("the index answers")
    }

    #[test]
    fn an_operation_among_ten_thousand_keys_costs_what_it_costs_among_few() {
        let few = steps(1, 20);
        assert_eq!(steps(500, 20), few, "of many operations");
        assert_eq!(steps(1, 10_000), few, "of one operation with many keys");
    }
}
