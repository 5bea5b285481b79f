use std::time::Duration;

use solver::canon::Part;
use solver::explain::Fate;
use solver::work::{Work, WorkKind};

use super::*;
use crate::Store;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

fn head(context: &str) -> Head {
    Head::new(context.into(), "linux/amd64".into())
}

fn step(name: &str, inputs: &[usize]) -> StepRecord {
    let part = |name: &str, value: &str| Part { name: name.into(), value: value.into() };
    StepRecord {
        vertex: format!("sha256:{name}"),
        name: name.into(),
        line: Some(3),
        key: Some("ab".into()),
        parts: [part("exec.args[0]", "make"), part("exec.env[0]", "make")].into(),
        inputs: inputs.to_vec(),
        fate: Fate::Ran,
        started_us: Some(1),
        ended_us: Some(2),
        work: vec![WorkRecord {
            what: "sha256:ab".into(),
            ended_us: 7,
            work: Work {
                kind: WorkKind::Receive,
                files: 0,
                read_bytes: 0,
                hashed_bytes: 5,
                written_bytes: 5,
                took: Duration::from_micros(3),
            },
        }],
        ..StepRecord::default()
    }
}

#[test]
fn a_build_is_found_again_with_everything_that_was_said_of_it() {
    let (_dir, store) = store();
    let mut recording = store.record_build(head("/here")).unwrap();
    recording.step_started(0, "[1/2] FROM a", 1);
    let mut log = recording.log(1, 100).unwrap();
    log.write(b"one\n\xff\x1b[31m").unwrap();
    log.write(b"two\n").unwrap();
    let log = log.end().unwrap();
    assert_eq!(log, LogFile { bytes: 14, dropped_bytes: 0 });
    let steps = vec![step("a", &[]), StepRecord { log: Some(log), ..step("b", &[0]) }];
    let ended = Head { outcome: Outcome::Ok, tags: vec!["app:1".into()], steps: 2, ..recording.head().clone() };
    recording.finish(ended.clone(), &steps).unwrap();

    let entries = store.builds().unwrap();
    assert_eq!(entries.iter().map(|entry| &entry.head).collect::<Vec<_>>(), [&ended]);
    let build = store.build(&entries[0]).unwrap().expect("it is there");
    assert_eq!(build, Build { head: ended, steps });
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut store.build_log(&entries[0], 1).unwrap().unwrap(), &mut bytes).unwrap();
    assert_eq!(bytes, b"one\n\xff\x1b[31mtwo\n");
    assert!(store.build_log(&entries[0], 0).unwrap().is_none());
    assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0, "nothing is left aside");
}

#[test]
fn a_build_whose_process_died_is_interrupted_and_one_that_runs_is_not() {
    let (_dir, store) = store();
    let mut recording = store.record_build(head("/here")).unwrap();
    recording.step_started(2, "[2/2] RUN x", 10);
    recording.step_started(0, "[1/2] FROM a", 11);
    recording.step_ended(0, Fate::Ran, 12);
    recording.flush().unwrap();
    recording.log(2, 100).unwrap().write(b"half a li").unwrap();
    let outcome = |store: &Store| store.builds().unwrap()[0].head.outcome;
    assert_eq!(outcome(&store), Outcome::Running);
    assert!(!store.forget_build(&store.builds().unwrap()[0]).unwrap(), "it runs");
    assert_eq!(store.trim_history(0).unwrap(), 0, "it runs");
    drop(recording);
    assert_eq!(outcome(&store), Outcome::Interrupted);
    let build = store.build(&store.builds().unwrap()[0]).unwrap().expect("it is there");
    let fates: Vec<_> = build.steps.iter().map(|step| (step.name.as_str(), step.fate)).collect();
    assert_eq!(fates, [("[1/2] FROM a", Fate::Ran), ("", Fate::NotReached), ("[2/2] RUN x", Fate::Canceled)]);
    assert_eq!(build.steps[2].log, Some(LogFile { bytes: 9, dropped_bytes: 0 }));
    assert!(store.forget_build(&store.builds().unwrap()[0]).unwrap());
    assert!(store.builds().unwrap().is_empty());
}

