//! What solving costs when nothing else costs anything: graphs of 1,000 vertices, every question answered at once.
//!
//! `cargo bench -p rbuild-solver --bench schedule` prints; with `-- --enforce` a row over [`TIME_MAX`] is an error
//! (`make soak`). That the work is linear in the graph is held by `tests/solve/linear.rs`, without a clock.

extern crate rbuild_solver as solver;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use solver::graph::{Edge, Graph, Vertex, VertexId};
use solver::key::{ContentDigest, Key};
use solver::op::{ContentCache, ExecOp, Mount, MountKind, Op, OpMeta, SourceOp};
use solver::run::{Solver, always};
use solver::seam::{CacheStore, Event, Executor, Job, LogSink, Pin, Progress, Read, Record, ResultId, Selection};
use tokio_util::sync::CancellationToken;

const VERTICES: usize = 1_000;
const TIME_MAX: Duration = Duration::from_millis(50);
/// The best of so many counts: the machine does other things too.
const RUNS: usize = 10;
/// A step has as many variables as in a usual image.
const VARIABLES: usize = 12;

/// What comes beneath a step, by its number.
type Shape = fn(usize) -> Vec<usize>;
const SHAPES: [(&str, Shape); 3] = [
    ("in a row", |step| vec![step - 1]),
    ("side by side", |_| vec![0]),
    // Stages of 20 steps, each copying from the one before.
    ("stages", |step| if step % 20 == 1 { vec![0, step - 1] } else { vec![step - 1] }),
];

