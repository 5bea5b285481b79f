//! Makes a schedule happen: asks the executor and the cache, and tells those who watch.
//!
//! One task per question or operation; it decides nothing, see [`crate::schedule`]. Lookups that are answered at once
//! cost no task. The first failure stops the rest: nothing new begins, questions are dropped, what runs is cancelled and
//! awaited, and the failure is returned with the vertex that it befell. What ended well meanwhile is remembered.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::graph::{Edge, Graph, VertexId};
use crate::key::{ContentDigest, Key};
use crate::place::{Move, Place};
use crate::schedule::{Action, DigestSlot, Schedule};
use crate::seam::{CacheStore, Event, Executor, Job, Pin, Progress, Read, Record, ResultId, VertexLog};

/// What a build is solved with.
pub struct Solver<E, C> {
    /// Runs operations.
    pub executor: Arc<E>,
    /// Remembers results.
    pub cache: Arc<C>,
    /// Listens.
    pub progress: Arc<dyn Progress>,
    /// How many processes at a time. It may change while a build is under way: what runs goes on; 0 means 1.
    pub jobs: watch::Receiver<usize>,
}

/// For [`Solver::jobs`]: a number that does not change.
pub fn always(jobs: usize) -> watch::Receiver<usize> {
    watch::channel(jobs).1
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

/// After that long in vain, the user is told what a step waits for.
const SAY_WAIT_AFTER: Duration = Duration::from_secs(1);
const WAITS: &str = "waits for another build that runs the same step";

/// How a task ended.
enum Answer<E, C, F> {
    Pinned(VertexId, Result<Pin, E>),
    Digested {
        reader: VertexId,
        source: VertexId,
        slot: DigestSlot,
        digest: Result<ContentDigest, E>,
    },
    LookedUp(VertexId, Result<Option<Vec<ResultId>>, C>),
    Content {
        result: ResultId,
        read: Read,
        digest: Result<Option<ContentDigest>, E>,
    },
    Claimed(VertexId, Result<F, C>),
    Ran(VertexId, Result<Vec<ResultId>, E>),
    Settled(VertexId, Result<Vec<ResultId>, E>),
    /// The build was stopped before there was an answer.
    Dropped,
}

type AnswerOf<E, C> = Answer<<E as Executor>::Error, <C as CacheStore>::Error, <C as CacheStore>::Flight>;
type ErrorOf<E, C> = SolveError<<E as Executor>::Error, <C as CacheStore>::Error>;

impl<E: Executor, C: CacheStore> Solver<E, C> {
    /// Solves `wants`, each of which must lie in `graph`. Ends soon after `cancel` fires. Needs a runtime with a clock.
    ///
    /// # Errors
    /// The first failure, after everything that ran has ended.
    pub async fn solve(
        &self,
        graph: Arc<Graph>,
        wants: &[Edge],
        cancel: &CancellationToken,
    ) -> Result<Solution, ErrorOf<E, C>> {
        let mut jobs = self.jobs.clone();
        let places = *jobs.borrow_and_update();
        let (mover, moves) = mpsc::unbounded_channel();
        let mut build = Build {
            solver: self,
            schedule: Schedule::new(graph.clone(), wants, places),
            graph,
            jobs,
            tasks: JoinSet::new(),
            ready: VecDeque::new(),
            stop: cancel.child_token(),
            todo: VecDeque::new(),
            flights: HashMap::new(),
            running: HashSet::new(),
            mover,
            moves,
            away: HashMap::new(),
        };
        let ended = build.drive().await;
        build.end().await;
        ended?;
        Ok(Solution {
            results: build.schedule.results().expect("nothing is left to do, so every want is there"),
            ran: build.schedule.ran_count(),
            cached: build.schedule.cached_count(),
        })
    }
}

/// One build on its way.
struct Build<'a, E: Executor, C: CacheStore> {
    solver: &'a Solver<E, C>,
    schedule: Schedule,
    graph: Arc<Graph>,
    jobs: watch::Receiver<usize>,
    tasks: JoinSet<AnswerOf<E, C>>,
    /// Answers that were there at once.
    ready: VecDeque<AnswerOf<E, C>>,
    /// Fires for the tasks of this build only.
    stop: CancellationToken,
    /// Actions that were given out and not performed yet.
    todo: VecDeque<Action>,
    /// Claims that this build has.
    flights: HashMap<VertexId, C::Flight>,
    /// Vertices that were told to have started and not to have ended.
    running: HashSet<VertexId>,
    /// What jobs do with their places, for them and from them.
    mover: mpsc::UnboundedSender<Move>,
    moves: mpsc::UnboundedReceiver<Move>,
    /// Jobs that wait for a place to go on.
    away: HashMap<VertexId, oneshot::Sender<()>>,
}

