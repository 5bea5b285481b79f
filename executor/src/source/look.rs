//! What an entry of the context looks like to `stat`, and when that says enough.
//!
//! In: what the kernel says of an entry, and of the file system that it is on. Out: whether two looks mean one unchanged
//! thing. Whoever changes a file changes its ctime to now, and nobody can set it; so an equal look means equal content,
//! provided that the ctime was *past* when the content was read: within one step of the clock a file can change twice
//! and look the same. A look that was not past proves nothing ("racily clean", as version control calls it), and the
//! content has to be read again. It proves nothing either on a file system whose ctimes or inode numbers are not what
//! they should be: network, FUSE and FAT file systems are never believed.
//!
//! What no look can show: writes through a shared memory mapping that the kernel has not told the file of yet.

use std::os::fd::AsFd;

use rustix::fs::{self, FileType, Stat};
use rustix::time::{ClockId, clock_gettime};

/// Longest step of the clock that files get their times from: a tick at 100 Hz.
const TICK_NANOS: i128 = 10_000_000;
/// Coarsest times that file systems have, and a step of those: FAT's. Assumed of any time of whole seconds.
const WHOLE_SECONDS_NANOS: i128 = 2_000_000_000;
/// Bytes of a look in a file.
pub(super) const LOOK_BYTES: usize = 52;

/// File systems of this kernel alone, with inode numbers that stay and ctimes of this machine's clock.
const TRUSTED: [u32; 11] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683E, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58F6, // ramfs
    0x794C_7630, // overlayfs
    0x2FC1_2FC1, // zfs
    0xF2F5_2010, // f2fs
    0xCA45_1A4E, // bcachefs
    0x7371_7368, // squashfs
    0xE0F5_E1E2, // erofs
];

/// What an entry looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    dev: u64,
    ino: u64,
    mode: u32,
    bytes: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl Look {
    /// The look of what was looked at.
    // The types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            mode: stat.st_mode as u32,
            bytes: stat.st_size as u64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.mode).is_dir()
    }

    /// Permission bits.
    pub fn permissions(&self) -> u16 {
        (self.mode & 0o7777) as u16
    }

    /// Whether both are on one file system.
    pub fn same_device(&self, other: &Self) -> bool {
        self.dev == other.dev
    }

    /// Whether both are the same thing, whatever became of it.
    pub fn same_inode(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }

    /// Whether what looked like `self` still is what it was. A directory's times and length change with entries that may
    /// not even be selected; its entries are looked at themselves.
    pub fn is_still(&self, now: &Self) -> bool {
        match self.is_dir() {
            true => self.same_inode(now) && self.mode == now.mode,
            false => self == now,
        }
    }

    /// Adds it to the bytes of a file.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        for number in [self.dev, self.ino, self.bytes, self.mtime.0 as u64, self.ctime.0 as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.mode, self.mtime.1, self.ctime.1] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Takes one from the beginning of `bytes`.
    pub fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (mine, rest) = bytes.split_first_chunk::<LOOK_BYTES>()?;
        *bytes = rest;
        let long = |i: usize| u64::from_le_bytes(std::array::from_fn(|j| mine[i * 8 + j]));
        let short = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| mine[40 + i * 4 + j]));
        Some(Self {
            dev: long(0),
            ino: long(1),
            bytes: long(2),
            mtime: (long(3) as i64, short(1)),
            ctime: (long(4) as i64, short(2)),
            mode: short(0),
        })
    }
}

/// A moment of the clock that files get their times from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(i128);

