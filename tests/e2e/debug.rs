//! `rbuild debug`: the stages between a Dockerfile and its image.

use serde_json::Value;

use crate::support::{Context, Outcome, Store};

const TEXT: &str = "FROM busybox AS build\nRUN make\nFROM scratch\nCOPY --from=build /x /x\nCOPY . /src\n";

fn debug(store: &Store, words: &[&str], context: &Context) -> Outcome {
    let words = ["debug"].iter().chain(words).map(|word| word.as_ref());
    store.rbuild(words.chain([context.path().as_os_str()]))
}

#[test]
fn statements_need_nothing_but_the_file() {
    let store = Store::new();
    let context = Context::new(TEXT);
    let ast = debug(&store, &["ast"], &context).ok();
    assert!(ast.stdout.starts_with("FROM 0..21\n") && ast.stderr.is_empty(), "{ast}");
    let json: Value =
        serde_json::from_str(&debug(&store, &["ast", "--format=json"], &context).ok().stdout).expect("JSON");
    assert_eq!(json["statements"][3]["flags"][0]["value"]["text"], "build");
    // What could not be read is told beside what could.
    let faulty = debug(&store, &["ast"], &Context::new("FROM scratch\nCOYP a b\nENV A=b\n"));
    let faulty = faulty.fails_saying(&["unknown instruction `COYP`", "Dockerfile:2"]);
    assert!(faulty.stdout.contains("ENV 22..29"), "{faulty}");
    assert!(!store.root().exists(), "looking at statements made a store");
}

#[test]
fn plan_and_graph_show_what_a_build_would_do() {
    let store = Store::with_busybox();
    let context = Context::new(TEXT);
    let plan = debug(&store, &["plan"], &context).ok();
    for words in ["docker-image://docker.io/library/busybox:latest@sha256:", "exec [\"/bin/sh\"", "output #"] {
        assert!(plan.stdout.contains(words), "{words}: {plan}");
    }
    let plan = debug(&store, &["plan", "--format=json"], &context).ok();
    let plan: Value = serde_json::from_str(&plan.stdout).expect("it is JSON");
    assert_eq!(plan["output"]["edge"]["vertex"], plan["vertices"].as_array().map_or(0, Vec::len));
    let graph = debug(&store, &["graph"], &context).ok();
    assert!(graph.stdout.contains("stage build\n  #1 [build 1/2] FROM docker.io/library/busybox"), "{graph}");
    let graph: Value =
        serde_json::from_str(&debug(&store, &["graph", "--format=json"], &context).ok().stdout).expect("JSON");
    assert_eq!(graph["groups"][1]["stage"]["name"], "build");
    let dot = debug(&store, &["graph", "--format=dot"], &context).ok();
    assert!(dot.stdout.starts_with("digraph plan {\n") && dot.stdout.ends_with("}\n"), "{dot}");
    let mermaid = debug(&store, &["graph", "--format=mermaid", "--target=build"], &context).ok();
    assert!(mermaid.stdout.starts_with("flowchart TB\n") && !mermaid.stdout.contains("COPY"), "{mermaid}");
}

#[test]
fn image_that_nobody_has_fails_as_in_a_build() {
    let store = Store::new();
    let context = Context::new("FROM scratch AS build\nFROM bulid\nRUN x\n");
    debug(&store, &["plan", "--offline"], &context).fails_saying(&["`bulid:latest`", "Dockerfile:2", "build"]);
    let context = Context::new("FROM 127.0.0.1:1/image:1\n");
    debug(&store, &["graph", "--offline"], &context).fails_saying(&["not in the local store", "--offline"]);
    assert!(!store.root().exists(), "an offline plan made a store");
    // Nobody listens there.
    debug(&store, &["plan"], &context)
        .fails_saying(&["cannot resolve the image `127.0.0.1:1/image:1`", "Dockerfile:1"]);
    debug(&Store::with_busybox(), &["plan", "--offline"], &Context::new(TEXT)).ok();
}

#[test]
fn bad_usage_is_told_with_advice() {
    let store = Store::new();
    let context = Context::new(TEXT);
    store.rbuild(["debug"]).fails_saying(&["WHAT", "rbuild debug graph ."]);
    debug(&store, &["gaph"], &context).fails_saying(&["gaph", "`graph`"]);
    debug(&store, &["plan", "--format=dot"], &context).fails_saying(&["only a graph", "rbuild debug graph"]);
    debug(&store, &["ast", "--format=yaml"], &context).fails_saying(&["yaml", "mermaid"]);
}
