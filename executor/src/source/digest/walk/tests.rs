//! Trees of unusual shapes, and what a walk does not touch.

use std::mem::MaybeUninit;
use std::path::Path;

use rustix::fs::Mode;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use solver::pattern::Patterns;

use super::*;
use crate::select::tree::{Effect, Filter, Rule, RuleScope};
use crate::source::look::Moment;
use crate::source::stat_cache::StatCache;
use crate::testing::{build, open};
use crate::tree;

/// Digest of the contents of `dir` with at most so many descriptors kept, on that many threads.
fn digest(dir: &Path, ignore: &[&str], held_max: usize, threads: usize) -> Result<ContentDigest, TreeError> {
    let exclude = Patterns::new(ignore).unwrap();
    let filter =
        Filter { rules: vec![Rule { patterns: &exclude, effect: Effect::LeaveOut, scope: RuleScope::Source }] };
    let (root, cache, stop) = (tree::Root::new(open(dir)), StatCache::default(), || false);
    let walk = Walk {
        held_max,
        ..Walk::new(Digesting { root: &root, filter: &filter, cache: &cache, moment: Moment::now(), stop: &stop })
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| walk.count(&[b""])).map(|(digests, _)| digests[0])
}

#[test]
fn a_tree_has_one_digest_however_it_is_walked() {
    let dir = tempfile::tempdir().unwrap();
    let mut lines: Vec<String> = (0..1_300)
        .map(|i| format!("wide/f{i}={}", "x".repeat(i % 30)))
        .chain((0..600).map(|i| format!("w/{i}/")))
        .collect();
    let long = "n".repeat(200);
    let deep: Vec<&str> = std::iter::repeat_n(long.as_str(), 15).collect();
    lines.extend((0..deep.len()).map(|depth| format!("{}/f=1", deep[..=depth].join("/"))));
    build(dir.path(), &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let expected = digest(dir.path(), &["**/f7"], HELD_MAX, 1).unwrap();
    for (held_max, threads) in [(0, 1), (0, 4), (1, 4), (3, 2), (HELD_MAX, 8)] {
        assert_eq!(digest(dir.path(), &["**/f7"], held_max, threads).unwrap(), expected, "{held_max} {threads}");
    }
    assert_ne!(digest(dir.path(), &[], HELD_MAX, 2).unwrap(), expected);
}

#[test]
fn a_tree_deeper_than_any_path_is_walked_and_left_on_a_failure() {
    const DEPTH: usize = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let mut at = open(dir.path());
    for _ in 0..DEPTH {
        fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = open_dir_at(at.as_fd(), b"d").unwrap();
    }
    drop(fs::openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
    let expected = digest(dir.path(), &[], HELD_MAX, 2).unwrap();
    assert_eq!(digest(dir.path(), &[], 0, 2).unwrap(), expected);
    // What cannot be in a digest fails at the very bottom, with all directories above it waiting.
    let (root, cache, filter) = (tree::Root::new(open(dir.path())), StatCache::default(), Filter::default());
    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) > DEPTH + 10;
    let walk = Walk::new(Digesting { root: &root, filter: &filter, cache: &cache, moment: Moment::now(), stop: &stop });
    assert!(matches!(walk.count(&[b""]), Err(TreeError::Stopped)));
    crate::tree::copy::clear(open(dir.path())).unwrap();
}

#[test]
fn what_is_left_out_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &["in/f=1", "out/f=1", "out/g=1", "out/deep/f=1", "in/out/f=1", "in/secret=1"]);
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    for path in ["out", "out/deep", "in/out", "in/secret", "out/f"] {
        inotify::add_watch(&watch, dir.path().join(path), WatchFlags::OPEN | WatchFlags::ACCESS).unwrap();
    }
    let mut room = [MaybeUninit::uninit(); 4096];
    let mut was_opened = || {
        let mut reader = inotify::Reader::new(&watch, &mut room);
        let event = reader.next().map(|event| event.events());
        matches!(event, Ok(events) if events.intersects(ReadFlags::OPEN | ReadFlags::ACCESS))
    };
    digest(dir.path(), &["**/out", "**/secret"], HELD_MAX, 2).unwrap();
    assert!(!was_opened());
    // The watch sees what it has to see.
    digest(dir.path(), &["**/out"], HELD_MAX, 2).unwrap();
    assert!(was_opened());
}
