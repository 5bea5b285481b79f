//! When a step ends, everything of it ends, however it came to its end.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbuild_executor::sandbox::{
    Descriptors, Exit, Finished, Io, Output, ProcessSpec, SandboxError, Stdin, run, run_with,
};
use tokio_util::sync::CancellationToken;

use crate::support::{Collected, Rig, output, settings};

/// Much longer than a kill takes on a busy machine, much shorter than the steps.
const SOON: Duration = Duration::from_secs(10);

/// Children that do not want to go: sessions of their own, orphans, deaf to SIGTERM. `seconds` tells the processes of
/// different tests apart.
fn stubborn(seconds: u32) -> String {
    format!(
        "trap '' TERM INT HUP; setsid sh -c 'trap \"\" TERM; sleep {seconds}; true' & \
         (setsid sleep {seconds} & ) ; echo ready; sleep {seconds}"
    )
}

/// How many `sleep <seconds>` live on this machine.
pub fn sleepers(seconds: u32) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let count = |entry: std::io::Result<fs::DirEntry>| {
        let command = entry.ok().and_then(|entry| fs::read(entry.path().join("cmdline")).ok());
        command.is_some_and(|command| command == wanted.as_bytes())
    };
    fs::read_dir("/proc").unwrap().map(count).filter(|&found| found).count()
}

/// Waits until `done`, or fails.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < SOON, "{what} did not come");
        std::thread::yield_now();
    }
}

type Step = tokio::task::JoinHandle<Result<Finished, SandboxError>>;

