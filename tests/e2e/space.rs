//! What the store takes, how it gives space back beside running builds, and whether it is whole.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::registry::Registry;
use crate::support::{Context, Outcome, Store, bases};

/// How long builds run beside collections; longer in the soak run.
const SECONDS: &str = "RBUILD_SOAK_SECONDS";

fn json(outcome: Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).expect("it is JSON")
}

fn du(store: &Store) -> Value {
    json(store.rbuild(["du", "--format", "json"]).ok())
}

fn bytes(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// A step that fills some megabytes.
fn bulky(name: &str, megabytes: usize) -> Context {
    let bytes = megabytes << 20;
    Context::new(&format!("FROM busybox\nRUN echo ran-{name} && head -c {bytes} /dev/urandom > /{name}\n"))
}

#[test]
fn prune_removes_what_no_name_needs_and_rebuilding_a_named_image_runs_nothing() {
    let store = Store::with_busybox();
    let (kept, lost) = (bulky("kept", 1), bulky("lost", 8));
    store.build(&kept, ["-t", "app:1"]).ok();
    store.build(&lost, ["-t", "app:2"]).ok();
    let before = du(&store);
    store.rbuild(["rmi", "app:2"]).ok().says(&["rbuild prune"]);
    let would = json(store.rbuild(["prune", "--dry-run", "--format", "json"]).ok());
    assert!(bytes(&would, "freed_bytes") > 8_000_000, "{would}");
    assert_eq!(bytes(&du(&store), "total_bytes") / 1_000_000, bytes(&before, "total_bytes") / 1_000_000);

    let pruned = store.rbuild(["prune", "-f"]).ok();
    assert!(pruned.stdout.contains("Total reclaimed space: 8."), "{pruned}");
    assert!(bytes(&du(&store), "total_bytes") + 8_000_000 < bytes(&before, "total_bytes"));
    store.build(&kept, ["-t", "app:1"]).ok().never_prints(&["ran-"]);
    store.rbuild(["run", "--rm", "--network=none", "app:1", "test", "-s", "/kept"]).ok();
    assert_eq!(store.build(&lost, ["-t", "app:2"]).ok().lines_of_steps("ran-lost"), 1);
    store.rbuild(["verify"]).ok();

    store.rbuild(["prune", "--all"]).ok();
    assert_eq!(store.build(&kept, ["-t", "app:1"]).ok().lines_of_steps("ran-kept"), 1, "its key is gone");
}

#[test]
fn a_store_that_becomes_too_large_loses_what_was_used_longest_ago() {
    let store = Store::with_busybox();
    let base = bytes(&du(&store), "total_bytes");
    let limit = (base + 12_000_000).to_string();
    let build = |name: &str| {
        let context = bulky(name, 4);
        let mut command = store.build_command(&context, [""; 0]);
        command.env("RBUILD_MAX_SIZE", &limit);
        Outcome::of(&mut command).ok()
    };
    for name in ["a", "b", "c", "d", "e"] {
        build(name);
        let total = bytes(&du(&store), "total_bytes");
        assert!(total <= base + 12_000_000, "{total} after {name}");
    }
    assert_eq!(build("e").lines_of_steps("ran-e"), 0, "used last");
    assert_eq!(build("a").lines_of_steps("ran-a"), 1, "used longest ago");
    store.rbuild(["verify"]).ok();
}

#[test]
fn what_names_hold_is_too_much_in_one_line() {
    let store = Store::with_busybox();
    let context = bulky("a", 2);
    let mut command = store.build_command(&context, ["-t", "app:1"]);
    command.env("RBUILD_MAX_SIZE", "1MB");
    let built = Outcome::of(&mut command).ok();
    assert_eq!(built.stderr.lines().filter(|line| line.contains("may take 1.00MB")).count(), 1, "{built}");
    store.rbuild(["run", "--rm", "--network=none", "app:1", "test", "-s", "/a"]).ok();
    let verbose = store.rbuild(["du", "--verbose"]).ok().stdout;
    assert!(verbose.contains("tag app:1") && verbose.contains("beneath tag"), "{verbose}");
}

#[test]
fn builds_run_beside_collections_of_other_processes() {
    let store = Store::with_busybox();
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let end = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let mut rounds = 0;
            while Instant::now() < end {
                store.rbuild(["prune", "--all"]).ok();
                rounds += 1;
            }
            rounds
        });
        for builder in 0..3 {
            let store = &store;
            scope.spawn(move || {
                let mut round = 0;
                while Instant::now() < end {
                    let text = format!(
                        "FROM busybox AS one\nRUN echo shared {} > /shared\nFROM one\nRUN cat /shared > /seen\n\
                         COPY own /own\nRUN cat /seen /own > /both\n",
                        round % 2
                    );
                    let context = Context::new(&text).file("own", format!("{builder} {round}"));
                    let name = format!("app:{builder}");
                    store.build(&context, ["-t", &name]).ok();
                    let ran = store.rbuild(["run", "--rm", "--network=none", &name, "cat", "/both"]).ok();
                    assert_eq!(ran.stdout, format!("shared {}\n{builder} {round}", round % 2));
                    round += 1;
                }
            });
        }
        assert!(collecting.join().expect("no panic") > 0);
    });
    store.rbuild(["verify"]).ok();
    store.rbuild(["prune"]).ok();
    for builder in 0..3 {
        store.rbuild(["run", "--rm", "--network=none", &format!("app:{builder}"), "test", "-s", "/both"]).ok();
    }
}

