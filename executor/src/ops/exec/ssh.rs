//! The ssh agents of a step: for each a socket inside, and between it and the agent a relay of ours.
//!
//! In come the mounts of the operation, out comes what the sandbox is asked for; the relays end when [`StepAgents`] is
//! dropped, and with them every connection. Deliberately absent: agents ([`crate::secrets::agent`]), and what may be
//! asked of them ([`crate::secrets::relay`]).

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use solver::op::{ExecOp, MountKind};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::StepError;
use crate::error::ExecError;
use crate::sandbox::{self, AgentSocket, Descriptors, Handed, Mount, ProcessSpec};
use crate::secrets::relay;
use crate::worker::Worker;

/// The agents of a step.
#[derive(Default)]
pub(super) struct StepAgents {
    /// Target, how the socket looks, and over what it is handed out.
    sockets: Vec<(String, AgentSocket, UnixStream)>,
    _relays: JoinSet<()>,
}

/// Finds the agents that `exec` asks for, and gets ready to answer for them. What is optional and missing is left out.
pub(super) async fn take(worker: &Worker, exec: &ExecOp, cancel: &CancellationToken) -> Result<StepAgents, ExecError> {
    let (mut sockets, mut relays) = (Vec::new(), JoinSet::new());
    for mount in &exec.mounts {
        let MountKind::Ssh { id, uid, gid, mode, optional } = &mount.kind else { continue };
        let agent = match optional {
            true => worker.agents().socket(id, cancel).await.map_err(StepError::from)?,
            false => Some(worker.agents().require(id, cancel).await.map_err(StepError::from)?),
        };
        let Some(agent) = agent else { continue };
        let failed = |source| StepError::Io { act: "make a socket for", path: mount.target.clone().into(), source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let ours = tokio::net::UnixStream::from_std(ours).map_err(failed)?;
        relays.spawn(answer(ours, agent));
        sockets.push((mount.target.clone(), asked(*uid, *gid, *mode), theirs));
    }
    Ok(StepAgents { sockets, _relays: relays })
}

fn asked(uid: u32, gid: u32, mode: u32) -> AgentSocket {
    AgentSocket { to: Handed::shown(), uid, gid, mode }
}

async fn answer(from: tokio::net::UnixStream, agent: PathBuf) {
    match sandbox::agent_listener(from).await {
        Ok(listener) => relay::serve(listener, agent).await,
        // The step ended before it had one; why, it says itself.
        Err(error) => tracing::debug!(%error, "a step has no socket of its ssh agent"),
    }
}

impl StepAgents {
    /// Adds them to what the sandbox is asked for.
    pub fn give<'a>(&'a self, spec: &mut ProcessSpec, descriptors: &mut Descriptors<'a>) {
        for (target, socket, over) in &self.sockets {
            let socket = AgentSocket { to: descriptors.hand(over.as_fd()), ..socket.clone() };
            spec.mounts.push(Mount { target: target.clone(), kind: sandbox::MountKind::Agent(socket) });
        }
    }
}

/// As the plan of `exec` shows them, when everything is given.
pub(super) fn show(exec: &ExecOp, spec: &mut ProcessSpec) {
    for mount in &exec.mounts {
        if let MountKind::Ssh { uid, gid, mode, .. } = &mount.kind {
            let kind = sandbox::MountKind::Agent(asked(*uid, *gid, *mode));
            spec.mounts.push(Mount { target: mount.target.clone(), kind });
        }
    }
}
