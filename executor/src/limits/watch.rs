//! What no controller limits is watched: the clock, what a step writes, the room on the store's disk.
//!
//! In: limits, upper directories. Out: the [`Hit`] that ends the step, or nothing for as long as it lasts. Looks come
//! as often as a fast disk could be filled up to the limit, so a step with room before it is nearly never looked at;
//! walks of what was written take a twentieth of one core's time at most.

use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{StatVfs, statvfs};
use tokio::time::{Instant, sleep_until};

use super::measure::{Measured, measure};
use super::{Hit, LimitError, StepLimits};

/// No disk takes more in a second.
const FASTEST_BYTES_PER_SECOND: u64 = 4 << 30;
/// Looks come no faster: what is written between two of them is the overshoot.
const LOOK_MIN: Duration = Duration::from_millis(50);
/// Nor slower.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// A walk is followed by so many times its duration without one.
const WALK_SHARE: u32 = 20;

/// What is watched of one step.
pub struct Watch {
    timeout: Option<Duration>,
    disk_bytes: Option<u64>,
    /// What is in them before the step: a tree that is no diff begins whole.
    before_bytes: u64,
    /// Directories that the step writes to.
    uppers: Vec<PathBuf>,
    /// A path on the store's disk.
    store: PathBuf,
    floor_bytes: u64,
}

impl Watch {
    /// For a step that writes to `uppers`, which are on the disk of `store`.
    ///
    /// # Errors
    /// When there is no room already, or nobody can tell.
    pub fn new(limits: &StepLimits, uppers: Vec<PathBuf>, store: PathBuf) -> Result<Self, LimitError> {
        let disk = statvfs(&store).map_err(|errno| LimitError::Io {
            act: "look at the disk of",
            path: store.clone(),
            source: errno.into(),
        })?;
        let floor_bytes = limits.min_free.bytes(disk.f_blocks.saturating_mul(disk.f_frsize));
        let free_bytes = free(&disk);
        if free_bytes < floor_bytes {
            return Err(LimitError::Room { free_bytes, floor_bytes, path: store });
        }
        let before_bytes = if limits.disk_bytes.is_some() { measure(&uppers).bytes } else { 0 };
        Ok(Self { timeout: limits.timeout, disk_bytes: limits.disk_bytes, before_bytes, uppers, store, floor_bytes })
    }

    /// Ends when a limit was run into, and never otherwise.
    pub async fn until_hit(&self) -> Hit {
        let begun = Instant::now();
        let end = self.timeout.map(|timeout| begun + timeout);
        let mut written = Written { bytes: 0, free_then: None, next: begun };
        let mut look = begun;
        loop {
            let wake = end.map_or(look, |end| end.min(look));
            sleep_until(wake).await;
            let now = Instant::now();
            if let (Some(limit), true) = (self.timeout, end.is_some_and(|end| end <= now)) {
                return Hit::Time { limit };
            }
            // A disk that does not answer any more stops the step by itself.
            let Ok(disk) = statvfs(&self.store) else {
                look = now + LOOK_MAX;
                continue;
            };
            let free_bytes = free(&disk);
            if free_bytes < self.floor_bytes {
                return Hit::Room { free_bytes, floor_bytes: self.floor_bytes };
            }
            let mut room = if self.floor_bytes > 0 { free_bytes - self.floor_bytes } else { u64::MAX };
            if let Some(limit_bytes) = self.disk_bytes {
                self.look_at_disk(&mut written, limit_bytes, free_bytes, now).await;
                if written.bytes > limit_bytes {
                    return Hit::Disk { limit_bytes, written_bytes: written.bytes };
                }
                room = room.min(limit_bytes - written.bytes);
            }
            look = Instant::now() + pause(room);
        }
    }

    /// Walks what was written, when it may be too much or was not looked at for long.
    async fn look_at_disk(&self, written: &mut Written, limit_bytes: u64, free_bytes: u64, now: Instant) {
        let free_at_first = *written.free_then.get_or_insert(free_bytes);
        let since = free_at_first.saturating_sub(free_bytes);
        let may_be_too_much = since >= limit_bytes.saturating_sub(written.bytes) / 2;
        let due = if may_be_too_much { written.next } else { written.next + LOOK_MAX };
        if now < due {
            return;
        }
        let uppers = self.uppers.clone();
        let Ok(Measured { bytes, whole }) = tokio::task::spawn_blocking(move || measure(&uppers)).await else {
            return;
        };
        let bytes = bytes.saturating_sub(self.before_bytes);
        // What cannot be walked to its end is judged by what the disk lost meanwhile.
        written.bytes = if whole { bytes } else { bytes.max(written.bytes.saturating_add(since)) };
        written.free_then = Some(free_bytes);
        written.next = Instant::now() + now.elapsed() * WALK_SHARE;
    }
}

/// What is known of what a step wrote.
struct Written {
    bytes: u64,
    /// Free on the disk at that time.
    free_then: Option<u64>,
    /// No walk before.
    next: Instant,
}

/// How long it takes at least to write so much.
fn pause(room_bytes: u64) -> Duration {
    let millis = room_bytes / (FASTEST_BYTES_PER_SECOND / 1000);
    Duration::from_millis(millis).clamp(LOOK_MIN, LOOK_MAX)
}

/// What ordinary users may still write.
fn free(disk: &StatVfs) -> u64 {
    disk.f_bavail.saturating_mul(disk.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Room;

    fn watch(limits: StepLimits, dir: &std::path::Path) -> Watch {
        Watch::new(&limits, vec![dir.to_owned()], dir.to_owned()).unwrap()
    }

    #[test]
    fn looks_are_as_far_apart_as_the_room_allows() {
        let check = |bytes: u64, millis: u64| assert_eq!(pause(bytes), Duration::from_millis(millis), "{bytes}");
        check(0, 50);
        check(100 << 20, 50);
        check(4 << 30, 1000);
        check(u64::MAX, 10_000);
    }

    #[test]
    fn a_disk_without_room_is_refused_before_anything_runs() {
        let folder = tempfile::tempdir().unwrap();
        let full = StepLimits { min_free: Room::Bytes(u64::MAX), ..StepLimits::default() };
        let error = Watch::new(&full, Vec::new(), folder.path().to_owned()).err().unwrap();
        assert!(error.to_string().starts_with("no space left for steps: "), "{error}");
        assert!(error.help().unwrap().contains("rbuild prune"));
    }

    #[tokio::test]
    async fn the_clock_ends_a_step_at_its_limit_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Duration::from_millis(80);
        let timed = watch(StepLimits { timeout: Some(limit), ..StepLimits::default() }, folder.path());
        let begun = Instant::now();
        assert_eq!(timed.until_hit().await, Hit::Time { limit });
        assert!(begun.elapsed() >= limit);
        let unlimited = watch(StepLimits { min_free: Room::Bytes(0), ..StepLimits::default() }, folder.path());
        assert!(tokio::time::timeout(limit * 4, unlimited.until_hit()).await.is_err());
    }

    #[tokio::test]
    async fn what_is_written_beyond_the_limit_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let limits = StepLimits { disk_bytes: Some(1 << 20), min_free: Room::Bytes(0), ..StepLimits::default() };
        let watch = watch(limits, folder.path());
        std::fs::write(folder.path().join("big"), vec![1; 3 << 20]).unwrap();
        let hit = watch.until_hit().await;
        let Hit::Disk { limit_bytes, written_bytes } = hit else { panic!("{hit:?}") };
        assert_eq!(limit_bytes, 1 << 20);
        assert!(written_bytes >= 3 << 20);
    }
}
