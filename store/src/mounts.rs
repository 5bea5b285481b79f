//! Cache mounts: directories that steps fill for the steps of later builds.
//!
//! ```text
//! mounts/<name>/        <name> is 26 random letters; flocked while used: shared by many, or by one alone
//!   fs/                 what steps see
//!   about.json          id, seed, sharing, creation: to find it again when the index is lost
//! ```
//!
//! In come ids, which are anything that somebody wrote, and never part of a path; out come directories, held until
//! dropped. A [`MountKey`] may have several directories: one that all use, and more for those who want one alone while
//! it is taken. A directory appears complete, by one rename from a draft; a process that dies while using it leaves it
//! as it is, and its lock goes with it. A power loss may tear the files in it, as it may in any directory.
//!
//! [`Store::take_mounts`] never waits and takes all that a step needs or nothing, so whoever waits holds nothing, and
//! no two can wait for each other; all of it happens in one transaction of the index, one taker after the other.
//! Deliberately absent: what a seed is (its maker says), mounting, how long one waits, what is thrown away when
//! (who decides asks [`Store::drop_mount`]). Next: [`keep`] (listing, measuring, dropping), [`travel`] (tars).

mod keep;
mod travel;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use solver::op::CacheSharing;

pub use keep::{MountEntry, shown_mount_id};
pub(crate) use keep::{State, rebuild, sweep};

use crate::durability::write_file;
use crate::index::Trouble;
use crate::layout::{Folder, flock_unless, fresh_name, try_flock};
use crate::{Draft, Kind, Store, StoreError};

const ABOUT: &str = "about.json";
/// A file of ours holds an id, which is as long as a line of a Dockerfile may be.
const ABOUT_MAX_BYTES: u64 = 16 << 20;
const TREE: &str = "fs";
/// The directory within a draft until it is renamed.
const UNFINISHED: &str = "mount";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Which cache mount is meant: steps with equal keys see the same files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MountKey {
    /// The id with its namespace, as the graph says it. Any text.
    pub id: String,
    /// A name for what a new directory starts as: equal names are equal content. Empty: it starts empty.
    pub seed: String,
}

/// A cache mount that a step needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountWish {
    /// Which.
    pub key: MountKey,
    /// With whom.
    pub sharing: CacheSharing,
}

/// What a new directory starts as.
#[derive(Debug)]
pub struct MountSeed {
    /// Its tree is the content.
    pub draft: Draft,
    /// Nothing in it was made by a build before.
    pub created: Timestamp,
}

/// What came of [`Store::take_mounts`].
#[derive(Debug)]
pub enum Taken {
    /// All of them, in the order of the wishes; one directory may be there twice.
    All(Vec<Arc<HeldMount>>),
    /// None: this one is in use.
    Busy(BusyMount),
    /// None: the wish of that number needs a seed.
    Unseeded(usize),
}

/// A cache mount's directory in use. Given back when dropped.
#[derive(Debug)]
pub struct HeldMount {
    store: Store,
    dir: Dir,
    created: Timestamp,
}

impl HeldMount {
    /// What steps see.
    pub fn path(&self) -> PathBuf {
        self.store.layout().mounts.join(&self.dir.name).join(TREE)
    }

    /// When it was made: no build has made anything in it before.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// Holds the lock: as long as any copy of this descriptor is open, in any process, it is not given back.
    pub fn lock(&self) -> std::os::fd::BorrowedFd<'_> {
        self.dir.fd.as_fd()
    }
}

impl Drop for HeldMount {
    fn drop(&mut self) {
        if let Err(error) = self.store.mark_mount_used(&self.dir.name) {
            tracing::debug!(name = self.dir.name, %error, "the last use of a cache mount is not noted");
        }
    }
}

/// A cache mount that another step uses.
#[derive(Debug)]
pub struct BusyMount {
    /// Which.
    pub key: MountKey,
    dir: Dir,
}

impl BusyMount {
    /// Waits until nobody uses it, as [`flock_unless`] does; if it is given up, there is no turn.
    pub fn wait(self, given_up: &dyn Fn() -> bool) -> Result<Option<MountTurn>, StoreError> {
        let locked = flock_unless(&self.dir.fd, given_up);
        let locked = locked.map_err(|source| StoreError::io("lock", &self.dir.name, source))?;
        Ok(locked.then_some(MountTurn(self.dir)))
    }
}

