//! The trees of a step: prepared before its process, committed or thrown away after it.
//!
//! In come the mounts of the operation and the results that they stand on, out come layers under drafts; afterwards, a
//! result per output. Deliberately absent: how they become mounts ([`super::process`]).

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use solver::op::{self, CopyAction, MountKind};
use solver::seam::{LogSink, ResultId};
use store::{Draft, HeldMount};

use super::error::{NO_ROOT, StepError};
use crate::error::ExecError;
use crate::layers::SCRATCH;
use crate::ops::file::copy::{self, CopySource};
use crate::sandbox::spec::Upper;
use crate::sandbox::{self, Overlay, Stub};
use crate::times::Heritage;
use crate::tree::Root;
use crate::worker::{Inputs, Notices, Told, Worker};

/// Name of what is copied for one step.
const LOCAL_VIEW: &str = "view";

/// A mount and what was prepared for it.
pub(super) struct Tree {
    pub(super) mount: op::Mount,
    /// What it stands on.
    parent: ResultId,
    pub(super) source: Source,
}

impl Tree {
    /// Nothing prepared, only shown.
    pub(super) fn shown(mount: &op::Mount) -> Self {
        let source = match &mount.kind {
            MountKind::Tmpfs { size_bytes } => Source::Memory { size_bytes: *size_bytes },
            MountKind::Cache { id, .. } => {
                Source::Cache { dir: format!("cache mount {}", store::shown_mount_id(id)).into(), held: None }
            }
            MountKind::Secret { .. } | MountKind::Ssh { .. } => Source::Given,
            MountKind::Bind => {
                let overlay = Overlay { layers_dir: "layers".into(), lowers: Vec::new(), upper: None };
                Source::Layers { overlay, draft: None }
            }
        };
        Self { mount: mount.clone(), parent: ResultId(SCRATCH.into()), source }
    }

    /// What becomes a layer.
    pub(super) fn written(&self) -> Option<&Draft> {
        match &self.source {
            Source::Layers { draft: Some(draft), .. } if self.mount.output.is_some() => Some(draft),
            _ => None,
        }
    }

    /// Where what is written goes, when it becomes a layer or is thrown away.
    pub(super) fn upper(&self) -> Option<PathBuf> {
        match &self.source {
            Source::Layers { draft: Some(draft), .. } => Some(draft.fs().to_owned()),
            _ => None,
        }
    }

    /// What was made for this step.
    pub(super) fn draft(&self) -> Option<&Draft> {
        match &self.source {
            Source::Layers { draft, .. } => draft.as_ref(),
            Source::Own { draft, .. } => Some(draft),
            _ => None,
        }
    }

    /// The lock of a cache mount.
    pub(super) fn lock(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Cache { held: Some(held), .. } => Some(held.lock()),
            _ => None,
        }
    }
}

pub(super) enum Source {
    /// No tree: a secret or an agent, which the step is given otherwise.
    Given,
    /// Memory.
    Memory { size_bytes: u64 },
    /// Layers, and where writes go, if anywhere.
    Layers { overlay: Overlay, draft: Option<Draft> },
    /// A copy for this step: what a local source gave, without what is ignored; or, where nothing is mounted, a part of a
    /// tree. Thrown away with the step.
    Own { view: PathBuf, draft: Draft },
    /// A cache mount's directory, held until this value is gone.
    Cache { dir: PathBuf, held: Option<Arc<HeldMount>> },
}

/// Trees with the root first, and what is to be said about them.
pub(super) struct Prepared {
    pub(super) trees: Vec<Tree>,
    pub(super) told: Told,
}

/// `caches` has the directory of every mount that is a cache.
pub(super) fn prepare_all(
    worker: &Worker,
    mounts: &[op::Mount],
    inputs: &[ResultId],
    caches: Vec<Option<Arc<HeldMount>>>,
) -> Result<Prepared, ExecError> {
    let notices = Notices::default();
    let scratch = ResultId(SCRATCH.into());
    let mut root = None;
    let mut trees = Vec::new();
    for (mount, cache) in mounts.iter().zip(caches) {
        let parent = match mount.input {
            Some(index) => {
                inputs.get(index).ok_or(StepError::Malformed { what: "a mount names an input that is not there" })?
            }
            None => &scratch,
        };
        let is_root = mount.target == "/" && root.is_none();
        let source = match (cache, &mount.kind) {
            (Some(held), _) => Source::Cache { dir: held.path(), held: Some(held) },
            (None, MountKind::Secret { .. } | MountKind::Ssh { .. }) => Source::Given,
            (None, MountKind::Tmpfs { size_bytes }) => Source::Memory { size_bytes: *size_bytes },
            // The root is always writable; without an output the writes are lost.
            (None, _) if is_root => {
                let (overlay, draft) = stack(worker, parent, true)?;
                Source::Layers { overlay, draft }
            }
            (None, _) => prepare(worker, parent, mount, !mount.readonly || mount.output.is_some(), &notices)?,
        };
        if is_root {
            root = Some(trees.len());
        }
        trees.push(Tree { mount: mount.clone(), parent: parent.clone(), source });
    }
    let root = root.ok_or(NO_ROOT)?;
    trees.swap(0, root);
    Ok(Prepared { trees, told: notices.finish() })
}

