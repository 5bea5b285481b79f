//! `/dev` of a step: a directory of its own with the devices that every program expects, where nodes can be made.
//!
//! Where they cannot, `/dev/null` is an empty file: reading it gives nothing, and what is written to it goes with the
//! step. Whoever begins a build is told ([`try_devices`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::sandbox::policy;

/// Fills the empty directory `dev`. The nodes are anybody's to read and write, as everywhere.
pub(super) fn fill(dev: BorrowedFd<'_>) -> Result<(), Errno> {
    for (name, mode) in [("shm", 0o1777), ("pts", 0o755)] {
        rustix::fs::mkdirat(dev, name, Mode::empty())?;
        rustix::fs::chmodat(dev, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    for &(name, major, minor) in policy::DEVICES {
        match node(dev, name, major, minor) {
            Ok(()) => {}
            Err(Errno::PERM) if name == "null" => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                drop(rustix::fs::openat(dev, name, flags, Mode::empty())?);
                rustix::fs::chmodat(dev, name, Mode::from_raw_mode(0o666), AtFlags::empty())?;
            }
            Err(Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn node(dev: BorrowedFd<'_>, name: &str, major: u32, minor: u32) -> Result<(), Errno> {
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
    // One that only has the looks of a device is none: a disk mounted with `nodev`, which a container's mostly is not.
    rustix::fs::chmodat(dev, name, Mode::from_raw_mode(0o666), AtFlags::empty())
}

/// Whether device nodes can be made on the disk of `store`, or of the nearest directory above that is there.
///
/// # Errors
/// Why not.
pub fn try_devices(store: &Path) -> io::Result<()> {
    let there = store.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let dir = there.join(format!(".rbuild-devices-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let tried = std::fs::File::open(&dir).and_then(|fd| Ok(node(fd.as_fd(), "null", 1, 3)?));
    // It is a node of this very process.
    let opened = tried.and_then(|()| std::fs::File::open(dir.join("null")).map(drop));
    std::fs::remove_dir_all(&dir)?;
    opened
}
