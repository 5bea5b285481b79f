//! Whole trees, in a fixed order, without recursion and without a descriptor for every level.
//!
//! In: a directory's descriptor. Out: every entry beneath it, a directory before its entries and once more after them,
//! names in byte order. Deep and wide trees cost heap, never stack; at most [`HELD_LEVELS`] descriptors are open
//! whatever the depth. Deliberately absent: decisions, which are the [`Visitor`]'s.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{TreeError, joined, resolve::open_dir_at, shown};

/// Descriptors kept open on the way down; those above are opened again on the way up.
const HELD_LEVELS: usize = 64;
/// Deeper than any real tree (a path of 4096 bytes holds 2048 directories), small enough to bound the walk.
const DEPTH_MAX: usize = 10_000;

/// A way down into a tree: a stack of directories, of which only the nearest are open.
pub(crate) struct DirStack {
    levels: Vec<Level>,
}

struct Level {
    fd: Option<OwnedFd>,
    dev: u64,
    ino: u64,
}

impl DirStack {
    /// Stands in this directory.
    pub fn new(dir: OwnedFd) -> Result<Self, TreeError> {
        Ok(Self { levels: vec![Level::new(dir).map_err(TreeError::io("look at", b""))?] })
    }

    /// The directory it stands in.
    pub fn top(&self) -> BorrowedFd<'_> {
        self.levels.last().and_then(|level| level.fd.as_ref()).expect("the nearest level is always open").as_fd()
    }

    /// Goes into a subdirectory, never through a link.
    pub fn push(&mut self, name: &[u8], path: &[u8]) -> Result<(), TreeError> {
        if self.levels.len() >= DEPTH_MAX {
            return Err(TreeError::TooDeep { path: shown(path), limit: DEPTH_MAX });
        }
        let next = open_dir_at(self.top(), name).map_err(TreeError::changed_if_gone("open directory", path))?;
        self.levels.push(Level::new(next).map_err(TreeError::io("look at", path))?);
        if let Some(far) = self.levels.len().checked_sub(HELD_LEVELS + 1) {
            self.levels[far].fd = None;
        }
        Ok(())
    }

    /// Goes back to the directory above: the very one it came from.
    pub fn pop(&mut self, path: &[u8]) -> Result<(), TreeError> {
        let left = self.levels.pop().and_then(|level| level.fd).expect("the nearest level is always open");
        let Some(above) = self.levels.last_mut() else { return Ok(()) };
        if above.fd.is_none() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd =
                fs::openat(&left, "..", flags, Mode::empty()).map_err(TreeError::io("open directory above", path))?;
            let again = Level::new(fd).map_err(TreeError::io("look at", path))?;
            // Somebody moved the directory that we stood in: `..` is not where we came from.
            if (again.dev, again.ino) != (above.dev, above.ino) {
                return Err(TreeError::Changed { path: shown(path) });
            }
            *above = again;
        }
        Ok(())
    }
}

impl Level {
    fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = fs::fstat(&fd)?;
        Ok(Self { fd: Some(fd), dev: stat.st_dev, ino: stat.st_ino })
    }
}

/// One entry of a tree.
pub(crate) struct Entry<'a> {
    /// The directory that holds it.
    pub dir: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a [u8],
    /// Its path from where the walk began.
    pub path: &'a [u8],
    /// What it is; of the entry itself, not of what a link points to.
    pub stat: &'a Stat,
}

impl Entry<'_> {
    /// What kind of thing it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// Whether a directory's entries are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Descend {
    /// They are; the directory comes again, in [`Visitor::leave`], after them.
    Enter,
    /// They are not.
    Skip,
}

/// What a walk is for.
pub(crate) trait Visitor {
    /// Why it stopped.
    type Error: From<TreeError>;

    /// Sees an entry; the answer matters for directories only.
    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, Self::Error>;

    /// Sees a directory again, after its entries. `entry.dir` is the directory that holds it.
    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), Self::Error>;
}

/// Walks the tree beneath `dir`, `dir` itself excluded.
pub(crate) fn walk<V: Visitor>(dir: OwnedFd, visitor: &mut V) -> Result<(), V::Error> {
    let mut frames = vec![Frame { names: names(dir.as_fd(), b"")?.into_iter(), here: None }];
    let mut dirs = DirStack::new(dir)?;
    let mut path: Vec<u8> = Vec::new();
    while let Some(frame) = frames.last_mut() {
        let Some(name) = frame.names.next() else {
            let Some((name, stat)) = frames.pop().and_then(|frame| frame.here) else { break };
            dirs.pop(&path)?;
            visitor.leave(&Entry { dir: dirs.top(), name: &name, path: &path, stat: &stat })?;
            path.truncate(path.len().saturating_sub(name.len() + 1));
            continue;
        };
        let here = joined(&path, &name);
        let stat = match fs::statat(dirs.top(), name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Err(TreeError::Changed { path: shown(&here) }.into()),
            Err(errno) => return Err(TreeError::io("look at", &here)(errno).into()),
        };
        let entry = Entry { dir: dirs.top(), name: &name, path: &here, stat: &stat };
        let descend = visitor.visit(&entry)?;
        if descend == Descend::Enter && entry.kind().is_dir() {
            dirs.push(&name, &here)?;
            let names = names(dirs.top(), &here)?.into_iter();
            path = here;
            frames.push(Frame { names, here: Some((name, stat)) });
        }
    }
    Ok(())
}

struct Frame {
    names: std::vec::IntoIter<Vec<u8>>,
    /// Name and look of the directory; `None` for where the walk began.
    here: Option<(Vec<u8>, Stat)>,
}

/// Whether a directory has no entries.
pub(crate) fn is_empty(dir: BorrowedFd<'_>, path: &[u8]) -> Result<bool, TreeError> {
    for entry in Dir::read_from(dir).map_err(TreeError::changed_if_gone("list", path))? {
        let entry = entry.map_err(TreeError::changed_if_gone("list", path))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The names in a directory, in byte order.
pub(crate) fn names(dir: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>, TreeError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(TreeError::changed_if_gone("list", path))? {
        let entry = entry.map_err(TreeError::changed_if_gone("list", path))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}