impl Moment {
    /// Now. Taken before anything is looked at: whatever is changed later has no earlier ctime. The coarse clock, because
    /// the kernel takes file times from it; the exact one is ahead of them by up to a tick.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Self(nanos(now.tv_sec, now.tv_nsec as u32))
    }

    /// Long ago: nothing is past.
    #[cfg(test)]
    pub fn long_ago() -> Self {
        Self(0)
    }

    /// Whether the last change of what looks so is past, whatever its modification time is.
    #[cfg(test)]
    pub fn is_after_change(&self, look: &Look) -> bool {
        self.is_after(&Look { mtime: look.ctime, ..*look })
    }

    /// Whether the times of a look are past at this moment: whatever happens to the thing from now on shows in its look.
    /// A time that is still to come, because a clock was set back, is not. A modification time that somebody has set to
    /// one to come costs no more than another reading.
    pub fn is_after(&self, look: &Look) -> bool {
        [look.mtime, look.ctime].into_iter().all(|(seconds, nanoseconds)| {
            let step = if nanoseconds == 0 { WHOLE_SECONDS_NANOS } else { TICK_NANOS };
            nanos(seconds, nanoseconds) + step < self.0
        })
    }
}

fn nanos(seconds: i64, nanoseconds: u32) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

/// Whether looks prove something on the file system of an open thing. One that does not say what it is, is not believed.
pub(super) fn is_trusted(thing: impl AsFd) -> bool {
    match fs::fstatfs(thing) {
        // The type is signed on some architectures, and 32 bits of it count.
        #[allow(clippy::unnecessary_cast)]
        Ok(about) => TRUSTED.contains(&(about.f_type as u32)),
        Err(error) => {
            tracing::debug!(%error, "a file system does not say what it is");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    fn look(mtime: (i64, u32), ctime: (i64, u32)) -> Look {
        Look { dev: 1 << 40, ino: 2, mode: 0o100_644, bytes: 4, mtime, ctime }
    }

    #[test]
    fn only_a_past_look_proves_something() {
        let now = Moment(1_000 * SECOND + 500);
        for (mtime, ctime, is_past) in [
            ((900, 1), (900, 1), true),
            ((999, 980_000_000), (999, 980_000_000), true),
            // Within a tick, and at this very moment.
            ((900, 1), (999, 995_000_000), false),
            ((900, 1), (1_000, 500), false),
            ((999, 995_000_000), (900, 1), false),
            // To come: a clock was set back, or somebody set the time.
            ((900, 1), (2_000, 1), false),
            ((2_000, 1), (900, 1), false),
            // Times of whole seconds may come from a file system that has no others.
            ((900, 0), (998, 0), true),
            ((900, 0), (999, 0), false),
            ((999, 0), (900, 1), false),
            ((-5, 0), (0, 0), true),
            ((i64::MIN, 0), (900, 1), true),
            ((i64::MAX, 1), (900, 1), false),
        ] {
            assert_eq!(now.is_after(&look(mtime, ctime)), is_past, "{mtime:?} {ctime:?}");
        }
    }

    #[test]
    fn a_look_comes_back_from_its_bytes() {
        let (one, other) = (look((-1, 2), (3, 999_999_999)), look((i64::MAX, 0), (i64::MIN, 1)));
        let mut bytes = Vec::new();
        one.write(&mut bytes);
        other.write(&mut bytes);
        assert_eq!(bytes.len(), 2 * LOOK_BYTES);
        let mut rest = bytes.as_slice();
        assert_eq!(
            [Look::read(&mut rest), Look::read(&mut rest), Look::read(&mut rest)],
            [Some(one), Some(other), None]
        );
    }

    #[test]
    fn every_field_counts_but_of_a_directory_only_what_it_is() {
        let one = look((1, 1), (1, 1));
        for other in [
            Look { dev: 9, ..one },
            Look { ino: 9, ..one },
            Look { mode: 0o100_600, ..one },
            Look { bytes: 9, ..one },
            Look { mtime: (1, 2), ..one },
            Look { ctime: (1, 2), ..one },
        ] {
            assert!(one.is_still(&one) && !one.is_still(&other), "{other:?}");
        }
        let dir = Look { mode: 0o040_755, ..one };
        assert!(dir.is_still(&Look { bytes: 9, mtime: (9, 9), ctime: (9, 9), ..dir }));
        assert!(!dir.is_still(&Look { mode: 0o040_700, ..dir }) && !dir.is_still(&Look { ino: 9, ..dir }));
    }
}
