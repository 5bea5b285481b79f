//! RUN: a process over a snapshot, in the sandbox; what it changed becomes a layer.
//!
//! In come an [`ExecOp`] and the trees that it mounts. Every tree that may be written to gets a draft of its own over
//! its layers; after the process has ended well, the drafts that have an output are committed and the others thrown
//! away. The mount points that the sandbox had to make are taken out before. Deliberately absent: how a process is
//! isolated ([`crate::sandbox`]), what a layer is ([`crate::layers`]).
//!
//! Cache mounts ([`cache`]) are directories of the store, which outlive the step; nothing in them is in a layer.
//!
//! [`run_image`] runs the same way for a person in front of a terminal, and keeps nothing.

mod cache;
mod foreground;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use solver::op::{self, CopyAction, ExecOp, MountKind, NetworkMode, SecurityMode};
use solver::seam::{Job, LogSink, ResultId};
use store::{Draft, HeldMount};
use tokio_util::sync::CancellationToken;

pub use foreground::{RunSpec, Volume, run_image};

use crate::error::ExecError;
use crate::layers::SCRATCH;
use crate::ops::file::copy::{self, CopySource};
use crate::sandbox::spec::Upper;
use crate::sandbox::{
    self, Bind, BindSource, Exit, Io, Limit, Mount, Network, Output, Overlay, Plan, ProcessSpec, RootFs, SandboxError,
    Stdin, Stub, Tmpfs,
};
use crate::times::Heritage;
use crate::tree::Root;
use crate::worker::{Inputs, Notices, Worker};

/// The host's resolver configuration, which the host's network needs.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The kernel's resolver reads six name servers; a page of comments fits as well.
const RESOLV_CONF_MAX_BYTES: u64 = 64 << 10;
/// Permission bits of a memory mount's directory.
const TMPFS_MODE: u32 = 0o1777;
/// Name of what is copied from a local source for one step.
const LOCAL_VIEW: &str = "view";

/// Why a process did not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// It ran and failed.
    #[error("process `{command}` did not complete successfully: {exit}")]
    Process {
        /// The command, words joined by spaces.
        command: String,
        /// How it ended.
        exit: Exit,
    },
    /// It could not be run.
    #[error(transparent)]
    Sandbox(SandboxError),
    /// It asks for what is not there yet.
    #[error("{what} is not supported yet")]
    Unsupported {
        /// What.
        what: String,
    },
    /// The operation is malformed.
    #[error("malformed exec operation: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// `source` of a cache mount names nothing in it.
    #[error("`{path}` does not exist in the cache mount `{id}`")]
    CacheSource {
        /// Its id, for people.
        id: String,
        /// The path in it.
        path: String,
    },
    /// A file that the set-up needs.
    #[error("could not {act} `{}`", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

const NO_ROOT: StepError = StepError::Malformed { what: "no mount has the target `/`" };

impl StepError {
    /// The exit code of the command as a shell shows it, when there is one: also 127 for a command that is not there
    /// and 126 for one that cannot be executed.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            StepError::Process { exit, .. } => Some(exit.code()),
            StepError::Sandbox(SandboxError::Exec { source, .. }) => {
                Some(if source.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
            }
            _ => None,
        }
    }
}

impl From<SandboxError> for ExecError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Canceled => ExecError::Canceled,
            error => ExecError::Step(StepError::Sandbox(error)),
        }
    }
}

