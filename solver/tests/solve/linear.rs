//! Solving is linear in the graph: twice the graph is about twice the work, counted and not timed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use solver::graph::Edge;
use solver::key::{ContentDigest, Key};
use solver::schedule::{Action, Schedule};
use solver::seam::{Pin, ResultId};

use crate::toys::Sketch;

/// A schedule that is answered at once, and the vertices, edges and actions that it took.
#[derive(Default)]
struct Answers {
    keys: HashMap<Key, Vec<ResultId>>,
    operations: BTreeMap<Key, Vec<Vec<ResultId>>>,
    /// What images are pinned to.
    pin: u8,
}

impl Answers {
    fn solve(&mut self, sketch: &Sketch, wants: &[Edge]) -> u64 {
        let mut schedule = Schedule::new(Arc::new(sketch.graph.clone()), wants, 16);
        let mut given = 0;
        loop {
            let actions = schedule.take_actions();
            if actions.is_empty() {
                break;
            }
            given += actions.len() as u64;
            actions.into_iter().for_each(|action| self.answer(&mut schedule, sketch, action));
        }
        assert!(schedule.results().is_some(), "every want is there");
        schedule.work() + given
    }

    fn answer(&mut self, schedule: &mut Schedule, sketch: &Sketch, action: Action) {
        let content = |text: &str| {
            let mut bytes = [0; 32];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            ContentDigest(bytes)
        };
        match action {
            Action::Tell(_) | Action::Release(_) | Action::GoOn(_) => {}
            Action::Pin(id) => {
                let name = &sketch.graph.meta(&id).expect("in the graph").description;
                let pinned = Pin::Content(ContentDigest([self.pin; 32]));
                schedule.pinned(id, if name.starts_with("local") { &Pin::Selected } else { &pinned });
            }
            Action::Digest { reader, source, slot, .. } => schedule.digested(reader, source, slot, content("selected")),
            Action::LookUp(id, key) => schedule.looked_up(id, self.keys.get(&key).cloned()),
            Action::Known(id, operation) => {
                schedule.known(id, self.operations.get(&operation).cloned().unwrap_or_default());
            }
            Action::Content(result, read) => {
                let digest = content(result.as_str());
                schedule.content(result, read, Some(digest));
            }
            Action::TryClaim(id, _) => schedule.claimed(id, true),
            Action::Claim(..) => unreachable!("there is no other build"),
            Action::Run(id, _) => {
                let name = sketch.graph.meta(&id).expect("in the graph").description.clone();
                schedule.ran(id, vec![ResultId(name)]);
            }
            Action::Settle { vertex, fresh, .. } => schedule.settled(vertex, Some(fresh)),
            Action::Record { key, operation, results, .. } => {
                self.keys.insert(key, results.clone());
                self.operations.insert(operation, vec![results]);
            }
        }
    }
}

const BASE: &str = "docker-image://base";
const CONTEXT: &str = "local://context";

fn steps(count: usize, step: impl for<'a> Fn(&'a mut Sketch, usize, &str) -> &'a mut Sketch) -> Sketch {
    let mut sketch = Sketch::default();
    sketch.source(BASE).source(CONTEXT);
    for i in 0..count {
        step(&mut sketch, i, &format!("step{i}"));
    }
    sketch
}

fn below(i: usize) -> String {
    if i == 0 { BASE.into() } else { format!("step{}", i - 1) }
}

type Shape = fn(usize) -> Sketch;
const SHAPES: [(&str, Shape); 6] = [
    ("in a row", |count| steps(count, |sketch, i, name| sketch.run(name, &[&below(i)]))),
    ("side by side", |count| steps(count, |sketch, _, name| sketch.run(name, &[BASE]))),
    ("all beneath one", |count| {
        let mut sketch = steps(count, |sketch, _, name| sketch.run(name, &[BASE]));
        let names: Vec<String> = (0..count).map(|i| format!("step{i}")).collect();
        sketch.merge("top", &names.iter().map(String::as_str).collect::<Vec<_>>());
        sketch
    }),
    ("copies of the context", |count| {
        steps(count, |sketch, i, name| sketch.copy(name, &format!("/{name}"), &[&below(i), CONTEXT]))
    }),
    // As many ways to the top as can be.
    ("a ladder", |count| {
        steps(count, |sketch, i, name| {
            let beneath = if i < 2 { vec![BASE.to_owned()] } else { vec![below(i), below(i - 1)] };
            sketch.run(name, &beneath.iter().map(String::as_str).collect::<Vec<_>>())
        })
    }),
    ("two names for all", |count| {
        let mut sketch = Sketch::default();
        sketch.source(BASE).source("docker-image://same");
        for i in 0..count {
            let change = |exec: &mut solver::op::ExecOp| exec.args = vec![(i / 2).to_string()];
            sketch.run_with(
                &format!("step{i}"),
                &[if i % 2 == 0 { BASE } else { "docker-image://same" }],
                change,
                false,
            );
        }
        sketch
    }),
];

#[test]
fn twice_the_graph_is_twice_the_work() {
    const STEPS: usize = 300;
    for (name, shape) in SHAPES {
        let work = |count: usize| {
            let sketch = shape(count);
            let wants: Vec<Edge> = sketch.graph.iter().map(|(vertex, ..)| Edge { vertex, output: 0 }).collect();
            let mut answers = Answers::default();
            // Nothing is known; everything is; it is known by content.
            let unknown = answers.solve(&sketch, &wants);
            let known = answers.solve(&sketch, &wants[wants.len() - 1..]);
            answers.pin = 1;
            let content = answers.solve(&sketch, &wants);
            [unknown, known, content]
        };
        for (one, two) in work(STEPS).into_iter().zip(work(2 * STEPS)) {
            assert!(two <= 2 * one + 50, "{name}: {one} for {STEPS} steps, {two} for twice as many");
        }
    }
}
