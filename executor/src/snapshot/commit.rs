//! What a step changed: an upper directory reduced to what differs from the layers beneath.
//!
//! In: the upper directory and the merged tree of the layers. Out: the same directory without what was only copied up:
//! an entry goes when its lower namesake has the same type, mode, owner, time, attributes and bytes. Also gone are
//! overlayfs's habits that say nothing: opaque marks on directories that hide nothing, whiteouts of what never was.
//! So the result depends on the two trees, not on the road between them.
//!
//! A file with several names stays if any of them is new or changed: else the others would lose it. Of the root
//! directory mode, owner and attributes count, its time does not: mount points are made in it and taken away again.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, Stat};

use super::marks::Marks;
use super::separate::separate;
use super::{Committed, SnapshotError};
use crate::tree::copy::{is_whiteout, open_file};
use crate::tree::resolve::{open_dir_at, stat_at};
use crate::tree::usage::Usage;
use crate::tree::walk::{Descend, DirStack, Entry, Visitor, names, walk};
use crate::tree::{TreeError, attrs, data};

/// What an upper directory holds before it is reduced.
#[derive(Clone, Copy, Debug)]
pub enum Form<'a> {
    /// Changes in overlayfs form.
    Diff,
    /// The whole tree: what is missing was deleted, and what is marked is as it was.
    Whole(&'a Marks),
}

impl Form<'_> {
    fn is_whole(self) -> bool {
        matches!(self, Self::Whole(_))
    }

    fn is_replaced(self, entry: &Entry<'_>) -> Result<bool, TreeError> {
        match self {
            Self::Diff => Ok(false),
            Self::Whole(marks) => marks.is_replaced(entry),
        }
    }

    fn knows(self, entry: &Entry<'_>) -> bool {
        match self {
            Self::Diff => false,
            Self::Whole(marks) => marks.know(entry),
        }
    }
}

/// Reduces `upper` to what differs from `lower` (`None` is the empty tree), and tells whether anything does.
pub fn reduce(upper: OwnedFd, lower: Option<BorrowedFd<'_>>, form: Form<'_>) -> Result<Committed, SnapshotError> {
    let duplicate = |fd: BorrowedFd<'_>| open_dir_at(fd, b".").map_err(TreeError::io("open directory", b""));
    let root_before = fs::fstat(&upper).map_err(TreeError::io("look at", b""))?;
    let lower_root = lower.map(duplicate).transpose()?;
    let mut reducer = Reducer {
        upper: duplicate(upper.as_fd())?,
        below: Below::new(lower_root.as_ref())?,
        lower_root,
        form,
        open: Vec::new(),
        groups: None,
        usage: Usage::default(),
    };
    reducer.usage.count(&root_before);
    let missing = reducer.missing(upper.as_fd(), b"")?;
    reducer.open.push(Open { missing, ..Open::default() });
    walk(duplicate(upper.as_fd())?, &mut reducer)?;
    let mut root = reducer.open.pop().expect("pushed above, and every visit that pushes has its leave");
    root.white_out(upper.as_fd(), b"")?;
    if root.touched {
        fs::futimens(&upper, &attrs::times_of(&root_before)).map_err(TreeError::io("set times of", b""))?;
    }
    if form.is_whole() {
        separate(&upper)?;
    }
    let changed = root.kept > 0 || reducer.root_differs(upper.as_fd(), &root_before)?;
    Ok(Committed { changed, bytes: reducer.usage.bytes() })
}

/// The merged tree of the layers beneath, at the directory that the walk of the upper is in.
struct Below {
    stack: Option<DirStack>,
    /// How many directories the walk is in that have no lower namesake.
    beyond: usize,
}

impl Below {
    fn new(root: Option<&OwnedFd>) -> Result<Self, TreeError> {
        let again = |root: &OwnedFd| {
            open_dir_at(root.as_fd(), b".").map_err(TreeError::io("open directory", b"")).and_then(DirStack::new)
        };
        Ok(Self { stack: root.map(again).transpose()?, beyond: 0 })
    }

