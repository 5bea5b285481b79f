//! The forms of an AST and a plan beside text: every case under `testdata/drawings/` against `ast.json`, `plan.json`,
//! `graph.txt`, `graph.json`, `graph.dot` and `graph.mmd`.
//!
//! `RBUILD_UPDATE_GOLDEN=1 cargo nextest run -p rbuild-frontend drawings` writes what is found; a human reads the diff.

use std::path::Path;

use oci::model::{DiffId, Digest, ImageConfig, RootFs};
use rbuild_frontend::debug::{graph::Drawing, json};
use rbuild_frontend::{self as frontend, Answers, ImageAnswer, Plan, PlanOptions, Planned};

/// Every image has one layer.
fn solve(text: &str) -> Box<Plan> {
    let platform: oci::model::Platform = "linux/amd64".parse().unwrap();
    let options =
        PlanOptions { platform: platform.clone(), build_platform: platform.clone(), ..PlanOptions::default() };
    let config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        rootfs: RootFs { diff_ids: vec![DiffId(Digest::of(b"layer"))], ..RootFs::default() },
        ..ImageConfig::default()
    };
    let mut answers = Answers::new();
    loop {
        match frontend::plan(text, &options, &answers).expect("the case is well-formed") {
            Planned::Plan(plan) => return plan,
            Planned::Need(asked) => answers.extend(asked.into_iter().map(|asked| {
                let digest = Digest::of(asked.question.reference.to_string().as_bytes());
                (asked.question, ImageAnswer { name: None, digest, config: config.clone() })
            })),
        }
    }
}

#[test]
fn drawings_are_as_expected() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/drawings");
    let mut differing = Vec::new();
    for name in ["hostile", "mounts", "stages"] {
        let case = cases.join(name);
        let text = std::fs::read_to_string(case.join("Dockerfile")).expect("every case has a Dockerfile");
        let plan = solve(&text);
        let drawing = Drawing::of(&text, &plan);
        let pretty = |value: serde_json::Value| serde_json::to_string_pretty(&value).expect("a value is JSON") + "\n";
        let found = [
            ("ast.json", pretty(json::ast(&frontend::parse::parse(&text).0))),
            ("plan.json", pretty(json::plan(&plan))),
            ("graph.txt", drawing.text()),
            ("graph.json", pretty(drawing.json())),
            ("graph.dot", drawing.dot()),
            ("graph.mmd", drawing.mermaid()),
        ];
        for (file, found) in found {
            let path = case.join(file);
            if std::env::var_os("RBUILD_UPDATE_GOLDEN").is_some() {
                std::fs::write(&path, &found).expect("the case can be written");
            }
            let known = std::fs::read_to_string(&path).unwrap_or_default();
            if known != found {
                differing.push(format!("--- {name}/{file}, expected\n{known}--- found\n{found}"));
            }
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
