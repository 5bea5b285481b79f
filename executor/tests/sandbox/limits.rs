//! Limits of steps, on whatever control groups this machine has: the same promises for version 1 and version 2.
//!
//! A machine without a controller cannot keep a promise about it, and must say so: every test asserts one of both.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rbuild_executor::limits::{CpuQuota, Hit, LimitError, Pids, Room, Swap};
use rbuild_executor::ops::exec::StepError;
use rbuild_executor::{ExecError, StepLimits, StepSettings};
use solver::op::Op;

use crate::exec::{Bench, exec};
use crate::support::Collected;

/// Much longer than any of these steps takes when its limit holds.
const WITHIN: Duration = Duration::from_secs(60);

fn bench(limits: StepLimits) -> Result<Bench, ExecError> {
    Bench::try_with(StepSettings { limits, ..StepSettings::default() })
}

/// A bench whose steps have `limits`, or `None` where this machine cannot give `controller`, and says so.
fn limited(controller: &str, limits: StepLimits) -> Option<Bench> {
    let made = bench(limits);
    if controllers().contains(controller) {
        return Some(made.unwrap_or_else(|error| panic!("{controller} is there: {error} {:?}", error.help())));
    }
    let error = made.err().expect("what the machine cannot give is refused before anything runs");
    assert!(matches!(error, ExecError::Limit(_)), "{error}");
    assert!(error.help().is_some_and(|help| help.contains("rbuild") || help.contains("mount")), "{error}");
    println!("skipped: this machine has no controller `{controller}` for steps: {error}");
    None
}

/// Controllers that root can have for steps here: those of version 1 that are mounted to be written to, and those of
/// version 2 that the root of the hierarchy has.
fn controllers() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        let (mount, file_system) = line.split_once(" - ").unwrap();
        let fields: Vec<_> = mount.split(' ').collect();
        if fields[5].split(',').any(|flag| flag == "ro") {
            continue;
        }
        if file_system.starts_with("cgroup2 ") {
            let text = fs::read_to_string(PathBuf::from(fields[4]).join("cgroup.controllers")).unwrap();
            found.extend(text.split_whitespace().map(String::from));
        } else if let Some((_, options)) = file_system.strip_prefix("cgroup ").and_then(|rest| rest.split_once(" rw,"))
        {
            found.extend(options.split(',').map(String::from));
        }
    }
    found
}

/// Groups of ours on this machine.
fn groups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut look = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = look.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with("rbuild-") {
                    found.insert(entry.path());
                }
                look.push(entry.path());
            }
        }
    }
    found
}

/// What the step says, and how it failed.
async fn failed(bench: &Bench, script: &str) -> (StepError, Collected) {
    let begun = Instant::now();
    let (result, log) = bench.run(Op::Exec(Box::new(exec(script))), vec![bench.base.clone()]).await;
    assert!(begun.elapsed() < WITHIN, "{script} took {:?}", begun.elapsed());
    match result {
        Err(ExecError::Step(error)) => (error, log),
        Err(error) => panic!("{script}: {error}"),
        Ok(_) => panic!("{script} ended well: {log:?}"),
    }
}

fn quiet() -> StepLimits {
    StepLimits { pids: Pids::Unlimited, min_free: Room::Bytes(0), ..StepLimits::default() }
}

