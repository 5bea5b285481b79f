//! Entries from one tree into another: what a thing is, its bytes and all that it is beside them.
//!
//! In: an entry and the open directory that receives it. Out: the same thing there, changed as [`Rules`] say. What is
//! in the way is replaced as `COPY` does it: files, links and devices are, directories are not. Deliberately absent:
//! which entries, and where to ([`crate::ops::file`], [`crate::snapshot`]).

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::walk::{Descend, DirStack, Entry, Visitor, walk};
use super::{TreeError, attrs, data, resolve::stat_at, shown};

/// How copies differ from their originals.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rules<'a> {
    /// Owner and group of everything; `None` keeps them.
    pub owner: Option<(u32, u32)>,
    /// New permission bits from the old and whether it is a directory; `None` keeps them. Never asked for links.
    pub mode: Option<&'a (dyn Fn(u32, bool) -> u32 + Sync)>,
    /// Modification time of everything in nanoseconds since 1970; `None` keeps it.
    pub mtime: Option<i64>,
    /// Whether a directory may be replaced by something else, and the other way round.
    pub replace_other_types: bool,
    /// Asked before each thing that is copied: whether to stop.
    pub stop: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// Whether names that share a file share one again.
    pub keep_hard_links: bool,
    /// Whether overlayfs's own marks (whiteouts, opaque directories) are things to copy, and sockets, which no image
    /// holds, but a step sees: only between layers.
    pub keep_layer_marks: bool,
}

/// Copies entries; one for everything that belongs together, so that hard links are found again.
pub(crate) struct Copier<'a> {
    rules: Rules<'a>,
    /// First copy of every file that has several names: its path from the destination's root.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Sockets, which no image holds.
    pub skipped: Vec<Vec<u8>>,
    /// Files whose bytes were copied.
    pub files: u64,
    /// How many bytes those have.
    pub bytes: u64,
    /// Whether nothing can be in the way, so that nobody looks. What is there all the same is an error.
    pub nothing_is_there: bool,
}

impl<'a> Copier<'a> {
    /// Copies by these rules.
    pub fn new(rules: Rules<'a>) -> Self {
        Self { rules, links: HashMap::new(), skipped: Vec::new(), files: 0, bytes: 0, nothing_is_there: false }
    }

