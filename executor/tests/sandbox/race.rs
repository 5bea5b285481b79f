//! Directories and symbolic links that change places all the time, where steps mount, write and are read.
//!
//! [`race`] is what all have in common. The oracle: what the links point to outside is neither seen nor changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rbuild_executor::sandbox::{self, Bind, BindSource, Tmpfs};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use solver::op::CacheSharing::Shared;
use solver::op::{Mount, MountKind};

use crate::exec::{Bench, bind};
use crate::support::{Rig, describe, ran};

/// How often entries change places, at least; `RBUILD_SOAK_SECONDS` makes it go on for that long.
const SWAPS_MIN: usize = 100_000;
/// How often it is raced, at least.
const ROUNDS_MIN: usize = 20;

/// Stops the racers also when a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Exchanges two entries until it is stopped; counts how often.
fn swap(one: &Path, other: &Path, stop: &AtomicBool, swaps: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("both are there");
        swaps.fetch_add(1, Ordering::Relaxed);
    }
}

/// Does `round` again and again, until it says that it was done often enough, while the entries of each pair, names in
/// `directory`, are exchanged without a pause.
fn race(directory: &Path, pairs: &[(&str, &str)], mut round: impl AsyncFnMut() -> bool) {
    let (stop, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let soak = std::env::var("RBUILD_SOAK_SECONDS").map_or(0, |text| text.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs(soak);
    let mut rounds = 0;
    std::thread::scope(|scope| {
        for (one, other) in pairs {
            let (one, other) = (directory.join(one), directory.join(other));
            let (stop, swaps) = (&stop, &swaps);
            scope.spawn(move || swap(&one, &other, stop, swaps));
        }
        let _stop = Stop(&stop);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                loop {
                    let is_enough = round().await;
                    rounds += 1;
                    let swapped = swaps.load(Ordering::Relaxed) >= SWAPS_MIN;
                    if is_enough && swapped && rounds >= ROUNDS_MIN && Instant::now() >= until {
                        break;
                    }
                }
            });
        });
    });
    println!("{} swaps, {rounds} rounds", swaps.into_inner());
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").expect("procfs")
}

/// A link that climbs to the root and from there to `path`, for whoever follows links as they are.
fn climbing_to(path: PathBuf) -> String {
    "../../../../../../../../../../../..".to_owned() + path.to_str().expect("text")
}

/// `runc` CVE-2021-30465: the parent of a mount point is exchanged for a link between the look and the mount.
#[tokio::test(flavor = "multi_thread")]
async fn no_mount_or_file_gets_out_of_the_root_while_parents_are_exchanged_for_links() {
    let rig = Rig::new();
    let shared = rig.path("shared");
    for directory in ["real/in", "kept"] {
        fs::create_dir_all(shared.join(directory)).expect("made");
    }
    // By its absolute path, and by climbing: one of them leads out for whoever follows links as they are.
    symlink(rig.path("canary"), shared.join("absolute")).expect("made");
    symlink(climbing_to(rig.path("canary")), shared.join("up")).expect("made");
    fs::write(rig.path("given"), "given").expect("written");
    let (canary, before) = (rig.canary(), mounts());
    let bind = |path: PathBuf, readonly| {
        sandbox::MountKind::Bind(Bind { source: BindSource::Lent(path), subpath: String::new(), readonly })
    };
    let empty = || sandbox::MountKind::Tmpfs(Tmpfs { size_bytes: 0, mode: 0o755 });
    let mount = |target: &str, kind| sandbox::Mount { target: target.into(), kind };
    let (mut went_well, mut refused) = (0, Vec::new());
    race(&shared, &[("kept", "absolute"), ("real/in", "up")], async || {
        let mut spec = rig.overlay("echo in > /s/kept/made; echo in > /s/real/in/made; :");
        spec.mounts = vec![
            mount("/s", bind(shared.clone(), false)),
            mount("/s/kept/empty", empty()),
            mount("/s/kept/nothing", bind(rig.path("given"), true)),
            mount("/s/real/in/new/deep", empty()),
        ];
        spec.cwd = "/s/real/in/cwd".into();
        match ran(&spec).await {
            Ok(_) => went_well += 1,
            // What it met in the middle of an exchange may be no place for a mount.
            Err(error) => refused.push(error.to_string()),
        }
        true
    });
    assert!(went_well > 0, "{refused:?}");
    assert!(refused.iter().all(|reason| reason.contains("could not")), "{refused:?}");
    assert_eq!(rig.canary(), canary, "{}", describe(&shared));
    assert_eq!(mounts(), before);
}

/// CVE-2024-23651, CVE-2024-11218: what is mounted of a cache mount is exchanged for a link by another step that has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_places_in_a_cache_mount_leads_nowhere_else() {
    /// What the canary holds.
    const CANARY: &str = "secret";
    /// Where what is mounted is hardly ever the directory, it is tried no longer.
    const TRIES_MAX: usize = 500;

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
    // As far as a step can have written it: the path of the host.
    symlink(bench.rig.path("canary"), directory.join("link")).unwrap();
    let (mut rounds, mut mounted) = (0, 0);
    race(&directory, &[("place", "link")], async || {
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
        // The builder reads the whole of it itself; that it changes meanwhile may be an error.
        let mut tar = Vec::new();
        let _ = bench.worker.store().export_mount(&entry, &mut tar);
        bench.worker.store().usage().unwrap();
        assert!(!tar.windows(CANARY.len()).any(|bytes| bytes == CANARY.as_bytes()), "it is in the tar");
        rounds += 1;
        mounted > 0 || rounds >= TRIES_MAX
    });
    assert_eq!(bench.rig.canary(), canary);
    assert!(mounted > 0, "no step had its mount in {rounds} rounds");
}
