//! The place that a job has among those that run at once, as the job sees it.
//!
//! A job that waits for something which is not its build's (a lock that another process has) does nothing meanwhile, so
//! it leaves its place to others and asks for one when it goes on. In: what jobs do with their places. Out: messages to
//! [`crate::run`], which has the schedule. Deliberately absent: who gets a place when, which is [`crate::schedule`]'s.

use tokio::sync::{mpsc, oneshot};

use crate::graph::VertexId;

/// The place of one job.
#[derive(Clone, Debug)]
pub struct Place {
    vertex: VertexId,
    moves: Option<mpsc::UnboundedSender<Move>>,
}

/// What a job does with its place.
#[derive(Debug)]
pub(crate) enum Move {
    Left(VertexId),
    /// It wants one again, and hears when it has it.
    Returns(VertexId, oneshot::Sender<()>),
}

/// A job without a place. Dropped, it stays without one, which is for jobs that only end.
#[derive(Debug)]
#[must_use = "a job that goes on needs a place: `back`"]
pub struct Away(Place);

impl Place {
    pub(crate) fn new(vertex: VertexId, moves: mpsc::UnboundedSender<Move>) -> Self {
        Self { vertex, moves: Some(moves) }
    }

    /// One that nobody counts: for a job that is run without a build.
    pub fn uncounted(vertex: VertexId) -> Self {
        Self { vertex, moves: None }
    }

    /// Leaves the place to others.
    pub fn leave(&self) -> Away {
        self.tell(Move::Left(self.vertex));
        Away(self.clone())
    }

    /// A build that has ended counts no places.
    fn tell(&self, told: Move) {
        let heard = self.moves.as_ref().is_some_and(|moves| moves.send(told).is_ok());
        tracing::trace!(vertex = %self.vertex, heard, "moves");
    }
}

impl Away {
    /// Waits for a place, before all operations that have not begun; at once when the build is being stopped. What the job
    /// holds meanwhile, nobody who has a place may be waiting for.
    pub async fn back(self) {
        let (given, place) = oneshot::channel();
        self.0.tell(Move::Returns(self.0.vertex, given));
        // An error: the build is being stopped.
        let counted = place.await.is_ok();
        tracing::trace!(vertex = %self.0.vertex, counted, "goes on");
    }
}
