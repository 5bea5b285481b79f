//! The store's folders, opened once and addressed by descriptor, and its two locks.
//!
//! Comes in: a path. Goes out: a [`Layout`] whose folders exist, belong to this user and are closed to everybody else
//! whatever the umask; and names that were never used before.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::StoreError;

/// Letters that need no care in paths, mount options and shells; 32 of them, five bits each.
const NAME_LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Five bits each: 130 bits never meet by accident.
const ID_LETTERS: usize = 26;
/// Short, so that the lower directories of hundreds of layers fit into the one page that mount(2) takes. 40 bits:
/// whoever makes a name looks whether it is free, see [`Layout::fresh_layer_id`].
const LAYER_NAME_LETTERS: usize = 8;

/// One folder of the store: its path for messages, its descriptor for work.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    fd: OwnedFd,
}

impl Folder {
    /// A folder that is open already.
    pub(crate) fn opened(path: PathBuf, fd: OwnedFd) -> Self {
        Self { path, fd }
    }

    /// Its descriptor.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Path of an entry, for messages and for those who need paths.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Names of all entries; those that are not UTF-8 are none of ours and are left out.
    pub(crate) fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |source: Errno| StoreError::io("list", &self.path, source);
        // A descriptor of its own: the position in the listing belongs to the open file, and threads share `self.fd`.
        let fd = rustix::fs::openat(&self.fd, ".", DIRECTORY, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => names.push(name.to_owned()),
                Err(_) => tracing::debug!(path = %self.path.display(), name = ?entry.file_name(), "not ours"),
            }
        }
        Ok(names)
    }

    /// Whether an entry of that name exists; links are not followed.
    pub(crate) fn has(&self, name: &str) -> Result<bool, StoreError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(source) => Err(StoreError::io("look at", self.join(name), source)),
        }
    }

    /// Removes a file; one that is gone already is fine.
    pub(crate) fn remove_file(&self, name: &str) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(source) => Err(StoreError::io("remove", self.join(name), source)),
        }
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The folders of one store.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) root: Folder,
    pub(crate) blobs: Folder,
    pub(crate) layers: Folder,
    pub(crate) records: Folder,
    pub(crate) images: Folder,
    pub(crate) flights: Folder,
    pub(crate) leases: Folder,
    pub(crate) history: Folder,
    pub(crate) mounts: Folder,
    pub(crate) tmp: Folder,
    pub(crate) trash: Folder,
}

/// The root of a store before anything in it was looked at: made if it was missing, refused if it is not ours.
#[derive(Debug)]
pub(crate) struct Root(Folder);

impl Root {
    /// Opens or makes the root and its lock files.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`] for a directory with other contents, [`StoreError::ForeignOwner`] for somebody
    /// else's: closing such a directory to everybody, or trusting it, would both be wrong.
    pub(crate) fn prepare(path: &Path) -> Result<Self, StoreError> {
        let path = std::path::absolute(path).map_err(|source| StoreError::io("resolve", path, source))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|source| StoreError::io("make", &path, source))?;
        // The root itself may be reached through a link; what is beneath it may not.
        let path = path.canonicalize().map_err(|source| StoreError::io("resolve", &path, source))?;
        let fd = rustix::fs::open(&path, DIRECTORY, Mode::empty())
            .map_err(|source| StoreError::io("open", &path, source))?;
        let stat = rustix::fs::fstat(&fd).map_err(|source| StoreError::io("look at", &path, source))?;
        let user = rustix::process::geteuid().as_raw();
        if stat.st_uid != user {
            return Err(StoreError::ForeignOwner { root: path, owner: stat.st_uid, user });
        }
        let root = Folder { path, fd };
        // The lock is the first thing in a store; whoever makes one right now may have come to it between two looks.
        if !root.has("lock")? && !root.names()?.is_empty() && !root.has("lock")? {
            return Err(StoreError::NotAStore { root: root.path });
        }
        if stat.st_mode & 0o7777 != 0o700 {
            rustix::fs::fchmod(&root.fd, Mode::RWXU)
                .map_err(|source| StoreError::io("change the mode of", &root.path, source))?;
        }
        let root = Self(root);
        root.lock_file("lock")?;
        Ok(root)
    }

    /// The root itself.
    pub(crate) fn folder(&self) -> &Folder {
        &self.0
    }

    /// A lock file of the root, opened anew: its locks are independent of those of any other descriptor.
    pub(crate) fn lock_file(&self, name: &'static str) -> Result<Lock, StoreError> {
        lock_file(&self.0, name)
    }

    /// Makes what is missing of the folders, and opens all of them.
    pub(crate) fn into_layout(self) -> Result<Layout, StoreError> {
        let folder = |parent: &Folder, name: &str| {
            let path = parent.join(name);
            match rustix::fs::mkdirat(&parent.fd, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(source) => return Err(StoreError::io("make", path, source)),
            }
            match rustix::fs::openat(&parent.fd, name, DIRECTORY, Mode::empty()) {
                Ok(fd) => Ok(Folder { path, fd }),
                Err(source) => Err(StoreError::io("open", path, source)),
            }
        };
        let algorithms = folder(&self.0, "blobs")?;
        Ok(Layout {
            blobs: folder(&algorithms, "sha256")?,
            layers: folder(&self.0, "layers")?,
            records: folder(&self.0, "records")?,
            images: folder(&self.0, "images")?,
            flights: folder(&self.0, "flights")?,
            leases: folder(&self.0, "leases")?,
            history: folder(&self.0, "history")?,
            mounts: folder(&self.0, "mounts")?,
            tmp: folder(&self.0, "tmp")?,
            trash: folder(&self.0, "trash")?,
            root: self.0,
        })
    }
}

