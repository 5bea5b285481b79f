//! COPY and ADD of local things.
//!
//! In: a [`CopyAction`], the tree it reads, the root of the tree it changes. Out: that tree, changed. The rules are
//! those that Dockerfiles rely on:
//!
//! - `dest` with a trailing `/`, or an existing directory: the source goes into it under its own name; a directory's
//!   contents go into it. Otherwise a file becomes `dest`, and a directory's contents go into the new directory `dest`.
//! - Links in `dest`, the last one included, are followed beneath the root; a link at the end of `src` is replaced by
//!   what it points to when the action follows links.
//! - Missing directories of `dest` are made with mode 0755 and the owner of the copy. An existing `dest` keeps its own
//!   mode, owner and time; directories inside it take those of the source.
//! - Files, links and devices are replaced, directories never; a directory cannot replace a file or link.
//! - A local archive is unpacked into `dest` when the action says so, told by its content.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use oci::content::ContentError;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use solver::op::CopyAction;
use solver::seam::{LogSink, Selection};
use solver::work::{Work, WorkKind};
use store::{NodeEntry, NodeKind, attributes_digest};

use super::mode::ModeChange;
use super::{FileError, contents, owner, packed};
use crate::layers::packing::{Packed, Packing};
use crate::select::required::first_unmet;
use crate::select::tree::{Filter, Match, Wanted, find};
use crate::snapshot::Mounted;
use crate::source::SourceError;
use crate::source::digest::{Looks, Met, Seen};
use crate::source::local::{CopyPatterns, LocalPatterns, LocalSource};
use crate::tree::copy::{Copier, Rules};
use crate::tree::resolve::{make_dir_at, open_beneath, stat_at};
use crate::tree::walk::{Entry, is_empty};
use crate::tree::{NewDir, Place, Root, TreeError, attrs, data, joined, shown};

/// The tree that a copy reads.
pub(crate) enum CopySource {
    /// A directory of the user, with the patterns of the source operation.
    Local(Arc<LocalSource>, Arc<LocalPatterns>),
    /// The tree of a result.
    Result(Mounted),
}

/// What a copy reads of a local source, as the key says it.
pub(crate) fn selection(action: &CopyAction) -> Selection {
    Selection {
        path: action.src.clone(),
        wildcard: action.allow_wildcard,
        allow_empty_wildcard: action.allow_empty_wildcard,
        follow_symlinks: action.follow_symlinks,
        dir_contents_only: action.dir_contents_only,
        include_patterns: action.include_patterns.clone(),
        exclude_patterns: action.exclude_patterns.clone(),
        required_paths: action.required_paths.clone(),
    }
}

/// Performs a copy. Returns whether anything was copied as it is, not unpacked.
pub(crate) fn perform(
    action: &CopyAction,
    source: &CopySource,
    root: &Root,
    log: &dyn LogSink,
) -> Result<bool, FileError> {
    Ok(perform_until(action, source, &Onto::whole(root), log, &|| false)?.plain)
}

/// What became of a copy.
#[derive(Debug)]
pub(crate) struct Copied {
    /// Whether anything was copied as it is, not unpacked.
    pub plain: bool,
    /// The tar of all that it changed, which then is not in the tree.
    pub packed: Option<Packed>,
}

/// The tree that a copy changes.
pub(crate) struct Onto<'a> {
    /// As the next step would see it.
    pub root: &'a Root,
    /// Where all changes of it lie. Given only if nobody looks at the tree as a whole after this copy: then what has no
    /// layers beneath it is written there, which is faster than through them.
    pub upper: Option<BorrowedFd<'a>>,
    /// Where names of owners are looked up.
    pub names: &'a Root,
    /// Where the tar of the changes goes that may be made instead of them, if nobody looks at the tree at all.
    pub pack: Option<&'a dyn Fn() -> Result<Packing, ContentError>>,
}

impl<'a> Onto<'a> {
    /// Looked at afterwards, and with names of its own.
    pub fn whole(root: &'a Root) -> Self {
        Self { root, upper: None, names: root, pack: None }
    }
}

