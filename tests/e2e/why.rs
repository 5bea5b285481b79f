//! Why steps ran is told by name, and what a plan foresees is what the build then does.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Context, Store};

const DOCKERFILE: &str = "FROM busybox\nARG V=1\nENV MODE=slow\nCOPY package.json /app/\nRUN echo install $V $MODE > /log\n\
                          COPY src /app/src\nRUN find /app\n";

fn context() -> Context {
    Context::new(DOCKERFILE).file("package.json", "{}").file("src/a.rs", "a").file("src/deep/b.rs", "b")
}

/// The JSON that a command prints.
fn json(store: &Store, words: &[&str], context: &Context) -> Value {
    let mut words: Vec<&str> = words.to_vec();
    let path = context.path().to_str().expect("a plain path");
    words.extend(["--format", "json", path]);
    let outcome = store.rbuild(&words).ok();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// Name and a word of every step in `steps`.
fn words(value: &Value, steps: &str, word: &str) -> BTreeMap<String, String> {
    let text = |step: &Value, field: &str| step[field].as_str().unwrap_or_default().to_owned();
    value[steps].as_array().expect("a list").iter().map(|step| (text(step, "name"), text(step, word))).collect()
}

/// Builds, edits, foresees, builds again and asks why; the plan must agree with the build. `expected` begins the first
/// reason; empty: nothing runs.
#[track_caller]
fn check(edit: impl FnOnce(&Context) -> Vec<&'static str>, expected: &str) {
    let (store, context) = (Store::with_busybox(), context());
    check_on(&store, &context, edit, expected);
}

#[track_caller]
fn check_on(store: &Store, context: &Context, edit: impl FnOnce(&Context) -> Vec<&'static str>, expected: &str) {
    store.build(context, ["-t", "app:1"]).ok();
    let args = edit(context);
    let plan = json(store, &[&["plan"], &args[..]].concat(), context);
    store.build(context, args.iter().chain(&["-t", "app:2"])).ok();

    let did = store.rbuild(["history", "inspect", "--format", "json"]).ok();
    let did: Value = serde_json::from_str(&did.stdout).expect("it is JSON");
    let did = words(&did, "all_steps", "result");
    for (name, outlook) in words(&plan, "steps", "outlook") {
        let result = did.get(&name).unwrap_or_else(|| panic!("{name} is not in the build")).as_str();
        let agrees = match outlook.as_str() {
            "cached" => result == "cached",
            "runs" => matches!(result, "ran" | "unchanged"),
            "runs_unless_same" => matches!(result, "ran" | "unchanged" | "cached"),
            other => panic!("{other}"),
        };
        assert!(agrees, "{name}: the plan says {outlook}, the build {result}\n{plan:#}");
    }

    let why = json(store, &["why"], context);
    let told = why["misses"][0]["reasons"][0]["text"].as_str().unwrap_or_default();
    if expected.is_empty() {
        assert_eq!((why["verdict"].as_str(), told), (Some("cached"), ""), "{why:#}");
    } else {
        assert!(told.starts_with(expected), "`{told}` does not begin with `{expected}`\n{why:#}");
        let foreseen: Vec<&str> =
            plan["steps"].as_array().into_iter().flatten().filter_map(|step| step["reasons"][0].as_str()).collect();
        assert!(foreseen.contains(&told), "the plan gives another reason: {foreseen:?}");
    }
}

fn dockerfile(context: &Context, from: &str, to: &str) -> Vec<&'static str> {
    assert!(DOCKERFILE.contains(from), "{from}");
    context.write("Dockerfile", DOCKERFILE.replace(from, to));
    Vec::new()
}

#[test]
fn every_edit_of_the_dockerfile_is_named() {
    check(|_| Vec::new(), "");
    check(|context| dockerfile(context, "echo install", "echo Install"), "RUN: the command changed");
    check(|_| vec!["--build-arg", "V=2"], "ARG V 1 → 2");
    check(|context| dockerfile(context, "MODE=slow", "MODE=fast"), "ENV MODE slow → fast");
    check(
        |context| dockerfile(context, "ENV MODE=slow\n", "ENV MODE=slow API_TOKEN=hunter2\n"),
        "ENV API_TOKEN is new",
    );
    check(|context| dockerfile(context, "RUN find", "RUN true\nRUN find"), "this step is new");
    check(
        |context| dockerfile(context, "COPY src /app/src", "COPY --chmod=0600 src /app/src"),
        "--chmod (none) → 0600",
    );
    check(
        |context| dockerfile(context, "COPY src /app/src", "COPY src /srv"),
        "the destination of COPY /app/src → /srv",
    );
    check(|context| dockerfile(context, "RUN find", "USER 1000\nRUN find"), "USER (none) → 1000");
    check(
        |context| dockerfile(context, "RUN find", "SHELL [\"/bin/ash\", \"-c\"]\nRUN find"),
        "SHELL /bin/sh -c → /bin/ash -c",
    );
    check(|context| dockerfile(context, "RUN find", "RUN --network=none find"), "--network ");
    check(|context| dockerfile(context, "RUN find", "RUN --mount=type=tmpfs,target=/t find"), "the mount at /t is new");
    check(|_| vec!["--no-cache"], "--no-cache");
}

