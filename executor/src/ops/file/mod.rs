//! File operations: copy, make, remove, link, without running anything of the tree.
//!
//! In: a [`FileOp`], the results it stands on, and where to find their trees. Out: one new layer per output. Every
//! path is resolved beneath the root of a detached mount by descriptor; what a Dockerfile or an image says never
//! becomes a path of the host. Deliberately absent: fetching what the operation reads.
//!
//! Next: [`copy`] (COPY and ADD) and `contents` (directories of it, on all cores; `packed`: as a tar at once), [`owner`] (`--chown`), [`mode`] (`--chmod`), [`archive`] (ADD).

mod archive;
mod contents;
pub mod copy;
pub mod mode;
pub mod owner;
mod packed;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use oci::content::ContentError;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use solver::op::{FileAction, FileActionKind, FileOp};
use solver::seam::{LogSink, ResultId};

use crate::layers::packing::{Packed, Packing};
use crate::select::tree::{SelectError, Wanted, find};
use crate::snapshot::{Mounted, SnapshotError};
use crate::source::SourceError;
use crate::tree::copy::remove;
use crate::tree::{NewDir, Root, TreeError, attrs, shown};

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// What is copied could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The tree that is changed, or the one that is read, refused.
    #[error("cannot {act}: {source}")]
    Tree {
        /// What was done: `copy to `/app``.
        act: String,
        /// What happened.
        source: TreeError,
    },
    /// A pattern.
    #[error(transparent)]
    Glob(#[from] crate::select::GlobError),
    /// A user or group that the tree does not know.
    #[error(transparent)]
    Owner(#[from] owner::OwnerError),
    /// A mode that says nothing.
    #[error(transparent)]
    Mode(#[from] mode::ModeError),
    /// A path that must not be removed or replaced.
    #[error("cannot {act} `{path}`: {reason}")]
    Refused {
        /// What was asked for.
        act: &'static str,
        /// Of what.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// An archive that cannot be unpacked.
    #[error("cannot unpack `{path}`")]
    Archive {
        /// The archive.
        path: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something an action names is not there.
    #[error("file action {action} is malformed: {reason}")]
    Malformed {
        /// Its position in the operation.
        action: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// The layers could not be stacked.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The layer could not be written.
    #[error("cannot write the layer")]
    Pack(#[source] ContentError),
}

impl FileError {
    fn tree(act: impl Into<String>) -> impl FnOnce(TreeError) -> FileError {
        let act = act.into();
        move |source| FileError::Tree { act, source }
    }
}

/// Where the operation finds and leaves its trees. Blocking.
pub(crate) trait Trees: Sync {
    /// Why that failed.
    type Error: From<FileError>;
    /// A writable tree on top of a result.
    type Draft;

    /// Begins a tree on top of `base`, and shows it.
    fn begin(&self, base: &ResultId) -> Result<(Self::Draft, Mounted), Self::Error>;
    /// Where the changes of a tree lie, if that is a directory apart from what is beneath.
    fn upper(&self, _draft: &Self::Draft) -> Result<Option<OwnedFd>, Self::Error> {
        Ok(None)
    }
    /// Makes a layer of it; the tree is no longer mounted. `read` are the results that were copied from, `context` tells
    /// whether files of a build context came in with their times.
    fn commit(
        &self,
        base: &ResultId,
        draft: Self::Draft,
        read: &[ResultId],
        context: bool,
    ) -> Result<ResultId, Self::Error>;
    /// Whether the layer of the operation may be a tar, as nothing is going to look into its tree.
    fn may_pack(&self) -> bool {
        false
    }
    /// Where that tar goes.
    fn packing(&self) -> Result<Packing, ContentError>;
    /// Makes a layer of a tar. `draft` holds nothing that is not in it; the rest is as in [`Trees::commit`].
    fn commit_packed(
        &self,
        base: &ResultId,
        draft: Self::Draft,
        packed: Packed,
        context: bool,
    ) -> Result<ResultId, Self::Error>;
    /// Whether nobody wants the results any more.
    fn is_canceled(&self) -> bool;
    /// The tree that a copy reads.
    fn open(&self, result: &ResultId) -> Result<copy::CopySource, Self::Error>;
}

/// Performs `op` on `inputs` and returns one result per output.
pub(crate) fn run<T: Trees>(
    op: &FileOp,
    inputs: &[ResultId],
    trees: &T,
    log: &dyn LogSink,
) -> Result<Vec<ResultId>, T::Error> {
    let outputs = op.actions.iter().filter_map(|action| action.output).max().map_or(0, |max| max + 1);
    let mut running = Running { op, inputs, trees, log, done: HashMap::new() };
    let mut results = Vec::new();
    for output in 0..outputs {
        let Some(action) = op.actions.iter().rposition(|action| action.output == Some(output)) else {
            return Err(FileError::Malformed { action: 0, reason: "an output has no action" }.into());
        };
        results.push(running.result_of(action)?);
    }
    Ok(results)
}

struct Running<'a, T> {
    op: &'a FileOp,
    inputs: &'a [ResultId],
    trees: &'a T,
    log: &'a dyn LogSink,
    /// Results of actions that were made into layers.
    done: HashMap<usize, ResultId>,
}

impl<'a, T: Trees> Running<'a, T> {
    /// The layer that stands after an action. All actions on the way to it from the input are performed in one draft.
    fn result_of(&mut self, action: usize) -> Result<ResultId, T::Error> {
        if let Some(done) = self.done.get(&action) {
            return Ok(done.clone());
        }
        let mut way = vec![action];
        let base = loop {
            let first = self.action(way[way.len() - 1])?;
            match first.input {
                None => break ResultId(crate::layers::SCRATCH.into()),
                Some(input) if input < self.inputs.len() => break self.inputs[input].clone(),
                Some(earlier) => match earlier - self.inputs.len() {
                    // Only ever backwards: so this ends.
                    earlier if earlier < way[way.len() - 1] => way.push(earlier),
                    _ => return Err(malformed(way[way.len() - 1], "it stands on itself or a later action").into()),
                },
            }
        };
        // What copies read comes first: it may be made of other actions.
        let mut sources = Vec::new();
        let mut read = Vec::new();
        for &step in way.iter().rev() {
            sources.push(match &self.action(step)?.kind {
                FileActionKind::Copy(_) => {
                    let (result, source) = self.source_of(step)?;
                    if matches!(source, copy::CopySource::Result(_)) {
                        read.push(result);
                    }
                    Some(source)
                }
                _ => None,
            });
        }
        let (draft, mounted) = self.trees.begin(&base)?;
        let fd = mounted.fd().try_clone_to_owned();
        let root = Root::new(fd.map_err(|source| FileError::Tree {
            act: "change the tree".into(),
            source: TreeError::Io { act: "open", path: "/".into(), source },
        })?);
        let upper = self.trees.upper(&draft)?;
        let trees = self.trees;
        let stop = move || trees.is_canceled();
        let pack = move || trees.packing();
        let may_pack = way.len() == 1 && self.op.actions.len() == 1 && trees.may_pack();
        let (mut context, mut packed) = (false, None);
        for (&step, source) in way.iter().rev().zip(&sources) {
            let performed = self.action(step)?;
            let names = performed.names_from().map(|input| self.names(step, input)).transpose()?;
            let onto = copy::Onto {
                root: &root,
                upper: upper.as_ref().filter(|_| step == action).map(AsFd::as_fd),
                names: names.as_ref().unwrap_or(&root),
                pack: may_pack.then_some(&pack),
            };
            let performed = perform(&performed.kind, source.as_ref(), &onto, self.log, &stop)?;
            context |= performed.context;
            packed = performed.packed;
        }
        drop((root, sources, mounted));
        let result = match packed {
            Some(packed) => self.trees.commit_packed(&base, draft, packed, context)?,
            None => self.trees.commit(&base, draft, &read, context)?,
        };
        self.done.insert(action, result.clone());
        Ok(result)
    }

    /// The tree of an input, in which names of owners are looked up.
    fn names(&self, step: usize, input: usize) -> Result<Root, T::Error> {
        let result = self.inputs.get(input).ok_or_else(|| malformed(step, "it looks names up in nothing"))?;
        match self.trees.open(result)? {
            copy::CopySource::Result(mounted) => {
                let fd = mounted.fd().try_clone_to_owned();
                Ok(Root::new(fd.map_err(|source| FileError::Tree {
                    act: "look names up".into(),
                    source: TreeError::Io { act: "open", path: "/".into(), source },
                })?))
            }
            copy::CopySource::Local(..) => Err(malformed(step, "it looks names up in a local directory").into()),
        }
    }

    fn source_of(&mut self, step: usize) -> Result<(ResultId, copy::CopySource), T::Error> {
        let result = match self.action(step)?.secondary_input {
            None => return Err(malformed(step, "it copies from nothing").into()),
            Some(input) if input < self.inputs.len() => self.inputs[input].clone(),
            Some(earlier) => match earlier - self.inputs.len() {
                earlier if earlier < step => self.result_of(earlier)?,
                _ => return Err(malformed(step, "it reads itself or a later action").into()),
            },
        };
        let source = self.trees.open(&result)?;
        Ok((result, source))
    }

    fn action(&self, step: usize) -> Result<&'a FileAction, FileError> {
        self.op.actions.get(step).ok_or_else(|| malformed(step, "it does not exist"))
    }
}

fn malformed(action: usize, reason: &'static str) -> FileError {
    FileError::Malformed { action, reason }
}

/// What became of an action.
#[derive(Default)]
pub(crate) struct Performed {
    /// Whether files of a build context came in as they are.
    context: bool,
    /// The tar of all that it changed, if that was written instead of the tree.
    packed: Option<Packed>,
}

/// Performs one action.
pub(crate) fn perform(
    kind: &FileActionKind,
    source: Option<&copy::CopySource>,
    onto: &copy::Onto<'_>,
    log: &dyn LogSink,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Performed, FileError> {
    let copy::Onto { root, names, .. } = *onto;
    match kind {
        FileActionKind::Copy(action) => {
            let source = source.ok_or_else(|| malformed(0, "it copies from nothing"))?;
            let copy::Copied { plain, packed } = copy::perform_until(action, source, onto, log, stop)?;
            let context = plain && action.timestamp.is_none() && matches!(source, copy::CopySource::Local(..));
            return Ok(Performed { context, packed });
        }
        FileActionKind::MkDir { path, mode, make_parents, owner, timestamp } => {
            let (uid, gid) = owner::resolve_or_root(owner.as_ref(), names)?;
            let new = NewDir { mode: *mode, uid, gid, mtime: *timestamp };
            make_dir(root, path, *make_parents, &new)
        }
        FileActionKind::MkFile { path, mode, data, owner, timestamp } => {
            let (uid, gid) = owner::resolve_or_root(owner.as_ref(), names)?;
            make_file(root, path, data, &NewDir { mode: *mode, uid, gid, mtime: *timestamp })
        }
        FileActionKind::Rm { path, allow_not_found, allow_wildcard } => {
            remove_path(root, path, *allow_not_found, *allow_wildcard)
        }
        FileActionKind::Symlink { target, path, owner, timestamp } => {
            let (uid, gid) = owner::resolve_or_root(owner.as_ref(), names)?;
            make_link(root, target, path, &NewDir { mode: 0o777, uid, gid, mtime: *timestamp })
        }
    }?;
    Ok(Performed::default())
}

fn make_dir(root: &Root, path: &str, make_parents: bool, new: &NewDir) -> Result<(), FileError> {
    let failed = || FileError::tree(format!("make the directory `{}`", shown(path.as_bytes())));
    if make_parents {
        return root.make_dirs(path.as_bytes(), new).map(drop).map_err(failed());
    }
    let place = root.resolve(path.trim_end_matches('/').as_bytes()).map_err(failed())?;
    if place.stat.is_some() {
        return Err(FileError::Refused { act: "make the directory", path: path.into(), reason: "it exists" });
    }
    crate::tree::resolve::make_dir_at(place.dir.as_fd(), &place.name, new)
        .map_err(TreeError::io("make directory", &place.path))
        .map_err(failed())
}

fn make_file(root: &Root, path: &str, data: &[u8], new: &NewDir) -> Result<(), FileError> {
    let failed = || FileError::tree(format!("write `{}`", shown(path.as_bytes())));
    let place = root.resolve(path.as_bytes()).map_err(failed())?;
    if place.is_dir() {
        return Err(FileError::Refused { act: "write", path: path.into(), reason: "it is a directory" });
    }
    let (dir, name) = (place.dir.as_fd(), place.name.as_slice());
    (|| {
        if place.stat.is_some() {
            fs::unlinkat(dir, name, AtFlags::empty())?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
        let mut rest = data;
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
            rest = &rest[written..];
        }
        attrs::chown(file.as_fd(), new.uid, new.gid)?;
        fs::fchmod(&file, Mode::from_raw_mode(new.mode & 0o7777))?;
        new.mtime.map_or(Ok(()), |moment| fs::futimens(&file, &attrs::times_at(moment)))
    })()
    .map_err(TreeError::io("write", &place.path))
    .map_err(failed())
}

fn make_link(root: &Root, target: &str, path: &str, new: &NewDir) -> Result<(), FileError> {
    let failed = || FileError::tree(format!("make the link `{}`", shown(path.as_bytes())));
    let place = root.resolve_no_follow(path.as_bytes()).map_err(failed())?;
    if place.stat.is_some() {
        return Err(FileError::Refused { act: "make the link", path: path.into(), reason: "something is there" });
    }
    let (dir, name) = (place.dir.as_fd(), place.name.as_slice());
    (|| {
        fs::symlinkat(target, dir, name)?;
        attrs::chown_at(dir, name, new.uid, new.gid)?;
        new.mtime.map_or(Ok(()), |moment| attrs::set_times_at(dir, name, &attrs::times_at(moment)))
    })()
    .map_err(TreeError::io("make link", &place.path))
    .map_err(failed())
}

fn remove_path(root: &Root, path: &str, allow_not_found: bool, wildcard: bool) -> Result<(), FileError> {
    let failed = || FileError::tree(format!("remove `{}`", shown(path.as_bytes())));
    let refused = |reason| Err(FileError::Refused { act: "remove", path: path.into(), reason });
    // `rm ..` and the like mean something else than they say.
    if path.split('/').any(|name| name == "..") {
        return refused("`..` is not allowed here");
    }
    let wanted = Wanted { path, wildcard, follow_symlinks: false };
    let found = match find(root, &wanted) {
        Ok(found) => found,
        Err(SelectError::Glob(error)) => return Err(error.into()),
        Err(SelectError::Tree(error)) if allow_not_found && error.is_not_found() => return Ok(()),
        Err(SelectError::Tree(error)) => return Err(failed()(error)),
    };
    let mut nothing = true;
    for one in found {
        if one.place.name.is_empty() {
            return refused("it is the root");
        }
        if one.place.stat.is_some() {
            nothing = false;
            let place = root.reopen(&one.place).map_err(failed())?;
            remove(place.dir.as_fd(), &place.name, &place.path).map_err(failed())?;
        }
    }
    if nothing && !allow_not_found {
        return Err(failed()(TreeError::NotFound { path: shown(path.as_bytes()) }));
    }
    Ok(())
}
