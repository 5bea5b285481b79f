//! What can go wrong between rbuild and a registry, in classes that a user can act on.
//!
//! Every error names the request (method, host, path; never a query, where signatures and tokens live) and quotes the
//! registry's own words, made harmless for a terminal. [`RegistryError::help`] says what to do. Deliberately absent:
//! when to try again ([`super::retry`]); how words
//! are found and cleaned ([`super::words`]).

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::{CLIENT, CredentialError};
use crate::content::ContentError;
use crate::model::{Descriptor, Digest, Platform, Reference};

/// Which request failed: `GET registry-1.docker.io/v2/library/debian/manifests/12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestName {
    /// `GET`, `HEAD`, `POST`, `PUT`.
    pub method: Arc<str>,
    /// Host, and port where it is not the scheme's own.
    pub host: Arc<str>,
    /// Path without query.
    pub path: Arc<str>,
}

impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.method, self.host, self.path)
    }
}

/// What was known of credentials when a registry refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialsUsed {
    /// None were found.
    NoneFound {
        /// Where they were looked for.
        searched: Vec<String>,
        /// What hindered the search: a helper that is not installed, for example.
        notes: Vec<String>,
    },
    /// Some were sent.
    Sent {
        /// Whose, from where: ``the credentials of `bob` from `/root/.docker/config.json` ``.
        whose: String,
    },
    /// Whoever the build is done for fetched a token, with whatever credentials it has.
    Fetched,
    /// Some were found but not sent.
    Withheld {
        /// Whose, from where.
        whose: String,
        /// Why not.
        reason: String,
    },
}

