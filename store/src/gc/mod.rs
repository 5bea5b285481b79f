//! Collection: what the store gives back, and when.
//!
//! A store has one size that it may take; it counts everything under the root. When a build has ended, [`Store::collect`]
//! looks at one number that the index keeps; only when that is too large, or was last found by measuring more than a day
//! ago, everything is looked at. Then the things go whose last use is longest ago, until the store is a tenth below its
//! size, so that not every build has something to do. Cache mounts, which only grow, may have a size of their own beside
//! that; those that the build used are measured at its end. [`Store::prune`] does the same when somebody asks, and
//! [`Store::usage`] only tells. What a name or a running process holds stays; if that alone is too much, that is said.
//!
//! ```text
//! census   what there is: sizes, uses, what stands on what, who holds it     reads
//! policy   what goes, in which order                                         a pure function
//! remove   takes it, unless somebody began to use it meanwhile               in windows of a few milliseconds
//! trash    trees were only renamed; they are deleted while time is left
//! ```
//! One process collects at a time (`gc.lock`); the others do not wait for it. It may be killed anywhere: the next one
//! finishes. Deliberately absent: cutting caches elsewhere; deciding how large a store may be, which is the caller's.

mod builds;
mod census;
pub(crate) mod files;
mod measure;
mod mounts;
mod nodes;
mod policy;
mod remove;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Transaction;

pub use policy::{Holder, Limit, Wish};

use crate::index::Trouble;
use crate::layout::Lock;
use crate::{Kind, Store, StoreError, lease, trash, usage};
pub(crate) use census::{Place, descriptor, layer_blobs, look};

use census::Census;
use policy::{Thing, allowed, choose, last_uses};

/// Held by the one process that collects.
const LOCK: &str = "gc.lock";
/// After so long everything is measured again: what grew without telling, or was deleted by hand, is noticed.
const MEASURED_EVERY_SECONDS: i64 = 24 * 60 * 60;
/// Where an age decides, it does so by the hour.
const AGED_EVERY_SECONDS: i64 = 60 * 60;
/// A file of uses this long takes tens of milliseconds to bring into the index.
const USES_MAX_BYTES: u64 = 1 << 20;
/// How far below its size a store is brought at the end of a build: to nine tenths.
const LOW_WATER: (u64, u64) = (9, 10);
/// How long somebody who asked for space waits for its deletion; the rest is left to the next start.
const PRUNE_BUDGET: Duration = Duration::from_secs(60);
/// An index with more than this, and more than half of all, of unused pages is written anew.
const UNUSED_PAGES_MAX: i64 = 256;

/// What came of [`Store::collect`] or [`Store::prune`].
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// What went; nothing if nothing was due.
    pub gone: Vec<Used>,
    /// How many things were looked at; 0: nothing was due, or another process is at it.
    pub examined: usize,
    /// What the store takes now, in bytes.
    pub total_bytes: u64,
    /// What of it is held by names and running processes.
    pub held_bytes: u64,
    /// What it may take; 0 where nobody asked.
    pub max_bytes: u64,
    /// What cache mounts alone may take, where anybody says so.
    pub max_mount_bytes: Option<u64>,
}

impl Collected {
    /// What the things that went took.
    pub fn freed_bytes(&self) -> u64 {
        self.gone.iter().map(|gone| gone.bytes).sum()
    }
}

/// One thing of the store.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Used {
    /// What kind of thing it is.
    pub kind: Kind,
    /// Its name among its kind.
    pub name: String,
    /// What it is, in words.
    pub label: String,
    /// What it takes on disk.
    pub bytes: u64,
    /// When it, or what stands on it, was used last: seconds since 1970; `None` is not known.
    pub used_at: Option<i64>,
    /// Who holds it.
    pub held: Option<Holder>,
    /// How many things stand on it.
    pub dependants: usize,
}

/// Everything that a store takes.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// What may go, and what holds what may not; by kind, the last used first.
    pub things: Vec<Used>,
    /// What belongs to no thing: the index, the trash, drafts; in bytes.
    pub other: BTreeMap<String, u64>,
    /// All of it.
    pub total_bytes: u64,
}

