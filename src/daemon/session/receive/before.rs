//! What a directory holds from the last time: which of it is what the client has now, and what has to go.
//!
//! Names come in the order of the list, so each directory is read once and walked beside it. A file stays if everything
//! that is known of it is the same, and if its time can be believed: one of whole seconds was set by somebody, and one
//! that is no older than the file's arrival may have stood still while its bytes changed. Both are asked for again.
//! Deliberately absent: looking at bytes, which the client would have to do as well.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::PathBuf;

use api::fsutil::Stat;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{counts, permissions, times};

/// Clocks of files go on in steps; no step is longer.
const CLOCK_STEP_NANOSECONDS: i128 = 1_000_000_000;
/// Names of attributes; a file with more has some that count.
const NAMES_MAX_BYTES: usize = 4096;

/// What was in one directory, in order.
#[derive(Debug, Default)]
pub struct Before {
    names: VecDeque<CString>,
}

impl Before {
    /// What is in it now.
    pub fn of(dir: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable();
        Ok(Self { names: names.into() })
    }

    /// Removes what stands in front of `name`, which the client has no more. Returns whether `name` was there.
    pub fn reach(&mut self, dir: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
        while let Some(next) = self.names.front().filter(|next| next.as_bytes() <= name.as_bytes()) {
            if next.as_bytes() == name.as_bytes() {
                self.names.pop_front();
                return Ok(true);
            }
            remove(dir, next)?;
            self.names.pop_front();
        }
        Ok(false)
    }

    /// Removes what is left.
    pub fn end(&mut self, dir: BorrowedFd<'_>) -> io::Result<()> {
        self.names.drain(..).try_for_each(|name| remove(dir, &name))
    }
}

/// Removes an entry, whatever it is. Links are not followed.
pub fn remove(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::ISDIR) => {
            use std::os::unix::ffi::OsStrExt as _;
            let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            path.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
            std::fs::remove_dir_all(path)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the file of that name is the one that the client speaks of.
pub fn is_same(dir: BorrowedFd<'_>, name: &str, said: &Stat) -> Result<bool, Errno> {
    let facts = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let time = times(said.mod_time).last_modification;
    let nanoseconds = |seconds: i64, part: i128| i128::from(seconds) * 1_000_000_000 + part;
    let arrived = nanoseconds(facts.st_ctime, i128::from(facts.st_ctime_nsec));
    let is_same = FileType::from_raw_mode(facts.st_mode) == FileType::RegularFile
        && facts.st_nlink == 1
        && facts.st_size == said.size
        && Mode::from_raw_mode(facts.st_mode) == permissions(said.mode)
        && i128::from(facts.st_mtime_nsec) == i128::from(time.tv_nsec)
        && facts.st_mtime == time.tv_sec
        && time.tv_nsec != 0
        && arrived - i128::from(said.mod_time) >= CLOCK_STEP_NANOSECONDS
        && !said.xattrs.keys().any(|name| counts(name));
    if !is_same {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => Ok(counted(file.as_fd())?.is_empty()),
        Err(Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Names of the extended attributes that count.
pub fn counted(file: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    let mut names = [0_u8; NAMES_MAX_BYTES];
    match rustix::fs::flistxattr(file, &mut names) {
        Ok(length) => {
            let names = names[..length].split(|byte| *byte == 0).map(String::from_utf8_lossy);
            Ok(names.filter(|name| counts(name)).map(std::borrow::Cow::into_owned).collect())
        }
        // A file system without them has none.
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}