impl Layout {
    /// A lock file of the root, opened anew.
    pub(crate) fn lock_file(&self, name: &'static str) -> Result<Lock, StoreError> {
        lock_file(&self.root, name)
    }

    /// An id that no layer has, and the name its tree would get, not taken by any tree.
    pub(crate) fn fresh_layer_id(&self) -> Result<String, StoreError> {
        loop {
            let id = format!("b-{}", random_name(ID_LETTERS)?);
            if !self.layers.has(tree_name(&id))? {
                return Ok(id);
            }
        }
    }
}

fn lock_file(root: &Folder, name: &'static str) -> Result<Lock, StoreError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&root.fd, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|source| StoreError::io("open", root.join(name), source))?;
    Ok(Lock { file: file.into(), path: root.join(name) })
}

/// Name of the tree of the draft or built layer `id`: its first eight random letters.
pub(crate) fn tree_name(id: &str) -> &str {
    let letters = id.strip_prefix("b-").unwrap_or(id);
    letters.get(..LAYER_NAME_LETTERS).unwrap_or(letters)
}

/// Whether a name is one that [`tree_name`] gives.
pub(crate) fn is_tree_name(name: &str) -> bool {
    name.len() == LAYER_NAME_LETTERS && name.bytes().all(|b| NAME_LETTERS.contains(&b))
}

/// A name that nobody used before.
pub(crate) fn fresh_name() -> Result<String, StoreError> {
    random_name(ID_LETTERS)
}

fn random_name(letters: usize) -> Result<String, StoreError> {
    let mut bytes = [0_u8; ID_LETTERS];
    let bytes = &mut bytes[..letters];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(source) => return Err(StoreError::io("read", "/dev/urandom", source)),
        }
    }
    Ok(bytes.iter().map(|byte| char::from(NAME_LETTERS[usize::from(byte & 31)])).collect())
}

/// An advisory lock of the whole file (flock): given back when the value is dropped or the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits until no other holds it exclusively. Turns an exclusive lock into a shared one.
    pub(crate) fn shared(self) -> Result<Self, StoreError> {
        self.flock(FlockOperation::LockShared)?;
        Ok(self)
    }

    /// Waits until no other holds it.
    pub(crate) fn exclusive(self) -> Result<Self, StoreError> {
        self.flock(FlockOperation::LockExclusive)?;
        Ok(self)
    }

    /// `None` if another holds it.
    pub(crate) fn try_exclusive(self) -> Result<Option<Self>, StoreError> {
        Ok(try_flock(&self.file, &self.path)?.then_some(self))
    }

    fn flock(&self, operation: FlockOperation) -> Result<(), StoreError> {
        loop {
            match rustix::fs::flock(&self.file, operation) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(source) => return Err(StoreError::io("lock", &self.path, source)),
            }
        }
    }
}

/// Waits for an exclusive lock; blocks for as long as somebody has it. Whenever a signal interrupts it, it asks whether
/// it is `given_up`; then it returns false, and there is no lock.
///
/// # Errors
/// As flock(2).
pub fn flock_unless(fd: impl AsFd, given_up: &dyn Fn() -> bool) -> io::Result<bool> {
    while !given_up() {
        match rustix::fs::flock(&fd, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(source) => return Err(source.into()),
        }
    }
    Ok(false)
}

/// Whether an exclusive lock could be had at once; `path` is for the message.
pub(crate) fn try_flock(fd: impl AsFd, path: &Path) -> Result<bool, StoreError> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(source) => Err(StoreError::io("lock", path, io::Error::from(source))),
    }
}