impl Store {
    /// Everything that the store takes, and why. Looks at everything; changes nothing but what is known of sizes and
    /// uses.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        self.fold()?;
        let census = Census::take(self)?;
        let mut things = told(&census.things, 0..census.things.len());
        things.sort_by(|one, other| {
            let key = |used: &Used| (used.kind, std::cmp::Reverse(used.used_at), used.name.clone());
            key(one).cmp(&key(other))
        });
        Ok(Usage { things, other: census.other.into_iter().collect(), total_bytes: census.total_bytes })
    }

    /// Gives space back at the end of this process's work: lets go of all that it used, and if the store has become too
    /// large, or things too old, takes what was not used for longest. In constant time when nothing is due; without
    /// waiting for others.
    pub fn collect(&self, limit: Limit) -> Result<Collected, StoreError> {
        let mounts = self.lease().names_of(Kind::Mount);
        self.lease().end()?;
        let now = Timestamp::now().as_second();
        // What steps wrote there, nobody told.
        mounts::measure_used(self, &mounts)?;
        match self.outlook(limit, now)? {
            Outlook::Due => {}
            Outlook::Fits => return Ok(Collected::default()),
            Outlook::NamesAlone { total_bytes, held_bytes, max_bytes } => {
                return Ok(Collected { total_bytes, held_bytes, max_bytes, ..Collected::default() });
            }
        }
        let Some(_lock) = self.gc_lock()?.try_exclusive()? else { return Ok(Collected::default()) };
        let newest = self.newest_use()?;
        self.fold()?;
        let census = Census::take(self)?;
        let mut chosen = Vec::new();
        let max_bytes = allowed(limit, census.total_bytes, self.free_bytes()?);
        if census.total_bytes > max_bytes {
            let keep_bytes = Some(max_bytes / LOW_WATER.1 * LOW_WATER.0);
            chosen = choose(&census.things, census.total_bytes, &Wish { keep_bytes, ..Wish::default() }, now);
        }
        if let Some(keep_for) = limit.keep_for {
            // When nothing at all was used for so long, the machine slept or its clock jumped: nobody had the chance to
            // use anything, so nothing goes.
            let slept =
                newest.is_some_and(|newest| u64::try_from(now - newest).is_ok_and(|age| age >= keep_for.as_secs()));
            let wish = Wish { unused_for: Some(keep_for), all: true, ..Wish::default() };
            let aged = if slept { Vec::new() } else { choose(&census.things, census.total_bytes, &wish, now) };
            chosen = merged(chosen, &aged, &census);
        }
        let max_mount_bytes = limit.max_mount_bytes;
        let mount_bytes: u64 = census.things.iter().filter(|thing| thing.kind == Kind::Mount).map(|it| it.bytes).sum();
        if let Some(max) = max_mount_bytes.filter(|max| mount_bytes > *max) {
            let keep_bytes = Some(max / LOW_WATER.1 * LOW_WATER.0);
            let wish = Wish { kinds: vec![Kind::Mount], keep_bytes, ..Wish::default() };
            chosen = merged(chosen, &choose(&census.things, mount_bytes, &wish, now), &census);
        }
        let collected = self.carry_out(&census, &chosen, max_bytes, trash::EMPTYING_BUDGET)?;
        Ok(Collected { max_bytes, max_mount_bytes, ..collected })
    }

    /// Takes what is wished for, if it may go. `dry_run` only tells what would go. Waits for another process that collects.
    pub fn prune(&self, wish: &Wish, dry_run: bool) -> Result<Collected, StoreError> {
        let _lock = if dry_run { None } else { Some(self.gc_lock()?.exclusive()?) };
        self.fold()?;
        let census = Census::take(self)?;
        let chosen = choose(&census.things, census.total_bytes, wish, Timestamp::now().as_second());
        if dry_run {
            let gone = told(&census.things, chosen.iter().copied());
            let freed: u64 = gone.iter().map(|gone| gone.bytes).sum();
            let total_bytes = census.total_bytes.saturating_sub(freed);
            let held_bytes = held(&census);
            let examined = census.things.len();
            return Ok(Collected { gone, examined, total_bytes, held_bytes, ..Collected::default() });
        }
        self.carry_out(&census, &chosen, u64::MAX, PRUNE_BUDGET)
    }

    /// `max_bytes` is what the store may take, as far as is known.
    fn carry_out(
        &self,
        census: &Census,
        chosen: &[usize],
        max_bytes: u64,
        budget: Duration,
    ) -> Result<Collected, StoreError> {
        let things: Vec<&Thing> = chosen.iter().map(|&at| &census.things[at]).collect();
        let deadline = Instant::now() + budget;
        let taken = match remove::take(self, &things) {
            // The index needs room to forget: the trees that are in the trash by now give it.
            Err(error) if is_full(&error) => {
                trash::empty(self.layout(), deadline)?;
                remove::take(self, &things)?
            }
            taken => taken?,
        };
        remove::tidy(self)?;
        trash::empty(self.layout(), deadline)?;
        if !taken.is_empty() {
            self.compact()?;
        }
        let gone = told(&census.things, taken.iter().map(|&at| chosen[at]));
        let again = (!taken.is_empty()).then(|| Census::take(self)).transpose()?;
        let after = again.as_ref().unwrap_or(census);
        let (total_bytes, held_bytes) = (after.total_bytes, held(after));
        // As long as names alone are too much, nothing is gained by looking again.
        let by_names = |thing: &Thing| matches!(thing.holder, Some(Holder::Tag(_)));
        let is_floor = total_bytes > max_bytes && after.things.iter().all(by_names);
        let floor_bytes = if is_floor { total_bytes } else { 0 };
        self.index().transaction("note what the store takes", |transaction| {
            transaction.execute(
                "UPDATE state SET bytes = ?1, measured_at = ?2, floor_bytes = ?3, held_bytes = ?4",
                (
                    total_bytes.cast_signed(),
                    Timestamp::now().as_second(),
                    floor_bytes.cast_signed(),
                    held_bytes.cast_signed(),
                ),
            )?;
            Ok(())
        })?;
        Ok(Collected { gone, examined: census.things.len(), total_bytes, held_bytes, ..Collected::default() })
    }

    /// Whether everything must be looked at: one row, a few numbers, and those of the cache mounts say so.
    fn outlook(&self, limit: Limit, now: i64) -> Result<Outlook, StoreError> {
        let added = self.lease().take_added_bytes();
        if added > 0 {
            self.index().transaction("note what the store takes", |transaction| {
                let mut add = transaction.prepare_cached("UPDATE state SET bytes = bytes + ?1")?;
                add.execute([i64::try_from(added).unwrap_or(i64::MAX)])?;
                Ok(())
            })?;
        }
        type Row = (i64, i64, i64, i64);
        let (bytes, measured_at, floor, held): Row = self.index().read("tell what the store takes", |connection| {
            let mut query =
                connection.prepare_cached("SELECT bytes, measured_at, floor_bytes, held_bytes FROM state")?;
            Ok(query.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?)
        })?;
        let every = if limit.keep_for.is_some() { AGED_EVERY_SECONDS } else { MEASURED_EVERY_SECONDS };
        let is_old = !(0..every).contains(&(now - measured_at));
        let is_long = usage::uses_bytes(self.layout())? > USES_MAX_BYTES;
        let mounts_fit = match limit.max_mount_bytes {
            Some(max) => self.counted_mount_bytes()? <= max,
            None => true,
        };
        let (bytes, floor_bytes, held_bytes) = (bytes.unsigned_abs(), floor.unsigned_abs(), held.unsigned_abs());
        let max_bytes = allowed(limit, bytes, self.free_bytes()?);
        if is_old || is_long || !mounts_fit || bytes > max_bytes.max(floor_bytes) {
            return Ok(Outlook::Due);
        }
        let names_alone = Outlook::NamesAlone { total_bytes: bytes, held_bytes, max_bytes };
        Ok(if bytes > max_bytes { names_alone } else { Outlook::Fits })
    }

    /// Bytes of the disk that the store lies on, for programs that are not root's too.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.disk()?.0)
    }

    fn free_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.disk()?.1)
    }

    /// All, and what is free.
    fn disk(&self) -> Result<(u64, u64), StoreError> {
        let root = &self.layout().root;
        let disk =
            rustix::fs::fstatvfs(root).map_err(|source| StoreError::io("look at the disk of", &root.path, source))?;
        Ok((disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    fn gc_lock(&self) -> Result<Lock, StoreError> {
        self.layout().lock_file(LOCK)
    }

    /// The last use that the index knows of.
    fn newest_use(&self) -> Result<Option<i64>, StoreError> {
        self.index().read("tell what was used", |connection| {
            let sql = "SELECT max(newest) FROM (SELECT max(used_at) AS newest FROM layers UNION ALL
                SELECT max(used_at) FROM keys UNION ALL SELECT max(used_at) FROM uses)";
            let newest: Option<i64> = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
            Ok(newest.filter(|newest| *newest > 0))
        })
    }

    /// Brings what ended processes used into the index.
    fn fold(&self) -> Result<(), StoreError> {
        lease::sweep(self.layout())?;
        usage::fold_uses(self.layout(), |uses| {
            self.index().transaction("note what was used", |transaction| {
                let mut tick: i64 = transaction.query_row("SELECT tick FROM state", [], |row| row.get(0))?;
                let mut last = None;
                for (kind, name, at) in &uses.0 {
                    if last != Some(at) {
                        tick += 1;
                        last = Some(at);
                    }
                    note_use(transaction, *kind, name, tick, *at)?;
                }
                transaction.execute("UPDATE state SET tick = ?1", [tick])?;
                Ok(())
            })
        })
    }

    /// Gives the pages of the index back that nothing is in any more, when these are many, and its log.
    fn compact(&self) -> Result<(), StoreError> {
        self.index().read("be made smaller", |connection| {
            let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
            let (unused, all) = (number("PRAGMA freelist_count")?, number("PRAGMA page_count")?);
            if unused > UNUSED_PAGES_MAX && unused * 2 > all {
                connection.execute_batch("VACUUM")?;
            }
            // The log holds all that was forgotten; another process that reads right now keeps it as it is.
            Ok(connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?)
        })
    }
}

fn note_use(transaction: &Transaction<'_>, kind: Kind, name: &str, tick: i64, at: i64) -> Result<(), Trouble> {
    let digest = remove::bytes_of(name);
    match (kind, digest) {
        (Kind::Layer, _) => {
            transaction
                .prepare_cached("UPDATE layers SET used_tick = ?2, used_at = ?3 WHERE id = ?1")?
                .execute((name, tick, at))?;
        }
        (Kind::Key, Some(key)) => {
            transaction
                .prepare_cached("UPDATE keys SET used_tick = ?2, used_at = ?3 WHERE key = ?1")?
                .execute((key, tick, at))?;
        }
        (Kind::Mount, _) => {
            transaction
                .prepare_cached("UPDATE mounts SET used_tick = ?2, used_at = ?3 WHERE name = ?1")?
                .execute((name, tick, at))?;
        }
        (Kind::Node | Kind::Key | Kind::Build, _) => {}
        (Kind::Image | Kind::Blob | Kind::Git | Kind::Note | Kind::Context | Kind::Client, _) => {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO uses (kind, name, used_tick, used_at) VALUES (?1, ?2, ?3, ?4)")?
                .execute((kind.word(), name, tick, at))?;
        }
    }
    Ok(())
}

/// What there is to be done at the end of a build.
enum Outlook {
    /// Nothing: the store is within its size.
    Fits,
    /// Nothing, although it is not: when it was looked at last, names alone held all of this.
    NamesAlone { total_bytes: u64, held_bytes: u64, max_bytes: u64 },
    /// Everything must be looked at.
    Due,
}

/// Both choices, in an order that leaves nothing standing on what is gone.
fn merged(one: Vec<usize>, other: &[usize], census: &Census) -> Vec<usize> {
    if other.is_empty() {
        return one;
    }
    let mut wanted: Vec<bool> = vec![false; census.things.len()];
    for &at in one.iter().chain(other) {
        wanted[at] = true;
    }
    policy::leaves_first(&census.things).into_iter().filter(|&at| wanted[at]).collect()
}

fn told(things: &[Thing], which: impl IntoIterator<Item = usize>) -> Vec<Used> {
    let uses = last_uses(things);
    let standing = policy::dependants(things);
    let told = which.into_iter().map(|at| {
        let Thing { kind, name, label, bytes, holder, .. } = things[at].clone();
        let used_at = (uses[at].1 > 0).then_some(uses[at].1);
        Used { kind, name, label, bytes, used_at, held: holder, dependants: standing[at] }
    });
    told.collect()
}

fn held(census: &Census) -> u64 {
    census.things.iter().filter(|thing| thing.holder.is_some()).map(|thing| thing.bytes).sum()
}

/// Whether the database had no room left.
fn is_full(error: &StoreError) -> bool {
    let StoreError::Index { source, .. } = error else { return false };
    source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}
