//! Why an operation failed: every folder's reasons under one roof.

use solver::seam::ResultId;

use crate::layers::LayersError;
use crate::limits::LimitError;
use crate::ops::exec::StepError;
use crate::ops::file::FileError;
use crate::sandbox::SandboxError;
use crate::snapshot::SnapshotError;
use crate::source::SourceError;
use crate::source::image::FetchError;

/// Why an operation could not be done. The source errors say where.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// A source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// A process.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A limit that cannot be had.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A layer's tree or blob.
    #[error(transparent)]
    Layers(#[from] LayersError),
    /// Stacked layers.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// A blob of an image.
    #[error("cannot fetch the layers of `{image}`")]
    Fetch {
        /// Which image.
        image: String,
        /// Why not.
        source: FetchError,
    },
    /// A layer that a cache promised, and whose bytes cannot be had or are others. What it was the result of can be run.
    #[error("layer `{layer}` of a cache cannot be had")]
    Lost {
        /// Which.
        layer: ResultId,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A result that is no tree of the store.
    #[error("`{result}` cannot be used here: {reason}")]
    BadInput {
        /// Which result.
        result: ResultId,
        /// What it would have to be.
        reason: &'static str,
    },
    /// An operation that is not done yet.
    #[error("{operation} is not supported yet")]
    Unsupported {
        /// Which operation.
        operation: &'static str,
    },
    /// Somebody stopped the build.
    #[error("canceled")]
    Canceled,
    /// Our own fault.
    #[error("a worker thread of rbuild failed; please report this: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl ExecError {
    /// What to do about it, for the user, where that is known here.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Source(error) => error.help(),
            Self::Step(StepError::Secret(error)) => error.help(),
            Self::Limit(error) => error.help(),
            Self::Step(StepError::Limit { hit, .. }) => Some(hit.help()),
            Self::Step(StepError::Network(error)) => error.help(),
            Self::Step(StepError::Sandbox(SandboxError::NotOnThisRung { lack })) => Some(lack.hint().into()),
            Self::Step(StepError::Users(error)) => Some(error.help()),
            Self::Step(StepError::Emulate(error)) => Some(error.help()),
            Self::Fetch { source, .. } => source.downcast_ref::<oci::registry::RegistryError>()?.help(),
            _ => None,
        }
    }
}