#[test]
fn every_edit_of_the_context_is_named_file_by_file() {
    let write = |path: &'static str, bytes: &'static str| {
        move |context: &Context| {
            context.write(path, bytes);
            Vec::new()
        }
    };
    check(write("package.json", "{ }"), "COPY package.json: content changed (sha256:");
    check(write("unread", "x"), "");
    let check_files = |edit: &dyn Fn(&Context), expected: &str| {
        let (store, context) = (Store::with_busybox(), context());
        store.build(&context, ["-t", "app:1"]).ok();
        edit(&context);
        store.build(&context, ["-t", "app:1"]).ok();
        let why = json(&store, &["why"], &context);
        let told = why["misses"][0]["reasons"][0]["text"].as_str().unwrap_or_default();
        assert!(told.starts_with("COPY src: content changed (sha256:") && told.ends_with(expected), "{told}");
    };
    check_files(&|context| context.write("src/new.rs", "n"), "), +1 file new.rs");
    check_files(&|context| context.write("src/a.rs", "aa"), "), 1 file a.rs");
    check_files(&|context| context.write("src/deep/b.rs", "bb"), "), 1 file deep/b.rs");
    let remove = |context: &Context| std::fs::remove_file(context.path().join("src/a.rs")).expect("it is there");
    check_files(&remove, "), -1 file a.rs");
    let mode = |context: &Context| {
        let path = context.path().join("src/a.rs");
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("it is ours");
    };
    check_files(&mode, "), 1 file a.rs");
}

#[test]
fn a_base_image_that_moved_is_told_by_name() {
    let (store, context) = (Store::with_busybox(), context());
    store.build(&context, ["-t", "app:1"]).ok();
    let other = Context::new("FROM busybox\nRUN echo other > /other\n");
    store.build(&other, ["-t", "busybox:latest"]).ok();
    check_on_moved(&store, &context);
}

fn check_on_moved(store: &Store, context: &Context) {
    store.build(context, ["-t", "app:1"]).ok();
    let why = json(store, &["why"], context);
    let told = why["misses"][0]["reasons"][0]["text"].as_str().unwrap_or_default();
    assert!(told.starts_with("base image busybox:latest moved (sha256:"), "{why:#}");
    assert_eq!(why["misses"][0]["steps"].as_array().map(Vec::len), Some(4), "all steps stand on it: {why:#}");
}

#[test]
fn the_first_build_and_lost_results_are_told_as_such() {
    let (store, context) = (Store::with_busybox(), context());
    let path = context.path().to_str().expect("a plain path").to_owned();
    store.rbuild(["why", &path]).fails_saying(&["no build of `", "is in the history"]);
    let plan = store.rbuild(["plan", &path]).ok();
    assert!(plan.stdout.contains("no record: first build of this folder on this machine"), "{plan}");
    assert!(plan.stdout.ends_with("4 steps: 0 cached, 4 would run\n"), "{plan}");
    store.build(&context, ["-t", "app:1"]).ok().never_says(&[" because "]);
    let why = store.rbuild(["why", &path]).ok();
    assert!(why.stdout.contains("no record: first build on this machine"), "{why}");

    store.build(&context, ["-t", "app:1"]).ok();
    let why = store.rbuild(["why", &path]).ok();
    assert!(why.stdout.contains("every step was cached: 4 of 4"), "{why}");
    let why = store.rbuild(["why", &path, "--step", "2/4"]).fails_saying(&["has no step `2/4`"]);
    drop(why);
    let why = store.rbuild(["why", &path, "--step", ":4"]).ok();
    assert!(why.stdout.contains("COPY package.json /app/ (line 4) was cached"), "{why}");
}