fn prepare(
    worker: &Worker,
    parent: &ResultId,
    mount: &op::Mount,
    writable: bool,
    log: &dyn LogSink,
) -> Result<Source, ExecError> {
    let copied = match worker.local_of(parent)? {
        Some((local, patterns)) => Some(CopySource::Local(local, patterns)),
        None if worker.mounts() => None,
        None if mount.output.is_some() => {
            return Err(StepError::Malformed { what: "an output beside its root, where nothing is mounted" }.into());
        }
        None => Some(CopySource::Result(worker.view(parent)?)),
    };
    if let Some(source) = copied {
        let draft = worker.store().draft()?;
        let fd = rustix::io::fcntl_dupfd_cloexec(draft.fs_fd(), 3).map_err(|errno| StepError::Io {
            act: "open",
            path: draft.fs().to_owned(),
            source: errno.into(),
        })?;
        // As the key says it: everything at the path, a link at its end followed.
        let action = CopyAction {
            src: if mount.selector.is_empty() { "/".into() } else { mount.selector.clone() },
            dest: format!("/{LOCAL_VIEW}"),
            follow_symlinks: true,
            dir_contents_only: true,
            create_dest_path: true,
            ..CopyAction::default()
        };
        copy::perform(&action, &source, &Root::new(fd), log)?;
        return Ok(Source::Own { view: draft.fs().join(LOCAL_VIEW), draft });
    }
    let (overlay, draft) = stack(worker, parent, writable)?;
    Ok(Source::Layers { overlay, draft })
}

/// The layers of `result`, under a draft when they are to be written to.
pub(super) fn stack(worker: &Worker, result: &ResultId, writable: bool) -> Result<(Overlay, Option<Draft>), ExecError> {
    let lowers = worker.lowers(result)?;
    let layers_dir = worker.store().layers_dir().to_owned();
    if !writable {
        return Ok((Overlay { layers_dir, lowers, upper: None }, None));
    }
    let draft = worker.store().draft()?;
    worker.snapshots().seed(&lowers, draft.fs())?;
    let upper = Upper { dir: draft.fs().to_owned(), work: draft.work().to_owned() };
    Ok((Overlay { layers_dir, lowers, upper: Some(upper) }, Some(draft)))
}

/// Takes the mount points out of the root again, and what the step has not written out of trees that held more.
pub(super) fn clean(worker: &Worker, trees: &[Tree], stubs: &[Stub]) -> Result<(), ExecError> {
    if let Some(draft) = trees.first().and_then(Tree::written) {
        let failed = |source| StepError::Io { act: "clean the mount points of", path: draft.fs().to_owned(), source };
        sandbox::remove_stubs(draft.fs_fd(), stubs).map_err(failed)?;
    }
    for tree in trees {
        if let (Source::Layers { overlay, .. }, Some(draft)) = (&tree.source, tree.written()) {
            worker.snapshots().settle(&overlay.lowers, draft.fs())?;
        }
    }
    Ok(())
}

/// Commits every tree that has an output; the results are in the order of the outputs. The root is clean.
pub(super) fn commit_all(worker: &Worker, trees: Vec<Tree>, inputs: &Inputs) -> Result<Vec<ResultId>, ExecError> {
    // What is mounted beside the root may be copied into it with its times.
    let mut read = Heritage::default();
    for tree in trees.iter().skip(1).filter(|tree| !matches!(tree.source, Source::Memory { .. } | Source::Given)) {
        read = read.and(worker.heritage(&tree.parent, inputs)?);
        // Earlier builds made what is in a cache, and which of them did must not be seen.
        if let Source::Cache { held: Some(held), .. } = &tree.source {
            read = read.and(Heritage { since: Some(held.created()), from_context: false });
        }
    }
    let mut results = BTreeMap::new();
    for Tree { mount, parent, source } in trees {
        let Some(output) = mount.output else { continue };
        let Source::Layers { draft: Some(draft), .. } = source else {
            return Err(StepError::Malformed { what: "an output of what is no layer" }.into());
        };
        results.insert(output, worker.commit(&parent, draft, inputs, read)?);
    }
    Ok(results.into_values().collect())
}
