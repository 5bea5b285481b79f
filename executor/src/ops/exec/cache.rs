//! The cache mounts of a step: taken before anything is prepared, held until its process has ended.
//!
//! In come the mounts of the operation, out come directories of the store, one per cache mount, all of them or an
//! error. Whoever has to wait holds nothing meanwhile, neither another cache mount nor a draft, so no two steps wait
//! for each other, in this process or in others. What a new directory starts as (`from`, or an owner and a mode) is
//! copied into it once; its name in the key is the digest of that content, so a cache survives that its seed is built
//! again, and is another one when its seed has changed.
//!
//! Who waits leaves its place among `--jobs` to other steps.
//!
//! Deliberately absent: which directory one gets ([`store`] decides), what is mounted where ([`super`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::sync::Arc;

use oci::model::Digest;
use solver::op::{CacheSharing, CopyAction, ExecOp, Mount, MountKind};
use solver::seam::{Executor as _, Job, LogSink, Read, ResultId, Selection};
use store::{HeldMount, MountKey, MountSeed, MountWish, Taken, shown_mount_id};
use tokio_util::sync::CancellationToken;

use super::StepError;
use super::wait::wait;
use crate::error::ExecError;
use crate::ops::file::copy::{self, CopySource};
use crate::snapshot::{SnapshotError, open_directory};
use crate::tree::copy::{Rules, copy_tree};
use crate::tree::{Root, TreeError, resolve::open_dir_at};
use crate::worker::{Inputs, Notices, Told, Worker};

/// One cache mount of a step.
struct Wanted {
    wish: MountWish,
    /// What a new directory starts as, and the path in it.
    seed: Option<(ResultId, String)>,
    /// Where the operation names it.
    index: usize,
}

