//! What a step costs: `RUN true` in the sandbox against the bare kernel work beneath it, in the same run.
//!
//! Bare is: clone into the same namespaces, mount the same overlay and `/proc`, pivot, execute, wait: what no builder
//! can avoid. The step does that too, and everything that makes it a sandbox, through a re-executed helper. Printed,
//! not asserted: `cargo bench -p rbuild-executor --bench step`. Needs root and Debian's busybox-static.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rbuild_executor::StepLimits;
use rbuild_executor::limits::Groups;
use rbuild_executor::network::{NetworkSettings, Networks};
use rbuild_executor::sandbox::spec::Upper;
use rbuild_executor::sandbox::{
    Descriptors, Exit, Io, Network, Output, Overlay, ProcessSpec, RootFs, Settings, Stdin, init_if_asked, run_with,
};
use rbuild_executor::steps::Dns;
use solver::seam::{LogSink, Stream};
use tokio_util::sync::CancellationToken;

/// Enough for a stable minimum and median on a busy machine.
const RUNS: usize = 100;
/// As many layers as a usual image and a few steps have.
const LAYERS: usize = 8;

fn main() {
    init_if_asked();
    let directory = tempfile::tempdir().expect("a temporary directory");
    prepare(directory.path());
    // Before the runtime: it has to have a single thread.
    let bare = measure(|| bare(directory.path()));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let settings = Settings::of_this_process().expect("root");
    let given = |network| {
        measure(|| runtime.block_on(step(&settings, directory.path(), network, Descriptors::default(), true, None)))
    };
    let (host, none) = (given(Network::Host), given(Network::None));
    let unfiltered = measure(|| {
        runtime.block_on(step(&settings, directory.path(), Network::None, Descriptors::default(), false, None))
    });
    let networks = Networks::new(NetworkSettings::default(), Dns::default());
    let begun = Instant::now();
    runtime.block_on(networks.begin(&settings)).expect("a way out of a network namespace");
    let begun = begun.elapsed();
    let own = measure(|| {
        runtime.block_on(async {
            let network = networks.step(&settings).await.expect("a network");
            let mut descriptors = Descriptors::default();
            let joined = Network::Joined(descriptors.hand(network.namespace()));
            step(&settings, directory.path(), joined, descriptors, true, None).await;
        });
    });
    let groups = Groups::new(StepLimits::default()).expect("nothing is asked for");
    let grouped = groups.make(None).expect("nothing is asked for").is_some();
    let group = measure(|| {
        let step = step(&settings, directory.path(), Network::None, Descriptors::default(), true, Some(&groups));
        runtime.block_on(step);
    });
    println!("{RUNS} runs, {LAYERS} layers          minimum     median");
    let line = |name: &str, (minimum, median): (Duration, Duration)| {
        println!("{name:<26} {:>8.2} ms {:>8.2} ms", minimum.as_secs_f64() * 1e3, median.as_secs_f64() * 1e3);
    };
    line("bare", bare);
    line("RUN true, host network", host);
    line("RUN true, no network", none);
    line("the same, calls unfiltered", unfiltered);
    line(if grouped { "in a control group" } else { "(no control groups here)" }, group);
    line("RUN true, default network", own);
    println!("a build's network is begun in {:.1} ms, once", begun.as_secs_f64() * 1e3);
    println!(
        "ratios of the medians to bare: host network {:.2}, none {:.2}, default {:.2}",
        host.1.as_secs_f64() / bare.1.as_secs_f64(),
        none.1.as_secs_f64() / bare.1.as_secs_f64(),
        own.1.as_secs_f64() / bare.1.as_secs_f64()
    );
}

fn prepare(directory: &Path) {
    for layer in 0..LAYERS {
        let tree = directory.join(format!("layers/l{layer}"));
        for name in ["bin", "etc", "proc", "sys", "dev"] {
            fs::create_dir_all(tree.join(name)).expect("a directory");
        }
        fs::write(tree.join(format!("etc/file{layer}")), "x").expect("a file");
    }
    fs::copy("/bin/busybox", directory.join("layers/l0/bin/true")).expect("the package busybox-static is installed");
    for name in ["hosts", "resolv.conf"] {
        fs::write(directory.join("layers/l0/etc").join(name), "").expect("a file");
    }
}

