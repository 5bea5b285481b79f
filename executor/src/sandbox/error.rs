//! Why a step could not be run. A command that ran and failed is no error here: see [`super::Exit`].

use std::io;

/// Why the sandbox could not be set up, or was lost.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// An act of the plan failed; nothing of the command ran.
    #[error("sandbox: could not `{act}`: {detail}")]
    Act {
        /// The act, as the printed plan shows it.
        act: String,
        /// What exactly, with the kernel's words.
        detail: String,
        /// The kernel's error number, when the reason was the kernel's.
        errno: Option<i32>,
    },
    /// The command is not there or cannot be executed.
    #[error("could not execute `{program}`")]
    Exec {
        /// First word of the command.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The helper could not be started or talked to.
    #[error("sandbox: could not {act}")]
    Helper {
        /// What was tried.
        act: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The helper ended without saying how the command ended.
    #[error("sandbox: the helper process died ({how}); whatever it had started was killed")]
    HelperDied {
        /// Its own exit status.
        how: String,
    },
    /// The helper sent what this builder does not understand.
    #[error("sandbox: the helper sent a malformed report; are two versions of rbuild mixed?")]
    Report {
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Standard input or output, or its terminal, failed.
    #[error("could not {act}")]
    Stdio {
        /// What was tried.
        act: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It asks for what cannot be had without mounts and namespaces.
    #[error("{lack} cannot be had with `--isolation=chroot`")]
    NotOnThisRung {
        /// What.
        lack: crate::chroot::Lack,
    },
    /// It was asked to stop. Everything that it had started is gone.
    #[error("canceled")]
    Canceled,
}
