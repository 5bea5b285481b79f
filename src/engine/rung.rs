//! What steps ask for and the rung of isolation cannot give, before anything runs.
//!
//! In come a plan and the rung; out comes nothing, or one problem per thing, at its place in the Dockerfile, with what to
//! do instead. Deliberately absent: what cannot be had ([`executor::chroot::lacks`], which is asked again where steps run).

use executor::StepSettings;
use executor::chroot::{Lack, lacks};
use executor::isolation::Rung;
use frontend::Plan;
use solver::graph::{Graph, VertexId};
use solver::op::Op;

use super::{Failure, FailureKind, Problem, Text};

/// Refuses a plan with steps that ask for what `rung` has not.
///
/// # Errors
/// Every step that does, in the order of the file.
pub fn check(plan: &Plan, rung: Rung, settings: &StepSettings, place: &Text) -> Result<(), Failure> {
    if rung != Rung::Chroot {
        return Ok(());
    }
    let mut found = Vec::new();
    for (id, vertex, _) in plan.graph.iter() {
        let Op::Exec(exec) = &vertex.op else { continue };
        let span = plan.spans.get(&id);
        for lack in lacks(exec, |id| settings.secrets.contains_key(id)) {
            let mut problem = Problem::new(format!("{lack} cannot be had with `--isolation=chroot`"));
            problem.snippet = span.map(|span| place.snippet(span.clone(), ""));
            problem.help = Some(lack.hint().to_owned());
            found.push((span, lack, problem));
        }
    }
    // What flags ask for, every step asks for: once is enough.
    found.sort_by_key(|(span, _, _)| span.map(|span| (span.start, span.end)));
    let mut said: Vec<Lack> = Vec::new();
    found.retain(|(_, lack, _)| {
        let of_all = matches!(lack, Lack::Hostname | Lack::ShmSize | Lack::NoNetwork);
        let again = of_all && said.contains(lack);
        said.push(*lack);
        !again
    });
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure { kind: FailureKind::Build, problems: found.into_iter().map(|(_, _, problem)| problem).collect() })
}

/// What steps of a graph without a text ask for and cannot have, with the vertex that does.
pub fn problems(graph: &Graph, rung: Rung, settings: &StepSettings) -> Vec<(VertexId, Problem)> {
    if rung != Rung::Chroot {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (id, vertex, _) in graph.iter() {
        let Op::Exec(exec) = &vertex.op else { continue };
        for lack in lacks(exec, |id| settings.secrets.contains_key(id)) {
            let mut problem = Problem::new(format!("{lack} cannot be had with `--isolation=chroot`"));
            problem.help = Some(lack.hint().to_owned());
            found.push((id, problem));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use executor::secrets::SecretSource;
    use frontend::{Answers, PlanOptions, Planned};

    use super::*;

    #[test]
    fn what_a_rung_has_not_is_refused_at_its_place_and_only_there() {
        let file = "FROM scratch\nRUN --mount=type=secret,id=a a\nRUN --mount=type=secret,id=a,env=A b\n\
            RUN --network=none c\nRUN --network=none d\nRUN --mount=type=tmpfs,target=/t,size=1 e\nRUN [\"f\"]\n";
        let plan = match frontend::plan(file, &PlanOptions::default(), &Answers::new()) {
            Ok(Planned::Plan(plan)) => *plan,
            other => panic!("{other:?}"),
        };
        let place = Text { name: "Dockerfile".into(), path: None, text: file.into() };
        let check = |rung, given: bool, expected: &[&str]| {
            let mut settings = StepSettings::default();
            if given {
                settings.secrets.insert("a".into(), SecretSource::Variable("A".into()));
            }
            let failure = check(&plan, rung, &settings, &place).err();
            let problems = failure.map_or(Vec::new(), |failure| failure.problems);
            let shown: Vec<String> = problems
                .iter()
                .map(|problem| {
                    let span = problem.snippet.as_ref().expect("a step has a place").span.clone();
                    assert!(problem.help.is_some());
                    format!("{}: {}", &file[span], problem.message)
                })
                .collect();
            assert_eq!(shown, expected);
        };
        let none = "RUN --network=none c: `--network=none` cannot be had with `--isolation=chroot`";
        let size = "RUN --mount=type=tmpfs,target=/t,size=1 e: a size of a memory mount (`--mount=type=tmpfs,size=…`) cannot \
            be had with `--isolation=chroot`";
        let secret = "RUN --mount=type=secret,id=a a: a secret as a file cannot be had with `--isolation=chroot`";
        check(Rung::Full, true, &[]);
        check(Rung::Rootless, true, &[]);
        check(Rung::Chroot, false, &[none, size]);
        check(Rung::Chroot, true, &[secret, none, size]);
    }
}
