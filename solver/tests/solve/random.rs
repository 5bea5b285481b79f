//! Any graph, built again and again while the world changes, by several builds at a time that fail, are cancelled and
//! have more or fewer places: what a naive recursive evaluator says is what comes out, and nothing is done twice.
//!
//! A few seconds' worth runs by default; `RBUILD_SOAK_CASES` says how many cases (`make soak`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use solver::graph::{Edge, VertexId};
use solver::key::{self, Key};
use solver::op::Op;
use solver::run::{Solution, SolveError, Solver};
use solver::seam::Event;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::toys::{Awaits, Behaviour, Listener, MemoryCache, Sketch, ToyError, ToyExecutor, piece, worked};

/// No build of toys takes that long unless it waits for what never comes.
const DEADLOCK: Duration = Duration::from_secs(60);

/// One vertex on top of those before it; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
struct Step {
    kind: Kind,
    inputs: Vec<usize>,
    delay: usize,
    /// For so many turns of the runtime it waits for something else, without its place.
    away: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Run,
    RunTwofold,
    /// From the context.
    CopyFile(usize),
    /// From another step.
    Copy(usize),
    Merge,
}

/// What the world is like while some builds are under way.
#[derive(Clone, Debug)]
struct Round {
    /// What the two bases are pinned to and hold.
    bases: [(u8, u64); 2],
    /// What the files of the context say.
    files: [u8; 2],
    /// Of processes: a variable that decides what they make, and one that does not.
    variables: Vec<(usize, u8, u8)>,
    fails: Vec<usize>,
    ignores: Option<usize>,
    slow_cache: bool,
    builds: Vec<Build>,
}

#[derive(Clone, Debug)]
struct Build {
    wants: Vec<usize>,
    /// The numbers of places that it has, one after the other.
    places: Vec<usize>,
    /// After so many turns of the runtime the user gives up.
    cancelled: Option<usize>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        4 => Just(Kind::Run),
        1 => Just(Kind::RunTwofold),
        2 => (0..2usize).prop_map(Kind::CopyFile),
        2 => (0..4usize).prop_map(Kind::Copy),
        1 => Just(Kind::Merge),
    ];
    let away = prop_oneof![3 => Just(None), 1 => (0..12usize).prop_map(Some)];
    let step = (kind, proptest::collection::vec(0..1000usize, 1..4), 0..6usize, away);
    let step = step.prop_map(|(kind, inputs, delay, away)| Step { kind, inputs, delay, away });
    proptest::collection::vec(step, 1..18)
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let places = proptest::collection::vec(0..4usize, 1..4);
    let cancelled = prop_oneof![4 => Just(None), 1 => (0..60usize).prop_map(Some)];
    let build = (proptest::collection::vec(0..1000usize, 1..4), places, cancelled)
        .prop_map(|(wants, places, cancelled)| Build { wants, places, cancelled });
    let few = proptest::collection::vec(0..1000usize, 0..2);
    let round = (
        [(1..3u8, 1..3u64), (1..3u8, 1..3u64)],
        [0..2u8, 0..2u8],
        proptest::collection::vec((0..1000usize, 0..2u8, 0..2u8), 0..4),
        prop_oneof![3 => Just(Vec::new()), 1 => few],
        prop_oneof![5 => Just(None), 1 => (0..1000usize).prop_map(Some)],
        any::<bool>(),
        proptest::collection::vec(build, 1..4),
    );
    let round = round.prop_map(|(bases, files, variables, fails, ignores, slow_cache, builds)| {
        // A digest is one thing's: what is pinned to another digest may hold the same, never the other way round.
        let bases = bases.map(|(pin, holds)| (pin + 10 * holds as u8, holds));
        Round { bases, files, variables, fails, ignores, slow_cache, builds }
    });
    proptest::collection::vec(round, 1..5)
}

const BASES: [&str; 2] = ["docker-image://base0", "docker-image://base1"];
const CONTEXT: &str = "local://context";

