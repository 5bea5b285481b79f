//! The solver against toys: what runs, what does not, in which order, and how it ends.

extern crate rbuild_solver as solver;

mod flights;
mod keys;
mod linear;
mod order;
mod random;
mod reuse;
mod shape;
mod toys;

use std::sync::Arc;

use solver::run::{Solution, SolveError, Solver, always};
use solver::seam::Event;
use tokio_util::sync::CancellationToken;
use toys::{Listener, MemoryCache, Sketch, ToyError, ToyExecutor};

/// A small world in which builds happen one after the other, on one cache.
struct World {
    executor: ToyExecutor,
    cache: Arc<MemoryCache>,
    listener: Arc<Listener>,
}

struct Outcome {
    solution: Result<Solution, SolveError<ToyError, ToyError>>,
    ran: Vec<String>,
    events: Vec<Event>,
    most: usize,
}

impl World {
    fn new() -> Self {
        let world = Self { executor: ToyExecutor::default(), cache: Arc::default(), listener: Arc::default() };
        world.publish("base", 1);
        world.write("/app", "v1");
        world
    }

    fn publish(&self, image: &str, digest: u8) {
        self.executor.pins.lock().unwrap().insert(image.into(), (digest, digest.into()));
    }

    fn write(&self, path: &str, text: &str) {
        self.executor.files.lock().unwrap().insert(path.into(), text.into());
    }

    fn build(&mut self, sketch: &Sketch, wants: &[&str], jobs: usize) -> Outcome {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(self.build_until(sketch, wants, jobs, CancellationToken::new()))
    }

    async fn build_until(&mut self, sketch: &Sketch, wants: &[&str], jobs: usize, stop: CancellationToken) -> Outcome {
        let executor = Arc::new(std::mem::take(&mut self.executor));
        let listener = self.listener.clone();
        let solver = Solver {
            executor: executor.clone(),
            cache: self.cache.clone(),
            progress: listener.clone(),
            jobs: always(jobs),
        };
        let wants: Vec<_> = wants.iter().map(|want| sketch.edge(want)).collect();
        let solution = solver.solve(Arc::new(sketch.graph.clone()), &wants, &stop).await;
        drop(solver);
        self.executor = Arc::into_inner(executor).expect("no task outlives its build");
        let ran = std::mem::take(&mut *self.executor.ran.lock().unwrap());
        let events = std::mem::take(&mut *listener.events.lock().unwrap());
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