fn measure(mut once: impl FnMut()) -> (Duration, Duration) {
    let mut times: Vec<_> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            once();
            start.elapsed()
        })
        .collect();
    times.sort();
    (times[0], times[RUNS / 2])
}

/// New upper and work directories, as a step's draft has.
fn fresh(directory: &Path) -> Upper {
    let upper = Upper { dir: directory.join("upper"), work: directory.join("work") };
    for path in [&upper.dir, &upper.work] {
        if path.exists() {
            fs::remove_dir_all(path).expect("the last step is over");
        }
        fs::create_dir(path).expect("a directory");
    }
    upper
}

struct Nowhere;

impl LogSink for Nowhere {
    fn write(&self, _: Stream, _: &[u8]) {}
    fn progress(&self, _: &str, _: u64, _: Option<u64>, _: bool) {}
    fn notice(&self, _: &str) {}
}

async fn step(
    settings: &Settings,
    directory: &Path,
    network: Network,
    mut descriptors: Descriptors<'_>,
    filter: bool,
    groups: Option<&Groups>,
) {
    let overlay = Overlay {
        layers_dir: directory.join("layers"),
        lowers: (0..LAYERS).map(|layer| format!("l{layer}")).collect(),
        upper: Some(fresh(directory)),
    };
    let mut spec = ProcessSpec::new(RootFs::Overlay(overlay), vec!["/bin/true".into()]);
    spec.network = network;
    spec.filter = filter;
    let io = Io { stdin: Stdin::Null, output: Output::Log(&Nowhere), forward_signals: false };
    let group = groups.and_then(|groups| groups.make(None).expect("nothing is asked for"));
    spec.group = group.as_ref().map(|group| group.hand(&mut descriptors));
    let cancel = CancellationToken::new();
    let finished = run_with(settings, &spec, io, &descriptors, &cancel).await.expect("a working sandbox");
    assert_eq!(finished.exit, Exit::Code(0));
}

/// The bare work, in the same namespaces as the step with the host's network.
fn bare(directory: &Path) {
    let upper = fresh(directory);
    let text = |text: &str| CString::new(text).expect("no zero byte");
    let lowers: Vec<_> = (0..LAYERS).map(|layer| format!("l{layer}")).collect();
    let options = text(&format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        lowers.join(":"),
        upper.dir.display(),
        upper.work.display()
    ));
    let layers = text(directory.join("layers").to_str().expect("a temporary path is text"));
    let root = text(directory.join("root").to_str().expect("a temporary path is text"));
    if !directory.join("root").exists() {
        fs::create_dir(directory.join("root")).expect("a directory");
    }
    let spaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;
    // SAFETY: this process has one thread; the child calls the kernel only, with strings made before, and exits.
    let status = unsafe {
        let null = std::ptr::null::<libc::c_void>();
        let pid = libc::syscall(libc::SYS_clone, (spaces | libc::SIGCHLD) as libc::c_ulong, null, null, null, null);
        if pid == 0 {
            let (none, overlay, proc_) = (c"none".as_ptr(), c"overlay".as_ptr(), c"proc".as_ptr());
            let ok = libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, null.cast()) == 0
                && libc::chdir(layers.as_ptr()) == 0
                && libc::mount(overlay, root.as_ptr(), overlay, 0, options.as_ptr().cast()) == 0
                && libc::chdir(root.as_ptr()) == 0
                && libc::mount(proc_, c"proc".as_ptr(), proc_, 0, null.cast()) == 0
                && libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) == 0
                && libc::umount2(c".".as_ptr(), libc::MNT_DETACH) == 0;
            if ok {
                libc::execl(c"/bin/true".as_ptr(), c"true".as_ptr(), std::ptr::null::<libc::c_char>());
            }
            libc::_exit(1);
        }
        let mut status = 0;
        libc::waitpid(pid as i32, &raw mut status, 0);
        status
    };
    assert_eq!(status, 0, "the bare step works");
}