fn main() -> ExitCode {
    let enforce = std::env::args().any(|argument| argument == "--enforce");
    println!("{:<14} {:>12} {:>12} {:>12} {:>12}", "1,000 steps", "unknown", "known", "content", "no cache");
    let mut well = true;
    for (name, shape) in SHAPES {
        let times = measure(shape);
        let shown = times.map(|time| format!("{:.1} ms", time.as_secs_f64() * 1e3));
        println!("{name:<14} {:>12} {:>12} {:>12} {:>12}", shown[0], shown[1], shown[2], shown[3]);
        well &= times.iter().all(|time| *time <= TIME_MAX);
    }
    if !well {
        println!("more than {TIME_MAX:?}");
    }
    if enforce && !well { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Nothing is known; everything is; the base has moved without changing; nothing may be looked up.
fn measure(shape: Shape) -> [Duration; 4] {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("a runtime");
    let mut best = [Duration::MAX; 4];
    for _ in 0..RUNS {
        let (executor, cache) = (Arc::new(Instantly::default()), Arc::new(Memory::default()));
        for (i, best) in best.iter_mut().enumerate() {
            if i == 2 {
                executor.pin.store(1, Ordering::Relaxed);
            }
            let (graph, wants) = graph(shape, i == 3);
            let progress = Arc::new(Deaf);
            let solver = Solver { executor: executor.clone(), cache: cache.clone(), progress, jobs: always(16) };
            let begun = Instant::now();
            let stop = CancellationToken::new();
            let solution = runtime.block_on(solver.solve(Arc::new(graph), &wants, &stop)).expect("nothing fails");
            *best = (*best).min(begun.elapsed());
            let expected = if i == 0 || i == 3 { (VERTICES, 0) } else { (0, VERTICES) };
            assert_eq!((solution.ran, solution.cached), expected);
        }
    }
    best
}

fn graph(shape: Shape, ignore_cache: bool) -> (Graph, Vec<Edge>) {
    let mut graph = Graph::new();
    let source = SourceOp { identifier: "docker-image://base".into(), attrs: BTreeMap::new() };
    let mut add = |op: Op, inputs: &[VertexId]| {
        let inputs = inputs.iter().map(|vertex| Edge { vertex: *vertex, output: 0 }).collect();
        let meta = OpMeta { description: "a step".into(), ignore_cache, ..OpMeta::default() };
        graph.add(Vertex { op, inputs, platform: None }, meta).expect("a graph")
    };
    let mut ids = vec![add(Op::Source(source), &[])];
    let env: Arc<[String]> = (0..VARIABLES).map(|i| format!("VARIABLE_{i}=a value of usual length")).collect();
    for step in 1..=VERTICES {
        let beneath: Vec<VertexId> = shape(step).iter().map(|step| ids[*step]).collect();
        ids.push(add(Op::Exec(Box::new(process(step, beneath.len(), env.clone()))), &beneath));
    }
    let wants = ids[1..].iter().map(|vertex| Edge { vertex: *vertex, output: 0 }).collect();
    (graph, wants)
}

fn process(step: usize, inputs: usize, env: Arc<[String]>) -> ExecOp {
    let mount = |i: usize| Mount {
        target: if i == 0 { "/".into() } else { format!("/in{i}") },
        input: Some(i),
        selector: String::new(),
        output: (i == 0).then_some(0),
        readonly: i > 0,
        kind: MountKind::Bind,
        content_cache: ContentCache::Default,
    };
    ExecOp {
        args: vec!["/bin/sh".into(), "-c".into(), format!("make step-{step}")],
        env,
        proxy_env: Vec::new(),
        cwd: "/".into(),
        user: String::new(),
        mounts: (0..inputs).map(mount).collect(),
        network: Default::default(),
        security: Default::default(),
        secret_env: Vec::new(),
        extra_hosts: Vec::new(),
        hostname: String::new(),
        ulimits: Vec::new(),
        shm_size_bytes: 0,
        cgroup_parent: String::new(),
        valid_exit_codes: Vec::new(),
        devices: Vec::new(),
    }
}

/// Does nothing, at once.
#[derive(Default)]
struct Instantly {
    pin: AtomicU8,
}

fn no_content(of: &str) -> ContentDigest {
    let mut bytes = [0; 32];
    let end = of.len().min(32);
    bytes[..end].copy_from_slice(&of.as_bytes()[..end]);
    ContentDigest(bytes)
}

impl Executor for Instantly {
    type Error = Infallible;

    async fn pin(&self, _: &SourceOp, _: &dyn LogSink, _: &CancellationToken) -> Result<Pin, Infallible> {
        Ok(Pin::Content(ContentDigest([self.pin.load(Ordering::Relaxed); 32])))
    }

    async fn digest_selected(
        &self,
        _: &SourceOp,
        _: &Selection,
        _: &CancellationToken,
    ) -> Result<ContentDigest, Infallible> {
        Ok(ContentDigest([0; 32]))
    }

    async fn content(
        &self,
        result: &ResultId,
        _: &Read,
        _: &CancellationToken,
    ) -> Result<Option<ContentDigest>, Infallible> {
        Ok(Some(no_content(result.as_str())))
    }

    async fn run(&self, job: Job<'_>, _: &dyn LogSink, _: &CancellationToken) -> Result<Vec<ResultId>, Infallible> {
        let name = match &job.vertex.op {
            Op::Exec(exec) => exec.args[2].clone(),
            _ => "base".to_owned(),
        };
        Ok(vec![ResultId(name)])
    }
}

#[derive(Default)]
struct Memory {
    keys: Mutex<HashMap<Key, Vec<ResultId>>>,
    operations: Mutex<HashMap<Key, Vec<Vec<ResultId>>>>,
}

impl CacheStore for Memory {
    type Error = Infallible;
    type Flight = ();

    async fn find(&self, key: &Key) -> Result<Option<Vec<ResultId>>, Infallible> {
        Ok(self.keys.lock().expect("no panic").get(key).cloned())
    }

    fn of_operation(&self, operation: &Key) -> Result<Vec<Vec<ResultId>>, Infallible> {
        Ok(self.operations.lock().expect("no panic").get(operation).cloned().unwrap_or_default())
    }

    fn record(&self, key: &Key, record: &Record<'_>) -> Result<(), Infallible> {
        self.keys.lock().expect("no panic").insert(*key, record.results.to_vec());
        self.operations.lock().expect("no panic").insert(record.operation, vec![record.results.to_vec()]);
        Ok(())
    }

    fn try_claim(&self, _: &Key) -> Result<Option<()>, Infallible> {
        Ok(Some(()))
    }

    async fn claim(&self, _: &Key) -> Result<(), Infallible> {
        Ok(())
    }
}

struct Deaf;

impl Progress for Deaf {
    fn event(&self, _: Event) {}
}
