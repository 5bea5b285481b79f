//! Reuse by content: what did not change in what a step reads is not run again, however it came about.

use std::sync::Arc;

use solver::run::SolveError;
use solver::seam::{Event, Hit, KeyKind};
use tokio_util::sync::CancellationToken;

use crate::toys::{Behaviour, Sketch};
use crate::{World, chain};

/// Events as words, of steps and in order: `missed a`, `content b`.
fn told(sketch: &Sketch, events: &[Event]) -> Vec<String> {
    let name = |id| sketch.graph.meta(id).expect("of this graph").description.clone();
    let words = events.iter().filter_map(|event| match event {
        Event::Missed(id) => Some(("missed", id)),
        Event::Started(id) => Some(("started", id)),
        Event::Unchanged(id) => Some(("unchanged", id)),
        Event::Done(id) => Some(("done", id)),
        Event::Cached { vertex, by: Hit::Definition } => Some(("definition", vertex)),
        Event::Cached { vertex, by: Hit::Content } => Some(("content", vertex)),
        Event::Cached { vertex, by: Hit::Flight } => Some(("flight", vertex)),
        Event::Cached { vertex, by: Hit::Unneeded } => Some(("unneeded", vertex)),
        _ => None,
    });
    words
        .map(|(word, id)| (word, name(id)))
        .filter(|(_, name)| !name.contains("://"))
        .map(|(word, name)| format!("{word} {name}"))
        .collect()
}

/// base ◄ compile(arg) ◄ test ◄ package
fn steps(arg: &str) -> Sketch {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base");
    let change = |exec: &mut solver::op::ExecOp| exec.env = [format!("ARG={arg}")].into();
    sketch.run_with("compile", &["docker-image://base"], change, false);
    sketch.run("test", &["compile"]).run("package", &["test"]);
    sketch
}

#[test]
fn a_step_that_ran_again_and_made_the_same_ends_the_rerun_there() {
    let mut world = World::new();
    world.executor.behaviour.insert("compile".into(), Behaviour::Constant(1));
    world.build(&steps("1"), &["package"], 4).solution.unwrap();
    let sketch = steps("2");
    let again = world.build(&sketch, &["package"], 4);
    assert_eq!(
        told(&sketch, &again.events),
        ["missed compile", "started compile", "done compile", "content test", "content package"],
    );
    assert_eq!(again.ran, ["compile"]);
    let once_more = world.build(&sketch, &["package"], 4);
    let told = told(&sketch, &once_more.events);
    assert_eq!(told, ["unneeded compile", "unneeded test", "definition package"], "what was hit by content is linked");
}

#[test]
fn what_stands_on_something_else_runs() {
    let mut world = World::new();
    world.build(&steps("1"), &["package"], 4).solution.unwrap();
    world.executor.behaviour.insert("compile".into(), Behaviour::Constant(7));
    let again = world.build(&steps("2"), &["package"], 4);
    assert_eq!(again.ran, ["compile", "test", "package"]);
}

#[test]
fn a_base_that_moved_without_changing_runs_nothing() {
    let mut world = World::new();
    world.build(&steps("1"), &["package"], 4).solution.unwrap();
    world.executor.pins.lock().unwrap().insert("base".into(), (2, 1));
    let sketch = steps("1");
    let again = world.build(&sketch, &["package"], 4);
    assert_eq!(told(&sketch, &again.events), ["content compile", "content test", "content package"]);
}

#[test]
fn a_result_that_is_made_again_is_exchanged_for_the_one_that_is_known() {
    let mut world = World::new();
    let sketch = |ignore| {
        let mut sketch = Sketch::default();
        sketch.source("docker-image://base").run_with("step", &["docker-image://base"], |_| {}, ignore);
        sketch
    };
    let first = world.build(&sketch(false), &["step"], 1).solution.unwrap();
    // Asked for on purpose: it runs, is not said to be missing, and is what it was.
    let sketch = sketch(true);
    let again = world.build(&sketch, &["step"], 1);
    assert_eq!(told(&sketch, &again.events), ["started step", "unchanged step", "done step"]);
    assert_eq!(first.results, again.solution.unwrap().results);
}

#[test]
fn only_what_a_copy_selects_decides() {
    for (selected, copies) in [(5, 0), (6, 1)] {
        let sketch = |arg: &str| {
            let mut sketch = Sketch::default();
            sketch.source("docker-image://base").source("docker-image://tools");
            let change = |exec: &mut solver::op::ExecOp| exec.env = [arg.to_owned()].into();
            sketch.run_with("build", &["docker-image://tools"], change, false);
            sketch.copy("copy", "/out", &["docker-image://base", "build"]).run("top", &["copy"]);
            sketch
        };
        let mut world = World::new();
        world.publish("tools", 3);
        world.executor.pieces.insert("build".into(), (1, 5));
        world.build(&sketch("A=1"), &["top"], 4).solution.unwrap();
        world.executor.pieces.insert("build".into(), (2, selected));
        let again = world.build(&sketch("A=2"), &["top"], 4);
        assert_eq!(again.ran.iter().filter(|name| *name == "copy").count(), copies, "{selected}");
    }
}

