//! What solving would run, without running anything.
//!
//! The schedule is the one of a build, and so are its questions: sources are pinned, selections digested, keys looked
//! up. Only what would be run is not: its results are names that stand for what is not known. Nothing is recorded and
//! nothing claimed. So a step that would run on known inputs will run; one that stands on another that would run may
//! still be known, when that one gives what it gave before.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::graph::{Edge, Graph, VertexId};
use crate::key::{ContentDigest, Key, operation_key};
use crate::op::{Op, SourceOp};
use crate::run::{SolveError, Solver, always};
use crate::seam::{CacheStore, Executor, Job, LogSink, Pin, Progress, Read, Record, ResultId, Selection};

/// Names of results that are not there begin so; no executor gives such names.
const FORESEEN: &str = "foreseen:";

/// What is to be expected of a vertex that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// It will run.
    Runs,
    /// It will run, unless what it stands on comes out as it did before.
    RunsUnlessSame,
}

/// Solves `wants` in mind only; `progress` hears what a build would tell, with every operation that would run as one
/// that did. Returns what would run; what is not in it would be known.
///
/// # Errors
/// As [`Solver::solve`]: a source that cannot be pinned, a selection of what is not there.
pub async fn foresee<E: Executor, C: CacheStore>(
    graph: Arc<Graph>,
    wants: &[Edge],
    executor: Arc<E>,
    cache: Arc<C>,
    progress: Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<HashMap<VertexId, Outlook>, SolveError<E::Error, C::Error>> {
    let mind = Arc::new(Mind { executor, unsure: Mutex::default() });
    let solver = Solver {
        executor: mind.clone(),
        cache: Arc::new(Reader { cache: cache.clone() }),
        progress,
        // Nothing takes time.
        jobs: always(usize::MAX),
    };
    solver.solve(graph.clone(), wants, cancel).await?;
    let unsure = std::mem::take(&mut *mind.unsure.lock().unwrap_or_else(PoisonError::into_inner));
    let mut outlooks = HashMap::new();
    for (id, stands_on_unknown) in unsure {
        let vertex = graph.get(&id).expect("in the graph");
        let known =
            stands_on_unknown && !cache.of_operation(&operation_key(vertex)).map_err(SolveError::Cache)?.is_empty();
        outlooks.insert(id, if known { Outlook::RunsUnlessSame } else { Outlook::Runs });
    }
    Ok(outlooks)
}

/// An executor that answers questions and runs nothing.
struct Mind<E> {
    executor: Arc<E>,
    /// Operations that would run, and whether they stand on results that are not there.
    unsure: Mutex<HashMap<VertexId, bool>>,
}

fn is_foreseen(result: &ResultId) -> bool {
    result.0.starts_with(FORESEEN)
}

impl<E: Executor> Executor for Mind<E> {
    type Error = E::Error;

    fn pin(
        &self,
        source: &SourceOp,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Pin, E::Error>> + Send {
        self.executor.pin(source, log, cancel)
    }

    fn digest_selected(
        &self,
        source: &SourceOp,
        selection: &Selection,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<ContentDigest, E::Error>> + Send {
        self.executor.digest_selected(source, selection, cancel)
    }

    async fn content(
        &self,
        result: &ResultId,
        read: &Read,
        cancel: &CancellationToken,
    ) -> Result<Option<ContentDigest>, E::Error> {
        if is_foreseen(result) {
            return Ok(None);
        }
        self.executor.content(result, read, cancel).await
    }

    async fn run(&self, job: Job<'_>, _: &dyn LogSink, _: &CancellationToken) -> Result<Vec<ResultId>, E::Error> {
        if !matches!(job.vertex.op, Op::Source(_)) {
            // What is selected from a source without a key is known, whatever the source's result is called.
            let keyless = |source: &Option<&SourceOp>| source.is_some_and(|source| source.scheme() == "local");
            let inputs: HashSet<&ResultId> =
                job.inputs.iter().zip(&job.sources).filter(|(_, source)| !keyless(source)).map(|(id, _)| id).collect();
            let unknown = inputs.into_iter().any(is_foreseen);
            self.unsure.lock().unwrap_or_else(PoisonError::into_inner).insert(job.id, unknown);
        }
        Ok((0..job.vertex.outputs()).map(|output| ResultId(format!("{FORESEEN}{}:{output}", job.id))).collect())
    }
}

/// A memory that is only asked.
struct Reader<C> {
    cache: Arc<C>,
}

impl<C: CacheStore> CacheStore for Reader<C> {
    type Error = C::Error;
    type Flight = ();

    fn find(&self, key: &Key) -> impl Future<Output = Result<Option<Vec<ResultId>>, C::Error>> + Send {
        self.cache.find(key)
    }

    fn of_operation(&self, operation: &Key) -> Result<Vec<Vec<ResultId>>, C::Error> {
        self.cache.of_operation(operation)
    }

    fn record(&self, _: &Key, _: &Record<'_>) -> Result<(), C::Error> {
        Ok(())
    }

    fn try_claim(&self, _: &Key) -> Result<Option<()>, C::Error> {
        Ok(Some(()))
    }

    async fn claim(&self, _: &Key) -> Result<(), C::Error> {
        Ok(())
    }
}