/// Performs a copy unless `stop` says so first; then a part of it is there.
pub(crate) fn perform_until(
    action: &CopyAction,
    source: &CopySource,
    onto: &Onto<'_>,
    log: &dyn LogSink,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Copied, FileError> {
    let begun = Instant::now();
    let Onto { root, names, .. } = *onto;
    let patterns = CopyPatterns::new(&action.include_patterns, &action.exclude_patterns)?;
    let owner = action.owner.as_ref().map(|owner| owner::resolve(owner, names)).transpose()?;
    let mode = action.mode.as_ref().map(ModeChange::new).transpose()?;
    let mut result = None;
    let (from, found, filter, looks) = match source {
        CopySource::Local(local, ignore) => {
            let filter = patterns.filter(Some(ignore));
            let selection = selection(action);
            let found = local.find(ignore, &selection, &filter)?;
            (local.root(), found, filter, local.looks(ignore, &selection))
        }
        CopySource::Result(mounted) => {
            let (from, found) = find_in_result(&selection(action), mounted)?;
            (&*result.insert(from), found, patterns.filter(None), None)
        }
    };
    let local = matches!(source, CopySource::Local(..));
    let change = |old: u32, is_dir: bool| mode.as_ref().map_or(old, |mode| mode.apply(old, is_dir));
    let rules = Rules {
        owner: if local { Some(owner.unwrap_or((0, 0))) } else { owner },
        mode: mode.is_some().then_some(&change as &(dyn Fn(u32, bool) -> u32 + Sync)),
        mtime: action.timestamp,
        replace_other_types: action.replace_other_types,
        stop: Some(stop),
        keep_hard_links: !local,
        keep_layer_marks: false,
    };
    let (uid, gid) = owner.unwrap_or((0, 0));
    let mut copying = Copying {
        action,
        from,
        root,
        // What several matches make may meet.
        upper: onto.upper.filter(|_| found.len() == 1),
        pack: onto.pack.filter(|_| local && found.len() == 1),
        packed: None,
        filter,
        looks: looks.as_ref(),
        met: Met::default(),
        copier: Copier::new(rules),
        new: NewDir { mode: 0o755, uid, gid, mtime: action.timestamp },
    };
    let mut plain = false;
    for one in &found {
        plain |= copying.copy_match(one)?;
    }
    copying.nothing_vanished().map_err(copying.failed())?;
    for path in std::mem::take(&mut copying.copier.skipped) {
        log.notice(&format!("`{}` is a socket and was not copied", shown(&path)));
    }
    let packed = copying.packed;
    let Copier { files, bytes, .. } = copying.copier;
    let (kind, took) = (WorkKind::Copy, begun.elapsed());
    let hashed_bytes = packed.as_ref().map_or(0, |packed| packed.blob.size);
    log.worked(&Work { kind, files, read_bytes: bytes, hashed_bytes, written_bytes: bytes.max(hashed_bytes), took });
    Ok(Copied { plain, packed })
}

/// How the tree of another result is called.
const RESULT: &str = "the tree that is copied from";

/// The tree of a result, and what a selection's path leads to in it; at least one thing, unless a pattern may match nothing.
pub(crate) fn find_in_result(selection: &Selection, mounted: &Mounted) -> Result<(Root, Vec<Match>), FileError> {
    let fd = mounted.fd().try_clone_to_owned().map_err(|source| {
        FileError::tree("read the source")(TreeError::Io { act: "open", path: "/".into(), source })
    })?;
    let wanted =
        Wanted { path: &selection.path, wildcard: selection.wildcard, follow_symlinks: selection.follow_symlinks };
    let root = Root::new(fd);
    let found = find(&root, &wanted).map_err(SourceError::in_context(RESULT))?;
    let path = || shown(selection.path.as_bytes());
    let is_pattern = selection.wildcard && solver::pattern::glob::has_wildcard(&selection.path);
    match is_pattern {
        true if found.is_empty() && !selection.allow_empty_wildcard => {
            return Err(SourceError::NothingMatches { pattern: path(), context: RESULT.into() }.into());
        }
        false if found.iter().any(|one| one.place.stat.is_none()) => {
            return Err(SourceError::NotFound { path: path(), context: RESULT.into() }.into());
        }
        _ => {}
    }
    let (names, allow_empty) = (&selection.required_paths, selection.allow_empty_wildcard);
    let unmet = first_unmet(&root, &found, names, allow_empty, &Filter::default());
    match unmet.map_err(SourceError::in_context(RESULT))? {
        None => Ok((root, found)),
        Some(unmet) => Err(SourceError::unmet(unmet.absolute(), RESULT).into()),
    }
}

struct Copying<'a> {
    action: &'a CopyAction,
    /// The tree that is copied from.
    from: &'a Root,
    /// The tree that is changed.
    root: &'a Root,
    /// See [`Onto::upper`].
    upper: Option<BorrowedFd<'a>>,
    /// See [`Onto::pack`].
    pack: Option<&'a dyn Fn() -> Result<Packing, ContentError>>,
    /// The tar that was made.
    packed: Option<Packed>,
    filter: Filter<'a>,
    looks: Option<&'a Looks>,
    /// What was copied; only when there are looks to compare with.
    met: Met,
    copier: Copier<'a>,
    /// Directories that are made on the way.
    new: NewDir,
}