/// The right to be the next who uses a directory; for [`Store::take_mounts`].
#[derive(Debug)]
pub struct MountTurn(Dir);

/// A directory in `mounts/`, open; its lock is the descriptor's.
#[derive(Debug)]
struct Dir {
    name: String,
    fd: OwnedFd,
}

impl Dir {
    /// `None` if it is gone, or what it is for is.
    fn open(folder: &Folder, name: &str) -> Result<Option<Self>, StoreError> {
        let fd = match rustix::fs::openat(folder, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(source) => return Err(StoreError::io("open", folder.join(name), source)),
        };
        match rustix::fs::statat(&fd, TREE, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(Some(Self { name: name.to_owned(), fd })),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => Err(StoreError::io("look at", folder.join(name).join(TREE), source)),
        }
    }

    fn try_shared(&self, folder: &Folder) -> Result<bool, StoreError> {
        match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(source) => Err(StoreError::io("lock", folder.join(&self.name), source)),
        }
    }

    fn try_alone(&self, folder: &Folder) -> Result<bool, StoreError> {
        try_flock(&self.fd, &folder.join(&self.name))
    }

    /// Whether it is the same directory as the one that is open as `other`.
    fn is(&self, other: &OwnedFd, folder: &Folder) -> Result<bool, StoreError> {
        let look =
            |fd: &OwnedFd| rustix::fs::fstat(fd).map_err(|e| StoreError::io("look at", folder.join(&self.name), e));
        let (mine, theirs) = (look(&self.fd)?, look(other)?);
        Ok((mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino))
    }

    /// Writes anew what it says of itself.
    fn write_about(&self, folder: &Folder, about: &About) -> Result<(), StoreError> {
        let path = folder.join(&self.name);
        let fd = self.fd.try_clone().map_err(|source| StoreError::io("open", &path, source))?;
        let own = Folder::opened(path, fd);
        // What stands there may be anything by now.
        own.remove_file(ABOUT)?;
        write_file(&own, ABOUT, &about.encoded(), false)
    }

    /// What it says of itself; `None` if that cannot be read.
    fn about(&self, folder: &Folder) -> Result<Option<About>, StoreError> {
        let path = || folder.join(&self.name).join(ABOUT);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, ABOUT, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(source) => return Err(StoreError::io("open", path(), source)),
        };
        let mut bytes = Vec::new();
        file.take(ABOUT_MAX_BYTES).read_to_end(&mut bytes).map_err(|source| StoreError::io("read", path(), source))?;
        Ok(serde_json::from_slice(&bytes).ok())
    }
}

/// What stands in `about.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    #[serde(flatten)]
    key: MountKey,
    /// As its first user wanted it.
    sharing: String,
    /// Seconds since 1970.
    created: i64,
}

impl About {
    fn encoded(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data becomes JSON")
    }
}

fn sharing_name(sharing: CacheSharing) -> &'static str {
    match sharing {
        CacheSharing::Shared => "shared",
        CacheSharing::Private => "private",
        CacheSharing::Locked => "locked",
    }
}

/// What came of one wish.
enum One {
    Got(Dir, Timestamp),
    Busy(Dir),
    Unseeded,
}

