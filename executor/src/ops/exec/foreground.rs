//! A command over an image's tree, in front of a person or as the builder's partner: its streams are the builder's own or
//! a socket, and nothing is kept.
//!
//! In come a result and a [`RunSpec`], out goes how the command ended. Deliberately absent: what of an image's config
//! becomes the command (the engine's).

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci::model::Platform;
use solver::op::NetworkMode;
use solver::seam::{LogSink, ResultId};
use tokio_util::sync::CancellationToken;

use super::network;
use super::process::provide;
use super::trees::stack;
use super::{StepError, discard};
use crate::error::ExecError;
use crate::limits::{Limited, Outcome};
use crate::sandbox::{
    self, Bind, BindSource, Descriptors, Exit, Io, Mount, Output, ProcessSpec, RootFs, SandboxError, Stdin,
};
use crate::worker::Worker;

/// What a person wants to run.
#[derive(Clone, Debug, Default)]
pub struct RunSpec {
    /// The command; never empty.
    pub args: Vec<String>,
    /// The platform of the image; `None`: that of this machine.
    pub platform: Option<Platform>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory inside; absolute.
    pub cwd: String,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// Host paths to be seen inside.
    pub volumes: Vec<Volume>,
    /// Whether the command gets a terminal.
    pub tty: bool,
    /// Whether the command reads the standard input.
    pub interactive: bool,
    /// Which network.
    pub network: NetworkMode,
    /// What it finds around it.
    pub provisions: Provisions,
}

/// What a command finds around it; empty and 0 are the defaults. As [`solver::op::ExecOp`] has them.
#[derive(Clone, Debug, Default)]
pub struct Provisions {
    /// Resource limits: (name, soft, hard).
    pub ulimits: Vec<(String, i64, i64)>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size_bytes: u64,
    /// Extra lines of `/etc/hosts`: (name, address).
    pub extra_hosts: Vec<(String, String)>,
    /// Host name.
    pub hostname: String,
}

/// A host path inside.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Host path; must exist.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: String,
    /// Whether writes are refused.
    pub readonly: bool,
}

/// Runs a command over the tree of `top` in the foreground, its streams the builder's own, and throws away what it
/// writes to its root. `log` is told what has to be said before it begins. Signals that the builder gets are passed on; the third SIGINT or SIGTERM kills.
///
/// # Errors
/// A command that fails is no error; [`StepError::exit_code`] has the code for one that could not be executed.
pub async fn run_image(
    worker: &Worker,
    top: &ResultId,
    wanted: RunSpec,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<Exit, ExecError> {
    let io = Io {
        stdin: if wanted.interactive { Stdin::Inherit } else { Stdin::Null },
        output: if wanted.tty { Output::Terminal } else { Output::Inherit },
        forward_signals: true,
    };
    run(worker, top, wanted, io, log, cancel).await
}

/// Runs a command over the tree of `top` that speaks with the builder: its standard input and output are `streams`, a
/// socket; what it writes to its standard error goes to `log`. What it writes to its root is thrown away.
///
/// # Errors
/// As [`run_image`].
pub async fn run_guest(
    worker: &Worker,
    top: &ResultId,
    wanted: RunSpec,
    streams: OwnedFd,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<Exit, ExecError> {
    let stdin = streams.try_clone().map_err(|source| {
        let act = "copy the socket of the command's streams";
        ExecError::from(SandboxError::Stdio { act, source })
    })?;
    let (stdin, output) = (Stdin::Descriptor(stdin), Output::Descriptor(streams, log));
    run(worker, top, wanted, Io { stdin, output, forward_signals: false }, log, cancel).await
}

async fn run(
    worker: &Worker,
    top: &ResultId,
    wanted: RunSpec,
    io: Io<'_>,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<Exit, ExecError> {
    if wanted.args.is_empty() {
        return Err(StepError::Malformed { what: "it has no command" }.into());
    }
    worker.expect_user_namespaces().await?;
    let emulated = worker.emulated(wanted.platform.as_ref(), log).await?;
    let network = network::begin(worker, wanted.network, log, cancel).await?;
    let turn = worker.root_turn().await;
    let top = top.clone();
    let (overlay, draft) = worker.blocking(move |worker| stack(worker, &top, true)).await?;
    let mut spec = ProcessSpec::new(RootFs::Overlay(overlay), wanted.args);
    spec.env = wanted.env;
    spec.cwd = if wanted.cwd.is_empty() { "/".into() } else { wanted.cwd };
    spec.user = wanted.user;
    spec.user_namespace = worker.steps().user_namespace.clone();
    provide(&mut spec, &wanted.provisions, network)?;
    let volumes = wanted.volumes.into_iter().map(|Volume { source, target, readonly }| {
        let bind = Bind { source: BindSource::Path(source), subpath: String::new(), readonly };
        Mount { target, kind: sandbox::MountKind::Bind(bind) }
    });
    spec.mounts = volumes.collect();
    emulated.give(&mut spec);
    let settings = worker.sandbox()?;
    let network = network::prepare(worker, network, cancel).await?;
    let mut descriptors = Descriptors::default();
    network.give(&mut spec, &mut descriptors)?;
    if !worker.mounts() {
        draft.iter().for_each(|draft| descriptors.hold(draft.dir_fd()));
    }
    let uppers = draft.iter().map(|draft| draft.fs().to_owned()).collect();
    let limited = worker.blocking(move |worker| Ok(Limited::prepare(worker, None, uppers)?)).await?;
    let command = spec.args.join(" ");
    let outcome = limited.run(&settings, &mut spec, io, descriptors, cancel).await;
    drop(turn);
    discard(worker, (limited, draft)).await?;
    match outcome? {
        Outcome { finished: Some(finished), hit, .. } => match hit.filter(|_| finished.exit != Exit::Code(0)) {
            Some(hit) => Err(StepError::Limit { command, hit, exit: Some(finished.exit) }.into()),
            None => Ok(finished.exit),
        },
        Outcome { hit: Some(hit), .. } => Err(StepError::Limit { command, hit, exit: None }.into()),
        Outcome { .. } => unreachable!("a process is stopped for a limit or not at all"),
    }
}