/// The graph as it is written in this round, and the edges that may be wanted or stood upon.
fn sketch(steps: &[Step], variables: &HashMap<usize, (u8, u8)>, ignores: Option<usize>) -> (Sketch, Vec<String>) {
    let mut sketch = Sketch::default();
    sketch.source(BASES[0]).source(BASES[1]).source(CONTEXT);
    let mut edges: Vec<String> = BASES.iter().map(|base| (*base).to_owned()).collect();
    for (i, step) in steps.iter().enumerate() {
        let name = format!("step{i}");
        let mut seen = HashSet::new();
        let inputs = step.inputs.iter().map(|input| edges[input % edges.len()].as_str());
        let inputs: Vec<&str> = inputs.filter(|input| seen.insert(*input)).collect();
        let (result, noise) = variables.get(&i).copied().unwrap_or_default();
        let env = move |exec: &mut solver::op::ExecOp| {
            exec.env = [format!("RESULT={result}"), format!("NOISE={noise}")].into();
        };
        let ignored = ignores == Some(i);
        match step.kind {
            Kind::Run => {
                sketch.run_with(&name, &inputs, env, ignored);
            }
            Kind::RunTwofold => {
                sketch.run_twofold(&name, &inputs, env, ignored);
                edges.push(format!("{name}:1"));
            }
            Kind::CopyFile(file) => {
                sketch.copy(&name, &format!("/file{file}"), &[inputs[0], CONTEXT]);
            }
            Kind::Copy(part) => {
                let from = inputs[inputs.len() - 1];
                sketch.copy(&name, &format!("/part{part}"), &[inputs[0], from]);
            }
            Kind::Merge => {
                sketch.merge(&name, &inputs);
            }
        }
        edges.push(name);
    }
    (sketch, edges)
}

/// What an edge holds, by the book: everything beneath is evaluated first.
fn evaluate(sketch: &Sketch, edge: Edge, executor: &ToyExecutor, known: &mut HashMap<Edge, u64>) -> u64 {
    if let Some(held) = known.get(&edge) {
        return *held;
    }
    let vertex = sketch.graph.get(&edge.vertex).expect("in the graph");
    let held = match &vertex.op {
        Op::Source(source) => executor.pins.lock().unwrap()[source.reference()].1,
        op => {
            let mut read = Vec::new();
            for (i, input) in vertex.inputs.iter().enumerate() {
                let below = &sketch.graph.get(&input.vertex).expect("in the graph").op;
                if matches!(below, Op::Source(source) if source.scheme() == "local") {
                    let selected = key::selections(vertex, i);
                    read.extend(selected.iter().map(|selection| executor.file(&selection.path).expect("it is there")));
                } else {
                    let held = evaluate(sketch, *input, executor, known);
                    read.extend(key::reads(vertex, i).iter().map(|read| piece(held, read)));
                }
            }
            worked(op, edge.output, &read)
        }
    };
    known.insert(edge, held);
    held
}

/// All that stands on a vertex.
fn above(sketch: &Sketch, id: VertexId) -> HashSet<VertexId> {
    let mut above = HashSet::from([id]);
    for (user, vertex, _) in sketch.graph.iter() {
        if vertex.inputs.iter().any(|input| above.contains(&input.vertex)) {
            above.insert(user);
        }
    }
    above.remove(&id);
    above
}

struct Ended {
    solution: Result<Solution, SolveError<ToyError, ToyError>>,
    events: Vec<Event>,
}

async fn build(
    executor: Arc<ToyExecutor>,
    cache: Arc<MemoryCache>,
    graph: Arc<solver::graph::Graph>,
    wants: Vec<Edge>,
    build: Build,
) -> Ended {
    let listener = Arc::new(Listener::default());
    let (places, jobs) = watch::channel(build.places[0]);
    let stop = CancellationToken::new();
    let solver = Solver { executor, cache, progress: listener.clone(), jobs };
    let user = async {
        for turn in 0.. {
            tokio::task::yield_now().await;
            if build.cancelled == Some(turn) {
                stop.cancel();
            }
            if let Some(number) = build.places.get(1 + turn / 8) {
                places.send_replace(*number);
            } else if build.cancelled.is_none_or(|at| at < turn) {
                return std::future::pending().await;
            }
        }
    };
    let solution = tokio::select! {
        solution = tokio::time::timeout(DEADLOCK, solver.solve(graph, &wants, &stop)) => solution.expect("no deadlock"),
        () = user => unreachable!("the user goes on"),
    };
    let events = std::mem::take(&mut *listener.events.lock().unwrap());
    Ended { solution, events }
}