    fn here(&self) -> Option<BorrowedFd<'_>> {
        self.stack.as_ref().filter(|_| self.beyond == 0).map(DirStack::top)
    }

    fn namesake(&self, entry: &Entry<'_>) -> Result<Option<Stat>, TreeError> {
        match self.here() {
            Some(dir) => stat_at(dir, entry.name).map_err(TreeError::io("look at", entry.path)),
            None => Ok(None),
        }
    }

    /// Follows the walk into a directory; `merged` when its lower namesake is a directory that shows through.
    fn enter(&mut self, entry: &Entry<'_>, merged: bool) -> Result<(), TreeError> {
        match &mut self.stack {
            Some(stack) if merged => stack.push(entry.name, entry.path),
            _ => {
                self.beyond += 1;
                Ok(())
            }
        }
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        if self.beyond > 0 {
            self.beyond -= 1;
            return Ok(());
        }
        self.stack.as_mut().map_or(Ok(()), |stack| stack.pop(entry.path))
    }

    /// Whether `entry` is what its lower namesake is.
    fn is_same(&self, entry: &Entry<'_>, namesake: &Stat) -> Result<bool, TreeError> {
        let Some(dir) = self.here() else { return Ok(false) };
        let look = |s: &Stat| (s.st_mode, s.st_uid, s.st_gid, s.st_mtime, s.st_mtime_nsec);
        if look(entry.stat) != look(namesake) {
            return Ok(false);
        }
        let lower = Entry { dir, name: entry.name, path: entry.path, stat: namesake };
        let same = match entry.kind() {
            FileType::RegularFile => entry.stat.st_size == namesake.st_size,
            FileType::Symlink => {
                let target = |e: &Entry<'_>| {
                    fs::readlinkat(e.dir, e.name, Vec::new()).map_err(TreeError::io("read link", e.path))
                };
                target(entry)? == target(&lower)?
            }
            FileType::BlockDevice | FileType::CharacterDevice => entry.stat.st_rdev == namesake.st_rdev,
            _ => true,
        };
        let xattrs = |e: &Entry<'_>| attrs::xattrs(e.dir, e.name).map_err(TreeError::io("read attributes of", e.path));
        if !same || xattrs(entry)? != xattrs(&lower)? {
            return Ok(false);
        }
        if entry.kind() != FileType::RegularFile || entry.stat.st_size == 0 {
            return Ok(true);
        }
        let (one, other) = (open_file(entry)?, open_file(&lower)?);
        data::equal(one.as_fd(), other.as_fd()).map_err(TreeError::io("compare", entry.path))
    }

    /// Whether the namesake of a directory entry of the upper shows through it.
    fn is_merged(&self, entry: &Entry<'_>, namesake: Option<&Stat>, form: Form<'_>) -> Result<bool, TreeError> {
        if !namesake.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir()) {
            return Ok(false);
        }
        Ok(if form.is_whole() { !form.is_replaced(entry)? } else { !opaque(entry)? })
    }
}

fn opaque(entry: &Entry<'_>) -> Result<bool, TreeError> {
    attrs::is_opaque(entry.dir, entry.name).map_err(TreeError::io("read attributes of", entry.path))
}

struct Reducer<'a> {
    upper: OwnedFd,
    lower_root: Option<OwnedFd>,
    below: Below,
    form: Form<'a>,
    /// The directories that the walk is in.
    open: Vec<Open>,
    /// Files with several names: whether they go. Known once the first is met.
    groups: Option<HashMap<u64, bool>>,
    /// What stays takes on disk.
    usage: Usage,
}

/// A directory that the walk is in.
#[derive(Default)]
struct Open {
    /// Entries that stay.
    kept: usize,
    /// Whether something in it was removed or made, which moved its time.
    touched: bool,
    /// Whether its lower namesake shows through it.
    merged: bool,
    /// Names that were deleted from it.
    missing: Vec<Vec<u8>>,
}

impl Open {
    fn white_out(&mut self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), TreeError> {
        for name in std::mem::take(&mut self.missing) {
            fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(TreeError::io("mark a deletion in", path))?;
            self.kept += 1;
            self.touched = true;
        }
        Ok(())
    }
}

impl Reducer<'_> {
    fn parent(&mut self) -> &mut Open {
        self.open.last_mut().expect("the root is open during the walk")
    }

    /// Names that the lower directory has and `dir`, a whole directory, has not.
    fn missing(&self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>, TreeError> {
        let Some(lower) = self.below.here().filter(|_| self.form.is_whole()) else { return Ok(Vec::new()) };
        let here = names(dir, path)?;
        let mut lower = names(lower, path)?;
        lower.retain(|name| here.binary_search(name).is_err());
        Ok(lower)
    }

    fn remove(&mut self, entry: &Entry<'_>, flags: AtFlags) -> Result<(), TreeError> {
        fs::unlinkat(entry.dir, entry.name, flags).map_err(TreeError::io("remove", entry.path))?;
        self.parent().touched = true;
        Ok(())
    }

    /// Whether the file goes although it has several names: all of them are as they were.
    fn group_is_same(&mut self, ino: u64) -> Result<bool, TreeError> {
        if self.groups.is_none() {
            let again = open_dir_at(self.upper.as_fd(), b".").map_err(TreeError::io("open directory", b""))?;
            let mut groups =
                Groups { below: Below::new(self.lower_root.as_ref())?, form: self.form, seen: HashMap::new() };
            walk(again, &mut groups)?;
            let same = |group: Group| group.same && group.names == group.links;
            self.groups = Some(groups.seen.into_iter().map(|(ino, group)| (ino, same(group))).collect());
        }
        Ok(self.groups.as_ref().and_then(|groups| groups.get(&ino)).copied().unwrap_or(false))
    }

    fn root_differs(&self, upper: BorrowedFd<'_>, stat: &Stat) -> Result<bool, TreeError> {
        let xattrs = |dir: BorrowedFd<'_>| attrs::xattrs(dir, b"").map_err(TreeError::io("read attributes of", b""));
        let look = |s: &Stat| (s.st_mode & 0o7777, s.st_uid, s.st_gid);
        match &self.lower_root {
            None => Ok(look(stat) != (0o755, 0, 0) || !xattrs(upper)?.is_empty()),
            Some(lower) => {
                let below = fs::fstat(lower).map_err(TreeError::io("look at", b""))?;
                Ok(look(stat) != look(&below) || xattrs(upper)? != xattrs(lower.as_fd())?)
            }
        }
    }
}

