//! As many files as are copied by several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Directories of all sizes with everything in them, and a way down that nobody holds open as a whole.
fn many() -> Vec<String> {
    let mut lines = Vec::new();
    for directory in 0..40 {
        lines.push(format!("d{directory}/ {}", if directory % 3 == 0 { 700 } else { 755 }));
        for file in 0..directory {
            let mode = if file % 5 == 0 { "4755" } else { "640" };
            lines.push(format!("d{directory}/e{}/f{file}={directory},{file} {mode}", file % 4));
            lines.push(format!("d{directory}/f{file}={file}"));
        }
        lines.push(format!("d{directory}/l -> f0"));
        lines.push(format!("d{directory}/x=attributes @user.number={directory}"));
        lines.push(format!("d{directory}/empty/ 711 @user.number={directory}"));
    }
    for depth in 1..=60 {
        lines.push(format!("{}end={depth}", "deep/".repeat(depth)));
    }
    lines
}

fn bench(lines: &[String], root: &[&str]) -> Bench {
    Bench::new(&lines.iter().map(String::as_str).collect::<Vec<_>>(), root)
}

#[test]
fn they_become_the_same_tree_whoever_copies_them_and_wherever_to() {
    let lines = many();
    let check = |from_stage: bool, line: &str, root: &[&str], has_upper: bool| {
        let bench = bench(&lines, root);
        let mut expected = show(open(&bench.path("source")).as_fd(), true);
        assert!(expected.len() > 1700);
        let from = if from_stage { bench.result() } else { bench.local(&[]) };
        let root = bench.root();
        let onto = copy::Onto { upper: has_upper.then(|| root.fd()), ..copy::Onto::whole(&root) };
        copy::perform_until(&action(line), &from, &onto, &Log::default(), &|| false).unwrap();
        let found = if line.ends_with('a') { bench.path("root/a") } else { bench.path("root") };
        let found = show(open(&found).as_fd(), true);
        for line in expected.iter_mut().zip(&found) {
            assert_eq!(line.0, line.1, "from a stage: {from_stage}, with an upper directory: {has_upper}");
        }
        assert_eq!(expected.len(), found.len());
    };
    for from_stage in [false, true] {
        for has_upper in [false, true] {
            check(from_stage, ". /", &[], has_upper);
            check(from_stage, ". /a", &[], has_upper);
            check(from_stage, ". /a", &["a/"], has_upper);
            // What is there is replaced.
            check(from_stage, ". /a", &["a/d7/f1=old 600", "a/d39/l -> nowhere"], has_upper);
        }
    }
}

#[test]
fn one_that_cannot_be_copied_stops_all_and_is_named() {
    for place in ["d0", "d20/e1", "d39", "deep/deep/deep"] {
        let mut lines = many();
        lines.push(format!("{place}/.wh.f=1"));
        let bench = bench(&lines, &[]);
        let error = bench.copy(&bench.local(&[]), ". /").unwrap_err();
        assert!(error.contains(&format!("{place}/.wh.f")) && error.contains("deletions"), "{error}");
    }
}

#[test]
fn a_copy_of_them_stops_when_it_is_told_to() {
    let bench = bench(&many(), &[]);
    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) >= 500;
    let root = bench.root();
    let onto = copy::Onto::whole(&root);
    let result = copy::perform_until(&action(". /"), &bench.local(&[]), &onto, &Log::default(), &stop);
    assert!(matches!(result, Err(FileError::Tree { source: TreeError::Stopped, .. })));
    let copied = bench.shown().iter().filter(|line| line.contains('=')).count();
    // Directories with attributes among them.
    assert!((400..=600).contains(&copied), "{copied}");
}

#[test]
fn sockets_among_them_are_left_out_in_order() {
    let mut lines = many();
    lines.extend(["d30/s$".to_owned(), "d9/s$".to_owned(), "d39/e3/s$".to_owned()]);
    let (bench, log) = (bench(&lines, &[]), Log::default());
    copy::perform(&action(". /"), &bench.local(&[]), &bench.root(), &log).unwrap();
    let expected = ["d30/s", "d39/e3/s", "d9/s"].map(|path| format!("`{path}` is a socket and was not copied"));
    assert_eq!(log.0.into_inner().unwrap(), expected);
    assert!(bench.shown().iter().all(|line| !line.ends_with("/s$")));
}
