//! Somebody exchanges directories for links while a step mounts into them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rbuild_executor::sandbox::{Bind, BindSource, Mount, MountKind, Tmpfs};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::support::{Rig, describe, ran};

/// At least; in soak runs, whatever the time allows.
const SWAPS_MIN: usize = 100_000;
/// Steps that mount meanwhile.
const STEPS_MIN: usize = 20;

/// Exchanges two entries until it is stopped; counts how often.
fn swap(one: &Path, other: &Path, stop: &AtomicBool, swaps: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("both are there");
        swaps.fetch_add(1, Ordering::Relaxed);
    }
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").expect("procfs")
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
    symlink(
        "../../../../../../../../../../../..".to_owned() + rig.path("canary").to_str().expect("text"),
        shared.join("up"),
    )
    .expect("made");
    fs::write(rig.path("given"), "given").expect("written");
    let (canary, before) = (rig.canary(), mounts());
    let (stop, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let soak = std::env::var("RBUILD_SOAK_SECONDS").map_or(0, |text| text.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs(soak);
    let bind = |path: std::path::PathBuf, readonly| {
        MountKind::Bind(Bind { source: BindSource::Path(path), subpath: String::new(), readonly })
    };
    let mount = |target: &str, kind| Mount { target: target.into(), kind };
    let (mut went_well, mut refused) = (0, Vec::new());
    std::thread::scope(|scope| {
        for link in ["absolute", "up"] {
            let (one, other) = (shared.join(if link == "up" { "real/in" } else { "kept" }), shared.join(link));
            let (stop, swaps) = (&stop, &swaps);
            scope.spawn(move || swap(&one, &other, stop, swaps));
        }
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                while swaps.load(Ordering::Relaxed) < SWAPS_MIN
                    || went_well + refused.len() < STEPS_MIN
                    || Instant::now() < until
                {
                    let mut spec = rig.overlay("echo in > /s/kept/made; echo in > /s/real/in/made; :");
                    spec.mounts = vec![
                        mount("/s", bind(shared.clone(), false)),
                        mount("/s/kept/empty", MountKind::Tmpfs(Tmpfs { size_bytes: 0, mode: 0o755 })),
                        mount("/s/kept/nothing", bind(rig.path("given"), true)),
                        mount("/s/real/in/new/deep", MountKind::Tmpfs(Tmpfs { size_bytes: 0, mode: 0o755 })),
                    ];
                    spec.cwd = "/s/real/in/cwd".into();
                    match ran(&spec).await {
                        Ok(_) => went_well += 1,
                        // What it met in the middle of an exchange may be no place for a mount.
                        Err(error) => refused.push(error.to_string()),
                    }
                }
            });
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert!(went_well > 0, "{refused:?}");
    assert!(refused.iter().all(|reason| reason.contains("could not")), "{refused:?}");
    assert_eq!(rig.canary(), canary, "{}", describe(&shared));
    assert_eq!(mounts(), before);
}
