//! Builds at the same time on one cache: who claims a key runs it, the others wait and find it.

use solver::run::SolveError;
use solver::seam::{Event, Hit};
use tokio_util::sync::CancellationToken;

use crate::World;
use crate::toys::Sketch;

fn one_step() -> Sketch {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base").run("step", &["docker-image://base"]).run("beside", &["docker-image://base"]);
    sketch.run("top", &["step", "beside"]);
    sketch
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// The key of `step`, and a world that has seen its image.
fn claimed() -> (World, solver::key::Key) {
    let mut world = World::new();
    let sketch = one_step();
    let events = world.build(&sketch, &["top"], 1).events;
    let step = sketch.edge("step").vertex;
    let key = events.iter().find_map(|event| match event {
        Event::Keyed { vertex, key, .. } if *vertex == step => Some(*key),
        _ => None,
    });
    let fresh = World::new();
    (fresh, key.expect("every step has a key"))
}

#[test]
fn what_another_build_runs_is_waited_for_and_found() {
    let (mut world, key) = claimed();
    let (cache, listener) = (world.cache.clone(), world.listener.clone());
    let flight = cache.fly(&key).expect("nobody has it");
    let sketch = one_step();
    let outcome = runtime().block_on(async {
        let other = async {
            listener.noticed.notified().await;
            let results = world_results(&cache);
            cache.keys.lock().unwrap().insert(key, (solver::seam::KeyKind::Definition, results));
            drop(flight);
        };
        // One place: a step that waits for another build does not take it.
        let build = world.build_until(&sketch, &["top"], 1, CancellationToken::new());
        tokio::join!(build, other).0
    });
    outcome.solution.unwrap();
    assert_eq!(outcome.ran, ["docker-image://base", "beside", "top"]);
    let step = sketch.edge("step").vertex;
    assert!(outcome.events.contains(&Event::Cached { vertex: step, by: Hit::Flight }));
    let text = "waits for another build that runs the same step".into();
    assert!(outcome.events.contains(&Event::Notice { vertex: step, text }), "after a second the user is told");
    assert!(!outcome.events.contains(&Event::Missed(step)));
}

/// Any results that exist: those of the other step.
fn world_results(cache: &crate::toys::MemoryCache) -> Vec<solver::seam::ResultId> {
    let keys = cache.keys.lock().unwrap();
    keys.values().map(|(_, results)| results.clone()).find(|results| results[0].as_str().starts_with("beside")).unwrap()
}

#[test]
fn a_claim_that_comes_back_empty_is_taken_over() {
    let (mut world, key) = claimed();
    let cache = world.cache.clone();
    let flight = cache.fly(&key).expect("nobody has it");
    let sketch = one_step();
    let outcome = runtime().block_on(async {
        let build = world.build_until(&sketch, &["top"], 1, CancellationToken::new());
        let other = async {
            cache.is_awaited().await;
            drop(flight);
        };
        tokio::join!(build, other).0
    });
    assert_eq!(outcome.ran, ["docker-image://base", "beside", "step", "top"]);
    let notices = outcome.events.iter().filter(|event| matches!(event, Event::Notice { .. }));
    assert_eq!(notices.count(), 0, "it did not take long");
    assert!(world.cache.fly(&key).is_some(), "the claim is given back");
}

#[test]
fn waiting_for_another_build_ends_with_the_build() {
    let (mut world, key) = claimed();
    let cache = world.cache.clone();
    let _flight = cache.fly(&key).expect("nobody has it");
    let sketch = one_step();
    let outcome = runtime().block_on(async {
        let stop = CancellationToken::new();
        let build = world.build_until(&sketch, &["top"], 1, stop.clone());
        let user = async {
            cache.is_awaited().await;
            stop.cancel();
        };
        tokio::join!(build, user).0
    });
    assert!(matches!(outcome.solution, Err(SolveError::Canceled)));
}

#[test]
fn no_cache_waits_for_nobody() {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base").run_with("step", &["docker-image://base"], |_| {}, true);
    let mut world = World::new();
    world.build(&sketch, &["step"], 1).solution.unwrap();
    let keys: Vec<_> = world.cache.keys.lock().unwrap().keys().copied().collect();
    let _flights: Vec<_> = keys.iter().map(|key| world.cache.fly(key).expect("nobody has it")).collect();
    let outcome = world.build(&sketch, &["step"], 1);
    assert_eq!(outcome.ran, ["step"]);
}
