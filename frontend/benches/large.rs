//! Plans Dockerfiles of 10 MB and 100,000 instructions; prints time and peak memory of each variant.
//!
//! `cargo bench -p rbuild-frontend --bench large` prints; with `-- --enforce` a variant over its limit is an error
//! (`make soak`). Each variant runs in a process of its own, whose peak (`VmHWM`) is that of reading and planning it.
//! The files are made by [`variants`]; that the work is linear in them is held by `src/hostile.rs`, without a clock.

#[path = "large/variants.rs"]
mod variants;

use std::process::{Command, ExitCode};
use std::time::Duration;

use oci::model::{Config, DiffId, Digest, ImageConfig, RootFs};
use rbuild_frontend::{Answers, ImageAnswer, PlanOptions, Planned, plan, read};
use variants::VARIANTS;

const INSTRUCTIONS: usize = 100_000;
const BYTES: usize = 10_000_000;
const TIME_MAX: Duration = Duration::from_secs(2);
const PEAK_MAX_KIB: u64 = 1 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name] = &arguments[..]
        && first == "--variant"
    {
        return measure(name);
    }
    let enforce = arguments.iter().any(|argument| argument == "--enforce");
    let program = std::env::current_exe().expect("a running program has a path");
    println!(
        "{:<22} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "variant", "MB", "read", "first", "plan", "peak", "vertices"
    );
    let mut well = true;
    for (name, _) in VARIANTS {
        let status = Command::new(&program).args(["--variant", name]).status().expect("this program can be run");
        well &= status.success();
    }
    if enforce && !well { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs one variant in this process and prints its row; fails when it is over a limit.
fn measure(name: &str) -> ExitCode {
    let (_, variant) = VARIANTS.iter().find(|(known, _)| *known == name).expect("the caller names a variant");
    let text = variant(INSTRUCTIONS, BYTES);
    let options = PlanOptions {
        platform: "linux/amd64".parse().expect("a platform"),
        build_platform: "linux/amd64".parse().expect("a platform"),
        ..PlanOptions::default()
    };
    let mut answers = Answers::new();
    // The first call asks for images; what it costs counts too, but is not what is limited.
    let (asked, first) = timed(|| plan(&text, &options, &answers));
    match asked {
        Ok(Planned::Need(asked)) => {
            for asked in asked {
                let config = ImageConfig {
                    architecture: "amd64".into(),
                    os: "linux".into(),
                    config: Config { env: vec!["PATH=/usr/bin:/bin".into()], ..Config::default() },
                    rootfs: RootFs { diff_ids: vec![DiffId(Digest::of(b"layer"))], ..RootFs::default() },
                    ..ImageConfig::default()
                };
                answers.insert(asked.question, ImageAnswer { name: None, digest: Digest::of(b"image"), config });
            }
        }
        other => panic!("{name}: images are asked for first: {:?}", other.err().map(|found| found[0].clone())),
    }
    let (file, reading) = timed(|| read(&text));
    assert!(!file.0.stages.is_empty());
    drop(file);
    let (planned, planning) = timed(|| plan(&text, &options, &answers));
    let peak_kib = peak_kib();
    let plan = match planned {
        Ok(Planned::Plan(plan)) => plan,
        Ok(Planned::Need(asked)) => panic!("{name}: {} images are still asked for", asked.len()),
        Err(found) => panic!("{name}: {:?}", found.first()),
    };
    let over = planning > TIME_MAX || peak_kib > PEAK_MAX_KIB;
    println!(
        "{name:<22} {:>8.2} {:>6} ms {:>6} ms {:>6} ms {:>5} MiB {:>9}{}",
        text.len() as f64 / 1e6,
        reading.as_millis(),
        first.as_millis(),
        planning.as_millis(),
        peak_kib / 1024,
        plan.graph.len(),
        if over { "  over the limit of 2 s or 1 GiB" } else { "" },
    );
    if over { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What the work gives, and how long the processor was at it: this is one thread, and other programs run too.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = on_processor();
    let result = work();
    (result, on_processor() - start)
}

/// How long this thread has run so far.
fn on_processor() -> Duration {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
    let first = line.split(' ').next().and_then(|number| number.parse().ok());
    Duration::from_nanos(first.expect("a number of nanoseconds"))
}

/// The most memory that this process has held so far.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux says it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
