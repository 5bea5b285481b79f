//! What the store takes, and how it gives space back: told, on request, and at the end of a build.
//!
//! In come settings and wishes, out come facts for the hall to print. Without a setting the store may take a tenth of
//! its disk, but at least 20 GB, which a few large images need, and at most 100 GB, so that a forgotten cache does not
//! eat a server; and it gives way until a tenth of the disk is free, down to 2 GB. BuildKit's caps are of that kind.
//! Cache mounts may take half of that, so that what grows with every build never takes all from what a build can reuse.

use std::sync::Arc;
use std::time::Duration;

use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use store::{Collected, Kind, Limit, Store, Usage, Wish};

use super::task::{Task, in_background};
use super::{Failure, Settings, words};
use crate::amount::amount;
use crate::options::size::Size;

const GB: u64 = 1_000_000_000;
/// Of a large disk: the size that BuildKit's default has too.
const SHARE_MAX_BYTES: u64 = 100 * GB;
/// Of a small one: what is less loses every build's cache to the next.
const SHARE_MIN_BYTES: u64 = 20 * GB;
/// What a store keeps on a disk that others fill.
const AT_LEAST_BYTES: u64 = 2 * GB;
/// A tenth of the disk is the store's, and a tenth stays free.
const SHARE: u64 = 10;

/// Of the store's size, cache mounts may have one part of so many.
const MOUNTS_SHARE: u64 = 2;

/// Everything that the store takes, and what it may take.
pub async fn usage(settings: &Settings, progress: Arc<dyn Progress>) -> Result<(Usage, Limit), Failure> {
    let store = settings.open_store(&progress)?;
    let sizes = Sizes::of(settings);
    let both = move |store: &Store| Ok((store.usage()?, sizes.limit(store.disk_bytes()?)));
    in_background(&store, move |store| both(store).map_err(|error| words::store(&error))).await
}

/// Removes what is wished for and may go; `dry_run` only tells.
pub async fn prune(
    settings: &Settings,
    wish: Wish,
    dry_run: bool,
    progress: Arc<dyn Progress>,
) -> Result<Collected, Failure> {
    let store = settings.open_store(&progress)?;
    let task = Task::start("[internal] prune the store", &progress);
    let pruned =
        in_background(&store, move |store| store.prune(&wish, dry_run).map_err(|error| words::store(&error))).await;
    task.end(pruned)
}

/// Gives space back when a build has ended, well or not. What goes wrong here is told and spoils no build.
pub(super) async fn collect(settings: &Settings, store: &Store, progress: &Arc<dyn Progress>) {
    let sizes = Sizes::of(settings);
    let collected = in_background(store, move |store| {
        let limit = sizes.limit(store.disk_bytes().map_err(|error| words::store(&error))?);
        store.collect(limit).map_err(|error| words::store(&error))
    });
    let notice = match collected.await {
        Ok(collected) => notice(&collected),
        Err(failure) => {
            let problem = failure.problems.first().map(|problem| problem.message.clone()).unwrap_or_default();
            Some(format!("the store could not be made smaller: {problem}"))
        }
    };
    if let Some(text) = notice {
        progress.event(Event::Notice { vertex: VertexId::of_name("store"), text });
    }
}

/// What is set about sizes.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    max_size: Option<Size>,
    keep_free: Option<Size>,
    at_least: Option<Size>,
    mounts_max_size: Option<Size>,
    keep_for: Option<Duration>,
}

impl Sizes {
    fn of(settings: &Settings) -> Self {
        let Settings { max_size, keep_free, at_least, mounts_max_size, keep_for, .. } = *settings;
        Self { max_size, keep_free, at_least, mounts_max_size, keep_for }
    }

    /// How large the store may be on a disk of that size.
    fn limit(self, disk_bytes: u64) -> Limit {
        let bytes = |size: Option<Size>| size.map_or(0, |size| size.bytes(disk_bytes));
        let limit = match self.max_size {
            Some(size) => Limit {
                max_bytes: size.bytes(disk_bytes),
                keep_free_bytes: bytes(self.keep_free),
                at_least_bytes: bytes(self.at_least),
                ..Limit::default()
            },
            None => Limit {
                max_bytes: (disk_bytes / SHARE).clamp(SHARE_MIN_BYTES, SHARE_MAX_BYTES),
                keep_free_bytes: disk_bytes / SHARE,
                at_least_bytes: AT_LEAST_BYTES,
                ..Limit::default()
            },
        };
        let mounts = self.mounts_max_size.map_or(limit.max_bytes / MOUNTS_SHARE, |size| size.bytes(disk_bytes));
        Limit { keep_for: self.keep_for, max_mount_bytes: Some(mounts), ..limit }
    }
}

