//! `rbuild debug steps`: what the sandbox would do for every RUN step, act by act.
//!
//! In: a plan. Out: text, or JSON. Trees are shown without layers, which only a build finds out; values of variables
//! and secrets are left out. Next: [`executor::sandbox::plan`], which says what the acts mean.

use std::fmt::Write as _;

use executor::StepSettings;
use executor::ops::exec::preview;
use frontend::Plan;
use serde_json::{Value, json};
use solver::op::Op;

use crate::engine::Failure;

/// A RUN step.
pub struct Step {
    /// `[2/3] RUN make`.
    name: String,
    /// Where its instruction begins, from 1.
    line: Option<usize>,
    /// What would be done, in order.
    acts: Vec<String>,
}

/// The RUN steps of a plan, in its order.
///
/// # Errors
/// For a step that asks for what this version does not do.
pub fn of(text: &str, plan: &Plan, settings: &StepSettings) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    for (id, vertex, meta) in plan.graph.iter() {
        let Op::Exec(exec) = &vertex.op else { continue };
        let acts = preview(exec, vertex.platform.as_ref(), settings).map_err(|error| {
            Failure::new(format!("{}: {error}", meta.description)).help("a build would fail likewise")
        })?;
        let line = plan.spans.get(&id).and_then(|span| text.get(..span.start));
        steps.push(Step {
            name: meta.description.clone(),
            line: line.map(|before| 1 + before.matches('\n').count()),
            acts: acts.0.iter().map(ToString::to_string).collect(),
        });
    }
    Ok(steps)
}

/// For people: a step, and beneath it its acts.
pub fn text(steps: &[Step]) -> String {
    let mut out = String::new();
    for step in steps {
        let line = step.line.map(|line| format!(" (line {line})")).unwrap_or_default();
        writeln!(out, "{}{line}", step.name).expect("text takes text");
        for act in &step.acts {
            writeln!(out, "  {act}").expect("text takes text");
        }
    }
    out
}

/// For programs: `[{"name", "line", "acts": […]}]`.
pub fn json(steps: &[Step]) -> Value {
    let one = |step: &Step| json!({ "name": step.name, "line": step.line, "acts": step.acts });
    steps.iter().map(one).collect()
}
