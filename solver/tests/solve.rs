//! The solver against toys: what runs, what does not, in which order, and how it ends.

extern crate rbuild_solver as solver;

mod toys;

use std::sync::Arc;

use proptest::prelude::*;
use solver::op::NetworkMode;
use solver::run::{Solution, SolveError, Solver};
use solver::seam::Event;
use tokio_util::sync::CancellationToken;
use toys::{Behaviour, Listener, MemoryCache, Sketch, ToyError, ToyExecutor};

/// A small world in which builds happen one after the other, on one cache.
struct World {
    executor: ToyExecutor,
    cache: Arc<MemoryCache>,
}

struct Outcome {
    solution: Result<Solution, SolveError<ToyError, ToyError>>,
    ran: Vec<String>,
    events: Vec<Event>,
    most: usize,
}

impl World {
    fn new() -> Self {
        let world = Self { executor: ToyExecutor::default(), cache: Arc::default() };
        world.publish("base", 1);
        world.write("/app", "v1");
        world
    }

    fn publish(&self, image: &str, digest: u8) {
        self.executor.pins.lock().unwrap().insert(image.into(), digest);
    }

    fn write(&self, path: &str, text: &str) {
        self.executor.files.lock().unwrap().insert(path.into(), text.into());
    }

    fn build(&mut self, sketch: &Sketch, wants: &[&str], jobs: usize) -> Outcome {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(self.build_until(sketch, wants, jobs, CancellationToken::new()))
    }

    async fn build_until(&mut self, sketch: &Sketch, wants: &[&str], jobs: usize, stop: CancellationToken) -> Outcome {
        let executor = Arc::new(std::mem::take(&mut self.executor));
        let listener = Arc::new(Listener::default());
        let solver = Solver { executor: executor.clone(), cache: self.cache.clone(), progress: listener.clone(), jobs };
        let wants: Vec<_> = wants.iter().map(|want| sketch.edge(want)).collect();
        let solution = solver.solve(Arc::new(sketch.graph.clone()), &wants, &stop).await;
        drop(solver);
        self.executor = Arc::into_inner(executor).expect("no task outlives its build");
        let ran = std::mem::take(&mut *self.executor.ran.lock().unwrap());
        let events = std::mem::take(&mut *listener.0.lock().unwrap());
        let most = self.executor.most.swap(0, std::sync::atomic::Ordering::SeqCst);
        Outcome { solution, ran, events, most }
    }
}

fn chain() -> Sketch {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base").source("local://context");
    sketch.run("install", &["docker-image://base"]);
    sketch.copy("copy", "/app", &["install", "local://context"]);
    sketch.run("make", &["copy"]);
    sketch
}

#[test]
fn a_second_build_runs_nothing() {
    let mut world = World::new();
    let first = world.build(&chain(), &["make"], 4);
    let mut ran = first.ran;
    ran.sort();
    assert_eq!(ran, ["copy", "docker-image://base", "install", "local://context", "make"]);
    let second = world.build(&chain(), &["make"], 4);
    assert_eq!(second.ran, Vec::<String>::new());
    let solution = second.solution.unwrap();
    assert_eq!((solution.ran, solution.cached), (0, 3));
    let cached = second.events.iter().filter(|event| matches!(event, Event::Cached { .. })).count();
    assert_eq!(cached, 4, "every step and the base are shown as cached");
}

#[test]
fn what_changes_runs_again_with_all_that_stands_on_it() {
    type Change = fn(&World);
    let cases: &[(&str, Change, &[&str])] = &[
        ("nothing", |_| {}, &[]),
        ("file content", |world| world.write("/app", "v2"), &["copy", "make"]),
        ("unrelated file", |world| world.write("/other", "x"), &[]),
        ("base digest", |world| world.publish("base", 2), &["install", "copy", "make"]),
    ];
    for (what, change, expected) in cases {
        let mut world = World::new();
        world.build(&chain(), &["make"], 4).solution.unwrap();
        change(&world);
        let again = world.build(&chain(), &["make"], 4);
        again.solution.unwrap();
        let steps: Vec<_> = again.ran.iter().filter(|name| !name.contains("://")).map(String::as_str).collect();
        assert_eq!(steps, *expected, "after a change of {what}");
    }
}

