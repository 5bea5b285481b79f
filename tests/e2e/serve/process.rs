//! What a process holds, as the kernel counts it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Long for what is let go in a moment.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// What can leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub descriptors: usize,
    pub children: usize,
    pub mounts: usize,
    pub threads: usize,
}

/// What `pid` holds now; of mounts, those beneath `root` that it sees.
pub fn held(pid: u32, root: &Path) -> Held {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").count();
    Held { descriptors, children: children(pid), mounts: mounts(pid, root), threads }
}

/// Mounts beneath `root` that a process sees.
pub fn mounts(pid: u32, root: &Path) -> usize {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it runs");
    let root = root.to_str().expect("paths of tests are text");
    table.lines().filter(|line| line.split(' ').nth(4).is_some_and(|target| target.starts_with(root))).count()
}

fn children(pid: u32) -> usize {
    let is_child = |entry: &fs::DirEntry| {
        let Some(Ok(_)) = entry.file_name().to_str().map(str::parse::<u32>) else { return false };
        // It may end while it is looked at.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { return false };
        let after = stat.rsplit_once(')').map(|(_, after)| after).unwrap_or_default();
        after.split_whitespace().nth(1) == Some(&pid.to_string())
    };
    fs::read_dir("/proc").expect("it is mounted").flatten().filter(is_child).count()
}

/// Waits until `pid` holds no more than `wanted` says, but for threads; what it holds at the end.
pub async fn settled(pid: u32, root: &Path, wanted: Held) -> Held {
    let began = Instant::now();
    loop {
        let now = held(pid, root);
        let is_settled =
            now.descriptors <= wanted.descriptors && now.children <= wanted.children && now.mounts <= wanted.mounts;
        if is_settled || began.elapsed() > SETTLES_WITHIN {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Resident memory in KiB: all of it, and what is the process' own. proc(5), "VmRSS", "RssAnon".
pub fn memory_kib(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel counts it");
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    (of("VmRSS"), of("RssAnon"))
}

/// The same, as soon as it `fits`, or when it has had time enough for it.
pub async fn memory_once(pid: u32, fits: impl Fn((u64, u64)) -> bool) -> (u64, u64) {
    let began = Instant::now();
    loop {
        let now = memory_kib(pid);
        if fits(now) || began.elapsed() > SETTLES_WITHIN {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