/// What lasts from round to round.
struct Life {
    steps: Vec<Step>,
    executor: ToyExecutor,
    cache: Arc<MemoryCache>,
    variables: HashMap<usize, (u8, u8)>,
    /// Operations with what they read, of builds that ended well.
    seen: HashSet<(Key, Vec<u64>)>,
    runtime: tokio::runtime::Runtime,
}

impl Life {
    fn new(steps: Vec<Step>, threads: usize) -> Self {
        let mut executor = ToyExecutor::default();
        executor.delays = steps.iter().enumerate().map(|(i, step)| (format!("step{i}"), step.delay)).collect();
        let away =
            steps.iter().enumerate().filter_map(|(i, step)| Some((format!("step{i}"), Awaits::Turns(step.away?))));
        executor.awaits = away.collect();
        let runtime = match threads {
            0 => tokio::runtime::Builder::new_current_thread().enable_time().build(),
            threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_time().build(),
        };
        Self {
            steps,
            executor,
            cache: Arc::default(),
            variables: HashMap::new(),
            seen: HashSet::new(),
            runtime: runtime.expect("a runtime"),
        }
    }

    fn live(&mut self, round: &Round) {
        for (base, pin) in BASES.iter().zip(round.bases) {
            self.executor.pins.lock().unwrap().insert(base.split_once("://").unwrap().1.into(), pin);
        }
        for (i, says) in round.files.iter().enumerate() {
            self.executor.files.lock().unwrap().insert(format!("/file{i}"), says.to_string());
        }
        for (step, result, noise) in &round.variables {
            self.variables.insert(step % self.steps.len(), (*result, *noise));
        }
        let failing = round.fails.iter().map(|step| (format!("step{}", step % self.steps.len()), Behaviour::Fail));
        self.executor.behaviour = failing.collect();
        Arc::get_mut(&mut self.cache).expect("no build outlives its round").slow = round.slow_cache;
        let ignores = round.ignores.map(|step| step % self.steps.len());
        let (sketch, edges) = sketch(&self.steps, &self.variables, ignores);

        let executor = Arc::new(std::mem::take(&mut self.executor));
        let graph = Arc::new(sketch.graph.clone());
        let wants = |build: &Build| -> Vec<Edge> {
            build.wants.iter().map(|want| sketch.edge(&edges[want % edges.len()])).collect()
        };
        let builds = round.builds.iter().map(|each| {
            self.runtime.spawn(build(executor.clone(), self.cache.clone(), graph.clone(), wants(each), each.clone()))
        });
        let builds: Vec<_> = builds.collect();
        let ended: Vec<Ended> = self.runtime.block_on(async {
            let mut ended = Vec::new();
            for build in builds {
                ended.push(build.await.expect("no panic"));
            }
            ended
        });
        self.executor = Arc::into_inner(executor).expect("no task outlives its build");
        let places: usize = round.builds.iter().map(|each| each.places.iter().map(|n| *n.max(&1)).max().unwrap()).sum();
        let most = self.executor.most.swap(0, std::sync::atomic::Ordering::SeqCst);
        assert!(most <= places, "{most} processes on {places} places");

        for (each, ended) in round.builds.iter().zip(&ended) {
            self.judge(&sketch, &wants(each), each, ended);
        }
        self.judge_work(&sketch, &ended);
    }