/// Runs the process of `exec` and returns one result per output.
pub(crate) async fn run(
    worker: &Worker,
    job: &Job<'_>,
    exec: &ExecOp,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<Vec<ResultId>, ExecError> {
    refuse_unsupported(exec)?;
    // First, while nothing else is held.
    let caches = cache::take(worker, job, exec, log, cancel).await?;
    let trees = {
        let (mounts, inputs) = (exec.mounts.clone(), job.inputs.clone());
        let prepared = worker.on_core(cancel, move |worker| prepare_all(worker, &mounts, &inputs, caches)).await?;
        prepared.notices.iter().for_each(|text| log.notice(text));
        prepared.trees
    };
    let inputs = Inputs::of(job);
    let spec = process(exec, &trees)?;
    let settings = worker.sandbox()?;
    let io = Io { stdin: Stdin::Null, output: Output::Log(log), forward_signals: false };
    let locks: Vec<_> = trees.iter().filter_map(Tree::lock).collect();
    let finished = sandbox::run_holding(&settings, &spec, io, &locks, cancel).await?;
    let succeeded = match (finished.exit, exec.valid_exit_codes.as_slice()) {
        (Exit::Code(code), []) => code == 0,
        (Exit::Code(code), valid) => valid.contains(&code),
        (Exit::Signal(_), _) => false,
    };
    if !succeeded {
        discard(worker, trees).await?;
        return Err(StepError::Process { command: exec.args.join(" "), exit: finished.exit }.into());
    }
    worker.on_core(cancel, move |worker| commit_all(worker, trees, &inputs, &finished.stubs)).await
}

/// The acts by which `exec` would be run, for people to read: its trees are shown without layers.
pub fn preview(exec: &ExecOp) -> Result<Plan, StepError> {
    refuse_unsupported(exec)?;
    let mut trees: Vec<_> = exec.mounts.iter().map(Tree::shown).collect();
    let root = exec.mounts.iter().position(|mount| mount.target == "/").ok_or(NO_ROOT)?;
    trees.swap(0, root);
    Ok(sandbox::plan::plan(&process(exec, &trees)?))
}

/// What nobody can give yet fails before anything is prepared: a step must not run with less than it asks for.
fn refuse_unsupported(exec: &ExecOp) -> Result<(), StepError> {
    let refused = |what: &str| Err(StepError::Unsupported { what: what.into() });
    if exec.args.is_empty() {
        return Err(StepError::Malformed { what: "it has no command" });
    }
    if exec.security != SecurityMode::Sandbox {
        return refused("`--security=insecure`");
    }
    if !exec.secret_env.is_empty() {
        return refused("a secret as an environment variable");
    }
    if !exec.devices.is_empty() {
        return refused("`--device`");
    }
    if !exec.cgroup_parent.is_empty() {
        return refused("`--cgroup-parent`");
    }
    for mount in &exec.mounts {
        match mount.kind {
            MountKind::Bind | MountKind::Tmpfs { .. } => {}
            MountKind::Cache { .. } if mount.target == "/" => {
                return Err(StepError::Malformed { what: "a cache mount has the target `/`" });
            }
            MountKind::Cache { .. } if mount.output.is_some() => {
                return Err(StepError::Malformed { what: "a cache mount has an output" });
            }
            MountKind::Cache { .. } => {}
            MountKind::Secret { .. } => return refused("`--mount=type=secret`"),
            MountKind::Ssh { .. } => return refused("`--mount=type=ssh`"),
        }
    }
    Ok(())
}

/// A mount and what was prepared for it.
struct Tree {
    mount: op::Mount,
    /// What it stands on.
    parent: ResultId,
    source: Source,
}

impl Tree {
    /// Nothing prepared, only shown.
    fn shown(mount: &op::Mount) -> Self {
        let source = match &mount.kind {
            MountKind::Tmpfs { size_bytes } => Source::Memory { size_bytes: *size_bytes },
            MountKind::Cache { id, .. } => {
                Source::Cache { dir: format!("cache mount {}", cache::shown_id(id)).into(), held: None }
            }
            _ => {
                let overlay = Overlay { layers_dir: "layers".into(), lowers: Vec::new(), upper: None };
                Source::Layers { overlay, draft: None }
            }
        };
        Self { mount: mount.clone(), parent: ResultId(SCRATCH.into()), source }
    }

    /// The lock of a cache mount.
    fn lock(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Cache { held: Some(held), .. } => Some(held.lock()),
            _ => None,
        }
    }
}

enum Source {
    /// Memory.
    Memory { size_bytes: u64 },
    /// Layers, and where writes go, if anywhere.
    Layers { overlay: Overlay, draft: Option<Draft> },
    /// What a local source gave, without what is ignored; thrown away with the step.
    Local { view: PathBuf, _draft: Draft },
    /// A cache mount's directory, held until this value is gone.
    Cache { dir: PathBuf, held: Option<Arc<HeldMount>> },
}

/// Trees with the root first, and what is to be said about them.
struct Prepared {
    trees: Vec<Tree>,
    notices: Vec<String>,
}

