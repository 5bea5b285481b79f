//! What cache mounts there are, how large they are, and how they go; and how they are found again.
//!
//! One that is in use is never dropped: whoever drops takes its lock first, in the transaction that forgets it.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction};

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

/// How a directory of a cache mount was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Whole,
    Gone,
    SaysOtherwise,
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

    /// Whether somebody uses it now. Within a transaction: its lock is had for a moment, and no taker must see that.
    pub fn mount_in_use(&self, name: &str) -> Result<bool, StoreError> {
        self.index().transaction("look whether a cache mount is used", |_| {
            let folder = &self.layout().mounts;
            match Dir::open(folder, name)? {
                Some(dir) => Ok(!dir.try_alone(folder)?),
                None => Ok(false),
            }
        })
    }

    /// Whether a directory is there and says of itself what the index says. One that is gone is forgotten, and what it
    /// says is written anew where it is damaged.
    pub(crate) fn check_mount(&self, entry: &MountEntry) -> Result<State, StoreError> {
        let folder = &self.layout().mounts;
        self.index().transaction("check a cache mount", |transaction| {
            // Dropped meanwhile.
            let mut query = transaction.prepare_cached("SELECT 1 FROM mounts WHERE name = ?1")?;
            if !query.exists([&entry.name])? {
                return Ok(State::Whole);
            }
            let Some(dir) = Dir::open(folder, &entry.name)? else {
                transaction.execute("DELETE FROM mounts WHERE name = ?1", [&entry.name])?;
                return Ok(State::Gone);
            };
            let about =
                About { key: entry.key.clone(), sharing: entry.sharing.clone(), created: entry.created.as_second() };
            if dir.about(folder)?.as_ref() == Some(&about) {
                return Ok(State::Whole);
            }
            dir.write_about(folder, &about)?;
            Ok(State::SaysOtherwise)
        })
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
            let mut drop = transaction.prepare_cached("DELETE FROM mounts WHERE name = ?1 RETURNING counted_bytes")?;
            let counted: Option<i64> = drop.query_row([name], |row| row.get(0)).optional()?;
            grow(transaction, -counted.unwrap_or_default())?;
            trash::discard(self.layout(), folder, name)?;
            Ok(true)
        })
    }

    /// Remembers what a directory was measured to take, and that the store grew by what that is more than before. If it
    /// has been used since `entry` was read, it is to be measured again all the same.
    pub fn set_mount_size(&self, entry: &MountEntry, size_bytes: u64) -> Result<(), StoreError> {
        let size = i64::try_from(size_bytes).unwrap_or(i64::MAX);
        self.index().transaction("note the size of a cache mount", |transaction| {
            let mut query = transaction.prepare_cached("SELECT counted_bytes FROM mounts WHERE name = ?1")?;
            let counted: Option<i64> = query.query_row([&entry.name], |row| row.get(0)).optional()?;
            let Some(counted) = counted else { return Ok(()) };
            grow(transaction, size.saturating_sub(counted))?;
            transaction
                .prepare_cached(
                    "UPDATE mounts SET counted_bytes = ?2,
                         size_bytes = iif(used_tick = ?3 AND used_at = ?4, ?2, size_bytes) WHERE name = ?1",
                )?
                .execute((&entry.name, size, entry.used_tick, entry.used_at.as_second()))?;
            Ok(())
        })
    }

    /// What all cache mounts took when each was measured last.
    pub(crate) fn counted_mount_bytes(&self) -> Result<u64, StoreError> {
        self.index().read("tell what cache mounts take", |connection| {
            let mut sum = connection.prepare_cached("SELECT coalesce(sum(counted_bytes), 0) FROM mounts")?;
            Ok(sum.query_row([], |row| row.get::<_, i64>(0))?.unsigned_abs())
        })
    }
}

/// An id as its author wrote it, for people: without the empty namespace, on one line and no longer than that.
pub fn shown_mount_id(id: &str) -> String {
    /// A hostile one may be as long as a line of a Dockerfile.
    const MAX_CHARS: usize = 100;
    let id = id.strip_prefix('/').unwrap_or(id);
    let mut shown: String = id.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if id.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// The store takes so much more, or less.
fn grow(transaction: &Transaction<'_>, bytes: i64) -> rusqlite::Result<()> {
    if bytes != 0 {
        transaction.prepare_cached("UPDATE state SET bytes = max(0, bytes + ?1)")?.execute([bytes])?;
    }
    Ok(())
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
