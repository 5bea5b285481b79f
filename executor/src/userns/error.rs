//! Why steps cannot have a user namespace of their own, and what to do.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::rootless::{Facts, Refused, diagnose};

/// Why steps cannot have a user namespace of their own.
#[derive(Debug, thiserror::Error)]
pub enum UsernsError {
    /// The ids that were asked for are no good.
    #[error("`{range}` cannot be the ids of user namespaces: {reason}")]
    Range {
        /// As written.
        range: String,
        /// Why not.
        reason: String,
    },
    /// Everything that could be had is taken.
    #[error("there are no ids to spare for user namespaces: `/etc/subuid` and `/etc/subgid` give all of them away")]
    NoIds,
    /// Where nothing is mounted, nothing can be id-mapped.
    #[error("`--userns=auto` cannot be had with `--isolation=chroot`, which mounts nothing")]
    Chroot,
    /// The kernel or a policy refused a namespace.
    #[error("cannot make a user namespace: {reason}")]
    Namespace {
        /// Why.
        reason: String,
        /// What to do.
        fix: String,
        /// The kernel's words.
        source: io::Error,
    },
    /// Its ids could not be mapped.
    #[error("cannot {act}")]
    Io {
        /// What was tried.
        act: String,
        /// The refusal.
        source: io::Error,
    },
    /// It was tried on the store's file system, and failed.
    #[error("steps cannot have user namespaces of their own on `{}`: {detail}", path.display())]
    Store {
        /// The directory that was tried.
        path: PathBuf,
        /// What failed, with the kernel's words.
        detail: String,
    },
}

impl UsernsError {
    pub(super) fn io(act: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let act = act.into();
        move |source| Self::Io { act, source }
    }

    /// The kernel's answer to the wish for a namespace.
    pub(super) fn refused(source: io::Error) -> Self {
        let errno = Errno::from_io_error(&source).unwrap_or(Errno::PERM);
        let diagnosis = diagnose(Refused::Namespace, errno, &Facts::gather());
        Self::Namespace { reason: diagnosis.reason, fix: diagnosis.fix, source }
    }

    /// What to do.
    pub fn help(&self) -> String {
        match self {
            Self::Range { .. } => {
                "name ids that nobody has: `ids = \"2013265920:65536\"` beneath `[userns]` in `config.toml`, or leave it out"
                    .into()
            }
            Self::NoIds => "name some that nobody uses: `ids = \"FIRST:65536\"` beneath `[userns]` in `config.toml`".into(),
            Self::Chroot => "leave it out, or build where `--isolation=full` can be had".into(),
            Self::Namespace { fix, .. } => fix.clone(),
            Self::Io { .. } => "give rbuild's container the capabilities SETUID and SETGID, or use `--userns=host`".into(),
            Self::Store { .. } => "keep the store on ext4, xfs or btrfs (`--root DIR`) with Linux 5.19 or newer, or let root \
                                   in steps be this machine's: `--userns=host`"
                .into(),
        }
    }

    /// In one line, with the kernel's words and what to do.
    pub(crate) fn line(&self) -> String {
        let source = std::error::Error::source(self).map(|source| format!(" ({source})")).unwrap_or_default();
        format!("{self}{source}; {}", self.help())
    }
}
