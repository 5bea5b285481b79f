//! What can go wrong with a remote cache. None of it fails a build by itself: the engine makes a line of it.

use std::time::Duration;

use oci::content::ContentError;
use oci::model::Digest;

use crate::StoreError;

/// Why a remote cache could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It cannot be reached, does not answer, or breaks off.
    #[error("cannot {act} the cache `{place}`")]
    Unreachable {
        /// What was tried: `read`, `write to`.
        act: &'static str,
        /// Which one, without credentials.
        place: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered, and will not: a wrong password, a missing bucket, a full disk.
    #[error("the cache `{place}` refuses to be {act}: {reason}")]
    Refused {
        /// What was tried: `read`, `written to`.
        act: &'static str,
        /// Which one, without credentials.
        place: String,
        /// In its words, one line.
        reason: String,
    },
    /// It was given more time than a cache is worth.
    #[error("the cache `{place}` took longer than {} s to be {act}", patience.as_secs_f32())]
    Slow {
        /// What was tried: `read`, `written to`.
        act: &'static str,
        /// Which one, without credentials.
        place: String,
        /// The patience that it exhausted.
        patience: Duration,
    },
    /// A document is longer than what is read.
    #[error("the {what} of the cache `{place}` has more than {most} bytes")]
    TooLarge {
        /// `manifest`, `list of records`.
        what: &'static str,
        /// Which one, without credentials.
        place: String,
        /// The limit in bytes.
        most: u64,
    },
    /// A blob that its manifest names is not there.
    #[error("the cache `{place}` does not have the blob `{digest}`")]
    NoBlob {
        /// Which one, without credentials.
        place: String,
        /// The blob.
        digest: Digest,
    },
    /// What is there is a cache of BuildKit.
    #[error(
        "`{place}` is a cache of BuildKit, whose keys only BuildKit can make, so nothing in it can be used; `--cache-to` \
         under another name writes one of rbuild's own"
    )]
    BuildKits {
        /// Which one, without credentials.
        place: String,
    },
    /// What is there is no cache.
    #[error("`{place}` holds no cache that can be read: {reason}")]
    Malformed {
        /// Which one, without credentials.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A blob could not be put into this store, or read from it. Wrong bytes from the remote come out here too.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// This store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
