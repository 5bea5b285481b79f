//! Makes a schedule happen: asks the executor and the cache, and tells those who watch.
//!
//! One task per question or operation. The first failure stops the rest: what runs is cancelled and awaited, nothing
//! new begins, and the failure is returned with the vertex that it befell.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::canon::Part;
use crate::graph::{Edge, Graph, VertexId};
use crate::key::{self, ContentDigest, Key};
use crate::op::Op;
use crate::schedule::{Action, DigestSlot, Found, Schedule};
use crate::seam::{CacheStore, Event, Executor, Hit, Job, KeyKind, Pin, Progress, Record, ResultId, VertexLog};

/// What a build is solved with.
pub struct Solver<E, C> {
    /// Runs operations.
    pub executor: Arc<E>,
    /// Remembers results.
    pub cache: Arc<C>,
    /// Listens.
    pub progress: Arc<dyn Progress>,
    /// How many processes at a time; at least one.
    pub jobs: usize,
}

/// What a build came to.
#[derive(Clone, Debug, Default)]
pub struct Solution {
    /// The result of every want.
    pub results: HashMap<Edge, ResultId>,
    /// How many operations ran (sources not counted).
    pub ran: usize,
    /// How many were known already.
    pub cached: usize,
}

/// Why a build came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SolveError<E: std::error::Error + 'static, C: std::error::Error + 'static> {
    /// An operation, or a question about a source, failed.
    #[error("{source}")]
    Failed {
        /// Whose.
        vertex: VertexId,
        /// Why.
        #[source]
        source: E,
    },
    /// The cache could not be read or written.
    #[error("the cache failed")]
    Cache(#[source] C),
    /// An operation gave another number of results than it has outputs.
    #[error("vertex {vertex} gave {got} results, its operation has {expected} outputs")]
    WrongOutputs {
        /// Whose.
        vertex: VertexId,
        /// What it gave.
        got: usize,
        /// What it should have given.
        expected: u32,
    },
    /// A task of the solver itself broke.
    #[error("a task of the solver ended by itself")]
    Broken(#[source] tokio::task::JoinError),
    /// The caller asked to stop.
    #[error("canceled")]
    Canceled,
}

/// How a task ended.
enum Answer<E> {
    Pinned(VertexId, Result<Pin, E>),
    Digested { reader: VertexId, source: VertexId, slot: DigestSlot, digest: Result<ContentDigest, E> },
    Ran(VertexId, Result<Vec<ResultId>, E>),
}

impl<E: Executor, C: CacheStore> Solver<E, C> {
    /// Solves `wants`, each of which must lie in `graph`. Ends soon after `cancel` fires.
    ///
    /// # Errors
    /// The first failure, after everything that ran has ended.
    pub async fn solve(
        &self,
        graph: Arc<Graph>,
        wants: &[Edge],
        cancel: &CancellationToken,
    ) -> Result<Solution, SolveError<E::Error, C::Error>> {
        let schedule = Schedule::new(graph.clone(), wants, self.jobs);
        let mut build = Build {
            solver: self,
            schedule,
            graph,
            tasks: JoinSet::new(),
            stop: cancel.child_token(),
            running: HashSet::new(),
            digesting: HashMap::new(),
            solution: Solution::default(),
        };
        build.declare();
        let ended = build.drive().await;
        build.end().await;
        ended?;
        build.solution.results = build.schedule.results().expect("nothing is left to do, so every want is there");
        Ok(build.solution)
    }
}

/// One build on its way.
struct Build<'a, E: Executor, C> {
    solver: &'a Solver<E, C>,
    schedule: Schedule,
    graph: Arc<Graph>,
    tasks: JoinSet<Answer<E::Error>>,
    /// Fires for the tasks of this build only.
    stop: CancellationToken,
    /// Vertices that have started and not ended.
    running: HashSet<VertexId>,
    /// Sources without a key that are being digested: how many answers are missing.
    digesting: HashMap<VertexId, usize>,
    solution: Solution,
}

