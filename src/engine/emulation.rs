//! Steps of other architectures, against what can run here, before anything runs.
//!
//! In come a graph and the ways that this machine has ([`executor::emulate`]); out comes nothing, or one problem per
//! platform that cannot run, at the place of its first step. Where all such steps are known, none has to run, and nothing
//! is asked of the machine. Deliberately absent: what a step gets (the executor's, which tries it before the first one).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use executor::Worker;
use executor::emulate::{EmulateError, Way, platform_of, way};
use oci::model::Platform;
use solver::foresee::foresee;
use solver::graph::{Graph, VertexId};
use solver::op::Op;
use solver::seam::{Event, Progress};
use store::Store;
use tokio_util::sync::CancellationToken;

use super::build::unsolved;
use super::cache::{Remotes, Watch};
use super::context::Context;
use super::plans::Plans;
use super::{Failure, FailureKind, Problem, Text};

/// What a build is known by, before it is solved.
pub struct Before<'a> {
    /// Runs its operations.
    pub worker: &'a Worker,
    /// Remembers results.
    pub store: &'a Store,
    /// So do others.
    pub remotes: &'a Remotes,
    /// What it starts from.
    pub context: &'a Context,
    /// Its operations, and where they stand in the Dockerfile.
    pub plans: &'a Plans,
    /// The user may stop it.
    pub cancel: &'a CancellationToken,
}

/// Refuses a build with steps that have to run and cannot; the worker is told of all others.
///
/// # Errors
/// One problem per platform, in the order of the file.
pub async fn expect(before: Before<'_>) -> Result<(), Failure> {
    let Before { worker, store, remotes, context, plans, cancel } = before;
    let (graph, spans) = (&plans.graph, &plans.spans);
    let steps = worker.steps();
    let (runs, refused) = sort(graph, |platform| way(platform, steps.emulation, steps.rung));
    if !refused.is_empty() {
        let (executor, cache) = (remotes.steps(worker, true), remotes.memory(store, None, None));
        let heard = Arc::new(Heard(remotes.watch.clone()));
        let wants: Vec<_> = plans.outputs().filter_map(|output| output.edge).collect();
        let outlooks = foresee(graph.clone(), &wants, executor, cache, heard, cancel);
        let outlooks = outlooks.await.map_err(|error| unsolved(error, context, plans))?;
        let needed: Vec<_> = refused
            .into_iter()
            .filter_map(|Refused { steps, error }| {
                let steps: Vec<_> = steps.into_iter().filter(|step| outlooks.contains_key(step)).collect();
                (!steps.is_empty()).then_some(Refused { steps, error })
            })
            .collect();
        if !needed.is_empty() {
            return Err(failure(&needed, spans, &context.dockerfile));
        }
    }
    worker.expect_platforms(runs);
    Ok(())
}

/// A platform that cannot run here.
struct Refused {
    /// Its steps.
    steps: Vec<VertexId>,
    /// Why.
    error: EmulateError,
}

/// The platforms of a graph's steps, each once.
pub fn platforms(graph: &Graph) -> impl Iterator<Item = Platform> {
    steps(graph).into_iter().map(|(platform, _)| platform)
}

/// The steps of a graph by platform.
fn steps(graph: &Graph) -> Vec<(Platform, Vec<VertexId>)> {
    let mut platforms: Vec<(Platform, Vec<VertexId>)> = Vec::new();
    for (id, vertex, _) in graph.iter() {
        let (Op::Exec(_), Some(platform)) = (&vertex.op, &vertex.platform) else { continue };
        let platform = platform_of(platform);
        match platforms.iter_mut().find(|(known, _)| *known == platform) {
            Some((_, steps)) => steps.push(id),
            None => platforms.push((platform, vec![id])),
        }
    }
    platforms
}

/// The platforms of steps that can run here, and those that cannot.
fn sort(graph: &Graph, way: impl Fn(&Platform) -> Result<Way, EmulateError>) -> (Vec<Platform>, Vec<Refused>) {
    let (mut runs, mut refused) = (Vec::new(), Vec::new());
    for (platform, steps) in steps(graph) {
        match way(&platform) {
            Ok(_) => runs.push(platform),
            Err(error) => refused.push(Refused { steps, error }),
        }
    }
    (runs, refused)
}

fn failure(refused: &[Refused], spans: &HashMap<VertexId, Range<usize>>, place: &Text) -> Failure {
    let mut problems: Vec<(Option<&Range<usize>>, Problem)> = refused
        .iter()
        .map(|Refused { steps, error }| {
            let first = steps.iter().filter_map(|step| spans.get(step)).min_by_key(|span| span.start);
            let mut problem = Problem::new(error.to_string());
            problem.snippet = first.map(|span| place.snippet(span.clone(), ""));
            problem.notes.extend(error.note());
            problem.help = Some(error.help());
            (first, problem)
        })
        .collect();
    problems.sort_by_key(|(span, _)| span.map(|span| span.start));
    Failure { kind: FailureKind::Build, problems: problems.into_iter().map(|(_, problem)| problem).collect() }
}

/// Of what is only imagined, keys are told to the caches' listener, which is asked what they were made of.
struct Heard(Arc<Watch>);

impl Progress for Heard {
    fn event(&self, event: Event) {
        if matches!(event, Event::Keyed { .. }) {
            self.0.event(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use frontend::{Answers, PlanOptions, Planned};

    use super::*;

    #[test]
    fn platforms_that_cannot_run_are_told_once_each_at_their_first_step() {
        let file = "FROM scratch\nRUN [\"a\"]\nRUN [\"b\"]\n";
        let place = Text { name: "Dockerfile".into(), path: None, text: file.into() };
        let check = |platform: &str, expected: &[&str]| {
            let options = PlanOptions { platform: platform.parse().expect("a platform"), ..PlanOptions::default() };
            let plan = match frontend::plan(file, &options, &Answers::new()) {
                Ok(Planned::Plan(plan)) => *plan,
                other => panic!("{other:?}"),
            };
            let (runs, refused) = sort(&plan.graph, |platform| match platform.architecture.as_str() {
                "s390x" => {
                    Err(EmulateError::Missing { platform: platform.to_string(), names: vec!["qemu-s390x".into()] })
                }
                "amd64" if platform.os == "windows" => Err(EmulateError::Unknown { platform: platform.to_string() }),
                _ => Ok(Way::Native(None)),
            });
            assert_eq!((runs.len(), refused.len()), if expected.is_empty() { (1, 0) } else { (0, 1) }, "{platform}");
            let shown = |problem: &Problem| {
                let snippet = problem.snippet.as_ref().expect("a step has a place");
                assert!(problem.help.is_some());
                format!("{}: {} {:?}", &file[snippet.span.clone()], problem.message, problem.notes)
            };
            let shown: Vec<_> = failure(&refused, &plan.spans, &place).problems.iter().map(shown).collect();
            assert_eq!(shown, expected);
        };
        check("linux/arm64", &[]);
        check(
            "linux/s390x",
            &["RUN [\"a\"]: steps for `linux/s390x` need an emulator, and none is installed \
               [\"looked in PATH for `qemu-s390x`, and for a handler in binfmt_misc\"]"],
        );
        let windows =
            "RUN [\"a\"]: steps for `windows/amd64` cannot run here: there is no emulator of such a machine []";
        check("windows/amd64", &[windows]);
    }
}