/// `caches` has the directory of every mount that is a cache.
fn prepare_all(
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
            (None, MountKind::Tmpfs { size_bytes }) => Source::Memory { size_bytes: *size_bytes },
            // The root is always writable; without an output the writes are lost.
            (None, _) => {
                prepare(worker, parent, mount, is_root || !mount.readonly || mount.output.is_some(), &notices)?
            }
        };
        if is_root {
            root = Some(trees.len());
        }
        trees.push(Tree { mount: mount.clone(), parent: parent.clone(), source });
    }
    let root = root.ok_or(NO_ROOT)?;
    trees.swap(0, root);
    let notices = notices.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Prepared { trees, notices })
}

fn prepare(
    worker: &Worker,
    parent: &ResultId,
    mount: &op::Mount,
    writable: bool,
    log: &dyn LogSink,
) -> Result<Source, ExecError> {
    if let Some((local, patterns)) = worker.local_of(parent)? {
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
        copy::perform(&action, &CopySource::Local(local, patterns), &Root::new(fd), log)?;
        return Ok(Source::Local { view: draft.fs().join(LOCAL_VIEW), _draft: draft });
    }
    let (overlay, draft) = stack(worker, parent, writable)?;
    Ok(Source::Layers { overlay, draft })
}

/// The layers of `result`, under a draft when they are to be written to.
fn stack(worker: &Worker, result: &ResultId, writable: bool) -> Result<(Overlay, Option<Draft>), ExecError> {
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

/// What the sandbox is asked for. The first tree is the root.
fn process(exec: &ExecOp, trees: &[Tree]) -> Result<ProcessSpec, StepError> {
    let (root, others) = trees.split_first().ok_or(NO_ROOT)?;
    let root = match &root.source {
        Source::Layers { overlay, .. } => RootFs::Overlay(overlay.clone()),
        Source::Local { view, .. } => RootFs::Tree { path: view.clone() },
        Source::Memory { .. } => return Err(StepError::Malformed { what: "its root is memory" }),
        Source::Cache { .. } => return Err(StepError::Malformed { what: "its root is a cache mount" }),
    };
    let mut spec = ProcessSpec::new(root, exec.args.clone());
    spec.env = environment(&exec.env, &exec.proxy_env);
    spec.cwd = exec.cwd.clone();
    spec.user = exec.user.clone();
    if !exec.hostname.is_empty() {
        spec.hostname = exec.hostname.clone();
    }
    if exec.shm_size_bytes > 0 {
        spec.shm_size_bytes = exec.shm_size_bytes;
    }
    spec.extra_hosts = exec.extra_hosts.clone();
    let limits = exec.ulimits.iter().cloned();
    spec.limits = limits.map(|(name, soft, hard)| Limit { name, soft, hard }).collect();
    set_network(&mut spec, exec.network)?;
    spec.mounts = others.iter().map(bound).collect();
    Ok(spec)
}

fn bound(tree: &Tree) -> Mount {
    let Tree { mount, source, .. } = tree;
    let bind = |source, subpath: &str| {
        sandbox::MountKind::Bind(Bind { source, subpath: subpath.into(), readonly: mount.readonly })
    };
    let kind = match source {
        Source::Memory { size_bytes } => sandbox::MountKind::Tmpfs(Tmpfs { size_bytes: *size_bytes, mode: TMPFS_MODE }),
        Source::Layers { overlay, .. } => bind(BindSource::Overlay(overlay.clone()), &mount.selector),
        // The view is of the selected path already.
        Source::Local { view, .. } => bind(BindSource::Path(view.clone()), ""),
        Source::Cache { dir, .. } => bind(BindSource::Path(dir.clone()), cache::subpath(mount)),
    };
    Mount { target: mount.target.clone(), kind }
}

/// The step's own variables, and those proxies that it does not set itself.
fn environment(own: &[String], proxies: &[String]) -> Vec<String> {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let missing = proxies.iter().filter(|proxy| !own.iter().any(|pair| name(pair) == name(proxy)));
    own.iter().chain(missing).cloned().collect()
}

fn set_network(spec: &mut ProcessSpec, mode: NetworkMode) -> Result<(), StepError> {
    spec.network = match mode {
        NetworkMode::None => Network::None,
        // Until a network of its own can be made, the default is the host's; the engine says so to the user.
        NetworkMode::Host | NetworkMode::Default => Network::Host,
    };
    if spec.network == Network::Host {
        spec.resolv_conf = resolv_conf(Path::new(RESOLV_CONF))?;
    }
    Ok(())
}

fn resolv_conf(path: &Path) -> Result<String, StepError> {
    let failed = |source| StepError::Io { act: "read", path: path.to_owned(), source };
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(RESOLV_CONF_MAX_BYTES).read_to_string(&mut text).map_err(failed)?,
        // A host without one has no resolver, and so has the step.
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(error)),
    };
    Ok(text)
}