    /// The rules that it copies by.
    pub fn rules(&self) -> Rules<'a> {
        self.rules
    }

    /// Copies one thing that is no directory to `name` in `to`, replacing what is there unless that is a directory.
    /// `to_root` and `to_path` name the same place from the destination's root.
    pub fn copy_leaf(
        &mut self,
        from: &Entry<'_>,
        to_root: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        to_path: &[u8],
    ) -> Result<(), TreeError> {
        if self.rules.stop.is_some_and(|stop| stop()) {
            return Err(TreeError::Stopped);
        }
        let stat = from.stat;
        let kind = from.kind();
        if kind == FileType::Socket && !self.rules.keep_layer_marks {
            self.skipped.push(from.path.to_vec());
            return Ok(());
        }
        self.check_representable(name, from.path, Some(stat))?;
        let there = if self.nothing_is_there { Ok(None) } else { stat_at(to, name) };
        match there.map_err(TreeError::io("look at", to_path))? {
            None => {}
            Some(there) if FileType::from_raw_mode(there.st_mode).is_dir() => {
                if !self.rules.replace_other_types {
                    return Err(TreeError::CannotReplaceDirectory { path: shown(to_path) });
                }
                remove(to, name, to_path)?;
            }
            Some(_) => fs::unlinkat(to, name, AtFlags::empty()).map_err(TreeError::io("replace", to_path))?,
        }
        let many_names = self.rules.keep_hard_links && stat.st_nlink > 1;
        if many_names && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
            return link(to_root, first, to, name).map_err(TreeError::io("link", to_path));
        }
        match kind {
            FileType::RegularFile => {
                self.copy_file(from, to, name, to_path)?;
                self.files += 1;
                self.bytes += stat.st_size as u64;
            }
            FileType::Symlink => {
                let target = fs::readlinkat(from.dir, from.name, Vec::new())
                    .map_err(TreeError::changed_if_gone("read link", from.path))?;
                fs::symlinkat(target, to, name).map_err(TreeError::io("make link", to_path))?;
                self.attributes(from, to, name, to_path)?;
            }
            _ => {
                fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)
                    .map_err(TreeError::io("make device", to_path))?;
                self.attributes(from, to, name, to_path)?;
            }
        }
        if many_names {
            self.links.insert((stat.st_dev, stat.st_ino), to_path.to_vec());
        }
        Ok(())
    }

    /// Says that the copy of the file of that look has another path now.
    pub fn moved(&mut self, original: &Stat, to_path: &[u8]) {
        if let Some(first) = self.links.get_mut(&(original.st_dev, original.st_ino)) {
            *first = to_path.to_vec();
        }
    }

    /// Owner, group, permission bits and second of modification of the copy of an entry.
    // The types of times differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub fn look_of(&self, from: &Entry<'_>) -> (u32, u32, u32, i64) {
        let (uid, gid) = self.owner_of(from);
        // A link's own mode is nobody's to change.
        let mode = if from.kind() == FileType::Symlink { 0o777 } else { self.mode_of(from) };
        (uid, gid, mode, self.times_of(from).last_modification.tv_sec as i64)
    }

    /// Makes the directory `name` in `to` unless it is there, for entries to be copied into; its attributes come
    /// afterwards, by [`Copier::directory_attributes`]. Returns whether it was made.
    pub fn make_directory(&self, to: BorrowedFd<'_>, name: &[u8], to_path: &[u8]) -> Result<bool, TreeError> {
        self.check_representable(name, to_path, None)?;
        match stat_at(to, name).map_err(TreeError::io("look at", to_path))? {
            None => {
                fs::mkdirat(to, name, Mode::from_raw_mode(0o700)).map_err(TreeError::io("make directory", to_path))?;
                Ok(true)
            }
            Some(there) if FileType::from_raw_mode(there.st_mode).is_dir() => Ok(false),
            Some(_) if self.rules.replace_other_types => {
                fs::unlinkat(to, name, AtFlags::empty()).map_err(TreeError::io("replace", to_path))?;
                fs::mkdirat(to, name, Mode::from_raw_mode(0o700)).map_err(TreeError::io("make directory", to_path))?;
                Ok(true)
            }
            Some(_) => Err(TreeError::CannotReplaceWithDirectory { path: shown(to_path) }),
        }
    }

    /// Gives a copied directory the attributes of its original.
    pub fn directory_attributes(
        &self,
        from: &Entry<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        to_path: &[u8],
    ) -> Result<(), TreeError> {
        self.attributes(from, to, name, to_path)
    }

    fn copy_file(&self, from: &Entry<'_>, to: BorrowedFd<'_>, name: &[u8], to_path: &[u8]) -> Result<(), TreeError> {
        let source = open_file(from)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Whom it will belong to is said below, and what makes programs special after that.
        let mode = Mode::from_raw_mode(self.mode_of(from) & 0o777);
        let target = fs::openat(to, name, flags, mode).map_err(TreeError::io("make file", to_path))?;
        let length = from.stat.st_size as u64;
        let sparse = (from.stat.st_blocks as u64).saturating_mul(512) < length;
        let complete =
            data::copy(source.as_fd(), target.as_fd(), length, sparse).map_err(TreeError::io("copy", from.path))?;
        let after = fs::fstat(&source).map_err(TreeError::io("look at", from.path))?;
        if !complete || !same_moment(from.stat, &after) {
            return Err(TreeError::Changed { path: shown(from.path) });
        }
        self.file_attributes(from, source.as_fd(), target.as_fd(), to_path)
    }

    fn owner_of(&self, from: &Entry<'_>) -> (u32, u32) {
        self.rules.owner.unwrap_or((from.stat.st_uid, from.stat.st_gid))
    }

    fn mode_of(&self, from: &Entry<'_>) -> u32 {
        let old = from.stat.st_mode & 0o7777;
        self.rules.mode.map_or(old, |change| change(old, from.kind().is_dir())) & 0o7777
    }

    fn times_of(&self, from: &Entry<'_>) -> Timestamps {
        self.rules.mtime.map_or_else(|| attrs::times_of(from.stat), attrs::times_at)
    }

    /// As [`Copier::attributes`], of regular files that are open. Nearly always all but the times is so already; each
    /// change would be one of the file system's journal.
    fn file_attributes(
        &self,
        from: &Entry<'_>,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        to_path: &[u8],
    ) -> Result<(), TreeError> {
        let made = fs::fstat(target).map_err(TreeError::io("look at", to_path))?;
        let (uid, gid) = self.owner_of(from);
        let changes_owner = (made.st_uid, made.st_gid) != (uid, gid);
        if changes_owner {
            attrs::chown(target, uid, gid).map_err(TreeError::io("change the owner of", to_path))?;
        }
        let mode = self.mode_of(from);
        if changes_owner || made.st_mode & 0o7777 != mode {
            fs::fchmod(target, Mode::from_raw_mode(mode)).map_err(TreeError::io("change the mode of", to_path))?;
        }
        if attrs::has_xattrs(source).map_err(TreeError::io("read attributes of", from.path))? {
            let content = attrs::xattrs(from.dir, from.name)
                .map_err(TreeError::changed_if_gone("read attributes of", from.path))?;
            for (attribute, value) in &content {
                fs::fsetxattr(target, attribute.as_slice(), value, XattrFlags::empty())
                    .map_err(TreeError::io("set attributes of", to_path))?;
            }
        }
        fs::futimens(target, &self.times_of(from)).map_err(TreeError::io("set times of", to_path))
    }

    /// Owner before mode before attributes before times: each of these resets what comes after it.
    fn attributes(&self, from: &Entry<'_>, to: BorrowedFd<'_>, name: &[u8], to_path: &[u8]) -> Result<(), TreeError> {
        let (uid, gid) = self.owner_of(from);
        attrs::chown_at(to, name, uid, gid).map_err(TreeError::io("change the owner of", to_path))?;
        if from.kind() != FileType::Symlink {
            // The name was made by us in a tree that is ours alone, and is no link.
            fs::chmodat(to, name, Mode::from_raw_mode(self.mode_of(from)), AtFlags::empty())
                .map_err(TreeError::io("change the mode of", to_path))?;
        }
        let content =
            attrs::xattrs(from.dir, from.name).map_err(TreeError::changed_if_gone("read attributes of", from.path))?;
        for (attribute, value) in &content {
            attrs::set_xattr(to, name, attribute, value).map_err(TreeError::io("set attributes of", to_path))?;
        }
        if self.rules.keep_layer_marks
            && from.kind().is_dir()
            && attrs::is_opaque(from.dir, from.name).map_err(TreeError::io("read attributes of", from.path))?
        {
            attrs::set_xattr(to, name, attrs::opaque().as_bytes(), b"y")
                .map_err(TreeError::io("set attributes of", to_path))?;
        }
        attrs::set_times_at(to, name, &self.times_of(from)).map_err(TreeError::io("set times of", to_path))
    }

    /// Refuses what would mean something else in a layer: image-spec layer.md, "Whiteouts".
    pub fn check_representable(&self, name: &[u8], path: &[u8], stat: Option<&Stat>) -> Result<(), TreeError> {
        let refuse = |reason| Err(TreeError::Unrepresentable { path: shown(path), reason });
        if self.rules.keep_layer_marks {
            return Ok(());
        }
        if name.starts_with(b".wh.") {
            return refuse("names that begin with `.wh.` mean deletions in a layer");
        }
        if stat.is_some_and(is_whiteout) {
            return refuse("a character device 0:0 means a deletion in a layer");
        }
        Ok(())
    }
}

