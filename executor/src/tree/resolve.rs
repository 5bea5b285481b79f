//! Paths inside a tree: resolved component by component from the root's descriptor, links included, never outside.
//!
//! In: a root and a path that anybody may have written. Out: a [`Place`]: the descriptor of the directory that holds
//! the last component, that component's name, and what is there now. No component is ever opened through a link: a
//! link's text is read and resolved here, an absolute one from the root, and `..` above the root stays at the root.
//! Deliberately absent: what is done at the place. Next: [`super::walk`].

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{TreeError, attrs, joined, shown};

/// As many links as the kernel follows in one path.
const LINKS_MAX: usize = 40;
/// PATH_MAX: the kernel takes no longer path, so neither does a Dockerfile.
const PATH_MAX_BYTES: usize = 4096;
/// Paths that are opened in one piece: less than PATH_MAX, which a path has more than when links lengthen it.
const PATH_PIECE_BYTES: usize = 2048;

/// The root of a tree.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

/// Directories that are made on the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewDir {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in nanoseconds since 1970; `None` is now.
    pub mtime: Option<i64>,
}

/// What a path leads to.
#[derive(Debug)]
pub(crate) struct Place {
    /// The directory that holds it; the thing itself when `name` is empty.
    pub dir: OwnedFd,
    /// Its name there; empty for the root.
    pub name: Vec<u8>,
    /// Path from the root, without links.
    pub path: Vec<u8>,
    /// What is there; `None` when nothing is.
    pub stat: Option<Stat>,
}

/// A [`Place`] that is not held open: as many of them as there are cost no descriptor.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its name in its directory; empty for the root, and for a directory that a path led out of again by `..`.
    pub name: Vec<u8>,
    /// Path from the root, without links.
    pub path: Vec<u8>,
    /// What was there when it was found; `None` when nothing was.
    pub stat: Option<Stat>,
}

impl Found {
    /// Whether a directory was there.
    pub fn is_dir(&self) -> bool {
        is_dir(self.stat.as_ref())
    }

    /// Path of the directory that holds it, or its own when it has no name.
    fn held_in(&self) -> &[u8] {
        self.path
            .strip_suffix(self.name.as_slice())
            .map_or(&self.path, |above| above.strip_suffix(b"/").unwrap_or(above))
    }
}

fn is_dir(stat: Option<&Stat>) -> bool {
    stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

impl Place {
    /// Whether a directory is there.
    pub fn is_dir(&self) -> bool {
        is_dir(self.stat.as_ref())
    }

    /// The same without its descriptor; [`Root::reopen`] gives it back.
    pub fn let_go(self) -> Found {
        Found { name: self.name, path: self.path, stat: self.stat }
    }

    /// Opens the directory that is there, for reading its entries.
    pub fn open_dir(&self) -> Result<OwnedFd, TreeError> {
        let name: &[u8] = if self.name.is_empty() { b"." } else { &self.name };
        open_dir_at(self.dir.as_fd(), name).map_err(|errno| match errno {
            Errno::NOENT => TreeError::NotFound { path: shown(&self.path) },
            Errno::NOTDIR | Errno::LOOP => TreeError::NotADirectory { path: shown(&self.path) },
            errno => TreeError::io("open directory", &self.path)(errno),
        })
    }
}

/// Opens a subdirectory for reading, never through a link.
pub(crate) fn open_dir_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    fs::openat(dir, name, flags, Mode::empty())
}

/// Opens a directory along its path, beneath `root` and through no link; an empty path is the root. `how` is added to
/// what an opened directory is for: nothing for reading its entries, `PATH` for naming things in it.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &[u8], how: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | how;
    let mut at: Option<OwnedFd> = None;
    let mut rest = if path.is_empty() { b"." } else { path };
    loop {
        let cut = match rest.len() <= PATH_PIECE_BYTES {
            true => rest.len(),
            // A name is at most 255 bytes long, so there is a slash.
            false => rest[..PATH_PIECE_BYTES].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?,
        };
        let from = at.as_ref().map_or(root, |fd| fd.as_fd());
        let next = fs::openat2(from, &rest[..cut], flags, Mode::empty(), resolve)?;
        if cut == rest.len() {
            return Ok(next);
        }
        rest = &rest[cut + 1..];
        at = Some(next);
    }
}

/// What is at `name`, `None` when nothing is.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

impl Root {
    /// The tree beneath this directory.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The directory's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Resolves `path`, its last component included when it is a link. A missing last component is fine, a missing
    /// directory before it is an error.
    pub fn resolve(&self, path: &[u8]) -> Result<Place, TreeError> {
        self.walk(path, true, None)
    }

    /// Resolves `path`, a link in its last component standing for itself.
    pub fn resolve_no_follow(&self, path: &[u8]) -> Result<Place, TreeError> {
        self.walk(path, false, None)
    }

    /// Resolves `path` and makes the directories that are missing before its last component.
    pub fn resolve_making_parents(&self, path: &[u8], new: &NewDir) -> Result<Place, TreeError> {
        self.walk(path, true, Some(new))
    }

    /// Makes the directory `path` and all that are missing before it, and returns its place.
    pub fn make_dirs(&self, path: &[u8], new: &NewDir) -> Result<Place, TreeError> {
        // The trailing component makes every named one a parent.
        let mut parents = path.to_vec();
        parents.extend_from_slice(b"/.");
        let place = self.walk(&parents, true, Some(new))?;
        if place.is_dir() { Ok(place) } else { Err(TreeError::NotADirectory { path: shown(path) }) }
    }