impl Store {
    /// Takes a directory for each wish, or none at all. `seeds` are what new directories start as, for those keys with
    /// a seed that have been asked for; used up when a directory is made. `turn` is what was waited for.
    ///
    /// - shared: with all others who share it; another directory only while somebody has that one alone.
    /// - private: alone; the one that was used last of those that are free, else a new one.
    /// - locked: alone, and always the same directory.
    ///
    /// A key that a step wishes for twice is one directory, under the stricter of the two.
    pub fn take_mounts(
        &self,
        wishes: &[MountWish],
        seeds: &mut BTreeMap<MountKey, MountSeed>,
        turn: Option<MountTurn>,
    ) -> Result<Taken, StoreError> {
        let mut strictest: BTreeMap<&MountKey, CacheSharing> = BTreeMap::new();
        for MountWish { key, sharing } in wishes {
            let rank = |sharing| match sharing {
                CacheSharing::Shared => 0,
                CacheSharing::Private => 1,
                CacheSharing::Locked => 2,
            };
            let known = strictest.entry(key).or_insert(*sharing);
            if rank(*sharing) > rank(*known) {
                *known = *sharing;
            }
        }
        let mut turn = turn.map(|MountTurn(dir)| dir);
        let mut got: BTreeMap<&MountKey, (Dir, Timestamp)> = BTreeMap::new();
        let obstacle = self.index().transaction("take cache mounts", |transaction| {
            for (key, sharing) in &strictest {
                match self.take_one(transaction, key, *sharing, &mut turn, seeds)? {
                    One::Got(dir, created) => {
                        mark_used(transaction, &dir.name)?;
                        got.insert(*key, (dir, created));
                    }
                    One::Busy(dir) => return Ok(Some(Taken::Busy(BusyMount { key: (*key).clone(), dir }))),
                    One::Unseeded => {
                        let number = wishes.iter().position(|wish| wish.key == **key).unwrap_or_default();
                        return Ok(Some(Taken::Unseeded(number)));
                    }
                }
            }
            Ok(None)
        })?;
        if let Some(obstacle) = obstacle {
            return Ok(obstacle);
        }
        // Not within the transaction, for whoever collects waits for one; the locks hold them until here.
        self.lease().touch_all(got.values().map(|(dir, _)| (Kind::Mount, dir.name.as_str())))?;
        let held: BTreeMap<&MountKey, Arc<HeldMount>> = got
            .into_iter()
            .map(|(key, (dir, created))| (key, Arc::new(HeldMount { store: self.clone(), dir, created })))
            .collect();
        Ok(Taken::All(wishes.iter().map(|wish| held[&wish.key].clone()).collect()))
    }

