//! Archives made to harm, by every way that they come in: pulled, copied from, added, loaded, imported, from a cache; as
//! root and as an ordinary user. Nothing outside changes, what is refused is refused with one error, and the store is as good as before.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::remote::trouble;
use crate::support::hostile::{Case, Want, corpus};
use crate::support::one_layer::OneLayer;
use crate::support::user::User;
use crate::support::{Context, Outcome, Store, temp_dir};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory outside of everything, of which nothing may change.
struct Canary {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, Vec<String>>,
}

impl Canary {
    fn new() -> Self {
        let dir = temp_dir();
        std::fs::create_dir(dir.path().join("empty")).expect("it is new");
        std::fs::write(dir.path().join("f"), "canary").expect("it is new");
        std::fs::hard_link(dir.path().join("f"), dir.path().join("g")).expect("it is new");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        let mut canary = Self { dir, before: BTreeMap::new() };
        canary.before = canary.look();
        canary
    }

    fn look(&self) -> BTreeMap<PathBuf, Vec<String>> {
        let at = |name: &str| self.dir.path().join(name);
        let paths = [self.dir.path().to_owned(), at("empty"), at("f"), at("g")];
        let listed = |path: &Path| match std::fs::read_dir(path) {
            Ok(entries) => {
                let mut names: Vec<String> =
                    entries.map(|entry| entry.expect("it is ours").file_name().to_string_lossy().into()).collect();
                names.sort();
                names
            }
            Err(_) => vec![std::fs::read_to_string(path).expect("it is ours")],
        };
        let facts = paths.into_iter().map(|path| {
            let stat = path.symlink_metadata().expect("it is there");
            let mut lines = listed(&path);
            let (mode, owner) = (stat.mode(), (stat.uid(), stat.gid()));
            lines.push(format!("{mode:o} {owner:?} {} {}.{}", stat.nlink(), stat.ctime(), stat.ctime_nsec()));
            (path, lines)
        });
        facts.collect()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A way in: brings the archive, and looks at what it made.
type Way = fn(&Store, &Case) -> Outcome;

/// The Dockerfile that makes a tree of an image and puts a file beside what is in it.
fn upon(name: &str) -> Context {
    Context::new(&format!("FROM {name}\nCOPY mine /mine-of-the-build\n")).file("mine", "x")
}

fn pull(store: &Store, case: &Case) -> Outcome {
    let (_registry, name) = OneLayer::plain(&case.tar).serve();
    store.build(&upon(&name), ["-t", "made:1"])
}

fn copy_from(store: &Store, case: &Case) -> Outcome {
    let (_registry, name) = OneLayer::plain(&case.tar).serve();
    store.build(&Context::new(&format!("FROM scratch\nCOPY --from={name} / /all/\n")), ["-t", "made:1"])
}

fn add(store: &Store, case: &Case) -> Outcome {
    let context = Context::new("FROM scratch\nADD bad.tar /\n").file("bad.tar", &case.tar);
    store.build(&context, ["-t", "made:1"])
}

fn load(store: &Store, case: &Case) -> Outcome {
    let file = store.path("layout.tar");
    let layout = OneLayer::plain(&case.tar).layout("loaded:1");
    std::fs::write(&file, layout).expect("the store's directory can be written");
    let loaded = store.rbuild(["load".as_ref(), "-i".as_ref(), file.as_os_str()]);
    if loaded.code == Some(0) { store.build(&upon("loaded:1"), ["-t", "made:1"]) } else { loaded }
}

fn import(store: &Store, case: &Case) -> Outcome {
    let file = store.path("bad.tar");
    std::fs::write(&file, &case.tar).expect("the store's directory can be written");
    let imported = store.rbuild(["import".as_ref(), file.as_os_str(), "imported:1".as_ref()]);
    if imported.code == Some(0) { store.build(&upon("imported:1"), ["-t", "made:1"]) } else { imported }
}

/// Every case by one way, into one store.
fn check(way: Way, store: &Store, keep: impl Fn(usize) -> bool) {
    let canary = Canary::new();
    let mut failed = Vec::new();
    for (_, case) in corpus(canary.path()).iter().enumerate().filter(|(number, _)| keep(*number)) {
        let begun = Instant::now();
        let outcome = way(store, case);
        let name = &case.name;
        assert_eq!(canary.look(), canary.before, "{name}: the canary changed: {outcome}");
        assert!(begun.elapsed() < PATIENCE, "{name} took too long");
        assert!(matches!(outcome.code, Some(0 | 1)), "{name}: {outcome}");
        assert!(!outcome.stderr.contains("panicked at"), "{name}: {outcome}");
        assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new(), "{name}: a draft is left: {outcome}");
        let fine = outcome.code == Some(0);
        if fine == (case.want == Want::Refused) && case.want != Want::Contained || !fine && case.want == Want::Fine {
            failed.push(format!("{name}: {outcome}"));
        }
        if !fine {
            outcome.fails_saying(&[]);
        }
    }
    assert!(failed.is_empty(), "{} cases came out wrong:\n{}", failed.len(), failed.join("\n"));
    store.rbuild(["verify"]).ok();
    store.build(&Context::new("FROM scratch\nCOPY Dockerfile /\n"), ["-t", "still:1"]).ok();
}

#[test]
fn hostile_archives_are_contained_when_pulled() {
    check(pull, &Store::new(), |_| true);
}

#[test]
fn hostile_archives_are_contained_when_added() {
    check(add, &Store::new(), |_| true);
}

#[test]
fn hostile_archives_are_contained_when_loaded() {
    check(load, &Store::new(), |_| true);
}

#[test]
fn hostile_archives_are_contained_when_imported() {
    check(import, &Store::new(), |_| true);
}

#[test]
fn hostile_archives_are_contained_when_copied_from() {
    // What is unpacked is the same as when they are pulled.
    check(copy_from, &Store::new(), |case| case % 3 == 0);
}

#[test]
fn hostile_archives_are_contained_for_an_ordinary_user() {
    let store = Store::of(User::new());
    let ways: [Way; 5] = [pull, copy_from, add, load, import];
    for (number, way) in ways.into_iter().enumerate() {
        // A fifth of them by each way: which is which does not depend on who unpacks.
        check(way, &store, |case| case % 5 == number);
    }
}

#[test]
fn hostile_archives_of_a_cache_are_contained_and_their_steps_run() {
    let (canary, here) = (Canary::new(), Store::new());
    let dir = here.path("cache");
    let made = Context::new("FROM scratch\nCOPY mine /mine\nCOPY mine /second\n").file("mine", "x");
    here.build(&made, ["--cache-to", &format!("type=local,dest={}", dir.display())]).ok();
    made.write("Dockerfile", "FROM scratch\nCOPY mine /mine\nCOPY mine /third\n");
    // A quarter of them: what unpacks is the same by every way.
    for case in corpus(canary.path()).iter().step_by(4) {
        let (name, there, hostile) = (&case.name, Store::new(), here.path("hostile"));
        Outcome::of(std::process::Command::new("cp").arg("-a").arg(&dir).arg(&hostile)).ok();
        let blob = trouble::write_bytes(&hostile, &case.tar, "application/vnd.oci.image.layer.v1.tar");
        trouble::rewrite(&hostile, |document| {
            let first = &mut document["layers"][0];
            (first["diff_id"], first["blob"]) = (blob["digest"].clone(), blob);
        });
        let outcome = there.build(&made, ["--cache-from", &trouble::from(&hostile), "-t", "made:1"]).ok();
        assert_eq!(canary.look(), canary.before, "{name}: the canary changed: {outcome}");
        let ran = outcome.stderr.contains("WARN: a step runs that a cache knew");
        assert!(ran || case.want != Want::Refused, "{name}: {outcome}");
        assert_eq!(there.drafts(), Vec::<std::ffi::OsString>::new(), "{name}: a draft is left: {outcome}");
        there.rbuild(["verify"]).ok();
        std::fs::remove_dir_all(&hostile).expect("it is ours");
    }
}
