//! Why a file of the web could not be had. Addresses in here are masked.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use oci::content::ContentError;
use oci::http::reqwest;

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// An address that is not taken.
    #[error("the address `{url}` is refused: {reason}")]
    Address {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// A checksum that is none.
    #[error("`{text}` is no checksum")]
    Checksum {
        /// What was given.
        text: String,
    },
    /// No connection may be made, and no earlier build fetched it.
    #[error("`{url}` is not here, and no connection may be made")]
    Offline {
        /// The address.
        url: String,
    },
    /// No client could be made.
    #[error("cannot prepare for HTTP")]
    Setup {
        /// Why not.
        source: reqwest::Error,
    },
    /// The server answered with something else than the file.
    #[error("`{url}` was answered with {status}{}{}", tries(*attempts), said(words))]
    Status {
        /// The address.
        url: String,
        /// The status code.
        status: u16,
        /// The first line of the body.
        words: Option<String>,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// How often it was tried.
        attempts: u32,
    },
    /// No connection, or one that broke.
    #[error("`{url}` {}{}", if *connecting { "cannot be reached" } else { "broke off" }, tries(*attempts))]
    Transport {
        /// The address.
        url: String,
        /// Whether not even a connection was made.
        connecting: bool,
        /// How often it was tried.
        attempts: u32,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The host's certificate does not convince.
    #[error("the host of `{url}` shows a certificate that is not trusted")]
    Certificate {
        /// The address.
        url: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Nothing moved for too long.
    #[error("`{url}` stood still for {} s{}", idle.as_secs_f32(), tries(*attempts))]
    Idle {
        /// The address.
        url: String,
        /// How long.
        idle: Duration,
        /// How often it was tried.
        attempts: u32,
    },
    /// Somewhere that rbuild does not go.
    #[error("`{url}` leads to `{target}`: {reason}")]
    Redirect {
        /// The address.
        url: String,
        /// Where it leads.
        target: String,
        /// Why not.
        reason: String,
    },
    /// An answer that makes no sense.
    #[error("`{url}` was answered against the protocol: {reason}")]
    Protocol {
        /// The address.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// More than is taken.
    #[error("`{url}` has more than {limit_bytes} bytes, the most that rbuild takes")]
    TooLarge {
        /// The address.
        url: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// Other bytes than were asked for. Nothing of them is kept.
    #[error("`{url}` is not what was asked for: the checksum is `{found}`, expected `{expected}`")]
    Mismatch {
        /// The address.
        url: String,
        /// What was asked for.
        expected: String,
        /// What came.
        found: String,
    },
    /// The blob could not be written.
    #[error("cannot write what `{url}` gives to the store")]
    Write {
        /// The address.
        url: String,
        /// Why not.
        source: io::Error,
    },
    /// A blob that is here could not be read.
    #[error("cannot read `{digest}` from the store")]
    Read {
        /// Which blob.
        digest: oci::model::Digest,
        /// Why not.
        source: io::Error,
    },
    /// The store's blobs.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// Somebody stopped it.
    #[error("canceled")]
    Canceled,
}

impl HttpError {
    /// What to do about it, for the user.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Address { .. } => "an address is written `https://HOST/PATH`",
            Self::Checksum { .. } => {
                "a checksum is written `sha256:` (or sha384, sha512) and its digits in small letters"
            }
            Self::Offline { .. } => "build once without `--offline`: what is fetched is kept for later builds",
            Self::Status { status: 401 | 403, .. } => {
                "if it needs a login, write `https://USER:PASSWORD@HOST/PATH`; many servers say the same of what is not \
                 there"
            }
            Self::Status { status: 404 | 410, .. } => "check the address; the file may have moved",
            Self::Status { status: 407, .. } => "the proxy wants credentials: `HTTPS_PROXY=http://USER:PASSWORD@HOST`",
            Self::Status { status: 429, .. } => "the server limits how often it is asked; wait, then try again",
            Self::Transport { connecting: true, .. } => "check the address, the network, and the proxy if there is one",
            Self::Certificate { .. } => {
                "if the server uses a private authority, add its certificate to the system's, or name the bundle in \
                 SSL_CERT_FILE"
            }
            Self::Mismatch { .. } => {
                "if the file was meant to change, check it and write the new checksum; if not, the server or something \
                 between gives other bytes; nothing was kept"
            }
            _ => return None,
        };
        Some(help.to_owned())
    }

    /// The same error, after so many tries.
    pub(super) fn after_attempts(mut self, count: u32) -> Self {
        if let Self::Transport { attempts, .. } | Self::Idle { attempts, .. } | Self::Status { attempts, .. } =
            &mut self
        {
            *attempts = count;
        }
        self
    }
}

fn tries(attempts: u32) -> String {
    if attempts > 1 { format!(" in {attempts} attempts") } else { String::new() }
}

fn said(words: &Option<String>) -> String {
    words.as_ref().map_or(String::new(), |words| format!(": {words}"))
}
