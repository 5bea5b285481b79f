//! A directory and a symbolic link that change places all the time, in a cache mount that others mount parts of
//! (CVE-2024-23651, CVE-2024-11218). The oracle: what the link points to outside is neither seen nor changed.
//!
//! At least [`SWAPS`] exchanges by default; `RBUILD_SOAK_SECONDS` makes it go on for that long.

use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use solver::op::CacheSharing::Shared;
use solver::op::{Mount, MountKind};

use crate::exec::{Bench, bind};

/// How often the two change places, at least.
const SWAPS: usize = 100_000;
/// How many pairs of steps are set up meanwhile, at least.
const ROUNDS: usize = 10;
/// What the canary holds.
const CANARY: &str = "secret";

/// Exchanges two names of a directory until it is told to stop.
struct Racer {
    directory: OwnedFd,
    stop: AtomicBool,
    swaps: AtomicUsize,
}

impl Racer {
    fn new(directory: &Path) -> Self {
        let directory = rustix::fs::openat(CWD, directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        Self { directory, stop: AtomicBool::new(false), swaps: AtomicUsize::new(0) }
    }

    fn run(&self) {
        let fd = &self.directory;
        while !self.stop.load(Ordering::Relaxed) {
            rustix::fs::renameat_with(fd, "place", fd, "link", RenameFlags::EXCHANGE).unwrap();
            self.swaps.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Stops the racer also when a check fails.
struct Stop<'a>(&'a Racer);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_places_in_a_cache_mount_leads_nowhere_else() {
    let bench = Bench::new();
    let canary = bench.rig.canary();
    let cache = |selector: &str, target: &str| Mount {
        kind: MountKind::Cache { id: "/x".into(), sharing: Shared },
        ..bind(target, None, selector, false, None)
    };
    let made = "mkdir -p /x/place/sub /x/other; echo mine > /x/place/sub/f; echo mine > /x/place/f";
    bench.step(made, vec![cache("", "/x")], &[&bench.base]).await.unwrap();
    let entry = bench.worker.store().mounts().unwrap().remove(0);
    let directory = bench.rig.path("store/mounts").join(&entry.name).join("fs");
    // As far as a step can have written it: the path of the host, and ways up.
    symlink(bench.rig.path("canary"), directory.join("link")).unwrap();
    let racer = Racer::new(&directory);
    let end = std::env::var("RBUILD_SOAK_SECONDS").ok().map(|text| Duration::from_secs(text.parse().unwrap()));
    let end = end.map(|soak| Instant::now() + soak);
    let (mut rounds, mut mounted, mut exported) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| racer.run());
        let _stop = Stop(&racer);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                while racer.swaps.load(Ordering::Relaxed) < SWAPS
                    || rounds < ROUNDS
                    || (mounted == 0 && rounds < 50 * ROUNDS)
                    || end.is_some_and(|end| Instant::now() < end)
                {
                    let read = "cat /p/f /p/sub/f /p/sec*t /p/*; echo bad > /p/written; echo bad > /p/nothing; rm -rf /p/empty";
                    let inputs = [&bench.base];
                    let one = bench.step(read, vec![cache("/place", "/p")], &inputs);
                    let below = vec![cache("/place/sub", "/p"), cache("/link", "/q"), cache("", "/x")];
                    let other = bench.step("cat /p/* /q/* /x/place/* /x/link/*; rm -rf /q/empty", below, &inputs);
                    let (one, other) = tokio::join!(one, other);
                    for result in [one, other] {
                        // One may fail: what it is to mount was the link just then, which leads nowhere in the mount.
                        let words = match result {
                            Ok((_, output)) => output,
                            Err(error) => error.to_string(),
                        };
                        mounted += usize::from(words.contains("mine"));
                        assert!(!words.contains(CANARY), "{words}");
                    }
                    // The builder reads the whole of it itself.
                    let mut tar = Vec::new();
                    exported += usize::from(bench.worker.store().export_mount(&entry, &mut tar).unwrap_or(false));
                    bench.worker.store().usage().unwrap();
                    assert!(!tar.windows(CANARY.len()).any(|bytes| bytes == CANARY.as_bytes()), "it is in the tar");
                    rounds += 1;
                }
            });
        });
    });
    assert_eq!(bench.rig.canary(), canary);
    assert!(mounted > 0, "no step had its mount in {rounds} rounds");
    println!("{} swaps, {rounds} rounds, {mounted} mounted, {exported} exported", racer.swaps.into_inner());
}