impl Copying<'_> {
    fn failed(&self) -> impl FnOnce(TreeError) -> FileError + use<> {
        FileError::tree(format!(
            "copy `{}` to `{}`",
            shown(self.action.src.trim_start_matches('/').as_bytes()),
            shown(self.action.dest.as_bytes())
        ))
    }

    /// Whether it was copied as it is.
    fn copy_match(&mut self, one: &Match) -> Result<bool, FileError> {
        let Some(stat) = &one.place.stat else { return Ok(false) };
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        if !is_dir && !self.filter.takes_leaf(&one.base, &one.place.path) {
            return Ok(false);
        }
        let from = self.from.reopen(&one.place).map_err(self.failed())?;
        let entry = Entry { dir: from.dir.as_fd(), name: &from.name, path: &from.path, stat };
        if is_dir && !self.action.dir_contents_only {
            check_look(self.looks, &mut self.met, entry.path, stat).map_err(self.failed())?;
        }
        if !is_dir && self.unpack(&entry)? {
            return Ok(false);
        }
        let place = self.destination()?;
        if !is_dir {
            let (name, path) = match place.is_dir() {
                true => (one.base.clone(), joined(&place.path, &one.base)),
                false => (place.name.clone(), place.path.clone()),
            };
            let dir = if place.is_dir() { place.open_dir().map_err(self.failed())? } else { place.dir };
            self.copy_leaf(&entry, dir.as_fd(), &name, &path).map_err(self.failed())?;
            return Ok(true);
        }
        let (target, path, was_made) = self.target_directory(one, place).map_err(self.failed())?;
        let failed = self.failed();
        let upper = self.upper_of(&target, &path, was_made).map_err(self.failed())?;
        let is_new = upper.is_some();
        if is_new && self.pack(&from, &path)? {
            return Ok(true);
        }
        // Names of one file are names in one mount.
        let root = self.upper.filter(|_| is_new).unwrap_or(self.root.fd());
        let target = upper.unwrap_or(target);
        let copied = from.open_dir().and_then(|dir| {
            let to = contents::Target { dir: target, path: &path, root, is_new };
            let looks = self.looks.map(|looks| contents::Compared { looks, met: &mut self.met });
            contents::copy(dir, &from.path, &self.filter, &mut self.copier, looks, to)
        });
        copied.map_err(failed)?;
        if was_made && !self.action.dir_contents_only {
            let made = self.root.resolve_no_follow(&path).map_err(self.failed())?;
            self.copier.directory_attributes(&entry, made.dir.as_fd(), &made.name, &path).map_err(self.failed())?;
            let seen = self.looks.and_then(|looks| looks.get(entry.path));
            check_copy(seen, &entry, made.dir.as_fd(), &made.name).map_err(self.failed())?;
        }
        Ok(true)
    }

    /// Makes the tar of the matched directory's entries, to lie in the empty directory at `path`, if that is worth it and a
    /// tar says all that a tree would.
    fn pack(&mut self, from: &Place, path: &[u8]) -> Result<bool, FileError> {
        let (Some(pack), Some(upper), Some(looks)) = (self.pack, self.upper, self.looks) else {
            return Ok(false);
        };
        let is_plain = self.action.dir_contents_only && self.action.timestamp.is_none();
        if !is_plain || looks.len() < packed::WORTH_IT_ENTRIES {
            return Ok(false);
        }
        let mut packing = pack().map_err(FileError::Pack)?;
        let dir = from.open_dir().map_err(self.failed())?;
        let to = packed::Target { upper, path };
        let made = packed::write((dir, &from.path), &self.filter, &self.copier, looks, &to, &mut packing);
        let Some(written) = made.map_err(self.failed())? else { return Ok(false) };
        self.copier.files += written.files;
        self.copier.bytes += written.bytes;
        self.copier.skipped.extend(written.skipped);
        self.met.extend(&written.met);
        self.packed = Some(packing.finish().map_err(FileError::Pack)?);
        Ok(true)
    }

    /// Where `dest` leads.
    fn destination(&self) -> Result<Place, FileError> {
        let dest = self.action.dest.as_bytes();
        let into = dest.ends_with(b"/") || dest.ends_with(b"/.");
        let place = match (self.action.create_dest_path, into) {
            (true, true) => self.root.make_dirs(dest, &self.new),
            (true, false) => self.root.resolve_making_parents(dest, &self.new),
            (false, _) => self.root.resolve(dest),
        };
        place.map_err(self.failed())
    }

    /// The directory that receives the entries of a matched directory, its path, and whether it was made.
    fn target_directory(&self, one: &Match, place: Place) -> Result<(OwnedFd, Vec<u8>, bool), TreeError> {
        let place = self.cleared(place)?;
        let exists = place.stat.is_some();
        let place = if exists && !self.action.dir_contents_only && !one.base.is_empty() {
            let dir = place.open_dir()?;
            let path = joined(&place.path, &one.base);
            let stat =
                crate::tree::resolve::stat_at(dir.as_fd(), &one.base).map_err(TreeError::io("look at", &path))?;
            self.cleared(Place { dir, name: one.base.clone(), path, stat })?
        } else {
            place
        };
        if place.stat.is_none() {
            make_dir_at(place.dir.as_fd(), &place.name, &self.new)
                .map_err(TreeError::io("make directory", &place.path))?;
            return Ok((open(&place)?, place.path, true));
        }
        Ok((place.open_dir()?, place.path, false))
    }

    /// The place without what is no directory, if that may be replaced by one.
    fn cleared(&self, place: Place) -> Result<Place, TreeError> {
        if place.stat.is_none() || place.is_dir() {
            return Ok(place);
        }
        if !self.action.replace_other_types {
            return Err(TreeError::CannotReplaceWithDirectory { path: shown(&place.path) });
        }
        fs::unlinkat(&place.dir, place.name.as_slice(), AtFlags::empty())
            .map_err(TreeError::io("replace", &place.path))?;
        Ok(Place { stat: None, ..place })
    }

    /// The directory at `path` where its changes lie, if there is nothing in it: then all that is copied into it is a
    /// change, whatever lies beneath.
    fn upper_of(&self, target: &OwnedFd, path: &[u8], was_made: bool) -> Result<Option<OwnedFd>, TreeError> {
        let Some(upper) = self.upper.filter(|_| !self.action.replace_other_types) else { return Ok(None) };
        let io = |act| move |errno: rustix::io::Errno| TreeError::io(act, path)(errno);
        if !was_made {
            if !is_empty(target.as_fd(), path)? {
                return Ok(None);
            }
            // To change it, if only to what it is, brings it up with all that it is.
            let mode = fs::fstat(target).map_err(io("look at"))?.st_mode & 0o7777;
            fs::fchmod(target, Mode::from_raw_mode(mode)).map_err(io("change the mode of"))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = open_beneath(upper, path, flags).map_err(io("open directory"))?;
        // Deletions have names there.
        Ok(is_empty(found.as_fd(), path)?.then_some(found))
    }

    fn copy_leaf(&mut self, entry: &Entry<'_>, to: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), TreeError> {
        let seen = check_look(self.looks, &mut self.met, entry.path, entry.stat)?;
        self.copier.copy_leaf(entry, self.root.fd(), to, name, path)?;
        check_copy(seen, entry, to, name)
    }

    /// Everything that was digested must have been copied.
    fn nothing_vanished(&self) -> Result<(), TreeError> {
        match self.looks.and_then(|looks| looks.missing(&self.met)) {
            Some(gone) => Err(TreeError::Changed { path: shown(&gone) }),
            None => Ok(()),
        }
    }

    /// Unpacks the match into `dest` if the action wants that and it is an archive.
    fn unpack(&mut self, entry: &Entry<'_>) -> Result<bool, FileError> {
        if !self.action.unpack_archives || entry.kind() != FileType::RegularFile {
            return Ok(false);
        }
        let failed = self.failed();
        let seen = check_look(self.looks, &mut self.met, entry.path, entry.stat).map_err(self.failed())?;
        let file = std::fs::File::from(crate::tree::copy::open_file(entry).map_err(self.failed())?);
        let owner = self.action.owner.as_ref().map(|_| (self.new.uid, self.new.gid));
        let unpacked = super::archive::unpack(&file, entry.path, self.root, &self.action.dest, &self.new, owner)?;
        if unpacked {
            // Nothing of it can be compared: it has to be what it was all the while.
            check_copy(seen, entry, entry.dir, entry.name).map_err(failed)?;
        }
        Ok(unpacked)
    }
}