/// Whether it is overlayfs's mark of a deletion.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a file is as it was when it was first looked at.
pub(crate) fn same_moment(before: &Stat, after: &Stat) -> bool {
    let moment = |s: &Stat| (s.st_dev, s.st_ino, s.st_size, s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec);
    moment(before) == moment(after)
}

/// Opens the regular file that was looked at, and no other: a thing put in its place meanwhile is not read, a FIFO
/// put there does not block.
pub(crate) fn open_file(entry: &Entry<'_>) -> Result<OwnedFd, TreeError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let changed = || TreeError::Changed { path: shown(entry.path) };
    let fd = match fs::openat(entry.dir, entry.name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::LOOP) => return Err(changed()),
        Err(errno) => return Err(TreeError::io("open", entry.path)(errno)),
    };
    let stat = fs::fstat(&fd).map_err(TreeError::io("look at", entry.path))?;
    if same_moment(entry.stat, &stat) { Ok(fd) } else { Err(changed()) }
}

/// A second name for the file at `first`, a path without links beneath `root`.
fn link(root: BorrowedFd<'_>, first: &[u8], to: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    use std::os::fd::AsRawFd as _;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = fs::openat2(root, first, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), beneath)?;
    let handle = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::linkat(fs::CWD, handle, to, name, AtFlags::SYMLINK_FOLLOW)
}