/// Starts `spec` and waits until its three sleepers are there.
async fn started(spec: ProcessSpec, seconds: u32, cancel: &CancellationToken) -> (Step, Arc<Collected>) {
    let (log, cancel) = (Arc::new(Collected::default()), cancel.clone());
    let sink = log.clone();
    let step = tokio::spawn(async move {
        let io = Io { stdin: Stdin::Null, output: Output::Log(&*sink), forward_signals: false };
        run(&settings(), &spec, io, &cancel).await
    });
    let wait = tokio::task::spawn_blocking(move || until("the step's start", || sleepers(seconds) == 3));
    wait.await.unwrap();
    (step, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_kills_everything_and_returns_when_it_is_gone() {
    let rig = Rig::new();
    let cancel = CancellationToken::new();
    let (step, log) = started(rig.overlay(&stubborn(98_701)), 98_701, &cancel).await;
    let start = Instant::now();
    cancel.cancel();
    let result = step.await.unwrap();
    let took = start.elapsed();
    assert_eq!(sleepers(98_701), 0, "all are gone when it returns");
    assert!(matches!(result, Err(SandboxError::Canceled)), "{result:?}");
    assert!(took < SOON, "{took:?}");
    assert_eq!(*log.stdout.lock().unwrap(), b"ready\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_at_any_moment_of_the_set_up_leaves_nothing() {
    let rig = Rig::new();
    // This test may run at several places at a time.
    let seconds = 98_000_000 + std::process::id();
    for moment in 0..40 {
        let cancel = CancellationToken::new();
        let log = Collected::default();
        let io = Io { stdin: Stdin::Null, output: Output::Log(&log), forward_signals: false };
        let spec = rig.overlay(&format!("sleep {seconds}"));
        let settings = settings();
        let step = run(&settings, &spec, io, &cancel);
        let after_a_while = async {
            tokio::time::sleep(Duration::from_micros(250) * moment).await;
            cancel.cancel();
        };
        let (result, ()) = tokio::join!(step, after_a_while);
        assert!(matches!(result, Err(SandboxError::Canceled)), "{moment}: {result:?}");
        assert_eq!(sleepers(seconds), 0, "{moment}");
    }
}

#[tokio::test]
async fn a_canceled_token_starts_nothing() {
    let rig = Rig::new();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let log = Collected::default();
    let io = Io { stdin: Stdin::Null, output: Output::Log(&log), forward_signals: false };
    let result = run(&settings(), &rig.tree("touch /made"), io, &cancel).await;
    assert!(matches!(result, Err(SandboxError::Canceled)), "{result:?}");
    assert!(!rig.base().join("made").exists());
}

#[tokio::test]
async fn the_end_of_the_command_is_the_end_of_all_that_it_started() {
    let rig = Rig::new();
    let script = "(setsid sleep 98702 &); setsid sleep 98702 & \
        while [ $(cat /proc/[0-9]*/comm | grep -c '^sleep$') -lt 2 ]; do :; done; exit 4";
    let log = Collected::default();
    let io = Io { stdin: Stdin::Null, output: Output::Log(&log), forward_signals: false };
    let finished = run(&settings(), &rig.overlay(script), io, &CancellationToken::new()).await.unwrap();
    assert_eq!((finished.exit, sleepers(98_702)), (Exit::Code(4), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_helper_takes_the_step_along_and_is_named() {
    let rig = Rig::new();
    let (step, _) = started(rig.overlay(&stubborn(98_703)), 98_703, &CancellationToken::new()).await;
    let mut helpers = Vec::new();
    // The kernel shows no command line of a process while it cannot look at its memory.
    until("the helper's name", || {
        helpers = children_called(std::process::id(), "rbuild-init");
        !helpers.is_empty()
    });
    assert_eq!(helpers.len(), 1);
    kill(helpers[0]);
    let result = step.await.unwrap();
    assert_eq!(sleepers(98_703), 0);
    assert!(matches!(result, Err(SandboxError::HelperDied { .. })), "{result:?}");
}

#[test]
fn a_killed_builder_takes_the_step_along() {
    let rig = Rig::new();
    let mut builder = builder(&rig.base(), &stubborn(98_704));
    until("the step's start", || sleepers(98_704) == 3);
    builder.kill().unwrap();
    builder.wait().unwrap();
    until("the step's end", || sleepers(98_704) == 0);
    until("the helper's end", || children_called(1, "rbuild-init").is_empty());
}

#[test]
fn signals_reach_the_command_and_one_that_is_deaf_is_killed_by_the_third() {
    let rig = Rig::new();
    let ended = |script: &str, seconds: u32, signal: &str, deaf: bool| {
        let mut builder = builder(&rig.base(), script);
        until("the step's start", || sleepers(seconds) == 1);
        let (mut status, mut sent) = (None, false);
        // One is enough for who listens. Signals of a kind merge while one is pending, so how many it takes to end a
        // deaf one cannot be told.
        until("the end", || {
            if deaf || !sent {
                let told = Command::new("kill").args([signal, &builder.id().to_string()]).status().unwrap();
                sent = told.success();
            }
            status = builder.try_wait().unwrap();
            assert!(sent || status.is_some());
            status.is_some()
        });
        assert_eq!(sleepers(seconds), 0);
        status.unwrap().code()
    };
    assert_eq!(ended("trap 'exit 42' TERM; sleep 98705 & wait", 98_705, "-TERM", false), Some(42));
    assert_eq!(ended("trap 'exit 43' HUP; sleep 98706 & wait", 98_706, "-HUP", false), Some(43));
    assert_eq!(ended("trap '' INT; sleep 98707; true", 98_707, "-INT", true), Some(137));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_steps_at_once_do_not_mix() {
    let (rig, settings) = (Rig::new(), settings());
    let mut steps = tokio::task::JoinSet::new();
    for number in 0..50 {
        // A volatile upper is used once, so each step has a tree; they share one, and write nothing to it.
        let mut spec = rig.tree(&format!("ls /proc/self/fd; echo {number} $N; exit {number}"));
        spec.env.push(format!("N={number}"));
        let settings = settings.clone();
        steps.spawn(async move {
            let log = Collected::default();
            let io = Io { stdin: Stdin::Null, output: Output::Log(&log), forward_signals: false };
            let finished = run(&settings, &spec, io, &CancellationToken::new()).await.unwrap();
            let text = String::from_utf8(log.stdout.into_inner().unwrap()).unwrap();
            assert_eq!(finished.exit, Exit::Code(number));
            assert_eq!(text, format!("0\n1\n2\n3\n{number} {number}\n"));
        });
    }
    let ended = steps.join_all().await;
    assert_eq!(ended.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_one_helper_have_a_network_namespace_each_with_loopback_up() {
    const STEPS: usize = 4;
    let (rig, settings) = (Rig::new(), settings());
    // All live until all have begun, so that no namespace can be another's successor.
    let script = format!(
        "readlink /proc/self/ns/net; cat /sys/class/net/lo/flags; ls /sys/class/net; > /tmp/here.$N; \
         until [ $(ls /tmp | grep -c here) = {STEPS} ]; do :; done"
    );
    let mut steps = tokio::task::JoinSet::new();
    for number in 0..STEPS {
        let (settings, mut spec) = (settings.clone(), rig.tree(&script));
        spec.env.push(format!("N={number}"));
        steps.spawn(async move {
            let log = Collected::default();
            let io = Io { stdin: Stdin::Null, output: Output::Log(&log), forward_signals: false };
            let finished = run(&settings, &spec, io, &CancellationToken::new()).await.unwrap();
            assert_eq!(finished.exit, Exit::Code(0));
            String::from_utf8(log.stdout.into_inner().unwrap()).unwrap()
        });
    }
    let mut namespaces = vec![fs::read_link("/proc/self/ns/net").unwrap().into_os_string().into_string().unwrap()];
    for text in steps.join_all().await {
        let (namespace, rest) = text.split_once('\n').unwrap();
        assert_eq!(rest, "0x9\nlo\n", "up, and the only one");
        assert!(!namespaces.contains(&namespace.to_owned()), "{namespaces:?} {namespace}");
        namespaces.push(namespace.to_owned());
    }
}

#[tokio::test]
async fn steps_have_one_helper_and_a_dead_one_is_replaced() {
    let (rig, settings) = (Rig::new(), settings());
    let helper_of = async |step: u32| {
        let log = Collected::default();
        let io = Io { stdin: Stdin::Null, output: Output::Log(&log), forward_signals: false };
        let finished = run(&settings, &rig.overlay("exit 6"), io, &CancellationToken::new()).await.unwrap();
        assert_eq!(finished.exit, Exit::Code(6), "step {step}");
        let helpers = children_called(std::process::id(), "rbuild-init");
        assert_eq!(helpers.len(), 1, "step {step}");
        helpers[0]
    };
    let first = helper_of(1).await;
    assert_eq!(helper_of(2).await, first);
    kill(first);
    until("the helper's end", || fs::read_to_string(format!("/proc/{first}/stat")).unwrap().contains(") Z "));
    assert_ne!(helper_of(3).await, first);
    drop(settings);
    until("the end of the last one", || children_called(std::process::id(), "rbuild-init").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_for_a_step_is_let_go_when_it_is_dead_whatever_other_steps_do() {
    let (rig, settings) = (Rig::new(), settings());
    let lock = fs::File::create(rig.path("lock")).unwrap();
    lock.lock().unwrap();
    let cancel = CancellationToken::new();
    let long = {
        let (settings, cancel, spec) = (settings.clone(), cancel.clone(), rig.tree("echo ready; sleep 98709"));
        tokio::spawn(async move {
            let log = Collected::default();
            let io = Io { stdin: Stdin::Null, output: Output::Log(&log), forward_signals: false };
            run(&settings, &spec, io, &cancel).await
        })
    };
    let log = Collected::default();
    let io = Io { stdin: Stdin::Null, output: Output::Log(&log), forward_signals: false };
    let mut held = Descriptors::default();
    held.hold(lock.as_fd());
    let script = "while ! ls /tmp/go; do :; done 2>&1";
    let spec = rig.tree(script);
    let short = run_with(&settings, &spec, io, &held, &cancel);
    let go = rig.base().join("tmp/go");
    let other = tokio::task::spawn_blocking(move || {
        until("the other step", || sleepers(98_709) == 1);
        fs::write(go, "").unwrap();
    });
    let (finished, other) = tokio::join!(short, other);
    other.unwrap();
    assert_eq!(finished.unwrap().exit, Exit::Code(0));
    drop(lock);
    let again = fs::File::open(rig.path("lock")).unwrap();
    again.try_lock().expect("nobody holds it any more");
    assert_eq!(sleepers(98_709), 1);
    cancel.cancel();
    assert!(matches!(long.await.unwrap(), Err(SandboxError::Canceled)));
}

#[tokio::test]
async fn the_hosts_mounts_are_untouched() {
    let rig = Rig::new();
    let here = rig.path("");
    let of_ours = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(here.to_str().unwrap())).count()
    };
    assert_eq!(of_ours(), 0);
    let own = output(&rig.overlay("cat /proc/self/mountinfo")).await;
    assert!(own.contains(" / / "));
    assert_eq!(of_ours(), 0);
    // Nothing keeps the trees busy.
    fs::remove_dir_all(rig.path("upper")).unwrap();
    fs::remove_dir_all(rig.path("work")).unwrap();
}

fn builder(root: &Path, script: &str) -> Child {
    Command::new(crate::support::helper())
        .args(["run", root.to_str().unwrap(), script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Process ids of the children of `parent` whose command line begins with `name`.
fn children_called(parent: u32, name: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        let (Ok(command), Ok(status)) = (fs::read(path.join("cmdline")), fs::read_to_string(path.join("status")))
        else {
            continue;
        };
        if command.starts_with(name.as_bytes()) && status.contains(&format!("\nPPid:\t{parent}\n")) {
            found.push(pid);
        }
    }
    found
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
