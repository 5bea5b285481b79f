//! Why a layer could not be made or unpacked.

use std::io;

use super::tar::{TarError, printable};

/// Why a layer could not be made or unpacked. Paths are those inside the tree, escaped for printing.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive itself.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A system call failed.
    #[error("cannot {act} `{path}`: {source}")]
    Io {
        /// What was being done.
        act: &'static str,
        /// To which path inside the tree.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The destination of the bytes failed.
    #[error("cannot write the layer: {source}")]
    Output {
        /// Why.
        source: io::Error,
    },
    /// A file of the tree has a name that layers use for something else.
    #[error("the file `{path}` cannot be in an image layer: names that begin with `.wh.` mean deletions there")]
    ReservedName {
        /// Which file.
        path: String,
    },
    /// The tree changed under our hands.
    #[error("`{path}` changed while it was being read")]
    Changed {
        /// Which file.
        path: String,
    },
    /// An entry that would leave its root, lie below something that is no directory, and the like.
    #[error("refusing the entry `{path}`: {reason}")]
    Refused {
        /// Its name in the archive.
        path: String,
        /// Why.
        reason: String,
    },
}

impl LayerError {
    pub(super) fn io(act: &'static str, path: &[u8]) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Io { act, path: shown(path), source: errno.into() }
    }

    pub(super) fn stdio(act: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { act, path: shown(path), source }
    }

    pub(super) fn refused(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Refused { path: shown(path), reason: reason.into() }
    }
}

/// The empty path is the root.
pub(super) fn shown(path: &[u8]) -> String {
    if path.is_empty() { "/".to_owned() } else { printable(path) }
}
