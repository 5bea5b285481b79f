//! Stubs: empty files and directories that mounts needed as mount points and the image did not have.
//!
//! The process in the sandbox makes them and reports each; after the run the builder removes them from the upper
//! directory (or tree) again, so that a layer shows no trace of `/etc/hosts` or `/proc`. What the step itself put
//! there stays: only a file that is still empty and a directory that is still empty goes. Nothing follows a link, so
//! a step that swaps a parent for a link cannot lead the removal elsewhere.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// A mount point that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stub {
    /// Where, relative to the root, links already resolved.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// What.
    pub kind: StubKind,
    /// Modification time of its directory before it was made.
    pub parent_before: Time,
    /// Modification time of its directory just after.
    pub parent_after: Time,
}

/// What a stub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StubKind {
    /// A regular file of no bytes.
    File,
    /// An empty directory.
    Directory,
}

/// Seconds since 1970 and nanoseconds.
pub type Time = (i64, i64);

/// Removes `stubs` from `tree` (an upper directory or a whole tree), the last made first. A parent directory that
/// nothing else has changed gets its time back; one that the step changed keeps the time of that change.
pub fn remove_stubs(tree: impl AsFd, stubs: &[Stub]) -> io::Result<()> {
    for stub in stubs.iter().rev() {
        match remove(tree.as_fd(), stub) {
            // The step removed or replaced it, or something on the way to it: then it is the step's.
            Ok(()) | Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => {
                let error = io::Error::from(error);
                let what = format!("remove the mount point `{}` from the layer: {error}", stub.path.display());
                return Err(io::Error::new(error.kind(), what));
            }
        }
    }
    Ok(())
}

fn remove(tree: impl AsFd, stub: &Stub) -> Result<(), Errno> {
    let (Some(parent), Some(name)) = (stub.path.parent(), stub.path.file_name()) else { return Ok(()) };
    let parent = open_directory(tree, parent)?;
    let found = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let parent_time = modified(&parent)?;
    let flags = match (stub.kind, rustix::fs::FileType::from_raw_mode(found.st_mode)) {
        (StubKind::File, rustix::fs::FileType::RegularFile) if found.st_size == 0 => AtFlags::empty(),
        (StubKind::Directory, rustix::fs::FileType::Directory) => AtFlags::REMOVEDIR,
        _ => return Ok(()),
    };
    rustix::fs::unlinkat(&parent, name, flags)?;
    let untouched = parent_time == stub.parent_after;
    set_modified(&parent, if untouched { stub.parent_before } else { parent_time })
}

/// Opens a directory for reading without following a single link.
fn open_directory(tree: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { OsStr::new(".") } else { path.as_os_str() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat2(tree, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Modification time of an open file.
pub fn modified(file: impl AsFd) -> Result<Time, Errno> {
    let stat = rustix::fs::fstat(file)?;
    // The types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    Ok((stat.st_mtime as i64, stat.st_mtime_nsec as i64))
}

/// Sets the modification time of an open file.
pub fn set_modified(file: impl AsFd, (seconds, nanoseconds): Time) -> Result<(), Errno> {
    let kept = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
    let times =
        Timestamps { last_access: kept, last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ } };
    rustix::fs::futimens(file, &times)
}

/// Paths as bytes: names in images need not be UTF-8.
mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(OsString::from_vec(Vec::deserialize(deserializer)?).into())
    }
}