impl Visitor for Reducer<'_> {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        let namesake = self.below.namesake(entry)?;
        if entry.kind().is_dir() {
            let hides = namesake.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
            let merged = self.below.is_merged(entry, namesake.as_ref(), self.form)?;
            // Of a whole tree nothing shows through, whatever somebody wrote on it.
            if !hides || self.form.is_whole() {
                attrs::remove_xattr(entry.dir, entry.name, attrs::opaque().as_bytes())
                    .map_err(TreeError::io("unmark", entry.path))?;
            }
            // As overlayfs has a directory that was made anew.
            if hides && !merged && self.form.is_whole() {
                attrs::set_xattr(entry.dir, entry.name, attrs::opaque().as_bytes(), b"y")
                    .map_err(TreeError::io("mark", entry.path))?;
            }
            self.below.enter(entry, merged)?;
            let missing = match (merged, self.form) {
                (true, Form::Whole(_)) => {
                    let dir =
                        open_dir_at(entry.dir, entry.name).map_err(TreeError::io("open directory", entry.path))?;
                    self.missing(dir.as_fd(), entry.path)?
                }
                _ => Vec::new(),
            };
            self.open.push(Open { merged, missing, ..Open::default() });
            return Ok(Descend::Enter);
        }
        let goes = match &namesake {
            _ if is_whiteout(entry.stat) => namesake.is_none(),
            None => false,
            Some(_) if entry.stat.st_nlink > 1 => self.group_is_same(entry.stat.st_ino)?,
            Some(_) if self.form.knows(entry) => true,
            Some(stat) => self.below.is_same(entry, stat)?,
        };
        if goes {
            self.remove(entry, AtFlags::empty())?;
        } else {
            self.usage.count(entry.stat);
            self.parent().kept += 1;
        }
        Ok(Descend::Skip)
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        let mut open = self.open.pop().expect("every leave has its visit");
        self.below.leave(entry)?;
        if !open.missing.is_empty() {
            let dir = open_dir_at(entry.dir, entry.name).map_err(TreeError::io("open directory", entry.path))?;
            open.white_out(dir.as_fd(), entry.path)?;
        }
        if open.kept == 0
            && open.merged
            && let Some(namesake) = self.below.namesake(entry)?
            && self.below.is_same(entry, &namesake)?
        {
            return self.remove(entry, AtFlags::REMOVEDIR);
        }
        if open.touched {
            attrs::set_times_at(entry.dir, entry.name, &attrs::times_of(entry.stat))
                .map_err(TreeError::io("set times of", entry.path))?;
        }
        self.usage.count(entry.stat);
        self.parent().kept += 1;
        Ok(())
    }
}

/// How many names a file has; the type differs between architectures.
#[allow(clippy::unnecessary_cast)]
fn links(stat: &Stat) -> u64 {
    stat.st_nlink as u64
}

/// Looks at all names of all files that have several.
struct Groups<'a> {
    below: Below,
    form: Form<'a>,
    seen: HashMap<u64, Group>,
}

struct Group {
    /// Names met.
    names: u64,
    /// Names there are.
    links: u64,
    /// Whether each is as it was, and all share one file in the lower tree too.
    same: bool,
    lower_ino: u64,
}

impl Visitor for Groups<'_> {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        let namesake = self.below.namesake(entry)?;
        if entry.kind().is_dir() {
            let merged = self.below.is_merged(entry, namesake.as_ref(), self.form)?;
            self.below.enter(entry, merged)?;
            return Ok(Descend::Enter);
        }
        if entry.stat.st_nlink <= 1 || is_whiteout(entry.stat) {
            return Ok(Descend::Skip);
        }
        let known = self.seen.get(&entry.stat.st_ino);
        let lower_ino = namesake.as_ref().map_or(0, |stat| stat.st_ino);
        let same = match &namesake {
            Some(stat) if known.is_none_or(|group| group.same && group.lower_ino == lower_ino) => {
                self.form.knows(entry) || self.below.is_same(entry, stat)?
            }
            _ => false,
        };
        let group = self.seen.entry(entry.stat.st_ino).or_insert(Group {
            names: 0,
            links: links(entry.stat),
            same: true,
            lower_ino,
        });
        group.names += 1;
        group.same &= same;
        Ok(Descend::Skip)
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.below.leave(entry)
    }
}
