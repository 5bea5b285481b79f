//! Why an image could not be put together or opened.

use std::io;

use crate::content::ContentError;
use crate::layer::decompress::is_layer;
use crate::model::{DiffId, Digest, Platform};

/// Why an image could not be put together or opened.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Its content could not be read, or is not what its digest says.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A manifest, index or config that breaks the specification, or could be read in two ways.
    #[error("{what} `{digest}` is malformed: {reason}")]
    Malformed {
        /// "manifest", "index", "config".
        what: &'static str,
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that is no image: an artifact, a signature, another generation's format.
    #[error("`{digest}` is no image: its media type is `{}`", .media_type.escape_debug())]
    NoImage {
        /// Which.
        digest: Digest,
        /// What it says it is.
        media_type: String,
    },
    /// An index without an image for this platform.
    #[error("index `{digest}` has no image for `{wanted}`; it has: {}", listed(.available))]
    NoPlatform {
        /// Which index.
        digest: Digest,
        /// What was looked for.
        wanted: Box<Platform>,
        /// What there is.
        available: Vec<Platform>,
    },
    /// A layer whose bytes are not what the config says.
    #[error("layer `{layer}` unpacks to `{found}`, but the image's config says `{expected}`")]
    WrongDiffId {
        /// The layer's blob.
        layer: Digest,
        /// What the config says.
        expected: DiffId,
        /// What came out.
        found: DiffId,
    },
    /// A layer that cannot be decompressed, or has too many entries.
    #[error("cannot read layer `{layer}`: {source}")]
    Layer {
        /// The layer's blob.
        layer: Digest,
        /// Why not.
        source: io::Error,
    },
}

impl ImageError {
    pub(super) fn malformed(what: &'static str, digest: Digest, reason: impl Into<String>) -> Self {
        Self::Malformed { what, digest, reason: reason.into() }
    }
}

fn listed(platforms: &[Platform]) -> String {
    match platforms {
        [] => "none".to_owned(),
        some => some.iter().map(|platform| format!("`{platform}`")).collect::<Vec<_>>().join(", "),
    }
}

/// What makes a list of layers and a list of diff ids not fit, if anything does.
pub(super) fn misfit(layers: &[crate::model::Descriptor], diff_ids: usize) -> Option<String> {
    if layers.len() != diff_ids {
        return Some(format!("the config names {diff_ids} layers, the manifest {}", layers.len()));
    }
    let strange = layers.iter().find(|layer| !is_layer(&layer.media_type))?;
    Some(format!("the layer `{}` is of the unknown kind `{}`", strange.digest, strange.media_type.escape_debug()))
}