#[test]
fn every_field_of_a_process_is_in_its_key_but_proxies() {
    type Change = fn(&mut solver::op::ExecOp);
    let cases: &[(&str, Change, bool)] = &[
        ("args", |exec| exec.args.push("x".into()), true),
        ("env", |exec| exec.env = ["A=1".into()].into(), true),
        ("cwd", |exec| exec.cwd = "/src".into(), true),
        ("user", |exec| exec.user = "nobody".into(), true),
        ("network", |exec| exec.network = NetworkMode::None, true),
        ("hostname", |exec| exec.hostname = "h".into(), true),
        ("shm", |exec| exec.shm_size_bytes = 1, true),
        ("hosts", |exec| exec.extra_hosts.push(("a".into(), "1.2.3.4".into())), true),
        ("ulimits", |exec| exec.ulimits.push(("nofile".into(), 1, 2)), true),
        ("mount target", |exec| exec.mounts[0].readonly = true, true),
        ("exit codes", |exec| exec.valid_exit_codes.push(3), true),
        ("proxy", |exec| exec.proxy_env.push("HTTP_PROXY=x".into()), false),
    ];
    for (what, change, runs) in cases {
        let mut world = World::new();
        let sketch = |change: Change| {
            let mut sketch = Sketch::default();
            sketch.source("docker-image://base").run_with("step", &["docker-image://base"], change, false);
            sketch
        };
        world.build(&sketch(|_| {}), &["step"], 1).solution.unwrap();
        let again = world.build(&sketch(*change), &["step"], 1);
        assert_eq!(again.ran.contains(&"step".to_owned()), *runs, "after a change of {what}");
    }
}

#[test]
fn only_what_the_wants_stand_on_takes_part() {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base").source("docker-image://absent");
    sketch.run("wanted", &["docker-image://base"]).run("unwanted", &["docker-image://absent"]);
    let outcome = World::new().build(&sketch, &["wanted"], 4);
    outcome.solution.unwrap();
    assert!(!outcome.ran.contains(&"unwanted".to_owned()));
}

#[test]
fn ignore_cache_runs_the_step_and_what_stands_on_it_but_not_what_is_beneath_or_beside() {
    let mut world = World::new();
    let sketch = |ignore| {
        let mut sketch = Sketch::default();
        sketch.source("docker-image://base").run("below", &["docker-image://base"]);
        sketch.run_with("step", &["below"], |_| {}, ignore).run("beside", &["below"]);
        sketch.run("above", &["step", "beside"]);
        sketch
    };
    world.build(&sketch(false), &["above"], 1).solution.unwrap();
    let again = world.build(&sketch(true), &["above"], 1);
    assert_eq!(again.ran, ["step", "above"]);
}

#[test]
fn a_missing_file_fails_before_anything_runs() {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base").source("local://context");
    sketch.run("slow", &["docker-image://base"]).copy("copy", "/absent", &["slow", "local://context"]);
    let outcome = World::new().build(&sketch, &["copy"], 4);
    match outcome.solution {
        Err(SolveError::Failed { vertex, source }) => {
            assert_eq!(vertex, sketch.edge("copy").vertex);
            assert_eq!(source.to_string(), "/absent is not there");
        }
        other => panic!("expected a failure, got {other:?}"),
    }
    assert!(!outcome.ran.contains(&"slow".to_owned()));
}

#[test]
fn the_first_failure_stops_the_rest_and_is_named() {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base");
    sketch.run("hangs", &["docker-image://base"]).run("fails", &["docker-image://base"]);
    sketch.run("top", &["hangs", "fails"]);
    let mut world = World::new();
    world.executor.behaviour.insert("hangs".into(), Behaviour::Hang);
    world.executor.behaviour.insert("fails".into(), Behaviour::Fail);
    let outcome = world.build(&sketch, &["top"], 4);
    match outcome.solution {
        Err(SolveError::Failed { vertex, .. }) => assert_eq!(vertex, sketch.edge("fails").vertex),
        other => panic!("expected a failure, got {other:?}"),
    }
    assert!(!outcome.ran.contains(&"top".to_owned()));
    assert!(outcome.events.contains(&Event::Canceled(sketch.edge("hangs").vertex)));
}

#[test]
fn cancelling_ends_a_build_that_hangs() {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base").run("hangs", &["docker-image://base"]);
    let mut world = World::new();
    world.executor.behaviour.insert("hangs".into(), Behaviour::Hang);
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let outcome = runtime.block_on(async {
        stop.cancel();
        world.build_until(&sketch, &["hangs"], 1, stop).await
    });
    assert!(matches!(outcome.solution, Err(SolveError::Canceled)));
}

