//! Directories of clients, kept from build to build, so that only what changed is sent again.
//!
//! In: a name, 64 hexadecimal digits that stand for whose directory it is. Out: a [`ClientTree`], which its holder alone
//! may read and change until it is dropped; or nothing, while another build has it. Deliberately absent: what is in them,
//! and whether that is whole: whoever fills them (`src/daemon/session/receive.rs`) trusts no file that it did not finish.
//!
//! ```text
//! clients/<hex>/fs/       the directory
//! clients/<hex>/boot      the boot in which it was begun: of an older one it is thrown away, as nothing of it was synced
//! clients/<hex>.lock      flocked by whoever has it; stays
//! ```
//! A directory may be deleted at any time by whoever has its lock; its modification time says when it was last of use.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::layout::{Folder, fresh_name, try_flock};
use crate::{Store, StoreError, durability};

const FOLDER: &str = "clients";
/// A boot id, and a little more.
const BOOT_MAX_BYTES: u64 = 64;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A client's directory in this process's hands.
#[derive(Debug)]
pub struct ClientTree {
    path: PathBuf,
    fs: OwnedFd,
    /// Holds the lock.
    _lock: OwnedFd,
}

impl ClientTree {
    /// Where it is; absolute.
    pub fn fs(&self) -> &Path {
        &self.path
    }

    /// The directory.
    pub fn fs_fd(&self) -> BorrowedFd<'_> {
        self.fs.as_fd()
    }
}

impl Store {
    /// The directory of that name, made if there is none; `None` while somebody else has it.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn client_tree(&self, name: &str) -> Result<Option<ClientTree>, StoreError> {
        debug_assert!(name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let layout = self.layout();
        let folder = open_or_make(&layout.root, FOLDER)?;
        let lock_name = format!("{name}.lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&folder, lock_name.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|source| StoreError::io("open", folder.join(&lock_name), source))?;
        if !try_flock(&lock, &folder.join(&lock_name))? {
            return Ok(None);
        }
        let boot = durability::current_boot()?;
        let mut dir = open_or_make(&folder, name)?;
        if boot_of(&dir)?.as_deref() != Some(&boot) {
            rustix::fs::renameat(&folder, name, &layout.trash, fresh_name()?)
                .map_err(|source| StoreError::io("move to the trash", folder.join(name), source))?;
            dir = open_or_make(&folder, name)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&dir, "boot", flags, Mode::RUSR | Mode::WUSR)
                .map_err(|source| StoreError::io("make", dir.join("boot"), source))?;
            std::fs::File::from(file)
                .write_all(boot.as_bytes())
                .map_err(|source| StoreError::io("write", dir.join("boot"), source))?;
        }
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        rustix::fs::futimens(&dir, &Timestamps { last_access: now, last_modification: now })
            .map_err(|source| StoreError::io("set the time of", &dir.path, source))?;
        let fs = open_or_make(&dir, "fs")?;
        rustix::fs::fchmod(&fs, Mode::from_raw_mode(0o755))
            .map_err(|source| StoreError::io("change the mode of", &fs.path, source))?;
        Ok(Some(ClientTree { path: fs.path.clone(), fs: fs.into_fd(), _lock: lock }))
    }
}

fn open_or_make(parent: &Folder, name: &str) -> Result<Folder, StoreError> {
    let path = parent.join(name);
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(source) => return Err(StoreError::io("make", path, source)),
    }
    let fd = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty());
    fd.map(|fd| Folder::opened(path.clone(), fd)).map_err(|source| StoreError::io("open", path, source))
}

/// The boot in which it was begun, if that was written down.
fn boot_of(dir: &Folder) -> Result<Option<String>, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, "boot", flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(source) => return Err(StoreError::io("open", dir.join("boot"), source)),
    };
    let mut text = String::new();
    match file.take(BOOT_MAX_BYTES).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        // What is damaged is of no boot.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok(None),
        Err(source) => Err(StoreError::io("read", dir.join("boot"), source)),
    }
}
