//! What steps ask for beyond the default, against what the user grants, before anything runs.
//!
//! In come a plan and the user's grants; out comes nothing, or one problem per thing that is not granted, at its place
//! in the Dockerfile, with the flag that would grant it. Deliberately absent: what a granted step then gets (the
//! executor's, which looks at the grants again).

use std::ops::Range;

use executor::StepSettings;
use executor::steps::Grants;
use frontend::Plan;
use solver::graph::{Graph, VertexId};
use solver::op::{ExecOp, NetworkMode, Op, SecurityMode};

use super::{Failure, FailureKind, Problem, Text};

/// Refuses a plan with steps that ask for what is not granted.
///
/// # Errors
/// Every step that does, in the order of the file.
pub fn check(plan: &Plan, settings: &StepSettings, place: &Text) -> Result<(), Failure> {
    let mut found: Vec<(Option<&Range<usize>>, Problem)> = Vec::new();
    for (id, vertex, _) in plan.graph.iter() {
        let Op::Exec(exec) = &vertex.op else { continue };
        let span = plan.spans.get(&id);
        for missing in missing(exec, &settings.grants) {
            let mut problem = missing.problem();
            problem.snippet = span.map(|span| place.snippet(span.clone(), ""));
            found.push((span, problem));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    found.sort_by_key(|(span, _)| span.map(|span| (span.start, span.end)));
    Err(Failure { kind: FailureKind::Build, problems: found.into_iter().map(|(_, problem)| problem).collect() })
}

/// What steps of a graph without a text ask for and are not granted, with the vertex that does.
pub fn problems(graph: &Graph, settings: &StepSettings) -> Vec<(VertexId, Problem)> {
    let mut found = Vec::new();
    for (id, vertex, _) in graph.iter() {
        let Op::Exec(exec) = &vertex.op else { continue };
        found.extend(missing(exec, &settings.grants).iter().map(|missing| (id, missing.problem())));
    }
    found
}

/// Something that is asked for and not granted.
struct Missing {
    what: String,
    flag: String,
    remove: &'static str,
}

impl Missing {
    fn problem(&self) -> Problem {
        let mut problem = Problem::new(format!("{} is not allowed", self.what));
        problem.notes.push(self.remove.to_owned());
        problem.help = Some(format!("if you trust this step, build with `{}`", self.flag));
        problem
    }
}

fn missing(exec: &ExecOp, grants: &Grants) -> Vec<Missing> {
    let mut missing = Vec::new();
    if exec.security == SecurityMode::Insecure && !grants.insecure {
        missing.push(Missing {
            what: "`RUN --security=insecure`".into(),
            flag: "--allow security.insecure".into(),
            remove: "such a step runs with all rights of the builder over this machine",
        });
    }
    if exec.network == NetworkMode::Host && !grants.host_network {
        missing.push(Missing {
            what: "`RUN --network=host`".into(),
            flag: "--allow network.host".into(),
            remove: "such a step reaches whatever listens on this machine",
        });
    }
    for device in exec.devices.iter().filter(|device| !grants.device(&device.name)) {
        missing.push(Missing {
            what: format!("the device `{}`", device.name),
            flag: format!("--allow device={}", device.name),
            remove: "such a step uses a device of this machine",
        });
    }
    missing
}

#[cfg(test)]
mod tests {
    use frontend::{Answers, PlanOptions, Planned};

    use super::*;

    const FILE: &str =
        "FROM scratch\nRUN --device=v.com/gpu=0 a\nRUN [\"b\"]\nRUN --security=insecure --network=host c\n";

    fn plan(file: &str, network: Option<NetworkMode>) -> Plan {
        let options = PlanOptions { network, ..PlanOptions::default() };
        match frontend::plan(file, &options, &Answers::new()) {
            Ok(Planned::Plan(plan)) => *plan,
            other => panic!("{other:?}"),
        }
    }

    fn refused(grants: Grants) -> Vec<String> {
        let settings = StepSettings { grants, ..StepSettings::default() };
        let place = Text { name: "Dockerfile".into(), path: None, text: FILE.into() };
        let said = |problem: &Problem| {
            let snippet = problem.snippet.as_ref().expect("a step has a place");
            let help = problem.help.clone().unwrap_or_default();
            format!("{} | {} | {help}", &FILE[snippet.span.clone()], problem.message)
        };
        check(&plan(FILE, None), &settings, &place)
            .err()
            .map_or(Vec::new(), |failure| failure.problems.iter().map(said).collect())
    }

    #[test]
    fn what_is_not_granted_is_refused_at_its_place_with_the_flag_that_grants_it() {
        let device = "RUN --device=v.com/gpu=0 a | the device `v.com/gpu=0` is not allowed | \
            if you trust this step, build with `--allow device=v.com/gpu=0`";
        let insecure = "RUN --security=insecure --network=host c | `RUN --security=insecure` is not allowed | \
            if you trust this step, build with `--allow security.insecure`";
        let network = "RUN --security=insecure --network=host c | `RUN --network=host` is not allowed | \
            if you trust this step, build with `--allow network.host`";
        let devices = |name: &str| Grants { devices: vec![name.to_owned()], ..Grants::default() };
        assert_eq!(refused(Grants::default()), [device, insecure, network]);
        assert_eq!(refused(Grants { insecure: true, ..Grants::default() }), [device, network]);
        assert_eq!(refused(Grants { host_network: true, ..Grants::default() }), [device, insecure]);
        for name in ["*", "v.com/gpu", "v.com/gpu=*", "v.com/gpu=0"] {
            assert_eq!(refused(devices(name)), [insecure, network], "{name}");
        }
        for name in ["v.com/gpu=1", "v.com", "v.com/gp", "gpu=0", "v.com/gpu=00"] {
            assert_eq!(refused(devices(name)), [device, insecure, network], "{name}");
        }
        assert!(refused(Grants { insecure: true, host_network: true, ..devices("*") }).is_empty());
    }

    #[test]
    fn only_steps_that_the_target_needs_are_asked() {
        let file = "FROM scratch AS a\nRUN --security=insecure a\nFROM scratch\nRUN [\"b\"]\n";
        let place = Text { name: "Dockerfile".into(), path: None, text: file.into() };
        assert!(check(&plan(file, None), &StepSettings::default(), &place).is_ok());
    }
}