impl<E: Executor, C: CacheStore> Build<'_, E, C> {
    async fn drive(&mut self) -> Result<(), ErrorOf<E, C>> {
        let stop = self.stop.clone();
        let mut jobs_may_change = true;
        loop {
            // Much is answered at once and leads to further actions.
            loop {
                self.todo.extend(self.schedule.take_actions());
                if self.todo.is_empty() {
                    break;
                }
                while !self.todo.is_empty() {
                    if stop.is_cancelled() {
                        return Err(SolveError::Canceled);
                    }
                    let action = self.todo.pop_front().expect("there is one");
                    self.perform(action)?;
                }
                while let Some(answer) = self.ready.pop_front() {
                    self.take(answer)?;
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(SolveError::Canceled),
                changed = self.jobs.changed(), if jobs_may_change => {
                    jobs_may_change = changed.is_ok();
                    self.schedule.set_places(*self.jobs.borrow_and_update());
                }
                Some(told) = self.moves.recv() => self.moved(told),
                answer = self.tasks.join_next() => match answer {
                    None => return Ok(()),
                    Some(answer) => self.take(answer.map_err(SolveError::Broken)?)?,
                },
            }
        }
    }

    fn perform(&mut self, action: Action) -> Result<(), ErrorOf<E, C>> {
        let cache = &self.solver.cache;
        match action {
            Action::Tell(event) => self.tell(event),
            Action::Pin(id) => self.pin(id),
            Action::Digest { reader, source, slot, selection } => {
                let (executor, graph, stop) = self.shared();
                self.ask(async move {
                    let digest = executor.digest_selected(source_of(&graph, &source), &selection, &stop).await;
                    Answer::Digested { reader, source, slot, digest }
                });
            }
            Action::LookUp(id, key) => {
                let cache = cache.clone();
                self.ask(async move { Answer::LookedUp(id, cache.find(&key).await) });
            }
            Action::Known(id, operation) => {
                let known = cache.of_operation(&operation).map_err(SolveError::Cache)?;
                self.schedule.known(id, known);
            }
            Action::Content(result, read) => {
                let (executor, _, stop) = self.shared();
                self.ask(async move {
                    let digest = executor.content(&result, &read, &stop).await;
                    Answer::Content { result, read, digest }
                });
            }
            Action::TryClaim(id, key) => {
                let flight = cache.try_claim(&key).map_err(SolveError::Cache)?;
                self.schedule.claimed(id, flight.is_some());
                self.flights.extend(flight.map(|flight| (id, flight)));
            }
            Action::Claim(id, key) => self.claim(id, key),
            Action::Release(id) => drop(self.flights.remove(&id)),
            Action::Run(id, inputs) => self.run(id, inputs),
            Action::GoOn(id) => {
                // One that does not wait any more is about to end.
                let heard = self.away.remove(&id).is_some_and(|job| job.send(()).is_ok());
                tracing::trace!(vertex = %id, heard, "has a place again");
            }
            Action::Settle { vertex, fresh, known } => {
                let (executor, _, stop) = self.shared();
                self.start(async move { Answer::Settled(vertex, executor.settle(fresh, &known, &stop).await) });
            }
            Action::Record { vertex: _, key, kind, operation, parts, results } => {
                let record = Record { kind, operation, parts: &parts, results: &results };
                cache.record(&key, &record).map_err(SolveError::Cache)?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, event: Event) {
        match &event {
            Event::Started(id) => drop(self.running.insert(*id)),
            Event::Done(id) | Event::Failed { vertex: id, .. } => drop(self.running.remove(id)),
            _ => {}
        }
        self.solver.progress.event(event);
    }

    fn shared(&self) -> (Arc<E>, Arc<Graph>, CancellationToken) {
        (self.solver.executor.clone(), self.graph.clone(), self.stop.clone())
    }

    /// A question whose answer nobody needs any more once the build is stopped: it is dropped then, whatever it does.
    fn ask(&mut self, question: impl Future<Output = AnswerOf<E, C>> + Send + 'static) {
        let stop = self.stop.clone();
        self.start(async move { stop.run_until_cancelled_owned(question).await.unwrap_or(Answer::Dropped) });
    }

    /// Begins it here, and makes a task of what is not done at once: to wake another thread, and to be woken by it, takes
    /// longer than most of what is asked.
    fn start(&mut self, work: impl Future<Output = AnswerOf<E, C>> + Send + 'static) {
        let mut work = Box::pin(work);
        let begun = AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        match catch_unwind(begun) {
            Ok(Poll::Ready(answer)) => self.ready.push_back(answer),
            // Whatever it waits for learns of its task when that looks first.
            Ok(Poll::Pending) => drop(self.tasks.spawn(work)),
            // As if it had broken there.
            Err(panic) => drop(self.tasks.spawn(async move { resume_unwind(panic) })),
        }
    }

    fn pin(&mut self, id: VertexId) {
        let (executor, graph, stop) = self.shared();
        let progress = self.solver.progress.clone();
        self.ask(async move {
            let log = VertexLog { vertex: id, progress: &*progress };
            let pin = executor.pin(source_of(&graph, &id), &log, &stop).await;
            Answer::Pinned(id, pin)
        });
    }

    fn claim(&mut self, id: VertexId, key: Key) {
        let (cache, progress) = (self.solver.cache.clone(), self.solver.progress.clone());
        self.ask(async move {
            let mut claim = std::pin::pin!(cache.claim(&key));
            let flight = match tokio::time::timeout(SAY_WAIT_AFTER, &mut claim).await {
                Ok(flight) => flight,
                Err(_) => {
                    progress.event(Event::Notice { vertex: id, text: WAITS.into() });
                    claim.await
                }
            };
            Answer::Claimed(id, flight)
        });
    }

    fn run(&mut self, id: VertexId, inputs: Vec<ResultId>) {
        let (executor, graph, stop) = self.shared();
        let progress = self.solver.progress.clone();
        let place = Place::new(id, self.mover.clone());
        self.start(async move {
            let vertex = graph.get(&id).expect("in the graph");
            let meta = graph.meta(&id).expect("in the graph");
            let log = VertexLog { vertex: id, progress: &*progress };
            let sources = vertex.inputs.iter().map(|edge| source_at(&graph, &edge.vertex)).collect();
            let results = executor.run(Job { id, vertex, meta, inputs, sources, place }, &log, &stop).await;
            Answer::Ran(id, results)
        });
    }

    fn moved(&mut self, told: Move) {
        match told {
            Move::Left(id) => self.schedule.left(id),
            Move::Returns(id, job) => {
                self.away.insert(id, job);
                self.schedule.returns(id);
            }
        }
    }

    fn take(&mut self, answer: AnswerOf<E, C>) -> Result<(), ErrorOf<E, C>> {
        match answer {
            Answer::Pinned(id, pin) => {
                let pin = pin.map_err(|source| self.failed(id, source))?;
                self.schedule.pinned(id, &pin);
            }
            Answer::Digested { reader, source, slot, digest } => {
                // The reader is at fault, not the context: it names what is not there.
                let digest = digest.map_err(|error| self.failed(reader, error))?;
                self.schedule.digested(reader, source, slot, digest);
            }
            Answer::LookedUp(id, found) => self.schedule.looked_up(id, found.map_err(SolveError::Cache)?),
            Answer::Content { result, read, digest } => {
                let digest = digest.unwrap_or_else(|error| {
                    tracing::debug!(%error, %result, "what is read of a result could not be digested");
                    None
                });
                self.schedule.content(result, read, digest);
            }
            Answer::Claimed(id, flight) => {
                self.flights.insert(id, flight.map_err(SolveError::Cache)?);
                self.schedule.granted(id);
            }
            Answer::Ran(id, results) => {
                let results = results.map_err(|source| self.failed(id, source))?;
                let expected = self.graph.get(&id).expect("in the graph").outputs();
                if results.len() != expected as usize {
                    return Err(SolveError::WrongOutputs { vertex: id, got: results.len(), expected });
                }
                self.schedule.ran(id, results);
            }
            Answer::Settled(id, results) => self.schedule.settled(id, comparable(id, results)),
            Answer::Dropped => {}
        }
        Ok(())
    }

    fn failed(&mut self, vertex: VertexId, source: E::Error) -> ErrorOf<E, C> {
        if self.stop.is_cancelled() {
            return SolveError::Canceled;
        }
        self.tell(Event::Failed { vertex, error: source.to_string() });
        SolveError::Failed { vertex, source }
    }

    /// Stops what still runs, and waits for it: when a build has ended, nothing of it is left.
    async fn end(&mut self) {
        self.stop.cancel();
        // Nobody gets a place any more: who waits for one is told to end.
        self.moves.close();
        while self.moves.try_recv().is_ok() {}
        self.away.clear();
        let late: Vec<Action> = self.todo.drain(..).chain(self.schedule.stop()).collect();
        self.keep(late);
        let ready = std::mem::take(&mut self.ready);
        ready.into_iter().for_each(|answer| self.keep_answer(answer));
        while let Some(answer) = self.tasks.join_next().await {
            match answer {
                Ok(answer) => self.keep_answer(answer),
                Err(error) => tracing::debug!(%error, "a task broke while the build was ending"),
            }
        }
        self.flights.clear();
        for id in std::mem::take(&mut self.running) {
            self.tell(Event::Canceled(id));
        }
    }

    /// What ended well while the rest was being stopped is not thrown away.
    fn keep_answer(&mut self, answer: AnswerOf<E, C>) {
        let late = match answer {
            Answer::Ran(id, Ok(results)) => self.schedule.keep(id, Some(results)),
            Answer::Settled(id, results) => self.schedule.keep(id, comparable(id, results)),
            _ => return,
        };
        self.keep(late);
    }

    /// Performs what is still due of these.
    fn keep(&mut self, late: Vec<Action>) {
        for action in late.into_iter().filter(Action::is_due_after_the_end) {
            if let Err(error) = self.perform(action) {
                tracing::debug!(%error, "a late result could not be recorded");
            }
        }
    }
}

/// The results that an operation has after it was settled, or `None`.
fn comparable<E: std::error::Error>(id: VertexId, results: Result<Vec<ResultId>, E>) -> Option<Vec<ResultId>> {
    results.inspect_err(|error| tracing::debug!(%error, vertex = %id, "a result could not be compared")).ok()
}

fn source_of<'a>(graph: &'a Graph, id: &VertexId) -> &'a crate::op::SourceOp {
    source_at(graph, id).unwrap_or_else(|| unreachable!("only sources are pinned and digested"))
}

fn source_at<'a>(graph: &'a Graph, id: &VertexId) -> Option<&'a crate::op::SourceOp> {
    match graph.get(id).map(|vertex| &vertex.op) {
        Some(crate::op::Op::Source(source)) => Some(source),
        _ => None,
    }
}
