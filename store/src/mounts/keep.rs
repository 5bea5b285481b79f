//! What cache mounts there are, how large they are, and how they go; and how they are found again.
//!
//! One that is in use is never dropped: whoever drops takes its lock first, in the transaction that forgets it.

use jiff::Timestamp;
use rusqlite::Transaction;

use super::{About, Dir, MountKey, TREE, insert, seconds};
use crate::index::{Index, Trouble};
use crate::layout::Layout;
use crate::{Store, StoreError, trash};

/// A directory of a cache mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Its name in the store, which no other ever had.
    pub name: String,
    /// Which cache mount it belongs to.
    pub key: MountKey,
    /// `shared`, `private` or `locked`: as its first user wanted it.
    pub sharing: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was used last.
    pub used_at: Timestamp,
    /// The store's count of uses then.
    pub used_tick: i64,
    /// What it takes on disk, in bytes, if that has been measured since it was used last.
    pub size_bytes: Option<u64>,
}

impl Store {
    /// All directories of cache mounts, those used last first.
    pub fn mounts(&self) -> Result<Vec<MountEntry>, StoreError> {
        self.index().read("list the cache mounts", |connection| {
            let mut query = connection.prepare_cached(
                "SELECT name, id, seed, sharing, created, used_at, used_tick, size_bytes FROM mounts
                 ORDER BY used_tick DESC, used_at DESC, name",
            )?;
            let entries = query.query_map([], |row| {
                Ok(MountEntry {
                    name: row.get(0)?,
                    key: MountKey { id: row.get(1)?, seed: row.get(2)? },
                    sharing: row.get(3)?,
                    created: seconds(row.get(4)?),
                    used_at: seconds(row.get(5)?),
                    used_tick: row.get(6)?,
                    size_bytes: row.get::<_, Option<i64>>(7)?.map(i64::unsigned_abs),
                })
            })?;
            Ok(entries.collect::<Result<_, _>>()?)
        })
    }

    /// Whether somebody uses it now.
    pub fn mount_in_use(&self, name: &str) -> Result<bool, StoreError> {
        let folder = &self.layout().mounts;
        match Dir::open(folder, name)? {
            Some(dir) => Ok(!dir.try_alone(folder)?),
            None => Ok(false),
        }
    }

    /// Forgets a directory and throws its files away. `false`: it is in use, and stays.
    pub fn drop_mount(&self, name: &str) -> Result<bool, StoreError> {
        self.index().transaction("drop a cache mount", |transaction| {
            let folder = &self.layout().mounts;
            if let Some(dir) = Dir::open(folder, name)?
                && !dir.try_alone(folder)?
            {
                return Ok(false);
            }
            transaction.execute("DELETE FROM mounts WHERE name = ?1", [name])?;
            trash::discard(self.layout(), folder, name)?;
            Ok(true)
        })
    }

    /// Remembers what a directory was measured to take, unless it has been used since `entry` was read.
    pub fn set_mount_size(&self, entry: &MountEntry, size_bytes: u64) -> Result<(), StoreError> {
        self.index().transaction("note the size of a cache mount", |transaction| {
            transaction.execute(
                "UPDATE mounts SET size_bytes = ?2 WHERE name = ?1 AND used_tick = ?3 AND used_at = ?4",
                (
                    &entry.name,
                    i64::try_from(size_bytes).unwrap_or(i64::MAX),
                    entry.used_tick,
                    entry.used_at.as_second(),
                ),
            )?;
            Ok(())
        })
    }
}

/// Moves directories that no row names into the trash: of a process that died between making one and noting it.
pub(crate) fn sweep(layout: &Layout, index: &Index) -> Result<(), StoreError> {
    let is_known = |name: &str| {
        index.read("find a cache mount", |connection| {
            let mut query = connection.prepare_cached("SELECT count(*) FROM mounts WHERE name = ?1")?;
            Ok(query.query_row([name], |row| row.get::<_, i64>(0))? > 0)
        })
    };
    for name in layout.mounts.names()? {
        if is_known(&name)? {
            continue;
        }
        // Its maker holds the lock until the row is there: without the lock, look again.
        let dir = Dir::open(&layout.mounts, &name)?;
        let alone = dir.as_ref().map(|dir| dir.try_alone(&layout.mounts)).transpose()?.unwrap_or(true);
        if alone && !is_known(&name)? {
            trash::discard(layout, &layout.mounts, &name)?;
        }
    }
    Ok(())
}

/// Fills a new index with the cache mounts that are there; how many. What says nothing of itself is left to [`sweep`].
pub(crate) fn rebuild(layout: &Layout, transaction: &Transaction<'_>) -> Result<usize, Trouble> {
    let mut count = 0;
    for name in layout.mounts.names()? {
        let dir = Dir::open(&layout.mounts, &name)?;
        let about: Option<About> = dir.map(|dir| dir.about(&layout.mounts)).transpose()?.flatten();
        match about {
            Some(about) => {
                insert(transaction, &name, &about)?;
                count += 1;
            }
            None => tracing::warn!(path = %layout.mounts.join(&name).join(TREE).display(), "not a cache mount"),
        }
    }
    Ok(count)
}