/// Why a registry could not be asked, or what is wrong with its answer.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The HTTP client could not be made: a broken CA bundle or proxy setting.
    #[error("cannot set up the HTTP client")]
    Setup {
        /// Why.
        source: reqwest::Error,
    },
    /// The name of a registry does not make a URL.
    #[error("`{registry}` is not the address of a registry")]
    Address {
        /// The registry.
        registry: String,
    },
    /// Settings forbid the image.
    #[error(transparent)]
    Blocked(#[from] crate::hosts::Blocked),
    /// A file that settings name for a host's TLS is of no use.
    #[error("the {what} `{}` for `{host}` cannot be used", path.display())]
    HostFile {
        /// `authority's certificate`, `client's certificate`, `client's key`.
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Whose settings name it.
        host: String,
        /// Why not.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A mirror took too long.
    #[error("`{registry}` did not answer in {} s", patience.as_secs_f32())]
    Slow {
        /// The mirror.
        registry: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// No connection may be made.
    #[error("`{registry}` is not asked: no connection may be made")]
    Offline {
        /// The registry.
        registry: String,
    },
    /// No answer: refused, reset, cut, not resolved.
    #[error("`{request}` got no complete answer{}", tries(*attempts))]
    Transport {
        /// The request.
        request: RequestName,
        /// How often it was tried.
        attempts: u32,
        /// Whether the connection was never made.
        connecting: bool,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The host's certificate does not convince.
    #[error("`{}` shows a certificate that is not trusted", request.host)]
    Certificate {
        /// The request.
        request: RequestName,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Nothing moved for too long.
    #[error("`{request}` stood still for {} s{}", idle.as_secs_f32(), tries(*attempts))]
    Idle {
        /// The request.
        request: RequestName,
        /// How long.
        idle: Duration,
        /// How often it was tried.
        attempts: u32,
    },
    /// An answer that is none of the others.
    #[error("`{request}` was answered with {status}{}{}", tries(*attempts), said(words))]
    Status {
        /// The request.
        request: RequestName,
        /// The status code.
        status: u16,
        /// The registry's words.
        words: Option<String>,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
        /// How often it was tried.
        attempts: u32,
    },
    /// 401, after all that could be done about it.
    #[error("`{registry}` wants credentials for `{request}`{}", said(words))]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The request.
        request: RequestName,
        /// The registry's words.
        words: Option<String>,
        /// What was tried.
        credentials: Box<CredentialsUsed>,
    },
    /// 403.
    #[error("`{request}` is denied{}", said(words))]
    Denied {
        /// The request.
        request: RequestName,
        /// The registry's words.
        words: Option<String>,
        /// What was tried.
        credentials: Box<CredentialsUsed>,
    },
    /// The registry has no such image.
    #[error("image `{image}` is not found{}", said(words))]
    ImageNotFound {
        /// The image.
        image: Box<Reference>,
        /// The request.
        request: RequestName,
        /// The registry's words.
        words: Option<String>,
    },
    /// The image is there, one of its blobs is not.
    #[error("blob `{digest}` of `{image}` is not found{}", said(words))]
    BlobNotFound {
        /// The blob.
        digest: Digest,
        /// The image.
        image: Box<Reference>,
        /// The request.
        request: RequestName,
        /// The registry's words.
        words: Option<String>,
    },
    /// Bytes that are not what they were said to be. Nothing of them is kept.
    #[error("`{request}` gave other bytes than asked for: expected `{expected}`, found `{found}`")]
    DigestMismatch {
        /// The request.
        request: RequestName,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More or fewer bytes than the descriptor says. Nothing of them is kept.
    #[error("`{request}` gave {} bytes where `{digest}` has {expected}", found.map_or("too many".to_owned(), |n| n.to_string()))]
    SizeMismatch {
        /// The request.
        request: RequestName,
        /// Whose bytes.
        digest: Digest,
        /// Bytes according to the descriptor.
        expected: u64,
        /// Bytes that came, when they were counted to the end.
        found: Option<u64>,
    },
    /// More bytes than are taken into memory.
    #[error("`{request}` is larger than {limit_bytes} bytes, more than rbuild accepts")]
    TooLarge {
        /// The request.
        request: RequestName,
        /// The limit.
        limit_bytes: u64,
    },
    /// An answer that the distribution specification does not know.
    #[error("`{request}` was answered against the protocol: {reason}")]
    Protocol {
        /// The request.
        request: RequestName,
        /// What is wrong.
        reason: String,
    },
    /// Somewhere that rbuild does not go, or does not take credentials to.
    #[error("`{request}` points to `{target}`: {reason}")]
    Refused {
        /// The request.
        request: RequestName,
        /// Where it points, without query.
        target: String,
        /// Why not.
        reason: String,
    },
    /// A manifest or config that cannot be read in exactly one way.
    #[error("{what} `{digest}` is malformed: {reason}")]
    Malformed {
        /// `manifest`, `index`, `config`.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// An artifact, or an image of another age.
    #[error("`{image}` is not a container image: {reason}")]
    NotAnImage {
        /// The name.
        image: Box<Reference>,
        /// What it is.
        reason: String,
    },
    /// The image is there, but not for this platform.
    #[error("`{image}` has no image for `{wanted}`")]
    NoPlatform {
        /// The image.
        image: Box<Reference>,
        /// What was asked for.
        wanted: Box<Platform>,
        /// What there is.
        available: Vec<Platform>,
    },
    /// What is to be pushed is not in the store.
    #[error("blob `{}` is to be pushed but is not in the store", descriptor.digest)]
    Missing {
        /// The blob.
        descriptor: Box<Descriptor>,
    },
    /// What is to be pushed contradicts itself.
    #[error("cannot push `{image}`: {reason}")]
    Push {
        /// The image.
        image: Box<Reference>,
        /// What is wrong.
        reason: String,
    },
    /// Credentials could not be read.
    #[error("cannot look up credentials for `{registry}`")]
    Credentials {
        /// The registry.
        registry: String,
        /// Why.
        source: CredentialError,
    },
    /// The store failed.
    #[error("cannot {act} `{digest}`")]
    Content {
        /// `store`, `read`.
        act: &'static str,
        /// Which blob.
        digest: Digest,
        /// Why.
        source: ContentError,
    },
    /// A blob in the store could not be read.
    #[error("cannot read `{digest}` from the store")]
    Read {
        /// Which blob.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// A blob could not be written to the store.
    #[error("cannot write `{digest}` to the store")]
    Write {
        /// Which blob.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
}

impl RegistryError {
    /// What to do about it, for the user.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Offline { .. } => {
                Some("build once without `--offline`: what is fetched is kept for later builds".to_owned())
            }
            Self::Blocked(_) => Some("name the image at another registry, or change that setting".to_owned()),
            Self::HostFile { .. } => Some("`rbuild config` shows which file names it".to_owned()),
            Self::Unauthorized { registry, credentials, .. } => Some(credentials.help(registry)),
            Self::Denied { request, credentials, .. } => Some(match &**credentials {
                CredentialsUsed::Sent { whose } => format!("{whose} do not allow it"),
                other => other.help(&request.host),
            }),
            Self::ImageNotFound { image, .. } => {
                Some(format!("check the name and the tag; rbuild asked `{}` for `{image}`", image.registry()))
            }
            Self::NoPlatform { available, .. } if available.is_empty() => {
                Some("the index names no image for any platform".to_owned())
            }
            Self::NoPlatform { available, .. } => {
                let names: Vec<String> = available.iter().map(|platform| format!("`{platform}`")).collect();
                Some(format!("it has images for {}", names.join(", ")))
            }
            Self::Certificate { .. } => Some(
                "if the registry uses a private authority, add its certificate to the system's, or name the bundle in \
                 SSL_CERT_FILE"
                    .to_owned(),
            ),
            Self::Status { status: 429, .. } => {
                Some("the registry limits how often it is asked; wait, or log in for a higher limit".to_owned())
            }
            Self::Status { status: 413, .. } => {
                Some("the registry, or a proxy before it, limits the size of an upload; raise that limit".to_owned())
            }
            Self::Transport { connecting: true, request, .. } => {
                Some(format!("check that `{}` is right and can be reached from here", request.host))
            }
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => {
                Some("the registry, or something between it and rbuild, changed the bytes; nothing was kept".to_owned())
            }
            _ => None,
        }
    }

    /// Whether the registry could not be asked at all or could not answer now, so that nothing is known of what it would
    /// say: no network, no such host, a server that is overloaded or broken. A refusal is an answer.
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Idle { .. } | Self::Slow { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }

    /// Whether it only says that something is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::ImageNotFound { .. } | Self::BlobNotFound { .. } | Self::Status { status: 404, .. })
    }

    /// Whether it is about this machine rather than about who was asked: then nobody else needs to be asked.
    pub(super) fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Offline { .. }
                | Self::Missing { .. }
                | Self::Push { .. }
                | Self::Content { .. }
                | Self::Read { .. }
                | Self::Write { .. }
        )
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

const WRONG_NAME: &str = ", or the image's name is wrong: many registries say 401 for what does not exist";

impl CredentialsUsed {
    fn help(&self, registry: &str) -> String {
        match self {
            Self::Sent { whose } => {
                format!("{whose} were not accepted: log in again, and check that they may use this repository")
            }
            Self::Fetched => format!(
                "the token that {CLIENT} fetched does not allow it: `docker login {registry}` on its machine, with an \
                 account that may use this repository"
            ),
            Self::Withheld { whose, reason } => format!("{whose} were not sent: {reason}"),
            // Another program's client asked: it keeps its own.
            Self::NoneFound { searched, notes } if searched.iter().any(|place| place == CLIENT) => {
                let mut text = format!("the client has no credentials for `{registry}`");
                for note in notes {
                    text.push_str(&format!("; {note}"));
                }
                text.push_str(&format!("; `docker login {registry}` on its machine stores some"));
                text.push_str(WRONG_NAME);
                text
            }
            Self::NoneFound { searched, notes } => {
                let mut text = format!("rbuild found no credentials for `{registry}`");
                if !searched.is_empty() {
                    let files: Vec<String> = searched.iter().map(|file| format!("`{file}`")).collect();
                    text.push_str(&format!(" in {}", files.join(", ")));
                }
                for note in notes {
                    text.push_str(&format!("; {note}"));
                }
                text.push_str(&format!("; `rbuild login {registry}` stores some"));
                text.push_str(WRONG_NAME);
                text
            }
        }
    }
}

fn tries(attempts: u32) -> String {
    if attempts > 1 { format!(" in {attempts} attempts") } else { String::new() }
}

fn said(words: &Option<String>) -> String {
    words.as_ref().map_or(String::new(), |words| format!(": {words}"))
}
