//! Why a repository could not be had. Nothing here holds a password: addresses are masked before they come in.

use std::io;
use std::path::{Path, PathBuf};

use crate::tree::TreeError;

/// Why a commit's tree could not be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git on this machine.
    #[error("the program `git` is needed for git repositories, and it is not installed")]
    NotInstalled,
    /// git could not be started.
    #[error("cannot start `{}`", program.display())]
    Start {
        /// Which program.
        program: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// An address that is not taken.
    #[error("the git address `{url}` is refused: {reason}")]
    Address {
        /// The address, masked.
        url: String,
        /// Why.
        reason: String,
    },
    /// A reference that git could not have.
    #[error("`{reference}` is no name of a branch, tag or commit")]
    Reference {
        /// The reference.
        reference: String,
    },
    /// A checksum that is none.
    #[error("`{commit}` is no commit: seven to 64 hexadecimal digits are")]
    Commit {
        /// What was given.
        commit: String,
    },
    /// The remote has no such branch or tag.
    #[error("`{url}` has no branch or tag `{reference}`")]
    UnknownReference {
        /// The remote, masked.
        url: String,
        /// What was asked for.
        reference: String,
        /// Branches and tags that look like it, or the first there are.
        near: Vec<String>,
        /// Whether `near` looks like it.
        similar: bool,
    },
    /// No connection may be made, and no earlier build found out what is asked for, or fetched it.
    #[error("cannot {act} `{url}`: no connection may be made")]
    Offline {
        /// What would have to be done.
        act: &'static str,
        /// The remote, masked.
        url: String,
    },
    /// The reference means another commit than the source says.
    #[error("`{reference}` of `{url}` is the commit `{found}`, but `{expected}` is asked for")]
    Mismatch {
        /// The remote, masked.
        url: String,
        /// Which reference.
        reference: String,
        /// The commit that it should be, or its beginning.
        expected: String,
        /// The commit that it is.
        found: String,
    },
    /// The remote does not have the commit.
    #[error("`{url}` does not give the commit `{commit}`")]
    CommitNotFound {
        /// The remote, masked.
        url: String,
        /// Which commit.
        commit: String,
        /// What git said.
        said: String,
    },
    /// The remote wants to know who asks.
    #[error("`{url}` wants credentials, or does not accept those it got: {said}")]
    Authentication {
        /// The remote, masked.
        url: String,
        /// What git said.
        said: String,
    },
    /// ssh does not know the host.
    #[error("the ssh host of `{url}` is not known: {said}")]
    HostKey {
        /// The remote, masked.
        url: String,
        /// What ssh said.
        said: String,
    },
    /// There is no repository at the address.
    #[error("there is no repository at `{url}`: {said}")]
    NotFound {
        /// The remote, masked.
        url: String,
        /// What git said.
        said: String,
    },
    /// The host's certificate does not convince.
    #[error("`{url}` shows a certificate that is not trusted: {said}")]
    Certificate {
        /// The remote, masked.
        url: String,
        /// What git said.
        said: String,
    },
    /// No connection.
    #[error("`{url}` cannot be reached: {said}")]
    Unreachable {
        /// The remote, masked.
        url: String,
        /// What git said.
        said: String,
    },
    /// It took longer than anything useful.
    #[error("cannot {act} `{url}`: it took more than {limit_seconds} s")]
    Timeout {
        /// What was tried.
        act: &'static str,
        /// The remote, masked.
        url: String,
        /// The limit.
        limit_seconds: u64,
    },
    /// More than is taken.
    #[error("cannot {act} `{url}`: it gives more than rbuild takes ({limit})")]
    TooLarge {
        /// What was tried.
        act: &'static str,
        /// The remote, masked.
        url: String,
        /// The limit in words.
        limit: String,
    },
    /// Objects that git does not take: they could do harm.
    #[error("`{url}` gives what git refuses: {said}")]
    Malformed {
        /// The remote, masked.
        url: String,
        /// What git said.
        said: String,
    },
    /// git failed in some other way.
    #[error("cannot {act} `{url}`: {said}")]
    Failed {
        /// What was tried.
        act: &'static str,
        /// The remote, masked.
        url: String,
        /// The last lines of what git said.
        said: String,
    },
    /// There is no such directory in the commit.
    #[error("cannot take `{subdir}` of `{url}`: {reason}")]
    Subdir {
        /// The remote, masked.
        url: String,
        /// Which directory.
        subdir: String,
        /// Why not.
        reason: String,
    },
    /// A submodule.
    #[error("cannot fill in the submodule `{path}`")]
    Submodule {
        /// Its path in the repository that holds it.
        path: String,
        /// Why not.
        source: Box<GitError>,
    },
    /// A submodule that cannot even be asked for.
    #[error("cannot fill in the submodule `{path}` of `{url}`: {reason}")]
    BadSubmodule {
        /// The remote that holds it, masked.
        url: String,
        /// Its path.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A file of ours could not be handled.
    #[error("cannot {act} `{}`", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The tree that was checked out could not be handled.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// Somebody stopped it.
    #[error("canceled")]
    Canceled,
}

impl GitError {
    pub(super) fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { act, path: path.to_owned(), source }
    }

    /// Whether somebody stopped it, at whatever depth.
    pub fn is_canceled(&self) -> bool {
        match self {
            Self::Canceled => true,
            Self::Submodule { source, .. } => source.is_canceled(),
            _ => false,
        }
    }

    /// What to do about it, for the user.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::NotInstalled => "install it: `apt-get install git`, `dnf install git`, `apk add git`",
            Self::Address { .. } => {
                "an address is written `https://HOST/PATH`, `ssh://git@HOST/PATH`, `git@HOST:PATH` or `git://HOST/PATH`"
            }
            Self::UnknownReference { near, .. } if near.is_empty() => {
                "a commit is given by all of its 40 digits, a branch or tag by its whole name"
            }
            Self::UnknownReference { near, similar, .. } => {
                let names: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
                let names = names.join(", ");
                return Some(match similar {
                    true => format!("did you mean {names}?"),
                    false => format!("it has {names}; a commit is given by all of its 40 digits"),
                });
            }
            Self::Offline { .. } => {
                "build this branch, tag or commit once without `--offline`: what is fetched is kept for later builds"
            }
            Self::Mismatch { .. } => {
                "the branch or tag has moved, or the checksum is of another one; to build that very commit whatever \
                 the name means now, use the commit as the reference"
            }
            Self::CommitNotFound { .. } => {
                "check the digits; a server may also have dropped a commit that no branch or tag leads to"
            }
            Self::Authentication { .. } => {
                "give a token with `--secret id=GIT_AUTH_TOKEN,env=VARIABLE`, or use an ssh address with a running ssh agent that \
                 holds the key (`ssh-add -l` lists them); many servers say the same of a repository that is not there"
            }
            Self::HostKey { .. } => {
                "compare the host's key with the one that its owner publishes and add it to `~/.ssh/known_hosts`; \
                 connecting once by `ssh` does that"
            }
            Self::NotFound { .. } => "check the address; a private repository needs credentials and may look absent",
            Self::Certificate { .. } => {
                "if the server uses a private authority, add its certificate to the system's, or name the bundle in \
                 SSL_CERT_FILE"
            }
            Self::Unreachable { .. } => "check the address, the network, and the proxy if there is one",
            Self::Malformed { .. } => {
                "the commit holds names or settings that other builders and git itself refuse; nothing of it was written"
            }
            Self::Subdir { .. } => "a subdirectory is written after the reference, `#REF:DIRECTORY`",
            Self::BadSubmodule { .. } => "without submodules it can be had: `?submodules=false` in the address",
            Self::Submodule { source, .. } => return source.help(),
            _ => return None,
        };
        Some(help.to_owned())
    }
}
