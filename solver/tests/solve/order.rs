//! What runs and what does not, in which order, how many at a time, and how a build ends.

use solver::run::SolveError;
use solver::seam::Event;
use tokio_util::sync::CancellationToken;

use crate::toys::{Awaits, Behaviour, Sketch};
use crate::{World, chain};

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
fn a_step_that_breaks_ends_the_build_and_not_the_builder() {
    for delay in [0, 3] {
        let mut sketch = Sketch::default();
        sketch.source("docker-image://base");
        sketch.run("hangs", &["docker-image://base"]).run("breaks", &["docker-image://base"]);
        sketch.run("top", &["hangs", "breaks"]);
        let mut world = World::new();
        world.executor.behaviour.insert("hangs".into(), Behaviour::Hang);
        world.executor.behaviour.insert("breaks".into(), Behaviour::Break);
        world.executor.delays.insert("breaks".into(), delay);
        let outcome = world.build(&sketch, &["top"], 4);
        assert!(matches!(outcome.solution, Err(SolveError::Broken(_))), "{:?}", outcome.solution);
        assert!(outcome.events.contains(&Event::Canceled(sketch.edge("hangs").vertex)));
    }
}

#[test]
fn cancelling_ends_a_build_that_hangs() {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base").run("hangs", &["docker-image://base"]);
    let mut world = World::new();
    world.executor.behaviour.insert("hangs".into(), Behaviour::Hang);
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
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

/// Three processes on one base, in this order; what awaits what.
fn three(awaits: &[(&str, Awaits)], jobs: usize) -> crate::Outcome {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base");
    for name in ["a", "b", "c"] {
        sketch.run(name, &["docker-image://base"]);
    }
    let mut world = World::new();
    world.executor.awaits = awaits.iter().map(|(name, awaits)| ((*name).to_owned(), awaits.clone())).collect();
    world.build(&sketch, &["a", "b", "c"], jobs)
}

#[test]
fn who_waits_for_something_outside_of_the_build_leaves_its_place_to_others() {
    // Each waits for one that can only run in its place.
    let outcome = three(&[("a", Awaits::Start("b")), ("b", Awaits::Start("c"))], 1);
    assert_eq!(outcome.solution.unwrap().ran, 3);
    assert_eq!(outcome.most, 1, "none goes on beside another");
    let place = |name: &str| outcome.ran.iter().position(|ran| ran == name).expect("it ran");
    assert!(place("a") < place("b") && place("b") < place("c"), "{:?}", outcome.ran);
    assert!(place("a goes on") > place("b") && place("b goes on") > place("c"), "{:?}", outcome.ran);
}

#[test]
fn who_goes_on_comes_before_those_that_have_not_begun() {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base");
    let names: Vec<String> = (0..20).map(|i| format!("step{i}")).collect();
    for name in &names {
        sketch.run(name, &["docker-image://base"]);
    }
    let mut world = World::new();
    world.executor.awaits.insert("step0".into(), Awaits::Start("step1"));
    let wants: Vec<&str> = names.iter().map(String::as_str).collect();
    // On one thread every task gets its turn after every other.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let outcome = runtime.block_on(world.build_until(&sketch, &wants, 1, CancellationToken::new()));
    assert_eq!(outcome.solution.unwrap().ran, 20);
    // By then at most one other has begun in its place after the one that it waits for.
    let at = outcome.ran.iter().position(|ran| ran == "step0 goes on").expect("it went on");
    let begun = outcome.ran[..at].iter().filter(|ran| ran.starts_with("step")).count();
    assert!(begun <= 4, "{:?}", outcome.ran);
}

#[test]
fn a_failure_ends_who_is_away_and_who_waits_for_a_place() {
    for awaits in [Awaits::Ever, Awaits::Start("b")] {
        let mut sketch = Sketch::default();
        sketch.source("docker-image://base").run("a", &["docker-image://base"]).run("b", &["docker-image://base"]);
        let mut world = World::new();
        world.executor.awaits.insert("a".into(), awaits);
        world.executor.behaviour.insert("b".into(), Behaviour::Fail);
        match world.build(&sketch, &["a", "b"], 1).solution {
            Err(SolveError::Failed { vertex, .. }) => assert_eq!(vertex, sketch.edge("b").vertex),
            other => panic!("expected a failure, got {other:?}"),
        }
    }
}
