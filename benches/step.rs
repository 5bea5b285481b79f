//! What a step costs: `RUN true` in the sandbox against the bare kernel work beneath it, in the same run.
//!
//! Bare is: clone into the same namespaces as a step with the host's network, mount the same overlay and `/proc`, pivot,
//! execute, wait: what no builder can avoid. It is done by a process of its own with one thread. The step does that
//! too, and everything that makes it a sandbox. All kinds take turns, and each follows each other one equally often, so
//! that what a busy machine does, and what the kernel clears away behind a step, hits all alike. Beside the time on the
//! clock stands that of the processors: of builder, helper and step together.
//!
//! `cargo bench -p rbuild-executor --bench step`. With `-- --enforce` it fails when a step without a network takes more
//! than [`MOST`] times as long as bare. Needs root and Debian's busybox-static.

use std::ffi::CString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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

/// Enough for a stable minimum and median on a busy machine. A multiple of the number of kinds.
const ROUNDS: usize = 120;
/// As many layers as a usual image and a few steps have.
const LAYERS: usize = 8;
/// How many times as long as the bare work a step without a network may take.
const MOST: f64 = 2.0;
/// The argument by which this binary knows that it does the bare work.
const BARE: &str = "--bare-work-in";

fn main() {
    init_if_asked();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [flag, directory] = arguments.as_slice()
        && flag == BARE
    {
        return do_bare_work(Path::new(directory));
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    prepare(directory);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let networks = Networks::new(NetworkSettings::default(), Dns::default());
    let begun = Instant::now();
    let settings = Settings::of_this_process().expect("root");
    runtime.block_on(networks.begin(&settings)).expect("a way out of a network namespace");
    let begun = begun.elapsed();
    let groups = Groups::new(StepLimits::default()).expect("nothing is asked for");
    let grouped = groups.make(None).expect("nothing is asked for").is_some();

    let step = |settings: &Settings, network, filter, groups: Option<&Groups>| {
        runtime.block_on(step(settings, directory, network, Descriptors::default(), filter, groups))
    };
    let in_own_network = |settings: &Settings| {
        runtime.block_on(async {
            let network = networks.step(settings).await.expect("a network");
            let mut descriptors = Descriptors::default();
            let joined = Network::Joined(descriptors.hand(network.namespace()));
            self::step(settings, directory, joined, descriptors, true, None).await
        })
    };
    let mut bare = BareWorker::start(directory);
    let in_group = if grouped { "in a control group" } else { "(no control groups here)" };
    let mut kinds = vec![
        Kind {
            name: "bare",
            work: Box::new(|| bare.work()),
            times: Vec::new(),
            cpu: Duration::ZERO,
            has_helper: false,
        },
        kind("RUN true, host network", |settings| step(settings, Network::Host, true, None)),
        kind("RUN true, no network", |settings| step(settings, Network::None, true, None)),
        kind("the same, calls unfiltered", |settings| step(settings, Network::None, false, None)),
        kind(in_group, |settings| step(settings, Network::None, true, Some(&groups))),
        kind("RUN true, default network", in_own_network),
    ];
    let mut order: Vec<usize> = (0..kinds.len()).collect();
    let mut chance = Chance(1);
    for _ in 0..ROUNDS {
        chance.shuffle(&mut order);
        order.iter().for_each(|&kind| kinds[kind].once());
    }
    let measured: Vec<_> = kinds.into_iter().map(Kind::finish).collect();
    println!("{ROUNDS} rounds, {LAYERS} layers          minimum      median  processors   times bare: median, minimum");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let times = |own: Duration, bare: Duration| own.as_secs_f64() / bare.as_secs_f64();
    for Measured { name, minimum, median, cpu } in &measured {
        let (in_median, in_minimum) = (times(*median, measured[0].median), times(*minimum, measured[0].minimum));
        let (minimum, median, cpu) = (ms(*minimum), ms(*median), ms(*cpu));
        println!("{name:<27} {minimum:>8.2} ms {median:>8.2} ms {cpu:>8.2} ms {in_median:>12.2} {in_minimum:>8.2}");
    }
    println!("a build's network is begun in {:.1} ms, once", ms(begun));
    let times = times(measured[2].median, measured[0].median);
    if arguments.iter().any(|argument| argument == "--enforce") && times > MOST {
        eprintln!("a step without a network takes {times:.2} times as long as the bare work, and may take {MOST}");
        std::process::exit(1);
    }
}

/// What is measured.
struct Kind<'a> {
    name: &'static str,
    work: Box<dyn FnMut() -> Work + 'a>,
    times: Vec<Duration>,
    cpu: Duration,
    has_helper: bool,
}

