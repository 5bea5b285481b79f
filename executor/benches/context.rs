//! What a large context costs: 50,000 files of 4 KiB in 1,000 directories, against a bare parallel walk that asks `stat`
//! of each, in the same run.
//!
//! Printed: the bare walk, a digest of everything at first, again, and after one file has changed; and, with
//! `-- --rbuild FILE`, whole processes of rbuild that copy all of it, at first, with nothing to do, and after one file has
//! changed. With `-- --enforce`, a process with nothing to do may take three times the bare walk, at most. Times are the
//! medians of runs that alternate, because machines get tired.
//!
//! `cargo bench -p rbuild-executor --bench context [-- --rbuild target/release/rbuild] [--enforce]`

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oci::content::ContentStore;
use oci::model::{Descriptor, Reference};
use rayon::Scope;
use rbuild_executor::source::Connectivity;
use rbuild_executor::source::image::{BlobFetcher, FetchError};
use rbuild_executor::{Worker, WorkerConfig};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, openat, statat};
use solver::op::SourceOp;
use solver::seam::{Executor, Selection};
use store::Store;
use tokio_util::sync::CancellationToken;

const DIRECTORIES: usize = 1_000;
const FILES: usize = 50;
const FILE_BYTES: usize = 4_096;
const RUNS: usize = 15;
/// Each is copied as a whole.
const CHANGES: usize = 3;
/// What a process with nothing to do may take, in bare walks.
const NOTHING_TO_DO_MAX: f64 = 3.0;

fn main() -> ExitCode {
    let mut enforce = false;
    let mut rbuild = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--enforce" => enforce = true,
            "--rbuild" => rbuild = arguments.next().map(PathBuf::from),
            // What cargo gives to every bench.
            "--bench" => {}
            other => panic!("`{other}` is not an option"),
        }
    }
    let work = tempfile::tempdir().expect("a temporary directory");
    let context = work.path().join("context");
    make(&context);
    println!("{} files of {FILE_BYTES} bytes in {DIRECTORIES} directories", DIRECTORIES * FILES);

    assert_eq!(bare(&context), DIRECTORIES * (FILES + 1) + 1, "every entry is looked at");
    let digest = Digest::new(work.path());
    let cold = time(|| digest.make(&context));
    let process = rbuild.map(|rbuild| Process { rbuild, root: work.path().join("root"), context: context.clone() });
    let first = process.as_ref().map(|process| time(|| process.run()));
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let mut add = |what, time| times.entry(what).or_default().push(time);
    for _ in 0..RUNS {
        add("bare", time(|| bare(&context)));
        add("again", time(|| digest.make(&context)));
        if let Some(process) = &process {
            add("process", time(|| process.run()));
        }
    }
    for i in 0..CHANGES {
        change(&context, i);
        add("changed", time(|| digest.make(&context)));
        if let Some(process) = &process {
            add("process changed", time(|| process.run()));
        }
    }
    let median = |what: &str| {
        let mut times = times.get(what)?.clone();
        times.sort();
        Some(times[times.len() / 2])
    };
    let bare = median("bare").expect("it was measured");
    let ratio = |time: Duration| time.as_secs_f64() / bare.as_secs_f64();
    let row = |what: &str, time: Option<Duration>| {
        let Some(time) = time else { return };
        println!("{what:<44} {:>9.1} ms {:>7.2} x", time.as_secs_f64() * 1e3, ratio(time));
    };
    row("bare parallel stat walk", Some(bare));
    row("digest, at first", Some(cold));
    row("digest, nothing changed", median("again"));
    row("digest, one file changed", median("changed"));
    row("process, at first", first);
    row("process, nothing changed", median("process"));
    row("process, one file changed", median("process changed"));
    match median("process").map(ratio) {
        Some(ratio) if enforce && ratio > NOTHING_TO_DO_MAX => {
            println!("a process with nothing to do took {ratio:.2} bare walks, more than {NOTHING_TO_DO_MAX}");
            ExitCode::FAILURE
        }
        None if enforce => {
            println!("what is enforced is the process: say `--rbuild FILE`");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn make(context: &Path) {
    for directory in 0..DIRECTORIES {
        let path = context.join(format!("part{}/module{directory}", directory % 25));
        fs::create_dir_all(&path).expect("a directory");
        for file in 0..FILES {
            let mut text = format!("{directory} {file} ").into_bytes();
            text.resize(FILE_BYTES, b'x');
            fs::write(path.join(format!("file{file}.txt")), text).expect("a file");
        }
    }
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY . /context\n").expect("a file");
    // Past, as the files of people are: see the executor's `source::look`.
    std::thread::sleep(Duration::from_millis(50));
}

fn change(context: &Path, i: usize) {
    let mut text = format!("changed {i} ").into_bytes();
    text.resize(FILE_BYTES, b'y');
    fs::write(context.join("part7/module7/file7.txt"), text).expect("a file");
    std::thread::sleep(Duration::from_millis(50));
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Lists every directory and asks `stat` of every entry; returns how many there are.
fn bare(context: &Path) -> usize {
    let count = AtomicUsize::new(0);
    let root: OwnedFd = fs::File::open(context).expect("the context").into();
    rayon::scope(|scope| walk(scope, root, &count));
    // The 25 directories above the 1,000 and the Dockerfile stand for what is not counted here.
    count.into_inner() - 25
}

fn walk<'s>(scope: &Scope<'s>, dir: OwnedFd, count: &'s AtomicUsize) {
    let mut room = Vec::with_capacity(32 * 1024);
    let mut listing = RawDir::new(dir.as_fd(), room.spare_capacity_mut());
    let mut found = 0;
    while let Some(entry) = listing.next() {
        let entry = entry.expect("a listing");
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).expect("a look");
        found += 1;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            let below = open(dir.as_fd(), name);
            scope.spawn(move |scope| walk(scope, below, count));
        }
    }
    count.fetch_add(found, Ordering::Relaxed);
}