#[test]
fn at_most_so_many_processes_at_a_time() {
    for jobs in [1, 2, 5] {
        let mut sketch = Sketch::default();
        sketch.source("docker-image://base");
        let names: Vec<String> = (0..12).map(|i| format!("step{i}")).collect();
        for name in &names {
            sketch.run(name, &["docker-image://base"]);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        sketch.run("all", &names);
        let outcome = World::new().build(&sketch, &["all"], jobs);
        outcome.solution.unwrap();
        assert!(outcome.most <= jobs, "{} at a time with --jobs {jobs}", outcome.most);
    }
}

#[test]
fn the_longest_way_goes_first() {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base");
    sketch.run("short", &["docker-image://base"]).run("long1", &["docker-image://base"]);
    sketch.run("long2", &["long1"]).run("long3", &["long2"]).run("top", &["short", "long3"]);
    let outcome = World::new().build(&sketch, &["top"], 1);
    outcome.solution.unwrap();
    let at = |name: &str| outcome.ran.iter().position(|ran| ran == name).unwrap();
    assert!(at("long1") < at("short"), "{:?}", outcome.ran);
}

#[test]
fn ten_thousand_steps_in_a_row_do_not_exhaust_the_stack() {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base");
    let mut below = "docker-image://base".to_owned();
    for i in 0..10_000 {
        let name = format!("step{i}");
        sketch.run_with(&name, &[&below], |_| {}, true);
        below = name;
    }
    let outcome = World::new().build(&sketch, &[&below], 1);
    assert_eq!(outcome.solution.unwrap().ran, 10_000);
}

/// A random graph: for every step the steps it stands on, and what it does.
fn random_graph() -> impl Strategy<Value = Vec<(Vec<usize>, u8)>> {
    proptest::collection::vec((proptest::collection::vec(0..1000usize, 1..4), 0u8..20), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// No deadlock, each step at most once, nothing on top of a failure, and every result is made before it is used
    /// (the toy checks that).
    #[test]
    fn any_graph_ends(steps in random_graph(), jobs in 1usize..4) {
        let mut world = World::new();
        let mut sketch = Sketch::default();
        sketch.source("docker-image://base");
        let mut names = vec!["docker-image://base".to_owned()];
        let mut failing = false;
        for (i, (inputs, behaviour)) in steps.iter().enumerate() {
            let name = format!("step{i}");
            let mut inputs: Vec<&str> = inputs.iter().map(|input| names[input % names.len()].as_str()).collect();
            inputs.dedup();
            sketch.run(&name, &inputs);
            if *behaviour == 0 {
                world.executor.behaviour.insert(name.clone(), Behaviour::Fail);
                failing = true;
            }
            names.push(name);
        }
        let wants: Vec<&str> = names.iter().map(String::as_str).collect();
        let outcome = world.build(&sketch, &wants, jobs);
        let mut once = outcome.ran.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), outcome.ran.len(), "a step ran twice");
        prop_assert_eq!(outcome.solution.is_err(), failing);
        if !failing {
            let again = world.build(&sketch, &wants, jobs);
            prop_assert!(again.ran.is_empty(), "ran again: {:?}", again.ran);
        }
    }
}

/// The same graph as petgraph has it; node weights are positions in [`solver::graph::Graph::iter`].
fn as_petgraph(graph: &solver::graph::Graph) -> petgraph::graph::DiGraph<solver::graph::VertexId, ()> {
    let mut other = petgraph::graph::DiGraph::new();
    let nodes: std::collections::HashMap<_, _> = graph.iter().map(|(id, ..)| (id, other.add_node(id))).collect();
    for (id, vertex, _) in graph.iter() {
        for input in &vertex.inputs {
            other.update_edge(nodes[&input.vertex], nodes[&id], ());
        }
    }
    other
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// petgraph sees no cycle, the same vertices beneath a want, and each of them after its inputs.
    #[test]
    fn the_order_is_topological_and_holds_what_is_reachable(steps in random_graph()) {
        let mut sketch = Sketch::default();
        sketch.source("docker-image://base");
        let mut names = vec!["docker-image://base".to_owned()];
        for (i, (inputs, _)) in steps.iter().enumerate() {
            let mut inputs: Vec<&str> = inputs.iter().map(|input| names[input % names.len()].as_str()).collect();
            inputs.dedup();
            let name = format!("step{i}");
            sketch.run(&name, &inputs);
            names.push(name);
        }
        let want = sketch.edge(names.last().unwrap());
        let schedule = solver::schedule::Schedule::new(Arc::new(sketch.graph.clone()), &[want], 1);
        let other = as_petgraph(&sketch.graph);
        prop_assert!(!petgraph::algo::is_cyclic_directed(&other));
        let wanted = other.node_indices().find(|node| other[*node] == want.vertex).unwrap();
        let reversed = petgraph::visit::Reversed(&other);
        let mut walk = petgraph::visit::Dfs::new(reversed, wanted);
        let mut reachable = std::collections::HashSet::new();
        while let Some(node) = walk.next(reversed) {
            reachable.insert(other[node]);
        }
        let position: std::collections::HashMap<_, _> =
            schedule.order().iter().enumerate().map(|(position, id)| (*id, position)).collect();
        prop_assert_eq!(position.keys().copied().collect::<std::collections::HashSet<_>>(), reachable);
        for edge in other.edge_indices() {
            let (from, to) = other.edge_endpoints(edge).unwrap();
            if let (Some(from), Some(to)) = (position.get(&other[from]), position.get(&other[to])) {
                prop_assert!(from < to, "an input comes after its user");
            }
        }
    }
}