    /// One build: its results are what the evaluator says, its failure is one that was due, nothing stands on it.
    fn judge(&self, sketch: &Sketch, wants: &[Edge], build: &Build, ended: &Ended) {
        let mut known = HashMap::new();
        match &ended.solution {
            Ok(solution) => {
                assert_eq!(solution.results.keys().copied().collect::<HashSet<_>>(), wants.iter().copied().collect());
                for want in wants {
                    let held = self.executor.held.lock().unwrap()[&solution.results[want]];
                    assert_eq!(held, evaluate(sketch, *want, &self.executor, &mut known), "{want:?}");
                }
            }
            Err(SolveError::Failed { vertex, .. }) => {
                let name = &sketch.graph.meta(vertex).expect("in the graph").description;
                assert!(self.executor.behaviour.contains_key(name), "{name} was not to fail");
                let failed = Event::Failed { vertex: *vertex, error: format!("{name} failed") };
                let first = ended.events.iter().find(|event| matches!(event, Event::Failed { .. }));
                assert_eq!(first, Some(&failed), "the first failure is the one that is returned");
                for event in &ended.events {
                    if let Event::Started(started) = event {
                        assert!(!above(sketch, *vertex).contains(started), "what stands on a failure is not run");
                    }
                }
            }
            Err(SolveError::Canceled) => assert!(build.cancelled.is_some(), "nobody gave up"),
            Err(error) => panic!("{error}"),
        }
        self.judge_events(&ended.events);
    }

    /// Every vertex that starts ends, and nothing is told of one that has ended.
    fn judge_events(&self, events: &[Event]) {
        let mut over = HashSet::new();
        let mut started = HashSet::new();
        for event in events {
            match event {
                Event::Started(id) => {
                    assert!(!over.contains(id), "{event:?} after its end");
                    started.insert(*id);
                }
                Event::Missed(id) | Event::Unchanged(id) => assert!(!over.contains(id), "{event:?} after its end"),
                Event::Cached { vertex: id, .. } => {
                    assert!(over.insert(*id) && !started.contains(id), "{event:?}, but it ran or was told before");
                }
                // A question about a vertex may fail before it starts, and a merge that is not worth telling.
                Event::Failed { vertex, .. } => assert!(over.insert(*vertex), "{event:?} twice"),
                Event::Done(id) | Event::Canceled(id) => {
                    assert!(started.contains(id) && over.insert(*id), "{event:?} without a beginning, or twice");
                }
                _ => {}
            }
        }
        assert!(started.iter().all(|id| over.contains(id)), "what started ends");
    }

    /// All builds of a round: each key was run once, and nothing that was run on the same content before.
    fn judge_work(&mut self, sketch: &Sketch, ended: &[Ended]) {
        let keys: HashMap<VertexId, Key> = ended
            .iter()
            .flat_map(|ended| &ended.events)
            .filter_map(|event| match event {
                Event::Keyed { vertex, key, .. } => Some((*vertex, *key)),
                _ => None,
            })
            .collect();
        let anew: HashSet<VertexId> = sketch
            .graph
            .iter()
            .filter(|(.., meta)| meta.ignore_cache)
            .flat_map(|(id, ..)| above(sketch, id).into_iter().chain([id]))
            .collect();
        let worked = std::mem::take(&mut *self.executor.ended.lock().unwrap());
        self.executor.ran.lock().unwrap().clear();
        let mut once = HashSet::new();
        let well = ended.iter().all(|ended| ended.solution.is_ok());
        let mut seen = Vec::new();
        for work in worked {
            let Some(key) = keys.get(&work.vertex) else { continue };
            if !anew.contains(&work.vertex) {
                let name = &sketch.graph.meta(&work.vertex).expect("in the graph").description;
                assert!(once.insert(*key), "{name} ran twice under one key");
                let is_source = matches!(sketch.graph.get(&work.vertex).map(|vertex| &vertex.op), Some(Op::Source(_)));
                let before = self.seen.contains(&(work.operation, work.read.clone()));
                assert!(is_source || !before, "{name} ran on what it had run on before");
            }
            seen.push((work.operation, work.read));
        }
        if well {
            self.seen.extend(seen);
        }
    }
}

fn cases() -> u32 {
    const IN_A_FEW_SECONDS: u32 = 300;
    let asked = std::env::var("RBUILD_SOAK_CASES").ok();
    asked.map_or(IN_A_FEW_SECONDS, |cases| cases.parse().expect("`RBUILD_SOAK_CASES` is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_results_are_right_and_nothing_is_done_twice(
        steps in steps(),
        rounds in rounds(),
        threads in 0..3usize,
    ) {
        let mut life = Life::new(steps, threads);
        for round in &rounds {
            life.live(round);
        }
    }
}
