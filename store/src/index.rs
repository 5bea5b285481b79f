//! The index: one SQLite database in WAL mode, shared by processes, rebuildable from the store's files.
//!
//! Readers never wait; writers wait for each other, in short immediate transactions. `synchronous=NORMAL`: a commit
//! costs no fsync; what a power loss may take is settled in [`crate::durability`]. Damage found while the index is
//! used leaves a mark beside it, so that the next start rebuilds it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use crate::StoreError;
use crate::durability::{self, Stamp};
use crate::layout::Folder;

/// `user_version` of the database. Raised by every change of [`SCHEMA`] that an older program would misread.
pub(crate) const SCHEMA_VERSION: i64 = 5;
const FILE: &str = "index.db";
/// The database and the files SQLite keeps beside it.
const FILES: [&str; 3] = ["index.db", "index.db-wal", "index.db-shm"];
/// Its presence says that the index was found damaged.
const DAMAGE_MARK: &str = "index.db.damage-seen";
/// Transactions take well under a millisecond; only a stopped process makes another wait this long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// Every statement of this room fits; each is prepared once per process.
const CACHED_STATEMENTS: usize = 64;

/// `boot` and `generation` are the row's [`Stamp`]; `used_at` is in seconds since 1970, `used_tick` a count of uses that
/// no clock disturbs (`state.tick`). `keys.operation` and `layers.content` are digests, `layers.tree_bytes` what the tree
/// takes on disk. `uses` holds the last uses of what has no row of its own. `state.bytes` is what the store took at
/// `measured_at` and grew by since; `state.floor_bytes` what it took when that was more than it may and nothing but named
/// things was left, `state.held_bytes` what these took; the first is 0 as soon as a name has come, moved or gone. `pruned` remembers for a while which keys were thrown away. `nodes` are directories of digested trees.
/// `tags.document` is the text of the index that a name means, NULL where it means one image; `tags.manifest` is then the
/// member that stands for it, and `members` has all of them. `names` is what leads to an image.
/// `mounts.name` is the directory of a cache mount, `mounts.created` in seconds since 1970, `mounts.size_bytes` NULL from a
/// use until it is measured, `mounts.counted_bytes` what `state.bytes` has of it. `layers.chain_id`: NULL is not known yet, the empty blob is "no
/// layer that is not empty".
const SCHEMA: &str = "
CREATE TABLE state (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    boot TEXT NOT NULL, generation INTEGER NOT NULL, written INTEGER NOT NULL, synced INTEGER NOT NULL,
    tick INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, measured_at INTEGER NOT NULL DEFAULT 0,
    floor_bytes INTEGER NOT NULL DEFAULT 0, held_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE layers (
    id TEXT PRIMARY KEY, parent TEXT, empty INTEGER NOT NULL, pulled INTEGER NOT NULL,
    diff_id BLOB, tar_bytes INTEGER, chain_id BLOB, blob TEXT, created TEXT NOT NULL,
    boot TEXT NOT NULL, generation INTEGER NOT NULL,
    origin TEXT, times TEXT, started TEXT, from_context INTEGER NOT NULL DEFAULT 0, on_base INTEGER NOT NULL DEFAULT 0,
    content BLOB, tree_bytes INTEGER, used_tick INTEGER NOT NULL DEFAULT 0, used_at INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX layers_by_origin ON layers (origin) WHERE origin IS NOT NULL;
CREATE INDEX layers_by_parent ON layers (parent) WHERE parent IS NOT NULL;
CREATE INDEX layers_by_chain ON layers (chain_id) WHERE chain_id IS NOT NULL;
CREATE TABLE trees (
    layer TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, boot TEXT NOT NULL, generation INTEGER NOT NULL
) STRICT;
CREATE TABLE keys (
    key BLOB PRIMARY KEY, results TEXT NOT NULL, parts TEXT NOT NULL, boot TEXT NOT NULL, generation INTEGER NOT NULL,
    kind TEXT NOT NULL DEFAULT 'definition', operation BLOB,
    used_tick INTEGER NOT NULL DEFAULT 0, used_at INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX keys_by_operation ON keys (operation) WHERE operation IS NOT NULL;
CREATE TABLE pruned (key BLOB PRIMARY KEY, at INTEGER NOT NULL) STRICT;
CREATE TABLE uses (
    kind TEXT NOT NULL, name TEXT NOT NULL, used_tick INTEGER NOT NULL, used_at INTEGER NOT NULL, PRIMARY KEY (kind, name)
) STRICT;
CREATE TABLE nodes (digest BLOB PRIMARY KEY, body BLOB NOT NULL, used_tick INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE mounts (
    name TEXT PRIMARY KEY, id TEXT NOT NULL, seed TEXT NOT NULL, sharing TEXT NOT NULL, created INTEGER NOT NULL,
    size_bytes INTEGER, used_tick INTEGER NOT NULL DEFAULT 0, used_at INTEGER NOT NULL DEFAULT 0,
    counted_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX mounts_by_id ON mounts (id);
CREATE TABLE images (
    manifest BLOB PRIMARY KEY, descriptor TEXT NOT NULL, config BLOB NOT NULL, top TEXT, platform TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, created TEXT NOT NULL, boot TEXT NOT NULL, generation INTEGER NOT NULL
) STRICT;
CREATE INDEX images_by_config ON images (config);
CREATE TABLE tags (
    name TEXT PRIMARY KEY, manifest BLOB NOT NULL, created TEXT NOT NULL, boot TEXT NOT NULL, generation INTEGER NOT NULL,
    document TEXT, index_digest BLOB
) STRICT;
CREATE INDEX tags_by_manifest ON tags (manifest);
CREATE TABLE blob_variants (
    diff_id BLOB NOT NULL, codec TEXT NOT NULL, descriptor TEXT NOT NULL, PRIMARY KEY (diff_id, codec)
) STRICT;
CREATE TABLE blob_sources (
    digest BLOB NOT NULL, repository TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (digest, repository)
) STRICT;
CREATE TRIGGER name_came AFTER INSERT ON tags BEGIN UPDATE state SET floor_bytes = 0; END;
CREATE TRIGGER name_moved AFTER UPDATE OF manifest ON tags BEGIN UPDATE state SET floor_bytes = 0; END;
CREATE TRIGGER name_went AFTER DELETE ON tags BEGIN UPDATE state SET floor_bytes = 0; END;
";

/// What names know of indexes and their members: the end of [`SCHEMA`] and of [`FROM_4`].
const MEMBERS: &str = "
CREATE INDEX tags_by_index ON tags (index_digest) WHERE index_digest IS NOT NULL;
CREATE TABLE members (
    name TEXT NOT NULL, position INTEGER NOT NULL, manifest BLOB NOT NULL, PRIMARY KEY (name, position)
) STRICT;
CREATE INDEX members_by_manifest ON members (manifest);
CREATE VIEW names (name, manifest) AS SELECT name, manifest FROM tags UNION SELECT name, manifest FROM members;
CREATE TRIGGER members_went AFTER DELETE ON tags BEGIN DELETE FROM members WHERE name = OLD.name; END;
";

/// From schema 1, which knew no derived layers. Processes that have the index open go on: columns with defaults do not
/// concern them.
const FROM_1: &str = "
ALTER TABLE layers ADD COLUMN origin TEXT;
ALTER TABLE layers ADD COLUMN times TEXT;
ALTER TABLE layers ADD COLUMN started TEXT;
ALTER TABLE layers ADD COLUMN from_context INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN on_base INTEGER NOT NULL DEFAULT 0;
CREATE INDEX layers_by_origin ON layers (origin) WHERE origin IS NOT NULL;
";

/// From schema 2, which knew no content keys, forgot nothing and kept no cache mounts.
const FROM_2: &str = "
ALTER TABLE state ADD COLUMN tick INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN measured_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN content BLOB;
ALTER TABLE layers ADD COLUMN tree_bytes INTEGER;
ALTER TABLE layers ADD COLUMN used_tick INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE keys ADD COLUMN kind TEXT NOT NULL DEFAULT 'definition';
ALTER TABLE keys ADD COLUMN operation BLOB;
ALTER TABLE keys ADD COLUMN used_tick INTEGER NOT NULL DEFAULT 0;
ALTER TABLE keys ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX keys_by_operation ON keys (operation) WHERE operation IS NOT NULL;
CREATE TABLE pruned (key BLOB PRIMARY KEY, at INTEGER NOT NULL) STRICT;
CREATE TABLE uses (
    kind TEXT NOT NULL, name TEXT NOT NULL, used_tick INTEGER NOT NULL, used_at INTEGER NOT NULL, PRIMARY KEY (kind, name)
) STRICT;
CREATE TABLE nodes (digest BLOB PRIMARY KEY, body BLOB NOT NULL, used_tick INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE mounts (
    name TEXT PRIMARY KEY, id TEXT NOT NULL, seed TEXT NOT NULL, sharing TEXT NOT NULL, created INTEGER NOT NULL,
    size_bytes INTEGER, used_tick INTEGER NOT NULL DEFAULT 0, used_at INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX mounts_by_id ON mounts (id);
";

/// From schema 3, which did not know what cache mounts grew by, and looked at everything as long as names held too much.
const FROM_3: &str = "
ALTER TABLE state ADD COLUMN floor_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN held_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mounts ADD COLUMN counted_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE mounts SET counted_bytes = coalesce(size_bytes, 0);
CREATE TRIGGER name_came AFTER INSERT ON tags BEGIN UPDATE state SET floor_bytes = 0; END;
CREATE TRIGGER name_moved AFTER UPDATE OF manifest ON tags BEGIN UPDATE state SET floor_bytes = 0; END;
CREATE TRIGGER name_went AFTER DELETE ON tags BEGIN UPDATE state SET floor_bytes = 0; END;
";

/// From schema 4, whose names meant one image each and knew no [`MEMBERS`].
const FROM_4: &str = "
ALTER TABLE tags ADD COLUMN document TEXT;
ALTER TABLE tags ADD COLUMN index_digest BLOB;
";

/// The tables whose rows are stamped.
pub(crate) const STAMPED: [&str; 5] = ["layers", "trees", "keys", "images", "tags"];

/// The open index of one store.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    mark: PathBuf,
    connection: Mutex<Connection>,
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // Otherwise the planner looks at the values that are bound, and a statement is prepared anew for every one of them.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// What [`Index::open`] found.
pub(crate) enum Found {
    Ready(Index),
    /// No database, or one without a schema.
    Absent,
    /// Why it cannot be used.
    Damaged(String),
}

/// What a transaction fails with: the database, or what the caller does between its statements.
pub(crate) enum Trouble {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Index {
    /// Opens the database. A newer schema is an error and leaves it untouched; an older one is brought up to this. In a boot that the index has
    /// not seen yet, all of it is checked.
    pub(crate) fn open(root: &Folder, boot: &str) -> Result<Found, StoreError> {
        let (path, mark) = (root.join(FILE), root.join(DAMAGE_MARK));
        if durability::exists(&mark)? {
            return Ok(Found::Damaged("it was found damaged while it was used".into()));
        }
        if !durability::exists(&path)? {
            return Ok(Found::Absent);
        }
        match Self::connect(root, path, mark, boot) {
            Ok(found) => Ok(found),
            Err(Trouble::Sql(error)) if is_damage(&error) => Ok(Found::Damaged(error.to_string())),
            Err(Trouble::Sql(source)) => Err(StoreError::Index { act: "be opened", source }),
            Err(Trouble::Store(error)) => Err(error),
        }
    }

    fn connect(root: &Folder, path: PathBuf, mark: PathBuf, boot: &str) -> Result<Found, Trouble> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&path, flags)?;
        set_up(&connection)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version > SCHEMA_VERSION {
            let root = root.path.clone();
            return Err(StoreError::NewerSchema { root, found: version, known: SCHEMA_VERSION }.into());
        }
        if version == 0 {
            return Ok(Found::Absent);
        }
        connection.execute_batch("PRAGMA synchronous = NORMAL")?;
        if version < SCHEMA_VERSION {
            upgrade(&mut connection)?;
        }
        let seen: Option<String> = connection.query_row("SELECT boot FROM state", [], |row| row.get(0)).optional()?;
        match seen {
            None => return Ok(Found::Damaged("its state is missing".into())),
            Some(seen) if seen == boot => {}
            Some(_) => {
                let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
                if verdict != "ok" {
                    return Ok(Found::Damaged(verdict));
                }
            }
        }
        Ok(Found::Ready(Self { path, mark, connection: Mutex::new(connection) }))
    }

    /// Makes a new, empty index that has seen no boot. The caller holds `index.lock` exclusively, nobody has the
    /// database open, and what was there has been moved aside.
    pub(crate) fn make(root: &Folder) -> Result<Self, StoreError> {
        let (path, mark) = (root.join(FILE), root.join(DAMAGE_MARK));
        // SQLite gives the files beside it the mode of the database.
        durability::write_file(root, FILE, b"", false)?;
        let made = || -> rusqlite::Result<Connection> {
            let mut connection = Connection::open(&path)?;
            set_up(&connection)?;
            connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(SCHEMA)?;
            transaction.execute_batch(MEMBERS)?;
            transaction
                .execute("INSERT INTO state (only, boot, generation, written, synced) VALUES (1, '', 1, 0, 0)", [])?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
            Ok(connection)
        };
        let connection = made().map_err(|source| StoreError::Index { act: "be made", source })?;
        root.remove_file(DAMAGE_MARK)?;
        Ok(Self { path, mark, connection: Mutex::new(connection) })
    }

    /// Moves the database and SQLite's files beside it to `index.db.damaged-<n>…` and returns that name, or `None` if
    /// there was nothing to move. A log that is left behind would be replayed into the next database.
    pub(crate) fn move_aside(root: &Folder) -> Result<Option<String>, StoreError> {
        let mut number = 1;
        while FILES.iter().any(|file| root.has(&aside(file, number)).unwrap_or(true)) {
            number += 1;
        }
        let mut moved = false;
        for file in FILES {
            if root.has(file)? {
                rustix::fs::renameat(root, file, root, aside(file, number))
                    .map_err(|source| StoreError::io("move aside", root.join(file), source))?;
                moved = true;
            }
        }
        Ok(moved.then(|| aside(FILE, number)))
    }

    /// Looks something up. Each statement sees a state of its own.
    pub(crate) fn read<T>(
        &self,
        act: &'static str,
        body: impl FnOnce(&Connection) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        body(&connection).map_err(|trouble| self.error(act, trouble))
    }

    /// Changes something that a power loss may not tear from its files: all or nothing, stamped.
    pub(crate) fn write<T>(
        &self,
        act: &'static str,
        body: impl FnOnce(&Transaction<'_>, &Stamp) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        self.transaction(act, |transaction| {
            let stamp = transaction
                .prepare_cached("UPDATE state SET written = generation RETURNING boot, generation")?
                .query_row([], |row| Ok(Stamp { boot: row.get(0)?, generation: row.get(1)? }))?;
            body(transaction, &stamp)
        })
    }

    /// Changes something that needs no stamp: hints, and the state itself.
    pub(crate) fn transaction<T>(
        &self,
        act: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        // A transaction that a panic left open has been rolled back: the connection is fine.
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let run = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = body(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|trouble| self.error(act, trouble))
    }

    /// Says that the next start is to rebuild the index.
    pub(crate) fn mark_damaged(&self) -> Result<(), StoreError> {
        std::fs::write(&self.mark, b"").map_err(|source| StoreError::io("make", &self.mark, source))
    }

    fn error(&self, act: &'static str, trouble: Trouble) -> StoreError {
        match trouble {
            Trouble::Store(error) => error,
            Trouble::Sql(source) if is_damage(&source) => {
                if let Err(error) = std::fs::write(&self.mark, b"") {
                    tracing::warn!(path = %self.mark.display(), %error, "cannot mark the index as damaged");
                }
                StoreError::IndexDamaged { path: self.path.clone(), source }
            }
            Trouble::Sql(source) => StoreError::Index { act, source },
        }
    }
}

/// Brings an older schema up to this one, unless another process was faster.
fn upgrade(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for (older, steps) in [(1, FROM_1), (2, FROM_2), (3, FROM_3), (4, FROM_4), (4, MEMBERS)] {
        if version <= older {
            transaction.execute_batch(steps)?;
        }
    }
    if version < SCHEMA_VERSION {
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    transaction.commit()
}

fn aside(file: &str, number: u32) -> String {
    match file.strip_prefix(FILE) {
        Some(suffix) => format!("{FILE}.damaged-{number}{suffix}"),
        None => format!("{file}.damaged-{number}"),
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

#[cfg(test)]
mod tests {
    use rusqlite::{OptionalExtension as _, StatementStatus};

    use crate::Store;

    #[test]
    fn a_statement_is_prepared_once_whatever_is_bound_to_it() {
        let dir = tempfile::tempdir().unwrap();
        // One that is made, and one that is found.
        for _ in 0..2 {
            let store = Store::open(&dir.path().join("store")).unwrap();
            let prepared_again = store.index().read("be asked", |connection| {
                let mut query = connection.prepare("SELECT id FROM layers WHERE parent = ?1 AND origin = ?2")?;
                for value in ["a", "b", "c"] {
                    query.query_row([value, value], |row| row.get::<_, String>(0)).optional()?;
                }
                Ok(query.get_status(StatementStatus::RePrepare))
            });
            assert_eq!(prepared_again.unwrap(), 0);
        }
    }
}
