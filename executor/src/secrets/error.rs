//! Why a secret, or an agent, could not be given. No message holds a value.

use std::io;
use std::path::PathBuf;

/// Why a secret, or an agent, could not be given.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Somebody needs it, and the user gave none of that name.
    #[error("secret `{id}` is not given")]
    Missing {
        /// Its name.
        id: String,
    },
    /// Likewise, and its variable is empty of meaning here.
    #[error("secret `{id}`: the environment variable `{name}` is not set")]
    Unset {
        /// Its name.
        id: String,
        /// The variable.
        name: String,
    },
    /// Its file.
    #[error("secret `{id}`: cannot read `{}`", path.display())]
    File {
        /// Its name.
        id: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// More than [`super::VALUE_MAX_BYTES`].
    #[error("secret `{id}` has more than {} MiB", super::VALUE_MAX_BYTES >> 20)]
    TooLarge {
        /// Its name.
        id: String,
    },
    /// Its command could not be run at all.
    #[error("secret `{id}`: cannot run its command")]
    Start {
        /// Its name.
        id: String,
        /// Why not.
        source: io::Error,
    },
    /// Its command failed.
    #[error("secret `{id}`: its command failed ({how}){}", told(words))]
    Command {
        /// Its name.
        id: String,
        /// Its exit status.
        how: String,
        /// The last line that it wrote to standard error.
        words: String,
    },
    /// No variable can hold it.
    #[error("secret `{id}` holds a zero byte, which the environment variable `{name}` cannot")]
    Zero {
        /// Its name.
        id: String,
        /// The variable.
        name: String,
    },
    /// A file of a layer holds it.
    #[error("`{path}` holds the value of secret `{id}`, and would be in the layer of this step")]
    InLayer {
        /// The file.
        path: String,
        /// The secret's name.
        id: String,
    },
    /// No agent of that name.
    #[error("ssh agent `{id}` is not given")]
    NoAgent {
        /// Its name.
        id: String,
    },
    /// What an agent of ours needs.
    #[error("ssh agent `{id}`: cannot {act}")]
    Agent {
        /// Its name.
        id: String,
        /// What was tried.
        act: String,
        /// Why not.
        source: io::Error,
    },
    /// A key that an agent does not take.
    #[error("ssh agent `{id}`: the key `{}` cannot be used{}", path.display(), told(words))]
    Key {
        /// The agent's name.
        id: String,
        /// The file.
        path: PathBuf,
        /// The last line that `ssh-add` wrote.
        words: String,
    },
    /// The value of `GIT_AUTH_…` or `HTTP_AUTH_…` is no header.
    #[error("secret `{id}` is no value of an HTTP header")]
    Header {
        /// Its name.
        id: String,
    },
    /// Whoever was asked for it failed.
    #[error("{what} `{id}` cannot be had from the client{}", told(words))]
    Asked {
        /// A secret, or an agent.
        what: &'static str,
        /// Its name.
        id: String,
        /// Their words.
        words: String,
    },
    /// Somebody stopped the build.
    #[error("canceled")]
    Canceled,
}

fn told(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

impl SecretError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Missing { id } => {
                format!("give it with `--secret id={id},src=FILE`, or `env=VARIABLE`, or `cmd=COMMAND`")
            }
            Self::Unset { .. } => "set it, or give the secret another way: `src=FILE`, `cmd=COMMAND`".into(),
            Self::TooLarge { .. } => "large files come by a bind mount of another build context".into(),
            Self::Zero { .. } => "mount it as a file instead: leave `env` out of the mount".into(),
            Self::InLayer { .. } => "do not copy it, or remove it in the same step; `--allow secrets.in-layers` lets \
                                     layers keep what steps write, for everyone who gets the image"
                .into(),
            Self::NoAgent { id } if id == "default" => "give yours with `--ssh default`, or keys with \
                                                        `--ssh default=KEY-FILE`; `ssh = [\"default\"]` in \
                                                        `config.toml` gives it to every build"
                .into(),
            Self::NoAgent { id } => format!("give one with `--ssh {id}=SOCKET` or `--ssh {id}=KEY-FILE`"),
            Self::Agent { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "it is in the package `openssh-client` (Debian, Ubuntu) or `openssh-clients` (Fedora)".into()
            }
            Self::Key { .. } => "add it to your own agent with `ssh-add`, which asks for its passphrase, and forward \
                                 that with `--ssh default`"
                .into(),
            _ => return None,
        })
    }
}