    fn take_one(
        &self,
        transaction: &Transaction<'_>,
        key: &MountKey,
        sharing: CacheSharing,
        turn: &mut Option<Dir>,
        seeds: &mut BTreeMap<MountKey, MountSeed>,
    ) -> Result<One, Trouble> {
        let folder = &self.layout().mounts;
        // The first one made is the one that all mean; who wants any one alone gets the warmest.
        let order = match sharing {
            CacheSharing::Private => "used_tick DESC, used_at DESC, name",
            CacheSharing::Shared | CacheSharing::Locked => "created, name",
        };
        let rows: Vec<(String, i64)> = transaction
            .prepare_cached(&format!("SELECT name, created FROM mounts WHERE id = ?1 AND seed = ?2 ORDER BY {order}"))?
            .query_map((&key.id, &key.seed), |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut free: Option<(Dir, Timestamp)> = None;
        for (name, created) in rows {
            let Some(mut dir) = Dir::open(folder, &name)? else {
                tracing::warn!(name, "the directory of a cache mount is gone from the store");
                transaction.execute("DELETE FROM mounts WHERE name = ?1", [&name])?;
                continue;
            };
            if let Some(waited) = turn.take_if(|turn| turn.name == name)
                && dir.is(&waited.fd, folder)?
            {
                dir = waited;
            }
            let created = seconds(created);
            match sharing {
                CacheSharing::Locked if dir.try_alone(folder)? => return Ok(One::Got(dir, created)),
                CacheSharing::Locked => return Ok(One::Busy(dir)),
                CacheSharing::Private if dir.try_alone(folder)? => return Ok(One::Got(dir, created)),
                CacheSharing::Private => {}
                // Where others are comes before where nobody is.
                CacheSharing::Shared if dir.try_alone(folder)? => {
                    if free.is_none() {
                        free = Some((dir, created));
                    }
                }
                CacheSharing::Shared if dir.try_shared(folder)? => return Ok(One::Got(dir, created)),
                CacheSharing::Shared => {}
            }
        }
        if let Some((dir, created)) = free {
            // A lock that is exchanged is given up for a moment, but nobody takes one outside of a transaction except
            // those who have waited, and they look again in one.
            return if dir.try_shared(folder)? { Ok(One::Got(dir, created)) } else { Ok(One::Busy(dir)) };
        }
        let seed = match (key.seed.as_str(), seeds.remove(key)) {
            ("", _) => {
                let draft = self.draft()?;
                MountSeed { created: draft.begun(), draft }
            }
            (_, Some(seed)) => seed,
            (_, None) => return Ok(One::Unseeded),
        };
        let created = seed.created;
        let dir = self.make_mount(transaction, key, sharing, seed)?;
        Ok(One::Got(dir, created))
    }

    /// Makes a directory of a seed's tree, locked for its first user.
    fn make_mount(
        &self,
        transaction: &Transaction<'_>,
        key: &MountKey,
        sharing: CacheSharing,
        MountSeed { draft, created }: MountSeed,
    ) -> Result<Dir, Trouble> {
        let folder = &self.layout().mounts;
        let name = fresh_name()?;
        let aside = draft.path().join(UNFINISHED);
        let failed = |act: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source: Errno| StoreError::io(act, path, source)
        };
        rustix::fs::mkdirat(draft.dir_fd(), UNFINISHED, Mode::RWXU).map_err(failed("make", &aside))?;
        let fd =
            rustix::fs::openat(draft.dir_fd(), UNFINISHED, DIRECTORY, Mode::empty()).map_err(failed("open", &aside))?;
        // Whole seconds, rounded down: nothing in it is older than what is noted.
        let created = created.as_second();
        let about = About { key: key.clone(), sharing: sharing_name(sharing).into(), created };
        let unfinished = Folder::opened(aside.clone(), fd);
        write_file(&unfinished, ABOUT, &about.encoded(), false)?;
        rustix::fs::renameat(draft.dir_fd(), "fs", &unfinished, TREE).map_err(failed("move", draft.fs()))?;
        let dir = Dir { name: name.clone(), fd: unfinished.into_fd() };
        // Before it has its name: from then on a sweep may find it.
        let locked = match sharing {
            CacheSharing::Shared => dir.try_shared(folder)?,
            CacheSharing::Private | CacheSharing::Locked => dir.try_alone(folder)?,
        };
        debug_assert!(locked, "nobody knows of it");
        let moved = match rustix::fs::renameat_with(draft.dir_fd(), UNFINISHED, folder, &name, RenameFlags::NOREPLACE) {
            // Some file systems cannot promise that; the name is random.
            Err(Errno::INVAL) => rustix::fs::renameat(draft.dir_fd(), UNFINISHED, folder, &name),
            other => other,
        };
        moved.map_err(failed("move to the cache mounts", &aside))?;
        insert(transaction, &name, &About { key: key.clone(), sharing: sharing_name(sharing).into(), created })?;
        Ok(dir)
    }

    /// Notes that a directory has just been used; how large it is has to be measured again.
    fn mark_mount_used(&self, name: &str) -> Result<(), StoreError> {
        self.index().transaction("note the use of a cache mount", |transaction| Ok(mark_used(transaction, name)?))
    }

    /// Whether there is any directory of that key.
    pub fn has_mount(&self, key: &MountKey) -> Result<bool, StoreError> {
        self.index().read("find a cache mount", |connection| Ok(is_known(connection, key)?))
    }
}

fn is_known(connection: &rusqlite::Connection, key: &MountKey) -> rusqlite::Result<bool> {
    let mut query = connection.prepare_cached("SELECT 1 FROM mounts WHERE id = ?1 AND seed = ?2")?;
    Ok(query.query_row((&key.id, &key.seed), |_| Ok(())).optional()?.is_some())
}

fn mark_used(transaction: &Transaction<'_>, name: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "UPDATE mounts SET size_bytes = NULL, used_at = ?2, used_tick = (SELECT tick FROM state) WHERE name = ?1",
        )?
        .execute((name, Timestamp::now().as_second()))?;
    Ok(())
}

fn insert(transaction: &Transaction<'_>, name: &str, about: &About) -> rusqlite::Result<()> {
    let About { key, sharing, created } = about;
    transaction
        .prepare_cached(
            "INSERT INTO mounts (name, id, seed, sharing, created, used_at, used_tick)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, (SELECT tick FROM state))",
        )?
        .execute((name, &key.id, &key.seed, sharing, created, Timestamp::now().as_second()))?;
    Ok(())
}

fn seconds(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}
