//! The secrets of a step: read when it is about to run, handed to its set-up beside the plan.
//!
//! In come the mounts and variables of the operation, out come descriptors of memory and, for afterwards, what this step
//! has seen: what it prints is masked ([`crate::secrets::mask`]), what it writes is searched
//! ([`crate::secrets::search`]). Deliberately absent: where values come from ([`crate::secrets`]), how they get into
//! files and variables (`sandbox::secret`).

use std::os::fd::{AsFd as _, OwnedFd};

use solver::op::{ExecOp, MountKind};
use tokio_util::sync::CancellationToken;

use super::StepError;
use super::trees::Tree;
use crate::error::ExecError;
use crate::sandbox::{self, Descriptors, Handed, Limit, Mount, ProcessSpec, SecretFile, SecretVariable};
use crate::secrets::search::search;
use crate::secrets::{Secret, SecretError};
use crate::worker::Worker;

/// No process of a step with secrets leaves a core: with this limit the kernel neither writes one nor starts a program
/// that takes it, which a limit of 0 would not prevent. core(5), and the kernel's `do_coredump`.
const CORE_BYTES: i64 = 1;

/// The secrets of a step.
#[derive(Default)]
pub(super) struct StepSecrets {
    /// Target, memory, and how the file looks.
    files: Vec<(String, OwnedFd, SecretFile)>,
    /// Name and memory.
    variables: Vec<(String, OwnedFd)>,
    /// What the step sees.
    pub seen: Vec<Secret>,
}

/// Reads what `exec` asks for. What is optional and missing is left out, as if it had not been asked for.
pub(super) async fn take(worker: &Worker, exec: &ExecOp, cancel: &CancellationToken) -> Result<StepSecrets, ExecError> {
    let mut all = StepSecrets::default();
    for mount in &exec.mounts {
        let MountKind::Secret { id, uid, gid, mode, optional } = &mount.kind else { continue };
        if let Some(secret) = find(worker, id, *optional, cancel).await? {
            let file = SecretFile { bytes: Handed::shown(), uid: *uid, gid: *gid, mode: *mode };
            all.files.push((mount.target.clone(), memory(&secret)?, file));
            all.seen.push(secret);
        }
    }
    for variable in &exec.secret_env {
        if let Some(secret) = find(worker, &variable.id, variable.optional, cancel).await? {
            if secret.bytes().contains(&0) {
                let (id, name) = (variable.id.clone(), variable.name.clone());
                return Err(StepError::from(SecretError::Zero { id, name }).into());
            }
            all.variables.push((variable.name.clone(), memory(&secret)?));
            all.seen.push(secret);
        }
    }
    Ok(all)
}

async fn find(
    worker: &Worker,
    id: &str,
    optional: bool,
    cancel: &CancellationToken,
) -> Result<Option<Secret>, StepError> {
    Ok(match optional {
        true => worker.secrets().get(id, cancel).await?,
        false => Some(worker.secrets().require(id, cancel).await?),
    })
}

fn memory(secret: &Secret) -> Result<OwnedFd, StepError> {
    sandbox::handed_memory(secret.bytes()).map_err(|source| StepError::Io {
        act: "hand over the secret",
        path: secret.id().into(),
        source,
    })
}

impl StepSecrets {
    /// Adds them to what the sandbox is asked for.
    pub fn give<'a>(&'a self, spec: &mut ProcessSpec, descriptors: &mut Descriptors<'a>) {
        for (target, memory, file) in &self.files {
            let file = SecretFile { bytes: descriptors.hand(memory.as_fd()), ..file.clone() };
            spec.mounts.push(Mount { target: target.clone(), kind: sandbox::MountKind::Secret(file) });
        }
        for (name, memory) in &self.variables {
            let bytes = descriptors.hand(memory.as_fd());
            spec.secret_env.push(SecretVariable { name: name.clone(), bytes });
        }
        // A limit that the user asked for stays: it was said on purpose.
        if !self.seen.is_empty() && !spec.limits.iter().any(|limit| limit.name == "core") {
            spec.limits.push(Limit { name: "core".into(), soft: CORE_BYTES, hard: CORE_BYTES });
        }
    }

    /// Refuses a step whose layers would hold what it has seen. The mount points are out of its trees already.
    pub fn check_layers(&self, trees: &[Tree], cancel: &CancellationToken) -> Result<(), ExecError> {
        if self.seen.is_empty() {
            return Ok(());
        }
        for tree in trees.iter().filter_map(Tree::written) {
            let tree = tree.fs_fd().try_clone_to_owned().map_err(|source| StepError::Io {
                act: "open",
                path: tree.fs().to_owned(),
                source,
            })?;
            match search(tree, &self.seen, cancel) {
                Ok(None) => {}
                Ok(Some(leak)) => {
                    return Err(StepError::from(SecretError::InLayer { path: leak.path, id: leak.id }).into());
                }
                Err(crate::tree::TreeError::Stopped) => return Err(ExecError::Canceled),
                Err(error) => return Err(crate::snapshot::SnapshotError::from(error).into()),
            }
        }
        Ok(())
    }
}

/// As the plan of `exec` shows them, when everything is given.
pub(super) fn show(exec: &ExecOp, spec: &mut ProcessSpec) {
    for mount in &exec.mounts {
        if let MountKind::Secret { uid, gid, mode, .. } = &mount.kind {
            let file = SecretFile { bytes: Handed::shown(), uid: *uid, gid: *gid, mode: *mode };
            spec.mounts.push(Mount { target: mount.target.clone(), kind: sandbox::MountKind::Secret(file) });
        }
    }
    let variables = exec.secret_env.iter();
    let shown = variables.map(|secret| SecretVariable { name: secret.name.clone(), bytes: Handed::shown() });
    spec.secret_env.extend(shown);
}
