//! COPY, ADD and their relatives on plain directories: what a Dockerfile line does to a tree.

mod attributes;
mod hostile;
mod many;
mod others;
mod parents;
mod places;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use solver::op::{CopyAction, CopyMode, Owner, UserRef};

use super::copy::CopySource;
use super::*;
use crate::source::local::{LocalPatterns, LocalSource};
use crate::testing::{BUILT, Log, build, fingerprint, open, shell, show};

/// A copy as the Dockerfile frontend asks for it: `[--flags] source dest`.
fn action(line: &str) -> CopyAction {
    let mut action = CopyAction {
        follow_symlinks: true,
        dir_contents_only: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..CopyAction::default()
    };
    let mut paths = Vec::new();
    for word in line.split(' ') {
        match word.split_once('=').unwrap_or((word, "")) {
            ("--chown", owner) => action.owner = Some(owner_of(owner)),
            ("--chmod", mode) => {
                let bits = u32::from_str_radix(mode, 8).map(CopyMode::Bits);
                action.mode = Some(bits.unwrap_or_else(|_| CopyMode::Symbolic(mode.into())));
            }
            ("--exclude", pattern) => action.exclude_patterns.push(pattern.into()),
            ("--include", pattern) => action.include_patterns.push(pattern.into()),
            // As the frontend lowers `COPY --parents`.
            ("--parents", path) => {
                action.include_patterns.push(path.into());
                action.required_paths.push(path.into());
            }
            ("--time", nanoseconds) => action.timestamp = Some(nanoseconds.parse().unwrap()),
            ("--add", _) => action.unpack_archives = true,
            ("--replace", _) => action.replace_other_types = true,
            ("--whole", _) => action.dir_contents_only = false,
            ("--no-follow", _) => action.follow_symlinks = false,
            ("--no-wildcard", _) => action.allow_wildcard = false,
            ("--some", _) => action.allow_empty_wildcard = false,
            _ => paths.push(word),
        }
    }
    let [src, dest] = paths[..] else { panic!("{line}") };
    action.src = format!("/{}", src.trim_start_matches('/'));
    action.dest = dest.into();
    action
}

fn owner_of(text: &str) -> Owner {
    let reference = |text: &str| text.parse().map_or_else(|_| UserRef::Name(text.into()), UserRef::Id);
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    Owner { user: reference(user), group: group.map(reference), names_from: None }
}

/// A source and a destination, with a canary beside them.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(source: &[&str], root: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        build(&dir.path().join("source"), source);
        build(&dir.path().join("root"), root);
        build(&dir.path().join("canary"), &["secret=canary 600 9:9", "d/f=canary"]);
        Self { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn local(&self, ignore: &[&str]) -> CopySource {
        let source = solver::op::SourceOp {
            identifier: "local://context".into(),
            attrs: [(solver::op::attr::EXCLUDE_PATTERNS.to_owned(), serde_json::to_string(ignore).unwrap())].into(),
        };
        let local = LocalSource::open("context", &self.path("source")).unwrap();
        CopySource::Local(Arc::new(local), Arc::new(LocalPatterns::of(&source).unwrap()))
    }

    fn result(&self) -> CopySource {
        CopySource::Result(Mounted::new(open(&self.path("source"))))
    }

    fn root(&self) -> Root {
        Root::new(open(&self.path("root")))
    }

    fn copy(&self, source: &CopySource, line: &str) -> Result<Vec<String>, String> {
        let before = fingerprint(&self.path("canary"));
        let log = Log::default();
        let result = copy::perform(&action(line), source, &self.root(), &log);
        assert_eq!(fingerprint(&self.path("canary")), before, "the canary: {line}");
        result.map(|_| self.shown()).map_err(|error| words(&error))
    }

    fn shown(&self) -> Vec<String> {
        show(open(&self.path("root")).as_fd(), false)
    }
}

/// An error with its causes, as a user reads it.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The line on this source and this root gives this tree, from the context and from a stage alike.
fn check(line: &str, source: &[&str], root: &[&str], expected: &[&str]) {
    let bench = Bench::new(source, root);
    assert_eq!(bench.copy(&bench.local(&[]), line).unwrap(), expected, "from the context: {line}");
    let bench = Bench::new(source, root);
    assert_eq!(bench.copy(&bench.result(), line).unwrap(), expected, "from a stage: {line}");
}

/// The line fails and says so.
fn check_error(line: &str, source: &[&str], root: &[&str], expected: &[&str]) {
    for from_stage in [false, true] {
        let bench = Bench::new(source, root);
        let from = if from_stage { bench.result() } else { bench.local(&[]) };
        // A path of an image is absolute, one of the context is relative to it.
        let error = bench.copy(&from, line).unwrap_err().replace("`/", "`");
        for part in expected {
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}

const SOURCE: &[&str] =
    &["a.txt=A", "b.txt=B 600", "d/x=X 755", "d/e/y=Y", "d/z/", "l -> a.txt", "m -> d", "n -> nowhere"];
