//! What is shown meanwhile: the grammar that people search with grep.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::rbuild::RBUILD;
use crate::support::{Context, Outcome, Store};

const DOCKERFILE: &str =
    "FROM busybox AS build\nRUN echo one && echo two >&2\nCOPY a /a\nFROM scratch\nCOPY --from=build /a /b\n";

#[test]
fn plain_lines_follow_the_grammar() {
    let store = Store::with_busybox();
    let context = Context::new(DOCKERFILE).file("a", "a");
    // What is built is what is wanted: the first stage, so that its RUN runs.
    let built = store.build(&context, ["--target", "build", "-t", "app:1"]).ok();
    let mut ends: BTreeMap<u32, String> = BTreeMap::new();
    let mut names: BTreeMap<u32, String> = BTreeMap::new();
    // What is about no vertex is said under the number 0.
    let lines = built.stderr.lines().filter(|line| line.starts_with('#') && !line.starts_with("#0 "));
    for line in lines {
        let (number, rest) = line[1..].split_once(' ').unwrap_or_else(|| panic!("`{line}` of {built}"));
        let number: u32 = number.parse().unwrap_or_else(|_| panic!("`{line}` of {built}"));
        assert!(!ends.contains_key(&number), "`{line}` comes after the end of its vertex: {built}");
        let ended = rest == "CACHED" || rest == "CANCELED" || rest.starts_with("DONE ") || rest.starts_with("ERROR: ");
        if ended {
            assert!(names.contains_key(&number), "`{line}` ends what never began: {built}");
            ends.insert(number, rest.into());
        } else {
            names.entry(number).or_insert_with(|| rest.into());
        }
    }
    assert_eq!(names.keys().collect::<Vec<_>>(), ends.keys().collect::<Vec<_>>(), "all that began has ended: {built}");
    let count = u32::try_from(names.len()).expect("there are few");
    assert_eq!(
        names.keys().copied().collect::<Vec<_>>(),
        (1..=count).collect::<Vec<_>>(),
        "numbers have no gaps: {built}"
    );
    let step = |name: &str| {
        let found = names.iter().find(|(_, known)| known.as_str() == name);
        let (number, _) = found.unwrap_or_else(|| panic!("no `{name}` among {names:?}"));
        ends[number].clone()
    };
    step("[internal] load build definition from Dockerfile");
    assert!(step("[build 2/3] RUN echo one && echo two >&2").starts_with("DONE "));
    assert!(step("[build 3/3] COPY a /a").starts_with("DONE "));
    assert_eq!((built.lines_of_steps("one"), built.lines_of_steps("two")), (1, 1), "{built}");
}

#[test]
fn error_of_a_step_ends_its_vertex() {
    let store = Store::with_busybox();
    let built = store.build(&Context::new("FROM busybox\nRUN exit 7\n"), ["-t", "x:1"]).exits(1);
    let error = built.stderr.lines().find(|line| line.starts_with('#') && line.contains(" ERROR: "));
    let error = error.unwrap_or_else(|| panic!("no ERROR line: {built}"));
    assert!(error.contains('7'), "{error}");
}

#[test]
fn long_output_is_shown_whole_and_in_order() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN seq 100000 100999; head -c 20000 /dev/zero | tr '\\0' x\n");
    let built = store.build(&context, ["-t", "x:1"]).ok();
    let numbers: Vec<u32> = built
        .stderr
        .lines()
        .filter_map(|line| line.split(' ').nth(2)?.parse().ok())
        .filter(|number| (100_000..101_000).contains(number))
        .collect();
    assert_eq!(numbers, (100_000..101_000).collect::<Vec<_>>());
    assert!(built.stderr.matches('x').count() >= 20000, "the line without an end is there, too");
}

#[test]
fn environment_chooses_the_display() {
    let (store, context) = (Store::with_busybox(), Context::new("FROM busybox\nRUN echo shown\n"));
    let build = |name: &str, value: &str, args: &[&str]| {
        let mut command = store.command(["build", "--no-cache", "-t", "x:1"]);
        command.args(args).arg(context.path()).env(name, value);
        Outcome::of(&mut command).ok()
    };
    assert_eq!(build("BUILDKIT_PROGRESS", "plain", &[]).lines_of_steps("shown"), 1);
    assert_eq!(build("CI", "true", &[]).lines_of_steps("shown"), 1, "what is no terminal gets lines");
    assert_eq!(build("BUILDKIT_PROGRESS", "plain", &["--progress=none"]).stderr, "", "the flag wins");
    let raw = build("BUILDKIT_PROGRESS", "rawjson", &[]);
    let lines: Vec<&str> = raw.stderr.lines().filter(|line| line.starts_with('{')).collect();
    assert!(lines.len() > 3, "{raw}");
    for line in lines {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[test]
fn terminal_display_is_only_for_terminals_and_obeys_no_color() {
    let (store, context) = (Store::with_busybox(), Context::new("FROM busybox\nRUN echo shown\n"));
    store.rbuild(["--progress=tty", &context.path().display().to_string()]).fails_saying(&["terminal", "plain"]);
    // `script` runs a command on a terminal of its own, and prints what that shows.
    let show = |variable: &str, value: &str| {
        let inner = format!("{RBUILD} --progress=tty --no-cache -t x:1 {}", context.path().display());
        let mut command = std::process::Command::new("script");
        command.args(["--quiet", "--return", "--command", &inner, "/dev/null"]).env_clear();
        command.envs(store.command([""; 0]).get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("TERM", "xterm-256color").env(variable, value);
        Outcome::of(&mut command).ok().stdout
    };
    // Select Graphic Rendition: ESC [ numbers m.
    let coloured = |text: &str| {
        text.split("\x1b[").skip(1).any(|rest| {
            let end = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
            end.starts_with('m') && rest.len() > end.len() && !rest.starts_with("0m")
        })
    };
    let (plain, colours) = (show("NO_COLOR", "1"), show("LANG", "C.UTF-8"));
    assert!(plain.contains("RUN echo shown") && !coloured(&plain), "{plain:?}");
    assert!(colours.contains("RUN echo shown") && coloured(&colours), "{colours:?}");
}

#[test]
fn flags_that_change_nothing_are_accepted_with_one_note() {
    let (store, context) = (Store::new(), Context::new("FROM scratch\nCOPY a /a\n").file("a", "a"));
    let flags =
        ["--rm", "--force-rm", "--compress", "--provenance=false", "--sbom=false", "--attest=type=sbom,disabled=true"];
    let built = store.build(&context, [&["-t", "x:1"][..], &flags].concat()).ok();
    assert_eq!(built.stderr.lines().filter(|line| line.starts_with("note")).count(), 1, "{built}");
}
