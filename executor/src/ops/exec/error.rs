//! Why a process did not run, or did not end well.

use std::io;
use std::path::PathBuf;

use crate::devices::DeviceError;
use crate::emulate::EmulateError;
use crate::error::ExecError;
use crate::limits::Hit;
use crate::network::NetworkError;
use crate::sandbox::{Exit, SandboxError};
use crate::secrets::SecretError;
use crate::userns::UsernsError;

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
    /// It ran into a limit.
    #[error("process `{command}` {hit}{}", exit.map(|exit| format!(" ({exit})")).unwrap_or_default())]
    Limit {
        /// The command, words joined by spaces.
        command: String,
        /// Which.
        hit: Hit,
        /// How it ended; `None` when it was stopped for that.
        exit: Option<Exit>,
    },
    /// It could not be run.
    #[error(transparent)]
    Sandbox(SandboxError),
    /// A secret or an agent, or what it did with one.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It cannot have its network.
    #[error(transparent)]
    Network(NetworkError),
    /// It cannot have a user namespace of its own.
    #[error(transparent)]
    Users(#[from] UsernsError),
    /// It is of another architecture, and cannot be emulated.
    #[error(transparent)]
    Emulate(#[from] EmulateError),
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
    /// It asks for what its user did not grant.
    #[error("{what} is not allowed")]
    NotGranted {
        /// What.
        what: String,
    },
    /// A device that cannot be had.
    #[error(transparent)]
    Device {
        /// Why not.
        source: DeviceError,
    },
    /// `host-gateway` where there is no way to the host: without a network, or over a program.
    #[error(
        "`host-gateway` is an address on the host's network only: use `--network=host`, or an address of this machine"
    )]
    NoGateway,
    /// The builder's own rights.
    #[error("could not read the builder's own capabilities")]
    OwnCapabilities {
        /// Why not.
        source: io::Error,
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

pub(super) const NO_ROOT: StepError = StepError::Malformed { what: "no mount has the target `/`" };

impl StepError {
    /// The exit code of the command as a shell shows it, when there is one: also 127 for a command that is not there
    /// and 126 for one that cannot be executed.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            StepError::Process { exit, .. } | StepError::Limit { exit: Some(exit), .. } => Some(exit.code()),
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
