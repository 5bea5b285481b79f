//! Layers that are put together are, upon and beneath others, what they were each by itself.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};

use super::*;
use crate::snapshot::overlay::MountApi;
use crate::snapshot::{OverlaySnapshotter, Snapshotter};
use crate::testing::{build, mounts, open, show};

/// Numbers that look like chance and are always the same.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Lines of a layer: every kind of thing over and beneath every other.
fn some_layer(chance: &mut Chance, above: &str, lines: &mut Vec<String>) {
    let mut file: Option<String> = None;
    for name in ["a", "b", "c", "d"] {
        let path = format!("{above}{name}");
        let text = chance.below(1000);
        match chance.below(14) {
            0..=2 => {}
            3 => lines.push(format!("{path}={text}")),
            4 => lines.push(format!("{path}={text} 4750 1:2 @user.k={text}")),
            5..=6 => lines.push(format!("{path}!")),
            7 => lines.push(format!("{path} -> {text}")),
            8 => lines.push(format!("{path}|")),
            9 => lines.push(format!("{path}$")),
            10 if file.is_some() => lines.push(format!("{path} == {}", file.clone().unwrap())),
            kind => {
                lines.push(match kind {
                    10 => format!("{path}/!"),
                    11 => format!("{path}/ 700 3:4 @user.d={text}"),
                    _ => format!("{path}/"),
                });
                if above.len() < 6 {
                    some_layer(chance, &format!("{path}/"), lines);
                }
            }
        }
        if lines.last().is_some_and(|line| line.starts_with(&format!("{path}={text}"))) {
            file = Some(path);
        }
    }
}

fn overlays(store: &Store) -> Arc<dyn Snapshotter> {
    Arc::new(OverlaySnapshotter::new(store.layers_dir(), MountApi::detect()).unwrap())
}

#[test]
fn several_layers_as_one_are_what_they_were_whatever_is_beneath_and_above() {
    let (mut things, before) = (0, mounts());
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (snapshots, plain) = (overlays(&store), Layers::new(store.clone()));
    let view = |names: &[Arc<str>]| show(snapshots.view(&texts(names)).unwrap().fd(), true);
    for seed in 0..16 {
        let mut chance = Chance(seed);
        let (mut top, mut lowers, mut all) = (None, Vec::new(), Vec::new());
        for _ in 0..6 {
            let mut lines = Vec::new();
            some_layer(&mut chance, "", &mut lines);
            let draft = store.draft().unwrap();
            build(draft.fs(), &lines.iter().map(String::as_str).collect::<Vec<_>>());
            // As after a step: without deletions of what never was.
            snapshots.commit(&lowers, draft.fs()).unwrap();
            let id = store.add_built_layer(top.as_ref(), Some(draft), Timestamp::UNIX_EPOCH).unwrap();
            lowers = plain.lowers(&id).unwrap();
            (top, all) = (Some(id), [all, vec![lines]].concat());
        }
        let names: Vec<Arc<str>> = lowers.iter().map(|name| name.as_str().into()).collect();
        let expected = view(&names);
        things += expected.len();
        for (start, end) in [(1, 5), (0, 6), (2, 6), (0, 3), (3, 5)] {
            let tree = put_together(&names[start..end], &names[end..], &store, &*snapshots).unwrap();
            let fewer = [&names[..start], &[tree.name().into()], &names[end..]].concat();
            assert_eq!(view(&fewer), expected, "{seed}: {start} to {end} of {all:?}");
        }
    }
    assert!(things > 200, "{things} things were looked at");
    assert_eq!(mounts(), before);
}

