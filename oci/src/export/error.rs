//! Why an archive could not be written or read.

use std::io;

use crate::content::ContentError;
use crate::image::ImageError;
use crate::layer::tar::TarError;
use crate::model::Digest;

/// Why an archive could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Content is missing, or not what its digest says.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// An image is malformed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The tar could not be read or written.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A file of a layout could not be read, or the stream beneath an archive.
    #[error("cannot {act} `{path}`: {source}")]
    Io {
        /// What was being done.
        act: &'static str,
        /// To which file of the archive.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Neither an OCI layout nor a docker archive.
    #[error("this is neither an OCI layout (`oci-layout` and `index.json`) nor a docker archive (`manifest.json`)")]
    Unknown,
    /// A file of the archive is not what it has to be.
    #[error("`{path}` in the archive is malformed: {reason}")]
    Malformed {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A docker archive holds images, never indexes.
    #[error("`{digest}` is an index of several images, which a docker archive cannot hold; write an OCI archive")]
    IndexInDockerArchive {
        /// Which.
        digest: Digest,
    },
}

impl ExportError {
    pub(super) fn malformed(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), reason: reason.into() }
    }
}
