//! Why steps of another architecture cannot run, and what to do.

use std::io;
use std::path::PathBuf;

/// Why steps of a platform cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum EmulateError {
    /// No emulator.
    #[error("steps for `{platform}` need an emulator, and none is installed")]
    Missing {
        /// Which platform.
        platform: String,
        /// What was looked for.
        names: Vec<String>,
    },
    /// One that works only where its libraries are.
    #[error("steps for `{platform}` need an emulator, and `{}` is not a static program: it does not run in an image", path.display())]
    Shared {
        /// Which platform.
        platform: String,
        /// What was found.
        path: PathBuf,
    },
    /// Nothing emulates that.
    #[error("steps for `{platform}` cannot run here: there is no emulator of such a machine")]
    Unknown {
        /// Which platform.
        platform: String,
    },
    /// Where nothing can be mounted.
    #[error(
        "steps for `{platform}` cannot run with `--isolation=chroot`, unless a handler is registered with the flag F"
    )]
    Chroot {
        /// Which platform.
        platform: String,
    },
    /// The way that was asked for.
    #[error("steps for `{platform}` cannot have a binfmt_misc of their own: {reason}")]
    Private {
        /// Which platform.
        platform: String,
        /// Why not.
        reason: String,
    },
    /// It cannot be found out.
    #[error("could not {act}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl EmulateError {
    pub(super) fn io(act: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { act, source }
    }

    /// What to do.
    pub fn help(&self) -> String {
        match self {
            Self::Missing { .. } | Self::Shared { .. } => {
                "`sudo apt-get install qemu-user-static` (Debian, Ubuntu), `sudo dnf install qemu-user-static` (Fedora); or \
                 register handlers: `docker run --privileged --rm tonistiigi/binfmt --install all`"
                    .into()
            }
            Self::Unknown { .. } => "build these steps on such a machine, or on `FROM --platform=$BUILDPLATFORM`".into(),
            Self::Chroot { .. } => {
                "have the machine's root register one: `docker run --privileged --rm tonistiigi/binfmt --install all`"
                    .into()
            }
            Self::Private { .. } => "leave `RBUILD_EMULATION` out".into(),
            Self::Io { .. } => "`rbuild doctor` tells more about this machine".into(),
        }
    }

    /// What was looked for, if something was.
    pub fn note(&self) -> Option<String> {
        let Self::Missing { names, .. } = self else { return None };
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        Some(format!("looked in PATH for {}, and for a handler in binfmt_misc", names.join(", ")))
    }
}
