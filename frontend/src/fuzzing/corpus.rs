//! The stored inputs of every fuzz target, and every golden Dockerfile, as tests.
//!
//! A file's name says what it is about. Whatever the fuzzer finds is added here, under such a name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::TARGETS;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata")
}

/// The files of a folder: path and content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("the folder can be read").path());
    paths.map(|path| (path.clone(), std::fs::read(path).expect("the file can be read"))).collect()
}

/// Runs a target on a file, whose name is told when it fails.
fn run(target: fn(&[u8]), name: &str, path: &Path, data: &[u8]) {
    if std::panic::catch_unwind(|| target(data)).is_err() {
        panic!("target {name} fails on {}", path.display());
    }
}

#[test]
fn every_stored_input_is_read_in_bounds() {
    for (name, target, folders) in TARGETS {
        for folder in *folders {
            for (path, data) in files(&testdata().join("fuzz").join(folder)) {
                run(*target, name, &path, &data);
            }
        }
    }
}

#[test]
fn every_golden_dockerfile_is_read_in_bounds() {
    for case in std::fs::read_dir(testdata().join("dockerfiles")).expect("there are cases") {
        let path = case.expect("the folder can be read").path().join("Dockerfile");
        let data = std::fs::read(&path).expect("every case has a Dockerfile");
        for (name, target, _) in TARGETS.iter().filter(|(_, _, folders)| folders.contains(&"lexer")) {
            run(*target, name, &path, &data);
        }
    }
}

#[test]
fn the_corpus_is_small_and_says_nothing_twice() {
    let (mut count, mut bytes) = (0, 0);
    for (name, ..) in TARGETS {
        let mut seen: BTreeMap<Vec<u8>, PathBuf> = BTreeMap::new();
        for (path, data) in files(&testdata().join("fuzz").join(name)) {
            bytes += data.len();
            count += 1;
            if let Some(other) = seen.insert(data, path.clone()) {
                panic!("{} is {} again", path.display(), other.display());
            }
        }
    }
    assert!(count >= 200, "only {count} files: some inputs are gone");
    assert!(bytes < 1_000_000, "{bytes} bytes");
}
