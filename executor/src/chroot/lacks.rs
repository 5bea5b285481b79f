//! What cannot be had without mounts and namespaces: refused before anything runs, never run with less.
//!
//! In: an operation, or what the sandbox would be asked for. Out: what of it there is not, and what to do. Deliberately
//! absent: where in the Dockerfile it stands (the engine's).

use std::fmt;

use solver::op::{ExecOp, MountKind as OpMount, NetworkMode, SecurityMode};

use crate::sandbox::spec::{BindSource, MountKind, Network, ProcessSpec};
use crate::sandbox::{SandboxError, policy};

/// Something that this rung cannot give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Rights beyond the container's.
    Insecure,
    /// A network without a way out.
    NoNetwork,
    /// A device from elsewhere.
    Device,
    /// A secret in a file: without memory to mount it would be on the disk.
    SecretFile,
    /// A host name of the step's own.
    Hostname,
    /// A limit of `/dev/shm`.
    ShmSize,
    /// A limit of a memory mount.
    TmpfsSize,
    /// A terminal of the step's own.
    Terminal,
    /// A path of this machine.
    Volume,
}

impl Lack {
    /// What to do instead.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Insecure => "leave the flag out: the step is root of this container already",
            Self::NoNetwork => "leave `--network` out; steps then have the network of this container",
            Self::Device => "build where `--isolation=full` or `rootless` can be had",
            Self::SecretFile => {
                "give it to the step as a variable, which no disk sees: `RUN --mount=type=secret,id=…,env=NAME`"
            }
            Self::Hostname => "leave `--hostname` out; steps then see the host name of this container",
            Self::ShmSize => "leave `--shm-size` out; `/dev/shm` is then a directory on the store's disk",
            Self::TmpfsSize => "leave `size=` out; the mount is then a directory on the store's disk",
            Self::Terminal => "leave `--tty` out",
            Self::Volume => "leave `--volume` out, or copy into the image what the command needs",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Insecure => "`--security=insecure`",
            Self::NoNetwork => "`--network=none`",
            Self::Device => "a device (`--device`)",
            Self::SecretFile => "a secret as a file",
            Self::Hostname => "a host name (`--hostname`)",
            Self::ShmSize => "a size of `/dev/shm` (`--shm-size`)",
            Self::TmpfsSize => "a size of a memory mount (`--mount=type=tmpfs,size=…`)",
            Self::Terminal => "a terminal (`--tty`)",
            Self::Volume => "a volume (`--volume`)",
        })
    }
}

/// What `exec` asks for and cannot be had. `is_given` tells of a secret's name whether the user gave it: one that is
/// optional and not given is left out anyway.
pub fn lacks(exec: &ExecOp, is_given: impl Fn(&str) -> bool) -> Vec<Lack> {
    let file = |mount: &OpMount| match mount {
        OpMount::Secret { id, optional, .. } => !optional || is_given(id),
        _ => false,
    };
    let all = [
        (exec.security == SecurityMode::Insecure, Lack::Insecure),
        (exec.network == NetworkMode::None, Lack::NoNetwork),
        (!exec.devices.is_empty(), Lack::Device),
        (exec.mounts.iter().any(|mount| file(&mount.kind)), Lack::SecretFile),
        (!exec.hostname.is_empty(), Lack::Hostname),
        (exec.shm_size_bytes > 0, Lack::ShmSize),
        (exec.mounts.iter().any(|mount| matches!(mount.kind, OpMount::Tmpfs { size_bytes: 1.. })), Lack::TmpfsSize),
    ];
    all.into_iter().filter(|(asked, _)| *asked).map(|(_, lack)| lack).collect()
}

/// Refuses what cannot be had.
pub(super) fn refuse(spec: &ProcessSpec) -> Result<(), SandboxError> {
    let mounted = |wanted: fn(&MountKind) -> bool| spec.mounts.iter().any(|mount| wanted(&mount.kind));
    let all = [
        (!spec.filter || spec.kernel_writable, Lack::Insecure),
        (spec.network == Network::None, Lack::NoNetwork),
        (mounted(|kind| matches!(kind, MountKind::Secret(_))), Lack::SecretFile),
        (spec.hostname != policy::HOSTNAME, Lack::Hostname),
        (spec.shm_size_bytes != policy::SHM_SIZE_BYTES, Lack::ShmSize),
        (mounted(|kind| matches!(kind, MountKind::Tmpfs(tmpfs) if tmpfs.size_bytes > 0)), Lack::TmpfsSize),
        (spec.terminal.is_some(), Lack::Terminal),
        (
            mounted(|kind| matches!(kind, MountKind::Bind(bind) if matches!(bind.source, BindSource::Path(_)))),
            Lack::Volume,
        ),
    ];
    match all.into_iter().find(|(asked, _)| *asked) {
        Some((_, lack)) => Err(SandboxError::NotOnThisRung { lack }),
        None => Ok(()),
    }
}