/// How long something took on the clock, and what this process used of processors.
struct Work {
    time: Duration,
    cpu: Duration,
}

struct Measured {
    name: &'static str,
    minimum: Duration,
    median: Duration,
    cpu: Duration,
}

/// A kind of step, with settings and thereby a helper of its own.
fn kind<'a>(name: &'static str, mut run: impl FnMut(&Settings) + 'a) -> Kind<'a> {
    let settings = Settings::of_this_process().expect("root");
    let work = Box::new(move || {
        let (cpu, start) = (used(libc::RUSAGE_SELF), Instant::now());
        run(&settings);
        Work { time: start.elapsed(), cpu: used(libc::RUSAGE_SELF) - cpu }
    });
    Kind { name, work, times: Vec::new(), cpu: Duration::ZERO, has_helper: true }
}

impl Kind<'_> {
    fn once(&mut self) {
        let Work { time, cpu } = (self.work)();
        self.times.push(time);
        self.cpu += cpu;
    }

    fn finish(mut self) -> Measured {
        let before = used(libc::RUSAGE_CHILDREN);
        // With its settings goes its helper, and then all that helper and steps have used is known.
        drop(self.work);
        while self.has_helper && used(libc::RUSAGE_CHILDREN) == before {
            std::thread::yield_now();
        }
        let cpu = if self.has_helper { used(libc::RUSAGE_CHILDREN) - before } else { Duration::ZERO };
        self.times.sort();
        let cpu = (self.cpu + cpu) / ROUNDS as u32;
        Measured { name: self.name, minimum: self.times[0], median: self.times[ROUNDS / 2], cpu }
    }
}

/// Processor time in user code and in the kernel.
fn used(whose: libc::c_int) -> Duration {
    // SAFETY: an all-zero rusage is a valid one, and outlives the call that fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(whose, &raw mut usage), 0);
        usage
    };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Numbers that look random and are the same in each run.
struct Chance(u64);

impl Chance {
    fn shuffle(&mut self, list: &mut [usize]) {
        for last in (1..list.len()).rev() {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            list.swap(last, (self.0 >> 33) as usize % (last + 1));
        }
    }
}

/// The process that does the bare work: it must have a single thread.
struct BareWorker(Child);

impl BareWorker {
    fn start(directory: &Path) -> Self {
        let own = std::env::current_exe().expect("this binary is there");
        let mut command = Command::new(own);
        command.arg(BARE).arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("this binary can be executed"))
    }

    fn work(&mut self) -> Work {
        let (stdin, stdout) = (self.0.stdin.as_mut().expect("a pipe"), self.0.stdout.as_mut().expect("a pipe"));
        stdin.write_all(&[1]).expect("it lives");
        let mut told = [[0; 8]; 2];
        told.iter_mut().for_each(|number| stdout.read_exact(number).expect("it lives"));
        let [time, cpu] = told.map(|number| Duration::from_nanos(u64::from_ne_bytes(number)));
        Work { time, cpu }
    }
}

impl Drop for BareWorker {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("it is a child");
    }
}

/// Does the bare work once per byte of standard input.
fn do_bare_work(directory: &Path) {
    let (mut byte, mut told) = ([0], std::io::stdout());
    while std::io::stdin().read(&mut byte).expect("a pipe") == 1 {
        let all = || used(libc::RUSAGE_SELF) + used(libc::RUSAGE_CHILDREN);
        let (cpu, start) = (all(), Instant::now());
        bare(directory);
        let (time, cpu) = (start.elapsed(), all() - cpu);
        for number in [time, cpu] {
            told.write_all(&(number.as_nanos() as u64).to_ne_bytes()).expect("a pipe");
        }
        told.flush().expect("a pipe");
    }
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

/// The bare work.
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
    // SAFETY: this process has one thread; its child calls the kernel only, with strings made before, and exits.
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