fn open(place: &Place) -> Result<OwnedFd, TreeError> {
    crate::tree::resolve::open_dir_at(place.dir.as_fd(), &place.name)
        .map_err(TreeError::io("open directory", &place.path))
}

/// What an entry was when it was digested, if it looks as it did; notes that it was met.
pub(super) fn check_look<'a>(
    looks: Option<&'a Looks>,
    met: &mut Met,
    path: &[u8],
    stat: &Stat,
) -> Result<Option<Seen<'a>>, TreeError> {
    let Some(looks) = looks else { return Ok(None) };
    let seen = looks.meet(path, met).filter(|seen| seen.is_still(stat));
    seen.ok_or_else(|| TreeError::Changed { path: shown(path) }).map(Some)
}

/// Compares what was copied to `name` in `to` with what was digested. The original must still be what it was, because its
/// bytes and attributes were read one after the other; and where that may have changed and look the same, the copy must
/// be what was digested.
pub(super) fn check_copy(
    seen: Option<Seen<'_>>,
    from: &Entry<'_>,
    to: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(), TreeError> {
    let Some(seen) = seen else { return Ok(()) };
    let io = |act| move |errno: rustix::io::Errno| TreeError::io(act, from.path)(errno);
    let now = match from.name.is_empty() {
        true => fs::fstat(from.dir).map(Some),
        false => stat_at(from.dir, from.name),
    };
    let is_there = now.map_err(io("look at"))?.is_some_and(|now| seen.is_still(&now));
    if is_there
        && seen.unproven().map_or(Ok(true), |expected| {
            is_copy_of(&expected, from, to, name).map_err(TreeError::changed_if_gone("compare", from.path))
        })?
    {
        return Ok(());
    }
    Err(TreeError::Changed { path: shown(from.path) })
}

fn is_copy_of(
    expected: &NodeEntry,
    from: &Entry<'_>,
    to: BorrowedFd<'_>,
    name: &[u8],
) -> Result<bool, rustix::io::Errno> {
    let is_content = match &expected.what {
        NodeKind::File { bytes, sha256 } => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let copy = fs::openat(to, name, flags, Mode::empty())?;
            let length = fs::fstat(&copy)?.st_size as u64;
            length == *bytes && data::sha256(copy.as_fd(), length, &|| false)? == Some(*sha256)
        }
        NodeKind::Link(target) => fs::readlinkat(to, name, Vec::new())?.as_bytes() == target,
        _ => true,
    };
    Ok(is_content && attributes_digest(&attrs::xattrs(from.dir, from.name)?) == expected.attributes)
}