/// Commits every tree that has an output; the results are in the order of the outputs.
fn commit_all(worker: &Worker, trees: Vec<Tree>, inputs: &Inputs, stubs: &[Stub]) -> Result<Vec<ResultId>, ExecError> {
    // What is mounted beside the root may be copied into it with its times.
    let mut read = Heritage::default();
    for tree in trees.iter().skip(1).filter(|tree| !matches!(tree.source, Source::Memory { .. })) {
        read = read.and(worker.heritage(&tree.parent, inputs)?);
        // Earlier builds made what is in a cache, and which of them did must not be seen.
        if let Source::Cache { held: Some(held), .. } = &tree.source {
            read = read.and(Heritage { since: Some(held.created()), from_context: false });
        }
    }
    let mut results = BTreeMap::new();
    for (index, Tree { mount, parent, source }) in trees.into_iter().enumerate() {
        let Some(output) = mount.output else { continue };
        let Source::Layers { draft: Some(draft), .. } = source else {
            return Err(StepError::Malformed { what: "an output of what is no layer" }.into());
        };
        if index == 0 {
            let failed =
                |source| StepError::Io { act: "clean the mount points of", path: draft.fs().to_owned(), source };
            sandbox::remove_stubs(draft.fs_fd(), stubs).map_err(failed)?;
        }
        results.insert(output, worker.commit(&parent, draft, inputs, read)?);
    }
    Ok(results.into_values().collect())
}

/// Throws drafts away where blocking is fine: deleting may take as long as writing did.
async fn discard<T: Send + 'static>(worker: &Worker, drafts: T) -> Result<(), ExecError> {
    worker
        .blocking(move |_| {
            drop(drafts);
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use solver::op::{self, ExecOp, MountKind, NetworkMode, SecurityMode};

    use super::{environment, preview};

    fn exec(targets: &[&str]) -> ExecOp {
        let bind = |target: &&str| op::Mount {
            target: target.to_string(),
            input: None,
            selector: String::new(),
            output: None,
            readonly: true,
            kind: MountKind::Bind,
        };
        ExecOp {
            args: vec!["make".into()],
            env: ["TOKEN=hunter2".into()].into(),
            proxy_env: Vec::new(),
            cwd: "/src".into(),
            user: "bob".into(),
            mounts: targets.iter().map(bind).collect(),
            network: NetworkMode::None,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            extra_hosts: Vec::new(),
            hostname: String::new(),
            ulimits: vec![("nofile".into(), 64, 64)],
            shm_size_bytes: 0,
            cgroup_parent: String::new(),
            valid_exit_codes: Vec::new(),
            devices: Vec::new(),
        }
    }

    #[test]
    fn a_preview_shows_the_acts_of_a_step_and_needs_a_root() {
        let text = preview(&exec(&["/cfg", "/"])).unwrap().to_string();
        let expected =
            ["root overlay of 0 layers in \"layers\"", "bind on \"/cfg\" overlay of 0 layers in \"layers\" ro"];
        let tail = ["limit nofile 64:64", "working directory \"/src\"", "user \"bob\"", "exec [\"make\"] with TOKEN"];
        for line in expected.iter().chain(&tail) {
            assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
        }
        assert_eq!(
            preview(&exec(&["/cfg"])).unwrap_err().to_string(),
            "malformed exec operation: no mount has the target `/`"
        );
    }

    #[test]
    fn a_proxy_is_given_unless_the_step_sets_it_itself() {
        let list = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let both = environment(&list("A=1 http_proxy=mine"), &list("http_proxy=host https_proxy=host"));
        assert_eq!(both, list("A=1 http_proxy=mine https_proxy=host"));
    }
}