#[test]
fn a_full_disk_leaves_a_store_that_prune_makes_usable_again() {
    let store = Store::new();
    let (large, small) = (bulky("large", 64), bulky("small", 1));
    // A disk of its own, which nobody else sees.
    let script = "set -e
        mkdir -p $RBUILD_ROOT && mount -t tmpfs -o size=24m,mode=0700 tmpfs $RBUILD_ROOT
        $RBUILD import $BASE busybox
        if $RBUILD build -t app:1 $LARGE; then echo built more than there is room for; exit 1; fi
        $RBUILD prune --all
        $RBUILD build -t app:1 $SMALL
        $RBUILD run --rm --network=none app:1 test -s /small
        $RBUILD verify";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", script]);
    command.env("RBUILD", env!("CARGO_BIN_EXE_rbuild")).env("RBUILD_ROOT", store.root()).env("HOME", store.home());
    command.env("BASE", bases::busybox()).env("LARGE", large.path()).env("SMALL", small.path());
    // Either the step meets the end of the disk itself (`No space left on device`), or it is stopped before.
    Outcome::of(&mut command).ok().says(&["o space left on "]);
}

/// All files beneath a folder of the store, sorted.
fn files(folder: PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![folder];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the store") {
            let path = entry.expect("an entry").path();
            let kind = path.symlink_metadata().expect("it is there");
            match (kind.is_dir(), kind.is_file() && kind.len() > 0) {
                (true, _) => todo.push(path),
                (_, true) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

#[test]
fn one_flipped_byte_in_each_class_of_file_is_named_and_healed() {
    let context = Context::new("FROM busybox\nRUN echo made > /made\nCOPY file /file\n").file("file", "content");
    for (folder, word) in [("blobs", "blob"), ("layers", "layer"), ("records", "layer"), ("images", "image")] {
        let store = Store::with_busybox();
        let archive = store.path("app.tar").display().to_string();
        let output = format!("type=oci,dest={archive}");
        store.build(&context, ["-t", "app:1", "-o", &output]).ok();
        store.rbuild(["verify"]).ok().says(&[]);
        let victims = files(store.root().join(folder));
        // Of trees a file that the step made; of blobs a compressed layer, which is the largest.
        let largest = victims.iter().max_by_key(|path| path.metadata().expect("it is there").len());
        let made = victims.iter().find(|path| path.ends_with("made"));
        let victim = made.or(largest).expect("there are files");
        let mut bytes = std::fs::read(victim).expect("a file of the store");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(victim, bytes).expect("it is ours");

        let found = store.rbuild(["verify"]).exits(1);
        assert!(found.stdout.contains(&format!("damaged: {word} ")), "{folder}: {found}");
        store.rbuild(["verify", "--format", "json"]).exits(0);
        // What was dropped is made anew.
        store.build(&context, ["-t", "app:1"]).ok();
        store.rbuild(["run", "--rm", "--network=none", "app:1", "cat", "/made", "/file"]).ok();
    }
}

#[test]
fn cache_mounts_keep_within_their_size_and_du_says_what_they_are() {
    let store = Store::with_busybox();
    let build = |id: &str, mib: usize| {
        let step = format!("echo {id} && head -c {} /dev/urandom > /c/bulk", mib << 20);
        let context = Context::new(&format!("FROM busybox\nRUN --mount=type=cache,id={id},target=/c {step}\n"));
        let mut command = store.build_command(&context, [""; 0]);
        command.env("RBUILD_CACHE_MOUNTS_MAX_SIZE", "7MiB");
        Outcome::of(&mut command).ok()
    };
    build("first", 3);
    build("second", 3);
    let both = store.rbuild(["du", "--verbose"]).ok().stdout;
    for line in ["cache mount first", "cache mount second", "Cache mounts: 6.", "may take "] {
        assert!(both.contains(line), "`{line}`: {both}");
    }
    let told = build("third", 3);
    assert_eq!(told.stderr.lines().filter(|line| line.contains("removed the cache mount used longest ago")).count(), 1);
    let left = store.rbuild(["du", "--verbose", "--filter", "type=mount"]).ok().stdout;
    assert!(!left.contains("first") && left.contains("second") && left.contains("third"), "{left}");
}

#[test]
fn a_damaged_blob_comes_back_from_the_registry_that_it_was_pulled_from() {
    let registry = Registry::open();
    let name = registry.name("team/app:1");
    Store::with_busybox().build(&bulky("a", 1), ["-t", &name, "--push"]).ok();
    let store = Store::new();
    store.build(&Context::new(&format!("FROM {name}\nRUN test -s /a\n")), ["-t", "app:1"]).ok();
    // Layers are the large ones.
    let blobs = files(store.root().join("blobs"));
    let layers: Vec<_> = blobs.iter().filter(|path| path.metadata().expect("it is there").len() > 100_000).collect();
    assert_eq!(layers.len(), 2, "{blobs:?}");
    for layer in layers {
        let whole = std::fs::read(layer).expect("a blob");
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        std::fs::write(layer, &damaged).expect("it is ours");
        let repaired = store.rbuild(["verify", "--repair"]).exits(1);
        let place = registry.name("team/app");
        assert!(repaired.stdout.contains(&format!("fetched again from {place}")), "{repaired}");
        assert!(std::fs::read(layer).is_ok_and(|bytes| bytes == whole), "as it was: {repaired}");
        store.rbuild(["verify"]).ok();
    }
    // Without a registry it is told, and dropped all the same.
    drop(registry);
    let lost = blobs.iter().max_by_key(|path| path.metadata().expect("it is there").len()).expect("there are blobs");
    std::fs::write(lost, "nothing like it").expect("it is ours");
    let repaired = store.rbuild(["verify", "--repair"]).exits(1);
    assert!(repaired.stdout.contains("dropped; it is made or fetched again") && !lost.exists(), "{repaired}");
}