#[test]
fn what_cannot_be_told_is_run() {
    let mut world = World::new();
    world.executor.behaviour.insert("compile".into(), Behaviour::Constant(1));
    world.executor.opaque = vec!["compile".into()];
    world.build(&steps("1"), &["package"], 4).solution.unwrap();
    let again = world.build(&steps("2"), &["package"], 4);
    assert_eq!(again.ran, ["compile", "test"], "the content of what was run in between is known");
}

#[test]
fn nothing_is_digested_that_no_key_needs() {
    let mut world = World::new();
    world.build(&steps("1"), &["package"], 4).solution.unwrap();
    let digested = world.executor.digested.swap(0, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(digested, 3, "the base and what two steps made; nothing stands on the last");
    assert_eq!(world.cache.kinds().iter().filter(|kind| **kind == KeyKind::Content).count(), 3);
    world.build(&steps("1"), &["package"], 4).solution.unwrap();
    assert_eq!(world.executor.digested.load(std::sync::atomic::Ordering::SeqCst), 0, "it is all known");
}

#[test]
fn the_same_image_under_two_names_is_built_upon_once() {
    let mut world = World::new();
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base").source("docker-image://same");
    world.publish("same", 1);
    let change = |exec: &mut solver::op::ExecOp| exec.args = vec!["make".into()];
    sketch.run_with("a", &["docker-image://base"], change, false);
    sketch.run_with("b", &["docker-image://same"], change, false).run("top", &["a", "b"]);
    let outcome = world.build(&sketch, &["top"], 4);
    assert_eq!(outcome.ran.len(), 3, "one image, one of the two steps, and what stands on them: {:?}", outcome.ran);
}

#[test]
fn a_linked_copy_on_another_base_is_shown_as_known() {
    let sketch = |base: &str| {
        let mut sketch = Sketch::default();
        sketch.source(base).source("local://context");
        sketch.copy("copy", "/app", &["local://context"]).merge("link", &[base, "copy"]);
        sketch
    };
    let mut world = World::new();
    world.publish("other", 2);
    let first = sketch("docker-image://base");
    let outcome = world.build(&first, &["link"], 4);
    let expected = ["missed copy", "started copy", "done copy", "missed link", "started link", "done link"];
    assert_eq!(told(&first, &outcome.events), expected);
    let second = sketch("docker-image://other");
    let outcome = world.build(&second, &["link"], 4);
    assert_eq!(told(&second, &outcome.events), ["definition copy", "content link"]);
    let solution = outcome.solution.unwrap();
    assert_eq!((solution.ran, solution.cached), (0, 2));
}

#[test]
fn what_ended_well_while_the_build_was_stopped_is_kept() {
    let mut sketch = Sketch::default();
    sketch.source("docker-image://base");
    sketch.run("slow", &["docker-image://base"]).run("fails", &["docker-image://base"]).run("top", &["slow", "fails"]);
    let mut world = World::new();
    world.executor.behaviour.insert("slow".into(), Behaviour::Finish);
    world.executor.behaviour.insert("fails".into(), Behaviour::Fail);
    let outcome = world.build(&sketch, &["top"], 2);
    assert!(matches!(outcome.solution, Err(SolveError::Failed { .. })));
    assert!(outcome.events.contains(&Event::Done(sketch.edge("slow").vertex)));
    world.executor.behaviour.clear();
    let again = world.build(&sketch, &["top"], 2);
    assert_eq!(again.ran, ["fails", "top"]);
}

#[test]
fn a_build_that_only_waits_for_answers_ends_at_once() {
    for what in ["pin", "digest", "content", "lookup"] {
        let mut world = World::new();
        world.executor.mute = Some(what);
        Arc::get_mut(&mut world.cache).expect("one build at a time").mute = what == "lookup";
        let (asked, cache) = (world.executor.asked.clone(), world.cache.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let outcome = runtime.block_on(async {
            let (stop, sketch) = (CancellationToken::new(), chain());
            let build = world.build_until(&sketch, &["make"], 1, stop.clone());
            let user = async {
                let is_asked = || asked.lock().unwrap().contains(&what);
                while !is_asked() && (what != "lookup" || cache.lookups.lock().unwrap().is_empty()) {
                    tokio::task::yield_now().await;
                }
                stop.cancel();
            };
            tokio::join!(build, user).0
        });
        assert!(matches!(outcome.solution, Err(SolveError::Canceled)), "{what}");
    }
}
