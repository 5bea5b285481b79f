//! What the builder itself did with bytes, beside what processes of steps do: digests, copies, archives, compressions.
//!
//! Told once a piece of work is over, never per byte. Transfers are not among it: [`crate::seam::Event::Progress`] tells
//! how far they are.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One piece of work, done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What was done.
    pub kind: WorkKind,
    /// Files that were looked at, copied or made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub files: u64,
    /// Bytes that were read: of files, or of a blob.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub read_bytes: u64,
    /// Bytes that went through a digest.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hashed_bytes: u64,
    /// Bytes that were written: of files, or of a blob.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub written_bytes: u64,
    /// How long it took.
    #[serde(rename = "took_us", with = "crate::seam::micros")]
    pub took: Duration,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// What is selected of a context or of a result was looked at, and digested as far as it was not known.
    Digest,
    /// Files were copied into a layer.
    Copy,
    /// A layer was archived for its digest.
    Archive,
    /// A layer was archived and compressed into a blob.
    Compress,
    /// A blob was unpacked into a tree.
    Unpack,
    /// Bytes came from elsewhere.
    Receive,
    /// Bytes went elsewhere.
    Send,
}

impl WorkKind {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Digest => "digest",
            Self::Copy => "copy",
            Self::Archive => "archive",
            Self::Compress => "compress",
            Self::Unpack => "unpack",
            Self::Receive => "receive",
            Self::Send => "send",
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
