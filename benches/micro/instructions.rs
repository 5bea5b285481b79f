//! Instructions of the hot paths, counted, and compared with the committed baseline.
//!
//! In: cases, and `benches/instructions.txt` ([`crate::baseline`]). Out: a table, complaints, and whether there were any.
//! Each case runs in a process of its own under valgrind's callgrind: prepared, done once, so that what is done once per
//! process is behind it, and done once more between two marks at which callgrind writes down what it has counted so far;
//! all threads count.
//!
//! What differs between machines is shut out or the same: the processor is valgrind's (it has no SHA, no AVX-512; AVX2
//! if the machine has it, which stands in the baseline), the kernel's part is not counted, there is one processor for
//! who asks, the environment is empty, and files are in memory, where a directory lists its names in one order.
//! Compilers and the C library remain: the baseline names those it was made with, and a complaint tells where they
//! differ. Deliberately absent: the start of a sandbox, which valgrind cannot follow into new
//! namespaces, and the walk of a context, by `openat2`, which the valgrind of Debian 12 does not know.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use thiserror::Error;

use crate::baseline::{Baseline, BaselineError, Row, TOLERANCE_PERCENT};
use crate::cases::{CASES, Case, Scratch};

/// The argument by which the bench knows that it is counted; the case's name is next.
pub const ONE: &str = "--count-one";
/// A file system in memory, on every Linux.
const MEMORY: &str = "/dev/shm";
/// Where callgrind writes down what was counted: functions of this file.
const MARKS: [&str; 2] = ["counting_begins", "counting_ends"];

/// Why nothing was counted.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum CountError {
    #[error("`{program}` cannot be started: {source}; `tests/setup.sh` installs what is needed")]
    Start { program: String, source: std::io::Error },
    #[error("`{command}` failed ({status}): {said}")]
    Failed { command: String, status: std::process::ExitStatus, said: String },
    #[error("`{path}` cannot be {act}: {source}")]
    Io { path: PathBuf, act: &'static str, source: std::io::Error },
    #[error("callgrind wrote no count for `{case}`: are the functions' names in the program?")]
    NoCount { case: String },
    #[error("`{path}`: {source}")]
    Baseline { path: PathBuf, source: BaselineError },
}

/// Does a case's work once, and once more between the marks.
///
/// # Panics
/// If there is no such case: only this program gives its name.
pub fn one(name: &str) {
    only_one_processor();
    let case = CASES.iter().find(|case| case.name == name).expect("this program names a case");
    let scratch = Scratch::default();
    let mut work = (case.prepare)(&scratch);
    work();
    counting_begins();
    work();
    counting_ends();
}

// What is in them differs, so that they are never made one function.
#[inline(never)]
fn counting_begins() {
    black_box(1_u8);
}

#[inline(never)]
fn counting_ends() {
    black_box(2_u16);
}

/// Whoever asks how many processors there are starts no threads beside.
fn only_one_processor() {
    let allowed = rustix::thread::sched_getaffinity(None).expect("a process may ask where it runs");
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).expect("it runs somewhere");
    let mut one = rustix::thread::CpuSet::new();
    one.set(first);
    rustix::thread::sched_setaffinity(None, &one).expect("it runs there already");
}

/// Counts the cases and compares them with the baseline, or writes what was counted into it. Whether all is well.
pub fn compare(cases: &[&Case], update: bool) -> Result<bool, CountError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../instructions.txt");
    let io = |act| {
        let path = path.clone();
        move |source| CountError::Io { path, act, source }
    };
    let baseline = match std::fs::read_to_string(&path) {
        Ok(text) => Baseline::read(&text).map_err(|source| CountError::Baseline { path: path.clone(), source })?,
        Err(error) if update && error.kind() == std::io::ErrorKind::NotFound => Baseline::default(),
        Err(error) => return Err(io("read")(error)),
    };
    let now = Baseline { with: with()?, counts: count(cases)? };
    let mut rows: Vec<Row> = now.counts.iter().map(|(name, count)| baseline.row(name, Some(*count))).collect();
    let is_case = |name: &str| CASES.iter().any(|case| case.is_counted && case.name == name);
    rows.extend(baseline.counts.keys().filter(|name| !is_case(name)).map(|name| baseline.row(name, None)));
    println!("{:<16} {:>16} {:>16} {:>10}", "instructions", "baseline", "now", "change");
    rows.iter().for_each(|row| println!("{}", row.line()));
    if update {
        let mut counts = baseline.counts;
        counts.retain(|name, _| is_case(name));
        counts.extend(now.counts);
        std::fs::write(&path, Baseline { with: now.with, counts }.write()).map_err(io("written"))?;
        return Ok(true);
    }
    let complaints: Vec<String> = rows.iter().filter_map(Row::complaint).collect();
    for complaint in &complaints {
        eprintln!("\n{complaint}");
    }
    if baseline.with != now.with {
        let only = |these: &[String], others: &[String]| {
            these.iter().filter(|with| !others.contains(with)).cloned().collect::<Vec<_>>().join(", ")
        };
        eprintln!("\nnote: the baseline was made with {}", only(&baseline.with, &now.with));
        eprintln!("      and here is             {}", only(&now.with, &baseline.with));
        if !complaints.is_empty() {
            eprintln!(
                "      that alone may be the reason: `make instructions-update` at the commit before yours tells what is yours"
            );
        }
    }
    if complaints.is_empty() {
        println!("no case is more than {TOLERANCE_PERCENT} % from its baseline");
    }
    Ok(complaints.is_empty())
}

