//! What the store knows of keys beside their results: for people who ask why something ran.
//!
//! Deliberately absent: the comparison itself, which is [`solver::explain`]'s.

use rusqlite::OptionalExtension as _;
use solver::canon::Part;
use solver::key::Key;

use crate::{Store, StoreError};

/// Operations that differ are compared with so many records, the latest first: enough for the builds of weeks.
const RECENT_MAX: u32 = 2000;

impl Store {
    /// When a key was thrown away to make room, in seconds since 1970; `None` if it was not, or long ago.
    pub fn pruned_at(&self, key: &Key) -> Result<Option<i64>, StoreError> {
        self.index().read("find out when a key was pruned", |connection| {
            let mut query = connection.prepare_cached("SELECT at FROM pruned WHERE key = ?1")?;
            Ok(query.query_row([&key.0], |row| row.get(0)).optional()?)
        })
    }

    /// The parts of definition keys for which results are known, the latest first: of the operation, or of any.
    pub fn recent_parts(&self, operation: Option<&Key>) -> Result<Vec<Vec<Part>>, StoreError> {
        let texts: Vec<String> = self.index().read("list keys", |connection| {
            let mut query = connection.prepare_cached(
                "SELECT parts FROM keys WHERE kind = 'definition' AND (?1 IS NULL OR operation = ?1)
                 ORDER BY rowid DESC LIMIT ?2",
            )?;
            let texts = query.query_map((operation.map(|key| key.0), RECENT_MAX), |row| row.get(0))?;
            Ok(texts.collect::<Result<_, _>>()?)
        })?;
        texts
            .iter()
            .map(|text| serde_json::from_str(text).map_err(|_| StoreError::bad("list of parts", text)))
            .collect()
    }
}
