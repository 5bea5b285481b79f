//! A container: trees that are made ready once, and processes in them, one after another, until somebody ends it.
//!
//! In come an [`ExecOp`] whose mounts count, the results that they stand on, and then one operation per process, with the
//! same mounts. What a process writes the next one finds, and with the container it is gone; cache mounts are held as long
//! as it lasts. Each process runs as a step does. Deliberately absent: who drives it ([`crate::sandbox::Driver`]).

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use solver::graph::{Vertex, VertexId};
use solver::op::{ExecOp, Op, OpMeta, Platform};
use solver::place::Place;
use solver::seam::{Job, LogSink, ResultId};
use tokio_util::sync::CancellationToken;

use super::trees::{Prepared, Source, Tree, prepare_all};
use super::{StepError, cache, discard, perform, refuse_ungranted, refuse_unsupported};
use crate::emulate;
use crate::error::ExecError;
use crate::limits::Outcome;
use crate::sandbox::{Driver, Exit, Io, Output, Stdin};
use crate::snapshot::Mounted;
use crate::worker::Worker;

/// What overlayfs makes in the directory that it is given to work in.
const SCRATCH: &str = "work";

/// Trees for processes.
pub struct Container {
    /// The root first.
    trees: Vec<Tree>,
    /// Which of the trees each mount is.
    order: Vec<usize>,
    platform: Option<Platform>,
}

impl Container {
    /// Makes the mounts of `exec` ready; `inputs` are what they stand on.
    ///
    /// # Errors
    /// When one cannot be had.
    pub async fn prepare(
        worker: &Worker,
        exec: &ExecOp,
        inputs: Vec<ResultId>,
        platform: Option<Platform>,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Self, ExecError> {
        refuse_unsupported(exec)?;
        refuse_ungranted(exec, &worker.steps().grants)?;
        let id = VertexId::of_name("container");
        let op = Op::Exec(Box::new(exec.clone()));
        let vertex = Vertex { op, inputs: Vec::new(), platform: platform.clone() };
        let sources = vec![None; inputs.len()];
        let (meta, place) = (OpMeta::default(), Place::uncounted(id));
        let job = Job { id, vertex: &vertex, meta: &meta, inputs: inputs.clone(), sources, place };
        let caches = cache::take(worker, &job, exec, log, cancel).await?;
        let mounts = exec.mounts.clone();
        let mut order: Vec<usize> = (0..mounts.len()).collect();
        if let Some(root) = mounts.iter().position(|mount| mount.target == "/") {
            order.swap(0, root);
        }
        let prepared = worker.on_core(cancel, move |worker| prepare_all(worker, &mounts, &inputs, caches)).await?;
        let Prepared { trees, told } = prepared;
        told.tell(log);
        Ok(Self { trees, order, platform })
    }

    /// Runs a process, and waits for its end. `exec` has the mounts that the container was made with.
    ///
    /// # Errors
    /// A process that fails is no error; one that cannot be started is.
    pub async fn run(
        &self,
        worker: &Worker,
        exec: &ExecOp,
        stdin: Stdin,
        driver: Driver,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Exit, ExecError> {
        refuse_unsupported(exec)?;
        refuse_ungranted(exec, &worker.steps().grants)?;
        worker.expect_user_namespaces().await?;
        let platform = self.platform.as_ref().map(emulate::platform_of);
        let emulated = worker.emulated(platform.as_ref(), log).await?;
        let network = super::network::begin(worker, exec.network, log, cancel).await?;
        let exec = &ExecOp { network, ..exec.clone() };
        let turn = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ExecError::Canceled),
            turn = worker.root_turn() => turn,
        };
        for draft in self.trees.iter().filter_map(Tree::draft) {
            forget_mount(&draft.work().join(SCRATCH))?;
        }
        let io = Io { stdin, output: Output::Driven(driver), forward_signals: false };
        let performed = perform(worker, exec, &self.trees, emulated, Some(io), log, cancel).await;
        drop(turn);
        let (outcome, _) = performed?;
        let command = exec.args.join(" ");
        match outcome {
            Outcome { finished: Some(finished), hit, .. } => match hit.filter(|_| finished.exit != Exit::Code(0)) {
                Some(hit) => Err(StepError::Limit { command, hit, exit: Some(finished.exit) }.into()),
                None => Ok(finished.exit),
            },
            Outcome { hit: Some(hit), .. } => Err(StepError::Limit { command, hit, exit: None }.into()),
            Outcome { .. } => unreachable!("a process is stopped for a limit or not at all"),
        }
    }

    /// Looks into what a mount shows, as it is now; blocking. The mounts are numbered as the operation has them.
    ///
    /// # Errors
    /// When there is no such mount, or it is no tree.
    pub fn look<T>(
        &self,
        worker: &Worker,
        mount: usize,
        look: impl FnOnce(BorrowedFd<'_>) -> T,
    ) -> Result<T, ExecError> {
        let tree = self.order.iter().position(|of| *of == mount).and_then(|at| self.trees.get(at));
        let tree = tree.ok_or(StepError::Malformed { what: "there is no such mount" })?;
        let selector = tree.mount.selector.as_str();
        let root = match &tree.source {
            Source::Layers { overlay, draft } => match draft {
                // What is written there lies on top, or, where nothing is mounted, with a copy of all the rest.
                Some(draft) if worker.mounts() => {
                    let top = beside(draft.fs(), &overlay.layers_dir)
                        .ok_or(StepError::Malformed { what: "what is written lies outside of the store" })?;
                    let lowers: Vec<String> = std::iter::once(top).chain(overlay.lowers.clone()).collect();
                    worker.snapshots().view(&lowers)?
                }
                Some(draft) => opened(draft.fs())?,
                None => worker.snapshots().view(&overlay.lowers)?,
            },
            Source::Own { view, .. } => return Ok(look(opened(view)?.fd())),
            Source::Cache { dir, .. } => opened(dir)?,
            Source::Memory { .. } | Source::Given => {
                return Err(StepError::Malformed { what: "the mount is no tree that can be looked into" }.into());
            }
        };
        if selector.is_empty() || selector == "/" {
            return Ok(look(root.fd()));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let part = rustix::fs::openat2(root.fd(), selector, flags, Mode::empty(), beneath)
            .map_err(|errno| StepError::Io { act: "open", path: selector.into(), source: errno.into() })?;
        Ok(look(part.as_fd()))
    }

    /// Ends it: what was written is gone.
    ///
    /// # Errors
    /// When the worker ends first.
    pub async fn end(self, worker: &Worker) -> Result<(), ExecError> {
        discard(worker, self.trees).await
    }
}

/// Removes what overlayfs left of the mount before: that it was never synced, which no second mount of the same directory
/// takes. Nothing of a container has to outlive the machine. The kernel's overlayfs.rst, "Volatile mount".
fn forget_mount(scratch: &Path) -> Result<(), StepError> {
    match std::fs::remove_dir_all(scratch) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StepError::Io { act: "remove", path: scratch.to_owned(), source }),
    }
}

/// A directory of the store as overlayfs finds it from the layers' directory.
fn beside(dir: &Path, layers: &Path) -> Option<String> {
    let inside = dir.strip_prefix(layers.parent()?).ok()?;
    Some(format!("../{}", inside.to_str()?))
}

fn opened(dir: &Path) -> Result<Mounted, StepError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dir, flags, Mode::empty());
    let opened = opened.map_err(|errno| StepError::Io { act: "open", path: dir.to_owned(), source: errno.into() })?;
    Ok(Mounted::new(opened))
}