/// Instructions by case; as many are counted at once as there are processors, which changes no count.
fn count(cases: &[&Case]) -> Result<BTreeMap<String, u64>, CountError> {
    let (next, counted) = (AtomicUsize::new(0), Mutex::new(Ok(BTreeMap::new())));
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let count = count_one(case.name);
                    let mut counted = counted.lock().expect("nobody panics with it");
                    match (&mut *counted, count) {
                        (Ok(counts), Ok(count)) => drop(counts.insert(case.name.to_owned(), count)),
                        (Ok(_), Err(error)) => *counted = Err(error),
                        (Err(_), _) => return,
                    }
                }
            });
        }
    });
    counted.into_inner().expect("nobody panics with it")
}

/// Instructions of a case between the marks.
fn count_one(name: &str) -> Result<u64, CountError> {
    let memory = |source| CountError::Io { path: MEMORY.into(), act: "used", source };
    let scratch = tempfile::tempdir_in(MEMORY).map_err(memory)?;
    let written = scratch.path().join("callgrind");
    let program = std::env::current_exe().map_err(|source| CountError::Io {
        path: "/proc/self/exe".into(),
        act: "read",
        source,
    })?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", &format!("--callgrind-out-file={}", written.display())]);
    command.args(MARKS.map(|mark| format!("--dump-before=*{mark}*"))).arg(program).args([ONE, name]);
    // What stands in the environment moves the stack, and may change what the C library does.
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.env("TMPDIR", scratch.path()).env("RAYON_NUM_THREADS", "1");
    run(command)?;
    // The part that ends with the second mark.
    let path = written.with_extension("2");
    let text = std::fs::read_to_string(&path).map_err(|source| CountError::Io { path, act: "read", source })?;
    count_in(&text).ok_or_else(|| CountError::NoCount { case: name.to_owned() })
}

/// The total in a file of callgrind's, if it ends at the second mark.
fn count_in(text: &str) -> Option<u64> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    value("desc: Trigger:").filter(|trigger| trigger.contains(MARKS[1]))?;
    value("totals:")?.parse().ok()
}

/// What counts depend on beside the code.
fn with() -> Result<Vec<String>, CountError> {
    let first_line = |program: &str, argument: &str| {
        let mut command = Command::new(program);
        command.arg(argument);
        let output = run(command)?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    };
    Ok(vec![
        first_line(&std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()), "--version")?,
        first_line("cc", "--version")?,
        first_line("getconf", "GNU_LIBC_VERSION")?,
        first_line("valgrind", "--version")?,
        machine(),
    ])
}

/// Its kind, and what of its features valgrind passes on.
fn machine() -> String {
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("avx2") {
        return "x86_64 without AVX2".to_owned();
    }
    std::env::consts::ARCH.to_owned()
}

fn run(mut command: Command) -> Result<Output, CountError> {
    let program = || command.get_program().to_string_lossy().into_owned();
    let start = program();
    let output = command.output().map_err(|source| CountError::Start { program: start, source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(CountError::Failed { command: format!("{command:?}"), status: output.status, said });
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_at_the_second_mark_is_a_count() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(count_in(text), expected, "{text}");
        let ends = "version: 1\ndesc: Trigger: --dump-before=rbuild_micro::instructions::counting_ends\n\n";
        check(&format!("{ends}events: Ir\nsummary: 12\n\ntotals: 12\n"), Some(12));
        check(ends, None);
        check("desc: Trigger: Program termination\ntotals: 12\n", None);
        check("desc: Trigger: --dump-before=rbuild_micro::instructions::counting_begins\ntotals: 12\n", None);
    }
}
