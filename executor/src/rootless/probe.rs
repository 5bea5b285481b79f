//! Tries what steps need of the kernel, without a step. For processes with one thread; nothing is left behind.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::sandbox::sys as processes;
use crate::snapshot::overlay::MountApi;
use crate::snapshot::{OverlaySnapshotter, SnapshotError, Snapshotter as _};
use crate::sys;

/// What the process that tries exits with when the reason has no number.
const NO_NUMBER: i32 = 255;

/// Whether a new `/proc` can be mounted for a new PID namespace: the kernel refuses it where the one around is masked.
pub fn proc_mount() -> io::Result<()> {
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    let Some(pid) = sys::fork_single_threaded(flags)? else {
        let tried = || -> io::Result<()> {
            let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
            Ok(())
        };
        let code = tried().err().map_or(0, |error| error.raw_os_error().unwrap_or(NO_NUMBER));
        processes::exit_now(code)
    };
    match libc::WEXITSTATUS(processes::wait_for(pid)?.status) {
        0 => Ok(()),
        NO_NUMBER => Err(io::Error::other("it could not be tried")),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Whether overlayfs works on the file system of `dir`, an empty directory of ours: layers are stacked, and a deletion is
/// marked as layers have it.
pub fn overlay(dir: &Path) -> Result<(), SnapshotError> {
    let at = |name: &str| dir.join(name);
    let made = |name: &str| std::fs::create_dir(at(name)).map_err(SnapshotError::io("make", &at(name)));
    for name in ["layers", "layers/one", "layers/two", "upper", "work"] {
        made(name)?;
    }
    let file = at("layers/one/file");
    std::fs::write(&file, "lower").map_err(SnapshotError::io("write", &file))?;
    let snapshots = OverlaySnapshotter::new(&at("layers"), MountApi::detect())?;
    let lowers = ["two".to_owned(), "one".to_owned()];
    let tree = snapshots.prepare(&lowers, &at("upper"), &at("work"))?;
    rustix::fs::unlinkat(tree.fd(), "file", AtFlags::empty()).map_err(SnapshotError::io("delete in", dir))?;
    drop(tree);
    let mark = rustix::fs::statat(CWD, at("upper/file"), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(SnapshotError::io("look at the deletion in", dir))?;
    if FileType::from_raw_mode(mark.st_mode) != FileType::CharacterDevice || mark.st_rdev != 0 {
        let odd = io::Error::other("a deletion is marked in another way");
        return Err(SnapshotError::io("use overlayfs on", dir)(odd));
    }
    // overlayfs makes its scratch directory so that nobody may enter it.
    let work = rustix::fs::open(at("work"), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(SnapshotError::io("open", dir))?;
    rustix::fs::fchmod(work.as_fd(), Mode::RWXU).map_err(SnapshotError::io("open", dir))
}