fn open(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty()).expect("a directory")
}

/// Digests by workers, each new as in a new process.
struct Digest {
    runtime: tokio::runtime::Runtime,
    store: Store,
}

impl Digest {
    fn new(work: &Path) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        Self { runtime, store: Store::open(&work.join("store")).expect("a store") }
    }

    fn make(&self, context: &Path) {
        let worker = Worker::new(WorkerConfig {
            store: self.store.clone(),
            local_sources: [("context".to_owned(), context.to_owned())].into(),
            fetcher: Arc::new(NoFetcher),
            connectivity: Connectivity::Offline,
            steps: Default::default(),
            snapshots: None,
            clock: jiff::Timestamp::now,
        })
        .expect("a worker");
        let source = SourceOp { identifier: "local://context".into(), attrs: BTreeMap::new() };
        let selection = Selection {
            path: "/".into(),
            wildcard: false,
            allow_empty_wildcard: false,
            follow_symlinks: true,
            dir_contents_only: true,
            include_patterns: Vec::new(),
            exclude_patterns: Vec::new(),
            required_paths: Vec::new(),
        };
        let cancel = CancellationToken::new();
        let digest = worker.digest_selected(&source, &selection, &cancel);
        self.runtime.block_on(digest).expect("a digest");
    }
}

/// A context comes from no registry.
struct NoFetcher;

impl BlobFetcher for NoFetcher {
    fn fetch<'a>(
        &'a self,
        _: &'a Reference,
        _: &'a Descriptor,
        _: &'a dyn ContentStore,
        _: &'a (dyn Fn(u64) + Send + Sync),
    ) -> Pin<Box<dyn Future<Output = Result<(), FetchError>> + Send + 'a>> {
        unreachable!("a context has no blobs")
    }
}

/// Whole builds.
struct Process {
    rbuild: PathBuf,
    root: PathBuf,
    context: PathBuf,
}

impl Process {
    fn run(&self) {
        let mut command = Command::new(&self.rbuild);
        command
            .args(["build", "--progress=quiet", "-t", "context:1"])
            .arg(&self.context)
            .env("RBUILD_ROOT", &self.root);
        let output = command.output().expect("rbuild starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
