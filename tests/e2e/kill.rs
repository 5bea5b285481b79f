//! Killed at many points: the next build makes the same image, and nothing half-made stays.
//!
//! Points are system calls by which the store makes things visible or durable, the n-th of each thread (strace ends the
//! process instead), and moments. Their order is that of a fixed seed, so that every run begins with the same ones, and
//! more time only adds: `RBUILD_SOAK_SECONDS` gives it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::rbuild::RBUILD;
use crate::support::{Context, Outcome, Seed, Store, bases, soak};

/// For each test of this file, when nobody soaks.
const SECONDS: u64 = 8;
/// Every call that a build writes to its store with.
const CALLS: &[&str] = &[
    "renameat,renameat2,rename",
    "fsync,fdatasync,syncfs",
    "pwrite64",
    "write",
    "mkdirat,mkdir",
    "unlinkat,unlink",
    "openat",
    "openat2",
    "flock",
    "fcntl",
    "ftruncate,fallocate",
    "copy_file_range,sendfile",
    "mount,fsmount,open_tree,move_mount",
    "clone,clone3,fork,vfork",
    "fsetxattr,setxattr,removexattr,fremovexattr",
    "utimensat",
];
/// The n-th call is chosen between 1 and a number that grows to this.
const NTH_MAX: u64 = 400;

const DOCKERFILE: &str = "FROM scratch AS base\nADD base.tar /\nENV PATH=/bin\nFROM base AS a\nRUN echo ran && mkdir /d && echo 1 > /d/one && rm /bin/ash\nCOPY f g /c/\n\
    FROM base\nRUN echo ran && echo 2 > /two\nCOPY --from=a /d /c /e/\nWORKDIR /w\nRUN echo ran && echo 3 > three && rm -r /e/one\n";

fn context() -> Context {
    let base = std::fs::read(bases::busybox()).expect("the base is there");
    Context::new(DOCKERFILE).file("base.tar", base).file("f", "f").file("g", vec![7; 100_000])
}

const FLAGS: [&str; 4] = ["--source-date-epoch", "1000000000", "-t", "x:1"];

/// The id that the image has when nothing happens.
fn expected(context: &Context) -> String {
    Store::new().image_id(context, FLAGS)
}

/// A store that was left behind gives the same image, and is clean.
fn recovers(store: &Store, context: &Context, expected: &str, point: &str) {
    let id = store.image_id(context, FLAGS);
    assert_eq!(id, expected, "after {point}");
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new(), "after {point}");
    store.rbuild(["verify"]).ok();
    let again = store.build(context, FLAGS).ok();
    assert_eq!(again.lines_of_steps("ran"), 0, "after {point}: {again}");
}

#[test]
fn build_that_was_killed_in_any_call_is_made_good_by_the_next() {
    let (context, mut seed) = (context(), Seed::new(1));
    let expected = expected(&context);
    let (until, mut killed, mut points) = (Instant::now() + soak(SECONDS), 0, 0);
    while points == 0 || Instant::now() < until {
        let calls = CALLS[seed.below(CALLS.len() as u64) as usize];
        let nth = 1 + seed.below((10 + points * 4).min(NTH_MAX));
        let point = format!("call {nth} of {calls}");
        let store = Store::new();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e"]);
        command.arg(format!("inject={calls}:signal=KILL:when={nth}")).arg(RBUILD).arg("build").args(FLAGS);
        command.arg(context.path()).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", store.home()).env("RBUILD_ROOT", store.root()).stdin(Stdio::null());
        let outcome = Outcome::of(&mut command);
        assert!(!outcome.stderr.contains("panicked"), "{point}: {outcome}");
        killed += u32::from(outcome.code != Some(0));
        recovers(&store, &context, &expected, &point);
        points += 1;
    }
    assert!(killed > 0, "no build was killed at any of {points} points");
    println!("{killed} of {points} points ended a build");
}

#[test]
fn build_that_was_killed_at_any_moment_is_made_good_by_the_next() {
    let (context, mut seed) = (context(), Seed::new(2));
    let expected = expected(&context);
    let whole = {
        let store = Store::new();
        let began = Instant::now();
        store.build(&context, FLAGS).ok();
        began.elapsed()
    };
    let (until, mut killed, mut points) = (Instant::now() + soak(SECONDS), 0, 0);
    while points == 0 || Instant::now() < until {
        let store = Store::new();
        let mut command = store.build_command(&context, FLAGS);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
        let after = Duration::from_micros(seed.below(whole.as_micros() as u64));
        // The moment is the input of this test, not something that it waits for.
        std::thread::sleep(after);
        killed += u32::from(child.try_wait().expect("it is our child").is_none());
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
        recovers(&store, &context, &expected, &format!("{after:?}"));
        points += 1;
    }
    assert!(killed > 0, "no build was killed at any of {points} moments");
    println!("{killed} of {points} moments ended a build");
}
