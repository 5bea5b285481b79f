//! Every build leaves a record: how it went, how each step went, all that was printed.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::{Context, Store};

fn list(store: &Store) -> Vec<Value> {
    let listed = store.rbuild(["history", "ls", "--format", "json"]).ok();
    serde_json::from_str(&listed.stdout).expect("it is JSON")
}

fn statuses(store: &Store) -> Vec<String> {
    list(store).iter().map(|build| build["outcome"].as_str().expect("a status").to_owned()).collect()
}

/// Starts a build whose step says `ready` and then goes on for ever, and waits for that.
fn endless(store: &Store) -> (Context, Child) {
    let context = Context::new("FROM busybox\nRUN echo ready; while true; do sleep 1; done\n");
    let mut command = store.build_command(&context, ["-t", "app:1"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let seen = lines.map(|line| line.expect("plain text")).any(|line| line.ends_with(" ready"));
    assert!(seen, "the step never began");
    (context, child)
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("it runs");
}

#[test]
fn builds_of_every_kind_are_listed_with_how_they_ended() {
    let store = Store::with_busybox();
    let good = Context::new("FROM busybox\nRUN echo well > /x\n");
    store.build(&good, ["-t", "good:1"]).ok();
    let bad = Context::new("FROM busybox\nRUN echo bad; exit 3\nRUN echo never\n");
    store.build(&bad, ["-t", "bad:1"]).exits(1);
    let faulty = Context::new("FROM busybox\nCOYP a b\n");
    store.build(&faulty, ["-t", "faulty:1"]).exits(1);
    let (_context, mut child) = endless(&store);
    assert_eq!(statuses(&store)[0], "running");
    store.rbuild(["history", "rm", "last"]).exits(1).says(&["runs, and stays"]);
    signal(&child, rustix::process::Signal::INT);
    child.wait().expect("it ends");
    let (_context, mut child) = endless(&store);
    // What the display shows may be a moment ahead of the record; that of a running build can be read.
    let recorded = || store.rbuild(["history", "logs"]).ok().stdout.ends_with("ready\n");
    assert!((0..1000).any(|_| recorded()), "what a running step prints is not recorded");
    signal(&child, rustix::process::Signal::KILL);
    child.wait().expect("it ends");
    assert_eq!(statuses(&store), ["interrupted", "canceled", "failed", "failed", "ok"]);

    let ids = |filter: &str| {
        let listed = store.rbuild(["history", "ls", "-q", "--filter", filter]).ok();
        listed.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ids("status=failed").len(), 2);
    assert_eq!(ids("tag=bad:1").len(), 1);
    assert_eq!(ids(&format!("dir={}", good.path().display())).len(), 1);
    store.rbuild(["history", "ls", "--filter", "status=fine"]).fails_saying(&["there is no such status"]);

    let failed = store.rbuild(["history", "inspect", &ids("tag=bad:1")[0][..6]]).ok().stdout;
    for expected in ["status     failed: ", "failed", "RUN echo bad; exit 3"] {
        assert!(failed.contains(expected), "`{expected}` is not in {failed}");
    }
    let interrupted = store.rbuild(["history", "inspect", &ids("status=interrupted")[0]]).ok().stdout;
    assert!(interrupted.contains("canceled") && interrupted.contains("RUN echo ready"), "{interrupted}");
    let logs = store.rbuild(["history", "logs", &ids("status=interrupted")[0]]).ok().stdout;
    assert!(logs.ends_with("ready\n"), "{logs}");

    let id = &ids("tag=good:1")[0];
    assert_eq!(store.rbuild(["history", "rm", id]).ok().stdout, format!("{id}\n"));
    store.rbuild(["history", "inspect", id]).fails_saying(&["there is no build `"]);
    store.rbuild(["history", "rm", "--all"]).ok();
    assert!(list(&store).is_empty());
    store.rbuild(["history", "logs"]).fails_saying(&["there is no build in the history"]);
}

#[test]
fn steps_are_shown_with_results_times_and_lines() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN echo one > /x\nRUN cat /x\n");
    store.build(&context, ["-t", "app:1"]).ok();
    store.build(&context, ["-t", "app:1"]).ok();
    let build = store.rbuild(["history", "inspect", "--format", "json"]).ok();
    let build: Value = serde_json::from_str(&build.stdout).expect("it is JSON");
    assert_eq!((build["steps"].as_u64(), build["cached"].as_u64()), (Some(2), Some(2)), "{build:#}");
    let steps = build["all_steps"].as_array().expect("a list");
    let step = steps.iter().find(|step| step["name"] == "[3/3] RUN cat /x").expect("it is listed");
    assert_eq!((step["result"].as_str(), step["line"].as_u64()), (Some("cached"), Some(3)), "{step:#}");
    assert_eq!(step["key"].as_str().map(str::len), Some(64), "{step:#}");

    let table = store.rbuild(["history", "ls"]).ok().stdout;
    assert!(table.starts_with("BUILD ID") && table.lines().count() == 3, "{table}");
    assert!(table.lines().nth(1).is_some_and(|line| line.contains("app:1") && line.ends_with("2/2")), "{table}");
}

#[test]
fn logs_are_whole_and_exact() {
    let store = Store::with_busybox();
    // 10 MB with everything that a byte may be, and more than one stream.
    let script = "RUN i=0; while [ $i -lt 1250 ]; do head -c 8192 /dev/zero | tr '\\0' 'x'; echo; i=$((i+1)); done; \
                  printf 'a\\033[31mred\\033[0m\\rb\\377\\n' >&2; printf 'no end'\n";
    let context = Context::new(&format!("FROM busybox\n{script}"));
    store.build(&context, ["-t", "app:1"]).ok();
    let output = store.command(["history", "logs", "--step", "2/2"]).output().expect("it runs");
    let mut expected = Vec::new();
    for _ in 0..1250 {
        expected.extend([b'x'; 8192]);
        expected.push(b'\n');
    }
    let (error, end) = (b"a\x1b[31mred\x1b[0m\rb\xff\n", b"no end");
    assert_eq!(output.stdout.len(), expected.len() + error.len() + end.len());
    assert!(output.stdout.starts_with(&expected[..8193 * 1200]), "the beginning differs");
    assert!(output.stdout.windows(error.len()).rev().take(1_000_000).any(|window| window == error));
    let shown = store.rbuild(["history", "logs"]).ok().stdout;
    assert!(!shown.contains(['\x1b', '\r']), "what drives a terminal is shown");
    assert!(shown.contains("[2/2] RUN i=0;") && shown.contains("no end"));
}

#[test]
fn the_history_is_bounded_and_can_be_switched_off() {
    let store = Store::with_busybox();
    let config = store.home().join(".config/rbuild/config.toml");
    std::fs::create_dir_all(config.parent().expect("it has one")).expect("the home is ours");
    let set = |keep: usize, mib: usize| {
        let text = format!("[history]\nkeep = {keep}\nlog_max_size = '{mib}MiB'\n");
        std::fs::write(&config, text).expect("the home is ours");
    };
    let context = Context::new("FROM busybox\nRUN head -c 3000000 /dev/zero | tr '\\0' 'y'\n");
    set(2, 1);
    for name in ["a:1", "b:1", "c:1"] {
        store.build(&context, ["-t", name]).ok();
    }
    let tags: Vec<String> =
        list(&store).iter().map(|build| build["tags"][0].as_str().unwrap_or("").to_owned()).collect();
    assert_eq!(tags, ["c:1", "b:1"]);
    set(0, 1);
    store.build(&context, ["-t", "d:1"]).ok();
    assert_eq!(list(&store).len(), 2, "nothing is recorded, and nothing is forgotten");
    set(5, 1);
    store.build(&context, ["--no-cache"]).ok();
    let log = store.rbuild(["history", "logs", "--step", "2/2"]).ok().stdout;
    let end = "\n[rbuild: 1951424 bytes more were printed and are not kept; the limit is `history.log_max_size`]\n";
    assert_eq!(log.len(), (1 << 20) + end.len());
    assert!(log.ends_with(end), "{}", &log[log.len() - 200..]);
}

#[test]
fn the_time_of_a_build_becomes_a_page_whatever_its_steps_are_called() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nCOPY x /x\nRUN echo '<script>alert(1)</script>'\n");
    context.write("x", "0123456789");
    let file = store.path("page.html");
    let name = file.display().to_string();
    let archive = format!("type=oci,dest={}", store.path("image.tar").display());
    store.build(&context, ["--timings", &name, "-o", &archive]).ok();
    let page = std::fs::read_to_string(&file).expect("it was written");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n") && !page.contains("<script"), "{page}");
    // The bytes of the file were digested and copied for its step, and layers were compressed.
    for expected in [
        "[3/3] RUN echo &#39;&lt;script&gt;alert(1)&lt;/script&gt;&#39;",
        "on the critical path",
        "exporting to image",
        "<td>digest</td><td class=\"name\"><a href",
        "<td>copy</td>",
        "<td>compress</td>",
        "<td class=\"n\">10</td><td class=\"n\">10</td><td class=\"n\"></td></tr>",
    ] {
        assert!(page.contains(expected), "`{expected}` is not in {page}");
    }
    assert_eq!(store.rbuild(["history", "timings"]).ok().stdout, page, "the history has all of it");

    let failing = Context::new("FROM busybox\nRUN exit 3\n");
    let shown = store.build(&failing, ["--timings", "-"]).exits(1).stdout;
    assert!(shown.contains("class=\"bar failed on\"") && shown.contains("exit code"), "{shown}");
    store.configure("[history]\nkeep = 0\n");
    store.build(&context, ["--timings", &name]).ok();
    let page = std::fs::read_to_string(&file).expect("it was written");
    assert!(page.contains("<td>cached</td>") && !page.contains(">build "), "{page}");
    store.build(&context, ["--timings", "/no/such/folder/page.html"]).fails_saying(&["cannot be written"]);
}