#[test]
fn times_come_along_to_the_nanosecond() {
    let dir = tempfile::tempdir().unwrap();
    let (layer, together) = (dir.path().join("layer"), dir.path().join("together"));
    build(&layer, &["d/f=1", "l -> d"]);
    fs::create_dir(&together).unwrap();
    let when = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_789);
    for path in ["d/f", "d", ""] {
        fs::File::open(layer.join(path)).unwrap().set_modified(when).unwrap();
    }
    put_over(open(&layer), open(&together), Beneath::Layer).unwrap();
    for path in ["d/f", "d", ""] {
        let about = fs::metadata(together.join(path)).unwrap();
        assert_eq!((about.mtime(), about.mtime_nsec()), (1_234_567_890, 123_456_789), "{path}");
    }
}

/// A layer of the build on `parent`, of these lines; it says that it takes `bytes`.
fn step(store: &Store, parent: Option<&ResultId>, lines: &[&str], bytes: u64) -> ResultId {
    let draft = store.draft().unwrap();
    build(draft.fs(), lines);
    store.add_built_layer(parent, Some(draft.with_bytes(bytes)), Timestamp::UNIX_EPOCH).unwrap()
}

fn trees(store: &Store) -> usize {
    fs::read_dir(store.layers_dir()).unwrap().count()
}

#[test]
fn a_long_chain_is_few_trees_to_mount_and_the_same_to_see() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let snapshots = overlays(&store);
    let layers = Layers::new(store.clone()).stacked_together(snapshots.clone());
    let plain = Layers::new(store.clone());
    let seen = |layers: &Layers, result: &ResultId| {
        let lowers = layers.lowers(result).unwrap();
        (lowers.len(), show(snapshots.view(&lowers).unwrap().fd(), false))
    };
    let mut results: Vec<ResultId> = Vec::new();
    for n in 0..300 {
        let made = format!("f{n}={n}");
        let gone = format!("f{}!", n.max(1) - 1);
        let mut lines = vec![made.as_str(), "d/f=x"];
        if n % 3 == 1 && n > 0 {
            lines.push(&gone);
        }
        if n % 100 == 99 {
            lines.push("d/!");
        }
        let bytes = if n == 150 { SMALL_TREE_BYTES + 1 } else { SMALL_TREE_BYTES };
        results.push(step(&store, results.last(), &lines, bytes));
        // As a build asks: for one on the other.
        let lowers = layers.lowers(results.last().unwrap()).unwrap();
        assert!(lowers.len() < n / TOGETHER + 1 + 2 * TOGETHER, "{n}: {}", lowers.len());
    }
    let made = trees(&store) - 300;
    assert_eq!(made, 150 / TOGETHER + 149 / TOGETHER, "both sides of the large one");
    for n in [0, 63, 64, 149, 150, 151, 200, 299] {
        let (all, tree) = seen(&plain, &results[n]);
        assert_eq!(all, n + 1);
        let (few, same) = seen(&layers, &results[n]);
        assert_eq!(tree, same, "{n}");
        assert!(n < TOGETHER - 1 || few <= all - TOGETHER + 1, "{n}: {few} of {all}");
        // And whoever begins there.
        let fresh = Layers::new(store.clone()).stacked_together(snapshots.clone());
        assert_eq!(seen(&fresh, &results[n]), (few, same), "{n}, from the bottom");
    }
    assert_eq!(trees(&store) - 300, made, "the others have put theirs away");
    drop(layers);
    assert_eq!(trees(&store), 300);
}

#[test]
fn a_collection_leaves_what_layers_are_put_together_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let layers = Layers::new(store.clone()).stacked_together(overlays(&store));
    let mut results: Vec<ResultId> = Vec::new();
    for n in 0..TOGETHER {
        results.push(step(&store, results.last(), &[&format!("f{n}={n}")], 1));
    }
    let lowers = layers.lowers(results.last().unwrap()).unwrap();
    let [name] = lowers.as_slice() else { panic!("{lowers:?}") };
    let other = Store::open(&dir.path().join("store")).unwrap();
    other.prune(&store::Wish::default(), false).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let tree = rustix::fs::open(store.layers_dir().join(name), flags, Mode::empty()).unwrap();
    assert_eq!(show(tree.as_fd(), false).len(), TOGETHER);
}