/// What people should know of a collection: what went, and that the store is too large all the same.
fn notice(collected: &Collected) -> Option<String> {
    let freed = collected.freed_bytes();
    if collected.max_bytes > 0 && collected.total_bytes > collected.max_bytes {
        return Some(format!(
            "the store takes {} and may take {}: images with names and running builds hold {}; `rbuild du` says which",
            amount(collected.total_bytes),
            amount(collected.max_bytes),
            amount(collected.held_bytes),
        ));
    }
    let things = collected.gone.iter().filter(|gone| gone.kind != Kind::Key).count();
    let mounts = collected.gone.iter().filter(|gone| gone.kind == Kind::Mount).count();
    if let Some(max) = collected.max_mount_bytes
        && mounts > 0
        && mounts == things
    {
        let them = if mounts == 1 { "the cache mount".into() } else { format!("{mounts} cache mounts") };
        return Some(format!(
            "removed {them} used longest ago ({}): all together may take {}, see `cache_mounts.max_size` in \
             `rbuild config`",
            amount(freed),
            amount(max),
        ));
    }
    (things > 0).then(|| {
        format!(
            "removed {} of cache that was not used for longest; the store takes {}",
            amount(freed),
            amount(collected.total_bytes)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_a_share_of_the_disk_within_bounds() {
        let check = |max_size: Option<Size>, disk_gb: u64, max_gb: u64, keep_free_gb: u64| {
            let limit = Sizes { max_size, ..Sizes::default() }.limit(disk_gb * GB);
            assert_eq!((limit.max_bytes / GB, limit.keep_free_bytes / GB), (max_gb, keep_free_gb), "{max_size:?}");
            assert_eq!(limit.max_mount_bytes, Some(limit.max_bytes / 2), "{max_size:?}");
            let mounts_max_size = Some(Size::Percent(3));
            let own = Sizes { max_size, mounts_max_size, ..Sizes::default() }.limit(disk_gb * GB);
            assert_eq!(own, Limit { max_mount_bytes: Some(disk_gb * GB / 100 * 3), ..limit });
        };
        check(None, 50, 20, 5);
        check(None, 500, 50, 50);
        check(None, 4000, 100, 400);
        check(Some(Size::Bytes(7 * GB)), 500, 7, 0);
        check(Some(Size::Percent(20)), 500, 100, 0);
    }

    #[test]
    fn a_store_that_only_names_fill_is_told_of_and_a_quiet_one_is_not() {
        let collected =
            |total_bytes, max_bytes| Collected { total_bytes, max_bytes, held_bytes: 70, ..Collected::default() };
        assert_eq!(notice(&Collected::default()), None);
        assert_eq!(notice(&collected(80, 100)), None);
        let told = notice(&collected(120, 100)).expect("it is too large");
        assert!(told.contains("takes 120B and may take 100B") && told.contains("hold 70B"), "{told}");
    }

    #[test]
    fn who_loses_only_cache_mounts_is_told_which_setting_took_them() {
        let gone = |kinds: &[Kind]| {
            let used = |kind| store::Used {
                kind,
                name: "n".into(),
                label: String::new(),
                bytes: 10,
                used_at: None,
                held: None,
                dependants: 0,
            };
            let gone = kinds.iter().copied().map(used).collect();
            notice(&Collected { gone, max_mount_bytes: Some(15), ..Collected::default() }).expect("something went")
        };
        let told = gone(&[Kind::Mount, Kind::Mount]);
        assert!(told.contains("2 cache mounts used longest ago (20B)") && told.contains("may take 15B"), "{told}");
        assert!(told.contains("cache_mounts.max_size"), "{told}");
        assert!(gone(&[Kind::Mount, Kind::Layer]).contains("removed 20B of cache"));
    }
}
