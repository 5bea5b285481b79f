//! Every case under `testdata/dockerfiles/`: its `Dockerfile` (and `options`) against `ast.txt` and `plan.txt` or
//! `errors.txt`.
//!
//! `RBUILD_UPDATE_GOLDEN=1 cargo nextest run -p rbuild-frontend golden` writes what is found; a human reads the diff.

extern crate rbuild_frontend;

mod answers;

use std::path::{Path, PathBuf};

use answers::{ROUNDS_MAX, image, options};
use rbuild_frontend::{self as frontend, Answers, Plan, PlanOptions, Planned};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfiles")
}

/// The questions of a plan, as they were asked, and the plan.
fn solve(text: &str, options: &PlanOptions) -> (Vec<String>, Result<Box<Plan>, String>) {
    let mut answers = Answers::new();
    let mut asked = Vec::new();
    for _ in 0..ROUNDS_MAX {
        match frontend::plan(text, options, &answers) {
            Err(found) => return (asked, Err(frontend::debug::diagnostics(text, &found))),
            Ok(Planned::Plan(plan)) => return (asked, Ok(plan)),
            Ok(Planned::Need(questions)) => {
                assert!(!questions.is_empty(), "nothing is asked");
                for question in questions {
                    let help = question.help.map(|help| format!(" ({help})")).unwrap_or_default();
                    let place = question.span.map_or("", |span| &text[span]);
                    let (name, platform) = (&question.question.reference, &question.question.platform);
                    let layout = question.question.layout.as_ref().map(|l| format!(" in layout {l}"));
                    let layout = layout.unwrap_or_default();
                    asked.push(format!("asked {name} for {platform}{layout} at {place:?}{help}\n"));
                    let answer = image(&question.question);
                    assert!(answers.insert(question.question, answer).is_none(), "asked twice");
                }
            }
        }
    }
    panic!("{ROUNDS_MAX} rounds are not enough");
}

/// Compares a file, or writes it.
fn compare(path: &Path, found: Option<&str>, differing: &mut Vec<String>) {
    let known = std::fs::read_to_string(path).ok();
    if known.as_deref() == found {
        return;
    }
    if std::env::var_os("RBUILD_UPDATE_GOLDEN").is_some() {
        match found {
            Some(text) => std::fs::write(path, text).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        return;
    }
    let name = path.strip_prefix(cases()).unwrap().display();
    let found = found.unwrap_or("(nothing)\n");
    differing.push(format!("--- {name}, expected\n{}--- found\n{found}", known.as_deref().unwrap_or("(no file)\n")));
}

#[test]
fn golden_cases_have_their_ast_and_plan() {
    let mut names: Vec<PathBuf> = std::fs::read_dir(cases()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut differing = Vec::new();
    let (mut plans, mut errors) = (0, 0);
    for case in &names {
        let text = std::fs::read_to_string(case.join("Dockerfile")).expect("every case has a Dockerfile");
        let options = options(&std::fs::read_to_string(case.join("options")).unwrap_or_default());
        let (ast, _) = frontend::parse::parse(&text);
        compare(&case.join("ast.txt"), Some(&frontend::debug::ast(&ast)), &mut differing);
        let (asked, result) = solve(&text, &options);
        let asked = asked.concat();
        let (plan, error) = match result {
            Ok(plan) => {
                plans += 1;
                let warnings = frontend::debug::diagnostics(&text, &plan.warnings);
                (Some(format!("{asked}{}{warnings}", frontend::debug::plan(&plan))), None)
            }
            Err(found) => {
                errors += 1;
                (None, Some(format!("{asked}{found}")))
            }
        };
        compare(&case.join("plan.txt"), plan.as_deref(), &mut differing);
        compare(&case.join("errors.txt"), error.as_deref(), &mut differing);
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert!(plans >= 40 && errors >= 40, "{plans} plans and {errors} errors: some cases are gone");
}

#[test]
fn a_plan_is_the_same_every_time() {
    let text = "FROM debian:12 AS a\nRUN x\nFROM debian:12\nCOPY --from=a /x /y\nENV A=1 B=2\n";
    let show = || frontend::debug::plan(&solve(text, &options("")).1.unwrap());
    assert_eq!(show(), show());
}
