//! The binary that steps are started from: this one, but so that no step can write to it.
//!
//! While a step is set up, `/proc/1/exe` in it is our own binary, and root in a container could write to a host file
//! through such a link (CVE-2019-5736). So the helper is executed from a private, read-only, detached mount of the
//! binary: whatever is opened through that link belongs to this mount, which refuses writes, changes of mode and
//! links, and which nobody can remount because it is in no namespace. It costs one system call per builder process;
//! the alternative, a sealed copy in memory, would cost as much memory as the binary is long.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::mount::clone_of;
use super::plan::Flags;

/// A binary that can be executed and not written.
#[derive(Clone, Debug)]
pub struct Executable(Arc<OwnedFd>);

impl Executable {
    /// Takes the binary at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Takes the binary that is open as a place, in the mount namespace that this process is in.
    pub fn of(place: impl AsFd) -> io::Result<Self> {
        let flags = Flags { readonly: true, nosuid: true, nodev: true, noexec: false };
        let mount = clone_of(place, flags, false).map_err(|error| io::Error::from(error.errno))?;
        Ok(Self(Arc::new(mount)))
    }

    /// Takes the binary at `path` as it is, where nothing may be mounted: root in a step can write to it.
    pub fn unprotected(path: &Path) -> io::Result<Self> {
        let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self(Arc::new(place)))
    }

    /// A path that a child of this process can execute.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
