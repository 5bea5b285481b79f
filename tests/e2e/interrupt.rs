//! Killed, interrupted, out of space: nothing half-made is kept, nothing is left running or mounted.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::support::rbuild::RBUILD;
use crate::support::{Context, Outcome, Store, bases, tree};

/// How long the kernel may take to end what was killed. Long: only a failure waits for it.
const END_SECONDS: i64 = 30;

/// A build whose last step has begun, and that step's own process on the host.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    step: OwnedFd,
    number: u64,
    /// Read in place, so it must outlive the build.
    _context: Context,
}

/// What a step that never ends is made of: `NUMBER` is the argument by which its last process is found.
const PLAIN: &str = "exec sleep NUMBER";
/// The same, with children that do not want to go: in sessions of their own, orphaned, deaf to what asks them to end.
const STUBBORN: &str = "trap '' TERM INT HUP QUIT; setsid sh -c 'trap \"\" TERM INT HUP; sleep 0NUMBER; true' & \
    (setsid sleep 00NUMBER & ); sleep NUMBER; true";

/// Builds `FROM busybox`, `RUN touch /first`, and a step that never ends.
fn start(store: &Store) -> Running {
    start_with(store, PLAIN)
}

fn start_with(store: &Store, script: &str) -> Running {
    // The number makes the process findable among those of other tests, processes and threads of this one.
    static STARTED: AtomicU64 = AtomicU64::new(0);
    let number = 100_000_000 + u64::from(std::process::id()) * 100 + STARTED.fetch_add(1, Ordering::Relaxed);
    let script = script.replace("NUMBER", &number.to_string());
    let dockerfile = format!("FROM busybox\nRUN echo ran-first && touch /first\nRUN echo begun; {script}\n");
    let context = Context::new(&dockerfile);
    let mut command = store.build_command(&context, ["-t", "x:1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut said = String::new();
    while !said.ends_with(" begun\n") {
        assert_ne!(stderr.read_line(&mut said).expect("it is text"), 0, "the build ended: {said}");
    }
    let step = loop {
        // Between `begun` and the exec the process has another name; it is there as soon as the kernel has run it.
        if let Some(pid) = process_with_argument(&number.to_string()) {
            break pidfd_open(pid, PidfdFlags::empty()).expect("the step is running");
        }
        std::thread::yield_now();
    };
    Running { child, stderr, step, number, _context: context }
}

/// Whether none of the processes of a [`STUBBORN`] step is left, in time.
fn all_end(number: u64) -> bool {
    let begun = std::time::Instant::now();
    let left = || {
        [number.to_string(), format!("0{number}"), format!("00{number}")]
            .iter()
            .any(|argument| process_with_argument(argument).is_some())
    };
    while left() {
        if begun.elapsed() > std::time::Duration::from_secs(10) {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// The process outside of any shell whose arguments hold `argument` as one of them.
pub(crate) fn process_with_argument(argument: &str) -> Option<Pid> {
    std::fs::read_dir("/proc").expect("/proc is there").find_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        words.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()).then(|| Pid::from_raw(pid))?
    })
}

/// Whether the process ends in time.
pub(crate) fn ends(process: &OwnedFd) -> bool {
    let mut wait = [PollFd::new(process, PollFlags::IN)];
    let limit = Timespec { tv_sec: END_SECONDS, tv_nsec: 0 };
    poll(&mut wait, Some(&limit)).expect("a pidfd can be waited for") == 1
}

/// Mounts of this machine that name the store.
pub(crate) fn mounts(store: &Store) -> Vec<String> {
    let root = store.root().display().to_string();
    let all = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is there");
    all.lines().filter(|line| line.contains(&root)).map(String::from).collect()
}

/// A build of the same first step, finished before the end came, runs nothing but what is new.
fn store_is_usable(store: &Store) {
    let context = Context::new("FROM busybox\nRUN echo ran-first && touch /first\nRUN echo ran-second\n");
    let built = store.build(&context, ["-t", "x:1"]).ok();
    assert_eq!((built.lines_of_steps("ran-first"), built.lines_of_steps("ran-second")), (0, 1), "{built}");
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new(), "drafts of the dead are swept");
    assert_eq!(mounts(store), Vec::<String>::new());
}

#[test]
fn killed_builder_takes_its_step_along_and_loses_no_finished_one() {
    for store in Store::everybodys() {
        let mut running = start(&store);
        running.child.kill().expect("it is running");
        running.child.wait().expect("it is ours");
        assert!(ends(&running.step), "the step outlives its builder");
        assert_eq!(mounts(&store), Vec::<String>::new());
        let images = store.rbuild(["images"]).ok();
        assert!(!images.stdout.lines().any(|line| line.starts_with("x")), "{images}");
        store_is_usable(&store);
    }
}

#[test]
fn interrupt_ends_everything_with_code_130() {
    let everybody = Store::everybodys().into_iter().map(|store| (store, Signal::INT));
    for (store, signal) in everybody.chain([(Store::with_busybox(), Signal::TERM)]) {
        let mut running = start(&store);
        let pid = Pid::from_child(&running.child);
        kill_process(pid, signal).expect("it is running");
        let mut rest = String::new();
        running.stderr.read_to_string(&mut rest).expect("it is text");
        let status = running.child.wait().expect("it is ours");
        assert_eq!(status.code(), Some(130), "after {signal:?}: {rest}");
        assert!(rest.contains(" CANCELED"), "{rest}");
        assert!(ends(&running.step), "the step outlives its builder");
        store_is_usable(&store);
    }
}

#[test]
fn children_that_do_not_want_to_go_are_gone_whatever_ends_the_builder() {
    let root = [Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL].map(|signal| (Store::with_busybox(), signal));
    let others = Store::everybodys().into_iter().skip(1).map(|store| (store, Signal::KILL));
    for (store, signal) in root.into_iter().chain(others) {
        let mut running = start_with(&store, STUBBORN);
        kill_process(Pid::from_child(&running.child), signal).expect("it is running");
        let mut rest = String::new();
        running.stderr.read_to_string(&mut rest).expect("it is text");
        running.child.wait().expect("it is ours");
        assert!(ends(&running.step), "the step outlives its builder after {signal:?}: {rest}");
        assert!(all_end(running.number), "children outlive the builder after {signal:?}: {rest}");
        store_is_usable(&store);
    }
}

#[test]
fn full_disk_is_one_error_and_the_store_stays_usable() {
    let store = Store::new();
    std::fs::create_dir(store.root()).expect("it is new");
    let big = Context::new("FROM scratch\nCOPY big /big\n");
    let file = std::fs::File::create(big.path().join("big")).expect("it is new");
    std::io::copy(&mut std::io::repeat(b'x').take(64 << 20), &mut &file).expect("this disk is not full");
    let filling = Context::new("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=64\n");
    let small = Context::new("FROM busybox\nRUN echo fits > /small && cat /small\n");

    // In a mount namespace of its own, so that the small file system is nobody else's and goes away with the script.
    let script = r#"
        set -u
        mount -t tmpfs -o size=32m,mode=0700 tmpfs "$RBUILD_ROOT"
        "$RBUILD" import "$BASE" busybox:latest 2>"$OUT/import" || exit 91
        "$RBUILD" build --progress=plain -t big:1 "$BIG" 2>"$OUT/big"; echo $? >"$OUT/big.code"
        "$RBUILD" build --progress=plain -t filling:1 "$FILLING" 2>"$OUT/filling"; echo $? >"$OUT/filling.code"
        "$RBUILD" build --progress=plain -t small:1 "$SMALL" 2>"$OUT/small"; echo $? >"$OUT/small.code"
        ls -A "$RBUILD_ROOT/tmp" >"$OUT/drafts"
    "#;
    let out = store.path("out");
    std::fs::create_dir(&out).expect("it is new");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", script]);
    command.env("RBUILD", RBUILD).env("RBUILD_ROOT", store.root()).env("HOME", store.home()).env("OUT", &out);
    command
        .env("BASE", bases::busybox())
        .env("BIG", big.path())
        .env("FILLING", filling.path())
        .env("SMALL", small.path());
    Outcome::of(&mut command).ok();

    let read = |name: &str| std::fs::read_to_string(out.join(name)).expect("the script wrote it");
    let errors = |name: &str| read(name).lines().filter(|line| line.starts_with("error")).count();
    assert_eq!((read("big.code").as_str(), errors("big")), ("1\n", 1), "{}", read("big"));
    assert!(read("big").to_lowercase().contains("no space left"), "{}", read("big"));
    assert_eq!((read("filling.code").as_str(), errors("filling")), ("1\n", 1), "{}", read("filling"));
    assert_eq!(read("small.code"), "0\n", "{}", read("small"));
    assert_eq!(read("drafts"), "", "drafts are swept");
}

#[test]
fn two_builders_share_a_store() {
    let store = Store::with_busybox();
    let contexts: Vec<_> =
        (0..4).map(|n| Context::new(&format!("FROM busybox\nRUN echo {n} > /n\nCMD cat /n\n"))).collect();
    let children: Vec<_> = contexts
        .iter()
        .enumerate()
        .map(|(n, context)| {
            let mut command = store.build_command(context, ["-t", &format!("n:{n}")]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
        })
        .collect();
    for child in children {
        Outcome::from_output("one of four".into(), &child.wait_with_output().expect("it ends")).ok();
    }
    for n in 0..4 {
        let ran = store.rbuild(["run", "--rm", "--network=none", &format!("n:{n}")]).ok();
        assert_eq!(ran.stdout, format!("{n}\n"));
    }
}

#[test]
fn hostile_steps_leave_the_host_as_it_was() {
    let canary = crate::support::temp_dir();
    std::fs::create_dir(canary.path().join("empty")).expect("it is ours");
    std::fs::write(canary.path().join("file"), "canary").expect("it is ours");
    let binary = std::fs::read(RBUILD).expect("the binary under test");
    let host = canary.path().display();
    // Nobody may go there who is not root; then nothing would be proven.
    Outcome::of(Command::new("chmod").args(["-R", "a+rwX"]).arg(canary.path())).ok();
    let before = tree::list(canary.path());
    let check = |dockerfile: &str| {
        for store in Store::everybodys() {
            let built = store.build(&Context::new(dockerfile).file("a", "a"), ["-t", "x:1"]);
            assert!(matches!(built.code, Some(0 | 1)), "{built}");
            assert!(!built.stderr.contains("panicked"), "{built}");
            assert_eq!(tree::list(canary.path()), before, "{dockerfile}");
            assert_eq!(mounts(&store), Vec::<String>::new(), "{dockerfile}");
        }
    };
    // Removing the mount's stub must not follow what the step put in its place.
    check(&format!(
        "FROM busybox\nRUN --mount=type=bind,target=/p/empty rm -rf /p 2>/dev/null; mv /p /q; ln -s {host} /p\n"
    ));
    // The source of a mount is resolved inside its stage.
    check(&format!(
        "FROM busybox AS evil\nRUN ln -s / /rootdir\nFROM busybox\n\
         RUN --mount=type=bind,from=evil,source=/rootdir,target=/x,rw echo broken > /x{host}/BREAKOUT; true\n"
    ));
    check(&format!("FROM busybox\nRUN rm -rf /tmp && ln -s {host} /tmp\nWORKDIR /tmp/made\nCOPY a /tmp/b\n"));
    check("FROM busybox\nRUN for exe in /proc/*/exe; do echo broken > $exe; done 2>/dev/null; true\n");
    check("FROM busybox\nRUN mount -t tmpfs x /mnt; chroot /proc/1/root true; umount /proc; true\n");
    check("FROM busybox\nWORKDIR /proc/self/fd/7\nRUN ls ..; true\n");
    check("FROM busybox\nRUN rm -rf /dev /proc /sys /etc 2>/dev/null; ln -s / /etc; true\nRUN true\n");
    assert!(std::fs::read(RBUILD).expect("the binary under test") == binary, "a step wrote to the builder's binary");
}