/// A command that holds so much memory; `tail` keeps all of what has no line break.
fn hog(mebibytes: u32) -> String {
    format!("head -c {mebibytes}m /dev/zero | tail | wc -c")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_hog_ends_its_step_and_is_named_with_limit_and_peak() {
    let limits = StepLimits { memory_bytes: Some(64 << 20), swap: Swap::Usual, ..quiet() };
    let Some(bench) = limited("memory", limits) else { return };
    // Directly, and as a child whose end another program passes on.
    for script in ["exec tail /dev/zero".to_owned(), format!("set -o pipefail; {} || exit 7", hog(512))] {
        let (error, _) = failed(&bench, &script).await;
        let StepError::Limit { hit: Hit::Memory { limit_bytes, peak_bytes, killed }, .. } = &error else {
            panic!("{script}: {error}")
        };
        assert_eq!(*limit_bytes, Some(64 << 20));
        assert!(peak_bytes.is_none_or(|peak| (32 << 20..=65 << 20).contains(&peak)), "{error}");
        assert!(*killed >= 1);
        let text = error.to_string();
        assert!(text.contains("ran out of memory: the limit is 64 MiB"), "{text}");
        assert!(ExecError::from(error).help().unwrap().contains("--memory"));
    }
    // Others are not touched, and one that gets by without the process that was killed is told of.
    let (_, out) = bench.step("echo fine", Vec::new(), &[&bench.base]).await.unwrap();
    assert_eq!(out, "fine\n");
    let script = format!("{} || true; echo went on", hog(512));
    let (result, log) = bench.run(Op::Exec(Box::new(exec(&script))), vec![bench.base.clone()]).await;
    result.unwrap();
    let notices = log.notices.into_inner().unwrap();
    assert!(
        notices.iter().any(|text| text.contains("ran out of memory") && text.contains("ended well")),
        "{notices:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_is_held_and_named_while_other_steps_go_on() {
    let Some(bench) = limited("pids", StepLimits { pids: Pids::Max(32), ..quiet() }) else { return };
    let bomb = "bomb() { bomb | bomb & bomb; }; bomb";
    let inputs = [&bench.base];
    let other = bench.step("for n in $(seq 20); do sh -c true; done; echo fine", Vec::new(), &inputs);
    let ((error, log), other) = tokio::join!(failed(&bench, bomb), other);
    assert!(matches!(&error, StepError::Limit { hit: Hit::Pids { limit: Some(32) }, .. }), "{error} {log:?}");
    assert!(ExecError::from(error).help().unwrap().contains("--pids-limit"));
    assert_eq!(other.unwrap().1, "fine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_are_shared_out_and_chosen() {
    let cpu = Some(CpuQuota { quota_us: Some(20_000), period_us: 100_000 });
    if let Some(bench) = limited("cpu", StepLimits { cpu, cpu_shares: Some(512), ..quiet() }) {
        let script = "n=0; while [ $n -lt 120000 ]; do n=$((n+1)); done";
        let (result, log) = {
            let begun = Instant::now();
            let (result, log) = bench.run(Op::Exec(Box::new(exec(script))), vec![bench.base.clone()]).await;
            let usage = log.usage.lock().unwrap().expect("a process uses something");
            let (used, took) = (usage.user + usage.system, begun.elapsed());
            // A fifth of one processor, but for the first and the last period, and for what newer kernels let it use
            // before it is back in its own code.
            assert!(used <= took / 5 + Duration::from_millis(100), "{used:?} of {took:?}");
            (result, log)
        };
        result.unwrap_or_else(|error| panic!("{error} {log:?}"));
    }
    if let Some(bench) = limited("cpuset", StepLimits { cpuset_cpus: Some("0".into()), ..quiet() }) {
        let (_, out) =
            bench.step("grep Cpus_allowed_list /proc/self/status", Vec::new(), &[&bench.base]).await.unwrap();
        assert_eq!(out, "Cpus_allowed_list:\t0\n");
        let error = bench_error(StepLimits { cpuset_cpus: Some("4000".into()), ..quiet() });
        assert!(matches!(&error, ExecError::Limit(LimitError::Setting { flag: "--cpuset-cpus", .. })), "{error}");
    }
}

fn bench_error(limits: StepLimits) -> ExecError {
    bench(limits).err().expect("the kernel refuses it")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_sees_only_its_own_group_and_cannot_write_to_it() {
    let bench = limited("pids", StepLimits { pids: Pids::Max(77), ..quiet() });
    let Some(bench) = bench else { return };
    let script = "cat /proc/self/cgroup; cd /sys/fs/cgroup; \
        for f in pids.max pids/pids.max; do [ -e $f ] && cat $f; done; \
        for f in $(ls -d * */*); do [ -f $f ] && { echo 1 > $f; } 2>/dev/null && echo wrote $f; done; \
        for f in new pids/new; do mkdir $f 2>/dev/null && echo made $f; { echo > $f; } 2>/dev/null && echo made $f; done; true";
    let (_, out) = bench.step(script, Vec::new(), &[&bench.base]).await.unwrap();
    assert!(out.lines().any(|line| line == "77"), "{out}");
    assert!(!out.contains("wrote") && !out.contains("made"), "{out}");
    let own: Vec<_> = out.lines().filter(|line| line.contains(":pids:") || line.starts_with("0::")).collect();
    assert!(own.iter().all(|line| line.ends_with(":/")), "{out}");
    assert!(!out.contains("rbuild-"), "names of groups are not seen: {out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_takes_too_long_is_killed_and_named() {
    let limit = Duration::from_millis(300);
    let bench = bench(StepLimits { timeout: Some(limit), ..quiet() }).unwrap();
    let script =
        "trap '' TERM INT HUP; (setsid sleep 98801 &); setsid sh -c 'trap \"\" TERM; sleep 98801; true' & sleep 98801";
    let (error, _) = failed(&bench, script).await;
    assert!(matches!(&error, StepError::Limit { hit: Hit::Time { .. }, exit: None, .. }), "{error}");
    assert!(error.to_string().contains("took longer than the limit of 300 ms"), "{error}");
    assert_eq!(crate::lifetime::sleepers(98_801), 0);
    // A limit that is never reached ends nothing.
    let long = self::bench(StepLimits { timeout: Some(WITHIN), ..quiet() }).unwrap();
    let (_, out) = long.step("echo fine", Vec::new(), &[&long.base]).await.unwrap();
    assert_eq!(out, "fine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filler_is_killed_near_its_limit() {
    let bench = bench(StepLimits { disk_bytes: Some(8 << 20), ..quiet() }).unwrap();
    let (error, _) = failed(&bench, "while :; do head -c 1m /dev/zero >> /tmp/big; done").await;
    let StepError::Limit { hit: Hit::Disk { limit_bytes, written_bytes }, .. } = &error else { panic!("{error}") };
    assert_eq!(*limit_bytes, 8 << 20);
    assert!((8 << 20..2 << 30).contains(written_bytes), "{error}");
    assert!(ExecError::from(error).help().unwrap().contains("--disk-limit"));
    let (_, out) = bench.step("head -c 1m /dev/zero > /small; echo fine", Vec::new(), &[&bench.base]).await.unwrap();
    assert_eq!(out, "fine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_less_room_than_asked_for_runs_nothing() {
    let bench = bench(StepLimits { min_free: Room::Percent(100), ..quiet() }).unwrap();
    let (result, log) = bench.run(Op::Exec(Box::new(exec("echo ran"))), vec![bench.base.clone()]).await;
    let error = result.unwrap_err();
    assert!(matches!(&error, ExecError::Limit(LimitError::Room { .. })), "{error}");
    assert!(log.stdout.into_inner().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_step_used_is_told_however_it_ends() {
    let bench = bench(StepLimits::default()).unwrap();
    for script in
        ["n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done", "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; exit 3"]
    {
        let (_, log) = bench.run(Op::Exec(Box::new(exec(script))), vec![bench.base.clone()]).await;
        let usage = log.usage.into_inner().unwrap().expect("it used something");
        let used = usage.user + usage.system;
        assert!(used > Duration::from_millis(1) && used < WITHIN, "{usage:?}");
        assert!(usage.max_rss_bytes.is_some_and(|bytes| bytes > 100_000), "{usage:?}");
        if controllers().contains("memory") && !groups_are_unified() {
            assert!(usage.memory_peak_bytes.is_some_and(|bytes| bytes > 100_000), "{usage:?}");
        }
    }
}

/// With version 2 a group has memory figures only if something above passes the controller on.
fn groups_are_unified() -> bool {
    !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - cgroup cgroup ")
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_go_with_their_steps_and_those_of_dead_builders_with_the_next_start() {
    let Some(bench) = limited("pids", StepLimits { pids: Pids::Max(64), ..quiet() }) else { return };
    // Seen from outside while the step runs.
    let step = async {
        let (_, log) = bench.run(Op::Exec(Box::new(exec("echo begun; sleep 1"))), vec![bench.base.clone()]).await;
        log
    };
    let looked = tokio::task::spawn_blocking(|| {
        let begun = Instant::now();
        loop {
            let found = groups();
            if !found.is_empty() || begun.elapsed() > WITHIN {
                return found;
            }
        }
    });
    let (_, found) = tokio::join!(step, looked);
    let found = found.unwrap();
    assert!(!found.is_empty());
    // The groups of one that was killed: nobody holds their locks.
    let parent = found.first().unwrap().parent().unwrap().to_owned();
    let left = parent.join("rbuild-leftbyadead1");
    fs::create_dir(&left).unwrap();
    let held = fs::File::open(&left).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut inside = std::process::Command::new("sleep").arg("98802").spawn().unwrap();
    fs::write(left.join("cgroup.procs"), inside.id().to_string()).unwrap();
    drop(held);
    let again = limited("pids", StepLimits { pids: Pids::Max(64), ..quiet() }).unwrap();
    // By this builder, or by another that starts at the same time and is not done yet.
    let begun = Instant::now();
    while left.exists() {
        assert!(begun.elapsed() < WITHIN, "a dead builder's group is swept");
        std::thread::yield_now();
    }
    assert!(!inside.wait().unwrap().success(), "what was in it is killed");
    let (_, out) = again.step("echo fine", Vec::new(), &[&again.base]).await.unwrap();
    assert_eq!(out, "fine\n");
}