impl<E: Executor, C: CacheStore> Build<'_, E, C> {
    fn tell(&self, event: Event) {
        self.solver.progress.event(event);
    }

    fn declare(&self) {
        for id in self.schedule.order() {
            let (vertex, meta) = (self.graph.get(id), self.graph.meta(id));
            let (vertex, meta) = (vertex.expect("in the graph"), meta.expect("in the graph"));
            let inputs = vertex.inputs.iter().map(|edge| edge.vertex).collect();
            self.tell(Event::Declared { vertex: *id, name: meta.description.clone(), inputs });
        }
    }

    async fn drive(&mut self) -> Result<(), SolveError<E::Error, C::Error>> {
        let stop = self.stop.clone();
        loop {
            // Lookups are answered at once and lead to further actions.
            loop {
                let actions = self.schedule.take_actions();
                if actions.is_empty() {
                    break;
                }
                for action in actions {
                    self.perform(action).await?;
                }
            }
            let answer = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(SolveError::Canceled),
                answer = self.tasks.join_next() => answer,
            };
            match answer {
                None => return Ok(()),
                Some(answer) => self.take(answer.map_err(SolveError::Broken)?)?,
            }
        }
    }

    async fn perform(&mut self, action: Action) -> Result<(), SolveError<E::Error, C::Error>> {
        let executor = self.solver.executor.clone();
        let graph = self.graph.clone();
        match action {
            Action::Pin(id) => {
                let (stop, progress) = (self.stop.clone(), self.solver.progress.clone());
                self.tasks.spawn(async move {
                    let log = VertexLog { vertex: id, progress: &*progress };
                    let pin = executor.pin(source_of(&graph, &id), &log, &stop).await;
                    Answer::Pinned(id, pin)
                });
            }
            Action::Digest { reader, source, slot, selection } => {
                let missing = self.digesting.entry(source).or_insert(0);
                *missing += 1;
                if *missing == 1 && self.running.insert(source) {
                    self.tell(Event::Started(source));
                }
                let stop = self.stop.clone();
                self.tasks.spawn(async move {
                    let digest = executor.digest_selected(source_of(&graph, &source), &selection, &stop).await;
                    Answer::Digested { reader, source, slot, digest }
                });
            }
            Action::LookUp(id, key) => {
                // In place: a lookup is one indexed read, dearer to hand over than to do.
                let results = self.solver.cache.find(&key).await.map_err(SolveError::Cache)?;
                let outputs = self.graph.get(&id).expect("in the graph").outputs();
                let results = results.filter(|results| results.len() == outputs as usize);
                if let Found::Hit(beneath) = self.schedule.looked_up(id, results) {
                    for cached in beneath.into_iter().chain([id]) {
                        self.solution.cached += usize::from(!self.is_source(&cached));
                        let by = if cached == id { Hit::Definition } else { Hit::Unneeded };
                        self.tell(Event::Cached { vertex: cached, by });
                    }
                }
            }
            Action::Run(id, inputs) => {
                // A source without a key was shown while it was digested; opening it is no news.
                if !self.digesting.contains_key(&id) && self.running.insert(id) {
                    self.tell(Event::Started(id));
                }
                let (stop, progress) = (self.stop.clone(), self.solver.progress.clone());
                self.tasks.spawn(async move {
                    let vertex = graph.get(&id).expect("in the graph");
                    let meta = graph.meta(&id).expect("in the graph");
                    let log = VertexLog { vertex: id, progress: &*progress };
                    let sources = vertex.inputs.iter().map(|edge| source_at(&graph, &edge.vertex)).collect();
                    let results = executor.run(Job { id, vertex, meta, inputs, sources }, &log, &stop).await;
                    Answer::Ran(id, results)
                });
            }
        }
        Ok(())
    }

    fn take(&mut self, answer: Answer<E::Error>) -> Result<(), SolveError<E::Error, C::Error>> {
        match answer {
            Answer::Pinned(id, pin) => {
                let pin = pin.map_err(|source| self.failed(id, source))?;
                self.schedule.pinned(id, &pin);
            }
            Answer::Digested { reader, source, slot, digest } => {
                // The reader is at fault, not the context: it names what is not there.
                let digest = digest.map_err(|error| self.failed(reader, error))?;
                let missing = self.digesting.get_mut(&source).expect("it was asked for");
                *missing -= 1;
                if *missing == 0 && self.running.remove(&source) {
                    self.tell(Event::Done(source));
                }
                self.schedule.digested(reader, slot, digest);
            }
            Answer::Ran(id, results) => {
                let results = results.map_err(|source| self.failed(id, source))?;
                let expected = self.graph.get(&id).expect("in the graph").outputs();
                if results.len() != expected as usize {
                    return Err(SolveError::WrongOutputs { vertex: id, got: results.len(), expected });
                }
                if let Some((key, parts)) = self.schedule.key(&id) {
                    self.record(&id, key, parts, &results).map_err(SolveError::Cache)?;
                }
                self.solution.ran += usize::from(!self.is_source(&id));
                if self.running.remove(&id) {
                    self.tell(Event::Done(id));
                }
                self.schedule.ran(id, results);
            }
        }
        Ok(())
    }

    fn failed(&mut self, vertex: VertexId, source: E::Error) -> SolveError<E::Error, C::Error> {
        if self.stop.is_cancelled() {
            return SolveError::Canceled;
        }
        self.running.remove(&vertex);
        self.tell(Event::Failed { vertex, error: source.to_string() });
        SolveError::Failed { vertex, source }
    }

    fn record(&self, id: &VertexId, key: &Key, parts: &[Part], results: &[ResultId]) -> Result<(), C::Error> {
        let operation = key::operation_key(self.graph.get(id).expect("in the graph"));
        self.solver.cache.record(key, &Record { kind: KeyKind::Definition, operation, parts, results })
    }

    fn is_source(&self, id: &VertexId) -> bool {
        matches!(self.graph.get(id).map(|vertex| &vertex.op), Some(Op::Source(_)))
    }

    /// Stops what still runs, and waits for it: when a build has ended, nothing of it is left.
    async fn end(&mut self) {
        self.schedule.stop();
        self.stop.cancel();
        while let Some(answer) = self.tasks.join_next().await {
            match answer {
                // It ended well while the rest was being stopped: its work is not thrown away.
                Ok(Answer::Ran(id, Ok(results))) => self.keep(id, &results),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a task broke while the build was ending"),
            }
        }
        for id in std::mem::take(&mut self.running) {
            self.tell(Event::Canceled(id));
        }
    }

    fn keep(&mut self, id: VertexId, results: &[ResultId]) {
        let expected = self.graph.get(&id).expect("in the graph").outputs();
        if let (Some((key, parts)), true) = (self.schedule.key(&id), results.len() == expected as usize)
            && let Err(error) = self.record(&id, key, parts, results)
        {
            tracing::debug!(%error, vertex = %id, "a late result could not be recorded");
        }
        if self.running.remove(&id) {
            self.tell(Event::Done(id));
        }
    }
}

fn source_of<'a>(graph: &'a Graph, id: &VertexId) -> &'a crate::op::SourceOp {
    source_at(graph, id).unwrap_or_else(|| unreachable!("only sources are pinned and digested"))
}

fn source_at<'a>(graph: &'a Graph, id: &VertexId) -> Option<&'a crate::op::SourceOp> {
    match graph.get(id).map(|vertex| &vertex.op) {
        Some(Op::Source(source)) => Some(source),
        _ => None,
    }
}
