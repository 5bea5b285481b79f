//! Every plan of the golden Dockerfiles is the same graph after it was a definition.

extern crate frontend as rbuild_frontend;

#[path = "../../../../frontend/tests/answers/mod.rs"]
mod answers;

use std::path::Path;

use frontend::{Answers, Plan, Planned};

use super::check_round_trip;
use crate::daemon::llb::{Dockerfile, write};

fn plan(case: &Path) -> Option<(String, Plan)> {
    let text = std::fs::read_to_string(case.join("Dockerfile")).expect("every case has a Dockerfile");
    let options = answers::options(&std::fs::read_to_string(case.join("options")).unwrap_or_default());
    let mut known = Answers::new();
    for _ in 0..answers::ROUNDS_MAX {
        match frontend::plan(&text, &options, &known) {
            Err(_) => return None,
            Ok(Planned::Plan(plan)) => return Some((text, *plan)),
            Ok(Planned::Need(asked)) => known.extend(asked.into_iter().map(|asked| {
                let answer = answers::image(&asked.question);
                (asked.question, answer)
            })),
        }
    }
    panic!("{}: asked again and again", case.display())
}

#[test]
fn every_golden_plan_is_the_same_after_it_was_a_definition() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dockerfiles");
    let mut plans = 0;
    for case in std::fs::read_dir(cases).expect("there are cases") {
        let case = case.expect("a folder is listed").path();
        let Some((_, plan)) = plan(&case) else { continue };
        let wants: Vec<_> = plan.output.edge.into_iter().collect();
        check_round_trip(&plan.graph, &wants, &case.display().to_string());
        plans += 1;
    }
    assert!(plans >= 40, "{plans} plans: some cases are gone");
}

#[test]
fn operations_are_where_their_instructions_are() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dockerfiles/web-service");
    let (text, plan) = plan(&case).expect("it is a plan");
    let wants: Vec<_> = plan.output.edge.into_iter().collect();
    let dockerfile = Dockerfile { name: "Dockerfile", text: &text, spans: &plan.spans };
    let written = write(&plan.graph, &wants, Some(dockerfile)).expect("a plan can be written");
    let source = written.definition.source.expect("it has a text");
    assert_eq!(source.infos[0].data, text.as_bytes());
    let mut located = 0;
    for (vertex, digest) in &written.digests {
        let Some(span) = plan.spans.get(vertex) else { continue };
        let range = &source.locations[&digest.to_string()].locations[0].ranges[0];
        let start = range.start.as_ref().expect("a range has a start");
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let (before, line) = lines.split_at(start.line as usize - 1);
        let within: usize = line[0].chars().take(start.character as usize).map(char::len_utf8).sum();
        assert_eq!(before.iter().map(|line| line.len()).sum::<usize>() + within, span.start, "{start:?}");
        located += 1;
    }
    assert!(located >= 3, "{located} operations have a place");
}