#[test]
fn only_the_latest_builds_are_kept() {
    let (_dir, store) = store();
    for i in 0..5 {
        let recording = store.record_build(head(&format!("/{i}"))).unwrap();
        let ended = Head { outcome: Outcome::Ok, ..recording.head().clone() };
        recording.finish(ended, &[]).unwrap();
    }
    assert_eq!(store.trim_history(3).unwrap(), 2);
    let contexts: Vec<_> = store.builds().unwrap().into_iter().map(|entry| entry.head.context).collect();
    assert_eq!(contexts, ["/4", "/3", "/2"]);
    let latest = store.latest_build(|head| head.context != "/4").unwrap().expect("there is one");
    assert_eq!(latest.head.context, "/3");
    assert_eq!(store.trim_history(3).unwrap(), 0);
}

#[test]
fn a_log_that_is_too_long_is_cut_and_says_so() {
    let (_dir, store) = store();
    let recording = store.record_build(head("/here")).unwrap();
    let mut log = recording.log(0, 10).unwrap();
    for _ in 0..5 {
        log.write(b"abcd").unwrap();
    }
    assert_eq!(log.end().unwrap(), LogFile { bytes: 10, dropped_bytes: 10 });
    drop(recording);
    let mut text = String::new();
    let entry = &store.builds().unwrap()[0];
    std::io::Read::read_to_string(&mut store.build_log(entry, 0).unwrap().unwrap(), &mut text).unwrap();
    assert_eq!(
        text,
        "abcdabcdab\n[rbuild: 10 bytes more were printed and are not kept; the limit is `history.log_max_size`]\n"
    );
}

#[test]
fn damaged_records_are_passed_over() {
    let (_dir, store) = store();
    let check = |file: &str, bytes: &[u8], listed: usize| {
        let recording = store.record_build(head("/here")).unwrap();
        let ended = Head { outcome: Outcome::Ok, ..recording.head().clone() };
        recording.finish(ended, &[step("a", &[])]).unwrap();
        let dir = std::fs::read_dir(store.root().join("history")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(dir.join(file), bytes).unwrap();
        let entries = store.builds().unwrap();
        assert_eq!(entries.len(), listed, "{bytes:?}");
        for entry in &entries {
            store.build(entry).unwrap();
        }
        std::fs::remove_dir_all(dir).unwrap();
    };
    check("build.jsonl", b"", 0);
    check("build.jsonl", b"{}\n", 0);
    check("build.jsonl", b"\xff\xff\n[]\n", 0);
    check("unknown", b"x", 1);
    let head = |inputs: &str, parts: &str| {
        let head = record::to_json(&head("/x"));
        format!(
            "{head}\n[\"a\"]\n{{\"vertex\":\"v\",\"name\":\"n\",\"fate\":\"ran\",\"inputs\":{inputs},\"parts\":{parts}}}\n"
        )
    };
    for (inputs, parts) in [("[0]", "[]"), ("[7]", "[]"), ("[]", "[0,1]"), ("[]", "[0]"), ("[]", "[9,9]")] {
        check("build.jsonl", head(inputs, parts).as_bytes(), 1);
        assert_eq!(Build::from_lines(&head(inputs, parts)), None, "{inputs} {parts}");
    }
    std::fs::write(store.root().join("history/file"), b"x").unwrap();
    std::os::unix::fs::symlink("/etc", store.root().join("history/link")).unwrap();
    assert!(store.builds().unwrap().is_empty());
}

#[test]
fn records_of_builds_are_counted_and_collected_but_not_while_they_run() {
    let (_dir, store) = store();
    let recording = store.record_build(head("/here")).unwrap();
    let mut log = recording.log(0, 1 << 20).unwrap();
    log.write(&[b'x'; 100_000]).unwrap();
    let ended = Head { outcome: Outcome::Ok, ..recording.head().clone() };
    recording.finish(ended, &[]).unwrap();
    let running = store.record_build(head("/there")).unwrap();
    let wish = crate::Wish { all: true, ..crate::Wish::default() };
    let things = store.prune(&wish, false).unwrap().gone;
    let builds: Vec<_> = things.iter().filter(|thing| thing.kind == crate::Kind::Build).collect();
    assert_eq!(builds.len(), 1, "{things:?}");
    assert!(builds[0].bytes >= 100_000, "{things:?}");
    let left: Vec<_> = store.builds().unwrap().into_iter().map(|entry| entry.head.context).collect();
    assert_eq!(left, ["/there"]);
    drop(running);
}
