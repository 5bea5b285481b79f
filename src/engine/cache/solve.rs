//! Solves a build whose results may come from caches: again, when one of them did not keep what it promised.
//!
//! In: a graph and what is wanted of it. Out: the solution, and the layers of the result as far as they must be here. A
//! layer that cannot be had is forgotten with all that stands on it, and the build solved once more: what was known or
//! made is known now, so only the steps behind that layer run. Deliberately absent: what a layer is brought from.

use std::sync::Arc;

use executor::{ExecError, Worker};
use solver::graph::{Edge, Graph};
use solver::run::{Solution, SolveError, Solver};
use solver::seam::Event;
use store::{Store, StoreError};
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;

use super::{Lost, Remotes};
use crate::engine::export::Ahead;
use crate::engine::task::Task;
use crate::options::BuildOptions;
use crate::options::output::Output;

/// After so many losses the caches are not asked any more.
pub const LOSSES_MAX: usize = 8;
/// What remains to be lost then is in this store, and each is lost once.
const ROUNDS_MAX: usize = 64;

/// What a build is solved with.
pub struct Solving<'a> {
    /// Runs operations.
    pub worker: &'a Worker,
    /// Remembers results.
    pub store: &'a Store,
    /// What others remember, and who listens.
    pub remotes: &'a Remotes,
    /// Hears of results.
    pub ahead: Option<Arc<Ahead>>,
    /// How many steps at a time.
    pub jobs: Receiver<usize>,
    /// The user may stop it.
    pub cancel: &'a CancellationToken,
}

/// One thing that is wanted of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The final result; none for an image of nothing.
    pub edge: Option<Edge>,
    /// Which of its layers.
    pub layers: LayersWanted,
}

/// What of a result's layers must be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayersWanted {
    /// Only what steps need.
    None,
    /// A tree or a blob of each.
    Blobs,
    /// A tree of each that a step made.
    Trees,
}

impl LayersWanted {
    /// By what becomes of the result: an image that is kept under a name is whole, one that is only pushed is whole
    /// there, and other times are given to trees.
    pub fn of(options: &BuildOptions, output: &frontend::PlanOutput) -> Self {
        let is_push = |out: &Output| matches!(out, Output::Image(image) if image.push.is_some());
        let is_pushed = options.outputs.iter().any(is_push);
        let is_kept = !options.tags.is_empty() && !is_pushed;
        match (output.epoch, is_kept || !options.outputs.iter().all(is_push)) {
            (Some(_), _) => Self::Trees,
            (None, true) => Self::Blobs,
            (None, false) => Self::None,
        }
    }
}

impl Solving<'_> {
    /// Solves.
    ///
    /// # Errors
    /// As [`Solver::solve`].
    pub async fn solve(
        &self,
        graph: &Arc<Graph>,
        wanted: &[Wanted],
    ) -> Result<Solution, SolveError<ExecError, StoreError>> {
        let Remotes { imports, watch, .. } = self.remotes;
        let solver = Solver {
            executor: self.remotes.steps(self.worker, false),
            cache: self.remotes.memory(self.store, self.ahead.clone(), Some(self.worker.meter().clone())),
            progress: watch.clone(),
            jobs: self.jobs.clone(),
        };
        let wants: Vec<Edge> = wanted.iter().filter_map(|wanted| wanted.edge).collect();
        for round in 1.. {
            let solved = match solver.solve(graph.clone(), &wants, self.cancel).await {
                Ok(solution) => self.bring_all(&solution, wanted).await.map(|()| solution),
                Err(error) => Err(error),
            };
            let lost = match &solved {
                Err(SolveError::Failed { source, .. }) if round < ROUNDS_MAX => Lost::of(source),
                _ => None,
            };
            let Some(lost) = lost else { return solved };
            imports.forget(&lost).map_err(SolveError::Cache)?;
            if round >= LOSSES_MAX {
                imports.close();
            }
            watch.say(format!("a step runs that a cache knew: {}", lost.why));
            watch.go_on();
        }
        unreachable!("the last round returns")
    }

    async fn bring_all(&self, solution: &Solution, wanted: &[Wanted]) -> Result<(), SolveError<ExecError, StoreError>> {
        for wanted in wanted {
            self.bring(solution, *wanted).await?;
        }
        Ok(())
    }

    /// Brings the layers of a result that must be here.
    async fn bring(&self, solution: &Solution, wanted: Wanted) -> Result<(), SolveError<ExecError, StoreError>> {
        let Some(edge) = wanted.edge else { return Ok(()) };
        let Some(top) = solution.results.get(&edge) else { return Ok(()) };
        let failed = |source| SolveError::Failed { vertex: edge.vertex, source };
        let is_due = match wanted.layers {
            LayersWanted::None => false,
            LayersWanted::Blobs => self.worker.lacks_blobs(top).await.map_err(failed)?,
            LayersWanted::Trees => self.worker.lacks_trees(top).await.map_err(failed)?,
        };
        if !is_due {
            return Ok(());
        }
        let progress: Arc<dyn solver::seam::Progress> = self.remotes.watch.clone();
        let task = Task::start("fetching layers", &progress);
        let brought = match wanted.layers {
            LayersWanted::Trees => self.worker.ensure_trees(top, &task.log(), self.cancel).await,
            _ => self.worker.ensure_blobs(top, &task.log(), self.cancel).await,
        };
        // If it failed, what is missing is made.
        progress.event(Event::Done(task.vertex));
        brought.map_err(failed)
    }
}
