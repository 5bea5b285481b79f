//! The engine's own work: shown beside the steps, and kept off the async threads where it blocks.

use std::sync::Arc;

use solver::graph::VertexId;
use solver::seam::{Event, Progress, VertexLog};
use store::Store;

use super::{Failure, FailureKind};

/// Blocking work off the async threads.
pub async fn in_background<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Store) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(result) => result,
        Err(error) => Err(Failure::from_error(&error)),
    }
}

/// Something of the engine's own that is shown beside the steps.
pub struct Task<'a> {
    /// Under which id.
    pub vertex: VertexId,
    progress: &'a Arc<dyn Progress>,
}

impl<'a> Task<'a> {
    /// Shows it as begun.
    pub fn start(name: &str, progress: &'a Arc<dyn Progress>) -> Self {
        Self::of(VertexId::of_name(name), name, progress)
    }

    /// What an operation needs before it is solved, shown as that operation.
    pub fn of(vertex: VertexId, name: &str, progress: &'a Arc<dyn Progress>) -> Self {
        progress.event(Event::Declared { vertex, name: name.to_owned(), inputs: Vec::new() });
        progress.event(Event::Started(vertex));
        Self { vertex, progress }
    }

    /// Where it tells of transfers.
    pub fn log(&self) -> VertexLog<'_> {
        VertexLog { vertex: self.vertex, progress: &**self.progress }
    }

    /// Shows how it ended, and hands the outcome on.
    pub fn end<T>(self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        let vertex = self.vertex;
        self.progress.event(match &outcome {
            Ok(_) => Event::Done(vertex),
            Err(failure) if failure.kind == FailureKind::Canceled => Event::Canceled(vertex),
            Err(failure) => Event::Failed { vertex, error: failure.problems[0].message.clone() },
        });
        outcome
    }
}
