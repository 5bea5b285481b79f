//! What comes from the host where a user namespace may not make it anew: device nodes and `/sys`.
//!
//! The paths are the host's and lead through no directory of the image: these acts come before the pivot, and `/dev`
//! here is the host's own. A node must be the device that was meant.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::mount::{self, MountError};
use super::plan::Flags;
use super::trouble::{Trouble, with};

/// Binds the host's `/dev/NAME` into `dev`, the new `/dev`.
pub fn bind_device(dev: &OwnedFd, name: &str, major: u32, minor: u32) -> Result<(), Trouble> {
    let node = place(&format!("/dev/{name}"))?;
    let stat = rustix::fs::fstat(&node)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || stat.st_rdev != rustix::fs::makedev(major, minor) {
        return Err(format!("the host's `/dev/{name}` is not the device {major}:{minor}").into());
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::openat(dev, name, flags, Mode::from_raw_mode(0o666))?);
    let at = rustix::fs::openat(dev, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach(mount::clone_of(node, Flags { nosuid: true, noexec: true, ..Flags::default() }, false)?, at)?;
    Ok(())
}

/// Binds the host's `/sys` on `at`, read-only with all that is mounted in it.
pub fn bind_sys(at: impl AsFd) -> Result<(), Trouble> {
    let flags = Flags { readonly: true, nosuid: true, nodev: true, noexec: true };
    mount::attach(mount::clone_of(place("/sys")?, flags, true)?, at)?;
    Ok(())
}

/// Says what the kernel's "not permitted" means for a file system of this kind.
pub fn explain(kind: &str, error: MountError) -> Trouble {
    let refused = error.errno == Errno::PERM;
    let trouble = Trouble::from(error);
    let why = match kind {
        "proc" if refused => {
            "the kernel gives a new /proc only where nothing of the one around it is hidden, and a container hides some; \
             start that container with `--security-opt systempaths=unconfined` (docker), `--security-opt unmask=ALL` \
             (podman) or `procMount: Unmasked` (Kubernetes)"
        }
        "sysfs" if refused => "the kernel gives a new /sys only where nothing of the one around it is hidden",
        _ => return trouble,
    };
    Trouble { detail: format!("{}; {why}", trouble.detail), ..trouble }
}

/// Opens something of the host's as a place.
pub fn place(path: &str) -> Result<OwnedFd, Trouble> {
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno: Errno| with(format_args!("the host's `{path}`"))(errno))
}