/// Takes the cache mounts of `exec`; one entry per mount of the operation, `None` for those of other kinds.
pub(super) async fn take(
    worker: &Worker,
    job: &Job<'_>,
    exec: &ExecOp,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<Vec<Option<Arc<HeldMount>>>, ExecError> {
    let mut all: Vec<Option<Arc<HeldMount>>> = exec.mounts.iter().map(|_| None).collect();
    let mut wanted = Vec::new();
    for (index, mount) in exec.mounts.iter().enumerate() {
        if let MountKind::Cache { id, sharing } = &mount.kind {
            let sharing = if worker.mounts() { *sharing } else { alone(*sharing) };
            let seed = seed_of(mount, &job.inputs)?;
            let name = match &seed {
                Some((tree, path)) => name_of(worker, tree, path, cancel).await?,
                None => String::new(),
            };
            let wish = MountWish { key: MountKey { id: id.clone(), seed: name }, sharing };
            wanted.push(Wanted { wish, seed, index });
        }
    }
    if wanted.is_empty() {
        return Ok(all);
    }
    let wishes: Arc<[MountWish]> = wanted.iter().map(|wanted| wanted.wish.clone()).collect();
    let mut seeds = BTreeMap::new();
    let mut turn = None;
    let mut told = false;
    let mut away = None;
    loop {
        if cancel.is_cancelled() {
            return Err(ExecError::Canceled);
        }
        let (asked, given) = (wishes.clone(), turn.take());
        let (taken, left) = worker
            .blocking(move |worker| {
                let taken = worker.store().take_mounts(&asked, &mut seeds, given)?;
                Ok((taken, seeds))
            })
            .await?;
        seeds = left;
        match taken {
            Taken::All(held) => {
                for (held, wanted) in held.into_iter().zip(&wanted) {
                    all[wanted.index] = Some(held);
                }
                break;
            }
            Taken::Unseeded(number) => {
                let Wanted { wish, seed, .. } = &wanted[number];
                let (tree, path) = seed.clone().ok_or(StepError::Malformed { what: "a cache mount without a seed" })?;
                let (inputs, stop) = (Inputs::of(job), cancel.clone());
                let (seed, told) =
                    worker.on_core(cancel, move |worker| make_seed(worker, &tree, &path, &inputs, &stop)).await?;
                told.tell(log);
                seeds.insert(wish.key.clone(), seed);
            }
            Taken::Busy(busy) => {
                away.get_or_insert_with(|| job.place.leave());
                turn = Some(wait(busy, log, &mut told, cancel).await?);
            }
        }
    }
    // Nobody who has a place waits for what is held here: who waits has none.
    if let Some(away) = away {
        away.back().await;
        if cancel.is_cancelled() {
            return Err(ExecError::Canceled);
        }
    }
    // What the directories hold is what earlier steps put there: `source` is looked for again when it is mounted.
    for (held, mount) in all.iter().zip(&exec.mounts) {
        if let (Some(held), None, MountKind::Cache { id, .. }) = (held, mount.input, &mount.kind)
            && !is_whole(&mount.selector)
        {
            let (held, path) = (held.clone(), mount.selector.clone());
            let found = worker.blocking(move |_| Ok(find_below(&held, &path)?)).await?;
            if !found {
                return Err(StepError::CacheSource { id: shown_mount_id(id), path: mount.selector.clone() }.into());
            }
        }
    }
    Ok(all)
}

/// Without mounts, a directory is in one step at a time: who would share it waits.
fn alone(sharing: CacheSharing) -> CacheSharing {
    match sharing {
        CacheSharing::Private => CacheSharing::Private,
        CacheSharing::Shared | CacheSharing::Locked => CacheSharing::Locked,
    }
}

/// Which path of its own a cache mount shows: a seed is already what it starts as.
pub(super) fn subpath(mount: &Mount) -> &str {
    if mount.input.is_some() { "" } else { &mount.selector }
}

fn is_whole(path: &str) -> bool {
    matches!(path, "" | "/")
}

fn seed_of(mount: &Mount, inputs: &[ResultId]) -> Result<Option<(ResultId, String)>, StepError> {
    let Some(index) = mount.input else { return Ok(None) };
    let tree = inputs.get(index).ok_or(StepError::Malformed { what: "a mount names an input that is not there" })?;
    Ok(Some((tree.clone(), mount.selector.clone())))
}

/// A name for what is at a path of a tree; the same content has the same name.
async fn name_of(
    worker: &Worker,
    tree: &ResultId,
    path: &str,
    cancel: &CancellationToken,
) -> Result<String, ExecError> {
    let (local, selected, stop) = (tree.clone(), path.to_owned(), cancel.clone());
    let of_local = worker.on_core(cancel, move |worker| {
        let Some((source, patterns)) = worker.local_of(&local)? else { return Ok(None) };
        Ok(Some(source.digest_selected(&patterns, &whole(&selected), &|| stop.is_cancelled())?.digest))
    });
    let mut name = String::new();
    let written = if let Some(digest) = of_local.await? {
        write!(name, "local {digest}")
    } else if let Some(digest) = worker.content(tree, &Read::Chain, cancel).await? {
        write!(name, "content {digest} {path}")
    } else {
        write!(name, "result {tree} {path}")
    };
    written.expect("text takes text");
    Ok(Digest::of(name.as_bytes()).hex())
}

/// Everything at a path, a link at its end followed.
fn whole(path: &str) -> Selection {
    Selection {
        path: if path.is_empty() { "/".into() } else { path.into() },
        wildcard: false,
        allow_empty_wildcard: false,
        follow_symlinks: true,
        dir_contents_only: true,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        required_paths: Vec::new(),
    }
}

/// A draft with what is at `path` of a tree, owners, modes and times included.
fn make_seed(
    worker: &Worker,
    tree: &ResultId,
    path: &str,
    inputs: &Inputs,
    cancel: &CancellationToken,
) -> Result<(MountSeed, Told), ExecError> {
    let notices = Notices::default();
    let draft = worker.store().draft()?;
    let stopped = || cancel.is_cancelled();
    if let Some((local, patterns)) = worker.local_of(tree)? {
        let fd = rustix::io::fcntl_dupfd_cloexec(draft.fs_fd(), 3).map_err(SnapshotError::io("open", draft.fs()))?;
        let action = CopyAction {
            src: if path.is_empty() { "/".into() } else { path.into() },
            dest: "/".into(),
            follow_symlinks: true,
            dir_contents_only: true,
            ..CopyAction::default()
        };
        copy::perform(&action, &CopySource::Local(local, patterns), &Root::new(fd), &notices)?;
    } else {
        let view = worker.view(tree)?;
        let top = open_dir_at(view.fd(), b".").map_err(TreeError::io("open directory", b"")).map_err(snapshot)?;
        let from = Root::new(top).resolve(path.as_bytes()).and_then(|place| place.open_dir()).map_err(snapshot)?;
        let rules = Rules { keep_hard_links: true, stop: Some(&stopped), ..Rules::default() };
        match copy_tree(from, open_directory(draft.fs())?, rules) {
            Err(TreeError::Stopped) => return Err(ExecError::Canceled),
            copied => copied.map_err(snapshot)?,
        }
    }
    if stopped() {
        return Err(ExecError::Canceled);
    }
    let since = worker.heritage(tree, inputs)?.since;
    let created = since.map_or(draft.begun(), |since| since.min(draft.begun()));
    Ok((MountSeed { draft, created }, notices.finish()))
}

fn snapshot(error: TreeError) -> SnapshotError {
    error.into()
}

/// Whether there is anything at `path` of a directory, links followed beneath it.
fn find_below(held: &HeldMount, path: &str) -> Result<bool, SnapshotError> {
    let root = open_directory(&held.path())?;
    let top = open_dir_at(root.as_fd(), b".").map_err(TreeError::io("open directory", b""))?;
    match Root::new(top).resolve(path.as_bytes()) {
        Ok(place) => Ok(place.stat.is_some()),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}