    /// Holds open again what was found in this tree. Its directory is reached by its path and through no link: if one
    /// stands there now, or nothing, the tree has changed.
    pub fn reopen(&self, found: &Found) -> Result<Place, TreeError> {
        let above = found.held_in();
        let dir = match above {
            b"" => rustix::io::fcntl_dupfd_cloexec(&self.fd, 3).map_err(TreeError::io("duplicate the root", b""))?,
            above => open_beneath(self.fd(), above, OFlags::PATH)
                .map_err(TreeError::changed_if_gone("open directory", above))?,
        };
        Ok(Place { dir, name: found.name.clone(), path: found.path.clone(), stat: found.stat })
    }

    fn walk(&self, path: &[u8], follow_last: bool, make: Option<&NewDir>) -> Result<Place, TreeError> {
        if path.len() > PATH_MAX_BYTES {
            return Err(TreeError::Io { act: "resolve", path: shown(path), source: Errno::NAMETOOLONG.into() });
        }
        let mut rest: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        // `a/` and `a/.` mean the directory: the link at `a`, if it is one, is followed.
        let must_be_dir = path.ends_with(b"/") || path.ends_with(b"/.");
        let follow_last = follow_last || must_be_dir;
        let mut at = At { root: &self.fd, dir: None, names: Vec::new(), parents: Vec::new() };
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                at.up()?;
                continue;
            }
            let last = rest.is_empty();
            let path_here = || joined(&at.path(), &name);
            let stat = stat_at(at.fd(), &name).map_err(|errno| TreeError::io("look up", &path_here())(errno))?;
            let kind = stat.as_ref().map(|stat| FileType::from_raw_mode(stat.st_mode));
            match kind {
                Some(FileType::Symlink) if !last || follow_last => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(TreeError::LinkLoop { path: shown(path), limit: LINKS_MAX });
                    }
                    let target = fs::readlinkat(at.fd(), name.as_slice(), Vec::new())
                        .map_err(|errno| TreeError::io("read link", &path_here())(errno))?;
                    let target = target.as_bytes();
                    if target.starts_with(b"/") {
                        at.back_to_root();
                    }
                    for component in components(target).collect::<Vec<_>>().into_iter().rev() {
                        rest.push_front(component.to_vec());
                    }
                }
                Some(FileType::Directory) if !last || must_be_dir => at.down(name)?,
                None if (!last || must_be_dir) && make.is_some() => {
                    let new = make.expect("checked by the guard");
                    make_dir_at(at.fd(), &name, new)
                        .map_err(|errno| TreeError::io("make directory", &path_here())(errno))?;
                    at.down(name)?;
                }
                None if !last => return Err(TreeError::NotFound { path: shown(path) }),
                Some(_) if !last || must_be_dir => return Err(TreeError::NotADirectory { path: shown(path) }),
                _ => {
                    let path = path_here();
                    return Ok(Place { dir: at.into_fd()?, name, path, stat });
                }
            }
        }
        let path = at.path();
        let dir = at.into_fd()?;
        let stat = fs::fstat(&dir).map_err(TreeError::io("look at", &path))?;
        Ok(Place { dir, name: Vec::new(), path, stat: Some(stat) })
    }
}

/// Makes one directory with exactly this mode, owner and time. An existing directory is fine: another step of the same
/// walk may have made it.
pub(crate) fn make_dir_at(dir: BorrowedFd<'_>, name: &[u8], new: &NewDir) -> Result<(), Errno> {
    match fs::mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let made = open_dir_at(dir, name)?;
    attrs::chown(made.as_fd(), new.uid, new.gid)?;
    fs::fchmod(&made, Mode::from_raw_mode(new.mode & 0o7777))?;
    if let Some(moment) = new.mtime {
        fs::futimens(&made, &attrs::times_at(moment))?;
    }
    Ok(())
}

/// Named components: neither empty nor `.`.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Where a walk stands.
struct At<'a> {
    root: &'a OwnedFd,
    /// `None` is the root.
    dir: Option<OwnedFd>,
    names: Vec<Vec<u8>>,
    /// Descriptors of the directories above `dir`, root excluded; as many as `names` less one.
    parents: Vec<OwnedFd>,
}

impl At<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_ref().unwrap_or(self.root).as_fd()
    }

    fn path(&self) -> Vec<u8> {
        self.names.join(&b'/')
    }

    fn down(&mut self, name: Vec<u8>) -> Result<(), TreeError> {
        let flags = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = fs::openat2(self.fd(), name.as_slice(), open, Mode::empty(), flags)
            .map_err(|errno| TreeError::io("open directory", &joined(&self.path(), &name))(errno))?;
        if let Some(here) = self.dir.replace(next) {
            self.parents.push(here);
        }
        self.names.push(name);
        Ok(())
    }

    /// To the directory above as it was walked through, not as `..` says: it may have been moved meanwhile.
    fn up(&mut self) -> Result<(), TreeError> {
        self.names.pop();
        self.dir = self.parents.pop();
        Ok(())
    }

    fn back_to_root(&mut self) {
        self.names.clear();
        self.parents.clear();
        self.dir = None;
    }

    fn into_fd(self) -> Result<OwnedFd, TreeError> {
        match self.dir {
            Some(dir) => Ok(dir),
            None => rustix::io::fcntl_dupfd_cloexec(self.root, 3).map_err(TreeError::io("duplicate the root", b"")),
        }
    }
}
