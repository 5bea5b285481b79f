//! Where trees come from: the build context, images, git repositories, files of the web.
//!
//! In: a [`solver::op::SourceOp`]. Out: what it is for keys, and a tree to read. Deliberately absent: what a tree is for.
//! Next: [`local`] and `digest`, [`listing`] (what differs between digests), [`image`], `fetched` for
//! [`git`] and [`http`], which build contexts come from too, both with what the user gave ([`given`]).

pub mod address;
mod counted;
pub(crate) mod digest;
pub(crate) mod fetched;
pub mod git;
pub mod given;
pub mod http;
pub mod image;
pub mod listing;
pub mod local;
mod look;
mod stat_cache;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;

use oci::content::ContentError;

use crate::select::GlobError;
use crate::select::required::Unmet;
use crate::select::tree::SelectError;
use crate::tree::{TreeError, shown};

/// Whether sources may be asked for over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connectivity {
    /// They may.
    #[default]
    Online,
    /// No connection is made: what an earlier build fetched is used, and what none did is an error that names it.
    Offline,
}

/// Why a source could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A scheme that nobody here serves.
    #[error("no source is of the kind `{identifier}`")]
    Unsupported {
        /// The identifier.
        identifier: String,
    },
    /// A local source that was not given to this build.
    #[error("there is no local source `{name}` in this build")]
    UnknownLocal {
        /// Its name.
        name: String,
    },
    /// The directory of a local source cannot be opened.
    #[error("cannot open the directory `{path}` of {context}")]
    Open {
        /// The directory.
        path: String,
        /// Which source: `the build context`.
        context: String,
        /// The refusal.
        source: std::io::Error,
    },
    /// A path that is not there.
    #[error("`{path}` does not exist in {context}")]
    NotFound {
        /// The path, relative to the source.
        path: String,
        /// Which source: `the build context`.
        context: String,
    },
    /// A path that an ignore pattern leaves out.
    #[error("`{path}` is left out of {context} by the ignore pattern `{pattern}`")]
    Ignored {
        /// The path, relative to the source.
        path: String,
        /// Which source.
        context: String,
        /// The pattern as written.
        pattern: String,
        /// Its position in the list of patterns, from 0.
        position: usize,
    },
    /// A wildcard that matches nothing.
    #[error("nothing in {context} matches `{pattern}`")]
    NothingMatches {
        /// The wildcard.
        pattern: String,
        /// Which source.
        context: String,
    },
    /// A path that is to be copied with its directories, and one of these is a link.
    #[error("`{path}` cannot be copied with its parent directories: in {context}, `{link}` is a symbolic link")]
    ThroughLink {
        /// The path, relative to the source.
        path: String,
        /// The link.
        link: String,
        /// Which source.
        context: String,
    },
    /// What the user would have to give, or has given wrongly.
    #[error(transparent)]
    Secret(#[from] crate::secrets::SecretError),
    /// A malformed attribute of the source.
    #[error("the attribute `{name}` of the source `{identifier}` is malformed: {reason}")]
    Attribute {
        /// Which attribute.
        name: &'static str,
        /// Which source.
        identifier: String,
        /// What is wrong.
        reason: String,
    },
    /// A malformed pattern.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// Something in the tree.
    #[error("in {context}: {source}")]
    Tree {
        /// Which source.
        context: String,
        /// What.
        source: TreeError,
    },
    /// The identifier is no pinned image name.
    #[error("`{identifier}` is not an image pinned by digest")]
    NotPinned {
        /// The identifier.
        identifier: String,
    },
    /// The image's manifest or config cannot be read.
    #[error("cannot read the image `{image}`")]
    Image {
        /// Which image.
        image: String,
        /// Why not.
        source: ContentError,
    },
    /// A blob of an image that no registry has.
    #[error("the image `{image}` lacks its blob `{digest}`")]
    MissingBlob {
        /// Which image.
        image: String,
        /// Which blob.
        digest: oci::model::Digest,
    },
    /// A layer whose media type says that it must not be distributed.
    #[error("the layer `{digest}` of the image `{image}` must not be distributed, as its type says: `{media_type}`")]
    ForeignLayer {
        /// Which image.
        image: String,
        /// Which layer.
        digest: oci::model::Digest,
        /// What it says.
        media_type: String,
    },
    /// The image contradicts itself.
    #[error("the image `{image}` is malformed: {reason}")]
    MalformedImage {
        /// Which image.
        image: String,
        /// How.
        reason: String,
    },
    /// A git repository.
    #[error(transparent)]
    Git(#[from] git::GitError),
    /// A file of the web.
    #[error(transparent)]
    Http(#[from] http::HttpError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::StoreError),
}

impl SourceError {
    /// What leads to nothing, as an error.
    pub(crate) fn unmet(unmet: Unmet, context: &str) -> SourceError {
        let context = context.to_owned();
        match unmet {
            Unmet::Pattern(pattern) => SourceError::NothingMatches { pattern, context },
            Unmet::Through { path, link } => {
                SourceError::ThroughLink { path: shown(&path), link: shown(&link), context }
            }
            Unmet::Missing(path) | Unmet::LeftOut(path) => SourceError::NotFound { path: shown(&path), context },
        }
    }

    /// What to do about it, for the user.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Git(error) => error.help(),
            Self::Secret(error) => error.help(),
            Self::Http(error) => error.help(),
            Self::ForeignLayer { .. } => Some(
                "registries mostly do not have such layers; `foreign_layers = true` in config.toml fetches them all the same"
                    .into(),
            ),
            Self::MissingBlob { .. } => {
                Some("the image layout that it came from lacks it; copy the layout again".into())
            }
            _ => None,
        }
    }

    /// Whether somebody stopped it.
    pub fn is_canceled(&self) -> bool {
        match self {
            Self::Git(error) => error.is_canceled(),
            Self::Secret(error) => matches!(error, crate::secrets::SecretError::Canceled),
            Self::Http(error) => matches!(error, http::HttpError::Canceled),
            Self::Tree { source, .. } => matches!(source, TreeError::Stopped),
            _ => false,
        }
    }

    pub(crate) fn in_context(context: &str) -> impl Fn(SelectError) -> SourceError {
        let context = context.to_owned();
        move |error| match error {
            SelectError::Glob(error) => SourceError::Glob(error),
            SelectError::Tree(TreeError::NotFound { path }) => SourceError::NotFound { path, context: context.clone() },
            SelectError::Tree(source) => SourceError::Tree { context: context.clone(), source },
        }
    }
}