#[test]
fn one_step_an_image_and_the_cache_can_be_asked_about() {
    let (store, context) = (Store::with_busybox(), context());
    let path = context.path().to_str().expect("a plain path").to_owned();
    store.build(&context, ["-t", "app:1"]).ok();
    context.write("package.json", "{ }");
    store.build(&context, ["-t", "app:2"]).ok();
    context.write("src/a.rs", "more");
    store.build(&context, ["-t", "app:3"]).ok();
    let why = |words: &[&str]| {
        let outcome = store.rbuild([&["why", &path], words].concat()).ok();
        outcome.stdout
    };
    let check = |words: &[&str], expected: &[&str]| {
        let text = why(words);
        for expected in expected {
            assert!(text.contains(expected), "{words:?}: `{expected}` is not in {text}");
        }
    };
    check(&[], &["COPY src: content changed", "and so did 1 step that stands on it"]);
    check(&["--step", "5/5"], &["RUN find /app (line 7) ran because of", "COPY src: content changed"]);
    check(&["--against", "app:1"], &["COPY package.json: content changed", "COPY src: content changed"]);
    check(&["--against", "cache"], &["COPY src: content changed"]);
    store.rbuild(["why", &path, "--against", "no/such:1"]).fails_saying(&["the build that made `no/such:1`"]);
    store.rbuild(["why", &path, "--step", "RUN"]).fails_saying(&["stands for several steps"]);
}

#[test]
fn the_first_step_that_runs_says_why_while_the_build_goes_on() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN echo quick\nCOPY a /\n").file("a", "1");
    store.build(&context, ["-t", "app:1"]).ok().never_says(&[" because "]);
    // It runs until the line was seen.
    context.write("Dockerfile", "FROM busybox\nRUN echo quick; while true; do sleep 1; done\nCOPY a /\n");
    let mut command = store.build_command(&context, ["-t", "app:1"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let line = lines.map(|line| line.expect("plain text")).find(|line| line.contains(" because "));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    child.wait().expect("it ends");
    let line = line.expect("it is told");
    assert!(line.ends_with(" runs because RUN: the command changed"), "{line}");
}

#[test]
fn results_that_were_lost_or_pruned_are_told_as_such() {
    let (store, context) = (Store::with_busybox(), context());
    let told = || {
        let why = json(&store, &["why"], &context);
        why["misses"][0]["reasons"][0]["text"].as_str().unwrap_or_default().to_owned()
    };
    store.build(&context, [] as [&str; 0]).ok();
    // One layer's tree is another now.
    let mut folders = vec![store.root().join("layers")];
    let mut damaged = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the store") {
            let path = entry.expect("it can be read").path();
            if path.symlink_metadata().expect("it is there").is_dir() {
                folders.push(path);
            } else if path.ends_with("log") {
                std::fs::write(path, "damaged").expect("the store is ours");
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1, "the file that the step made");
    store.rbuild(["verify"]).exits(1);
    store.build(&context, [] as [&str; 0]).ok();
    assert_eq!(told(), "nothing changed, but its result was lost or damaged");

    store.rbuild(["prune"]).ok();
    store.build(&context, [] as [&str; 0]).ok();
    let pruned = told();
    assert!(pruned.starts_with("its record was pruned ") && pruned.ends_with(" ago"), "{pruned}");
}

#[test]
fn a_key_of_another_machine_is_told_to_have_no_parts_here() {
    let (here, context) = (Store::with_busybox(), Context::new("FROM scratch\nCOPY a /\n").file("a", "1"));
    let dir = here.path("cache");
    here.build(&context, ["--cache-to", &format!("type=local,dest={}", dir.display())]).ok();
    let there = Store::new();
    let from = format!("type=local,src={}", dir.display());
    there.build(&context, ["--cache-from", &from]).ok();
    context.write("a", "2");
    there.build(&context, [] as [&str; 0]).ok();
    let known = json(&there, &["why", "--against", "cache"], &context);
    let known = known["misses"][0]["reasons"][0]["text"].as_str().unwrap_or_default();
    assert!(known.starts_with("COPY a: content changed"), "what was looked up here has its parts: {known}");

    let path = context.path().to_str().expect("a plain path").to_owned();
    let other = Store::new();
    other.rbuild(["plan", "--cache-from", &from, &path]).ok();
    other.build(&context, ["--cache-from", &from]).ok();
    let foreign = other.rbuild(["why", "--against", "cache", &path]).ok();
    assert!(foreign.stdout.contains("known from another machine: its parts are not here"), "{foreign}");
}