/// Copies everything beneath `from` to `to`, as it is, attributes of the two directories themselves included.
pub(crate) fn copy_tree(from: OwnedFd, to: OwnedFd, rules: Rules<'_>) -> Result<(), TreeError> {
    let duplicate = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(TreeError::io("duplicate", b""));
    let (from_root, to_root) = (duplicate(&from)?, duplicate(&to)?);
    copy_entries(from, to, rules)?;
    attrs::copy_dir_attributes(from_root.as_fd(), to_root.as_fd()).map_err(TreeError::io("set attributes of", b""))
}

/// Copies everything beneath `from` to `to`; files that are there are replaced, directories kept. Returns the sockets
/// that were left out.
pub(crate) fn copy_entries(from: OwnedFd, to: OwnedFd, rules: Rules<'_>) -> Result<Vec<Vec<u8>>, TreeError> {
    let root = rustix::io::fcntl_dupfd_cloexec(&to, 3).map_err(TreeError::io("duplicate", b""))?;
    let mut whole = Whole { copier: Copier::new(rules), to: DirStack::new(to)?, root };
    walk(from, &mut whole)?;
    Ok(whole.copier.skipped)
}

struct Whole<'a> {
    copier: Copier<'a>,
    to: DirStack,
    root: OwnedFd,
}

impl Visitor for Whole<'_> {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        if entry.kind().is_dir() {
            self.copier.make_directory(self.to.top(), entry.name, entry.path)?;
            self.to.push(entry.name, entry.path)?;
            return Ok(Descend::Enter);
        }
        self.copier.copy_leaf(entry, self.root.as_fd(), self.to.top(), entry.name, entry.path)?;
        Ok(Descend::Skip)
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.to.pop(entry.path)?;
        self.copier.directory_attributes(entry, self.to.top(), entry.name, entry.path)
    }
}

/// Removes an entry with all that is beneath it; an absent one is fine.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), TreeError> {
    let Some(stat) = stat_at(dir, name).map_err(TreeError::io("look at", path))? else { return Ok(()) };
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return fs::unlinkat(dir, name, AtFlags::empty()).map_err(TreeError::io("remove", path));
    }
    clear(super::resolve::open_dir_at(dir, name).map_err(TreeError::io("open directory", path))?)?;
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(TreeError::io("remove", path))
}

/// Removes everything in a directory.
pub(crate) fn clear(dir: OwnedFd) -> Result<(), TreeError> {
    struct Clear;
    impl Visitor for Clear {
        type Error = TreeError;
        fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
            if entry.kind().is_dir() {
                return Ok(Descend::Enter);
            }
            fs::unlinkat(entry.dir, entry.name, AtFlags::empty()).map_err(TreeError::io("remove", entry.path))?;
            Ok(Descend::Skip)
        }
        fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
            fs::unlinkat(entry.dir, entry.name, AtFlags::REMOVEDIR).map_err(TreeError::io("remove", entry.path))
        }
    }
    walk(dir, &mut Clear)
}
