//! Which key led to which results: the solver's memory.
//!
//! A key is stored with its parts, so that a later miss can be explained, and in the record file of its first result,
//! so that a rebuilt index knows it.

use rusqlite::{OptionalExtension, Transaction};
use solver::canon::Part;
use solver::key::Key;
use solver::seam::{CacheStore, ResultId};

use crate::durability::Stamp;
use crate::index::Trouble;
use crate::journal::{self, Line};
use crate::{Layer, Store, StoreError};

impl CacheStore for Store {
    type Error = StoreError;

    /// `None` as well if any of the results has no record any more, or has lost its tree and cannot be unpacked again.
    fn find(&self, key: &Key) -> Result<Option<Vec<ResultId>>, StoreError> {
        let text: Option<String> = self.index().read("find a key", |connection| {
            let mut query = connection.prepare_cached("SELECT results FROM keys WHERE key = ?1")?;
            Ok(query.query_row([&key.0], |row| row.get(0)).optional()?)
        })?;
        let Some(text) = text else { return Ok(None) };
        let results: Vec<ResultId> =
            serde_json::from_str(&text).map_err(|_| StoreError::bad("list of results", &text))?;
        for id in &results {
            let Some(layer) = self.layer(id)? else {
                tracing::debug!(%key, %id, "the result of a key is gone");
                return Ok(None);
            };
            let origin = layer.origin.as_ref().map(|origin| self.layer(origin)).transpose()?.flatten();
            let is_there = |layer: &Layer| layer.empty || layer.name.is_some() || layer.blob.is_some();
            if !is_there(&layer) && !origin.as_ref().is_some_and(is_there) {
                tracing::debug!(%key, %id, "neither tree nor blob of a result is there");
                return Ok(None);
            }
        }
        Ok(Some(results))
    }

    /// A result that is no layer of this store is remembered, but [`CacheStore::find`] never gives it.
    fn record(&self, key: &Key, parts: &[Part], results: &[ResultId]) -> Result<(), StoreError> {
        self.index().write("record a key", |transaction, stamp| {
            insert(transaction, key, parts, results, stamp)?;
            if let Some(first) = results.first() {
                let line = Line::Key {
                    key: key.to_string(),
                    results: results.to_vec(),
                    parts: parts.to_vec(),
                    stamp: stamp.clone(),
                };
                journal::append(self.layout(), first, &line)?;
            }
            Ok(())
        })
    }
}

impl Store {
    /// What a key was made of, if it is known.
    pub fn key_parts(&self, key: &Key) -> Result<Option<Vec<Part>>, StoreError> {
        let text: Option<String> = self.index().read("find a key", |connection| {
            let mut query = connection.prepare_cached("SELECT parts FROM keys WHERE key = ?1")?;
            Ok(query.query_row([&key.0], |row| row.get(0)).optional()?)
        })?;
        text.map(|text| serde_json::from_str(&text).map_err(|_| StoreError::bad("list of parts", &text))).transpose()
    }
}

pub(crate) fn insert(
    transaction: &Transaction<'_>,
    key: &Key,
    parts: &[Part],
    results: &[ResultId],
    stamp: &Stamp,
) -> Result<(), Trouble> {
    let results = serde_json::to_string(results).expect("plain data becomes JSON");
    let parts = serde_json::to_string(parts).expect("plain data becomes JSON");
    transaction
        .prepare_cached(
            "INSERT INTO keys (key, results, parts, boot, generation) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (key) DO UPDATE SET results = excluded.results, parts = excluded.parts,
                 boot = excluded.boot, generation = excluded.generation",
        )?
        .execute((&key.0, results, parts, &stamp.boot, stamp.generation))?;
    Ok(())
}
