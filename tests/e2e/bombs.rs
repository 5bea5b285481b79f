//! What unpacks to far more than it is, by every way that it comes in: one error that names it, in little time, memory
//! and disk, and nothing stays that was not verified. Caches: `remote::trouble`.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::bounded::{bounded, store_bytes};
use crate::support::one_layer::{OneLayer, digest, layout_directory};
use crate::support::raw_tar::{RawHeader, RawTar};
use crate::support::{Context, Store};

/// What may be unpacked here, and what the bombs hold.
const SETTINGS: &str = "unpack_max_size = '2MiB'\nunpack_max_entries = 1000\n";
const BOMB_BYTES: usize = 8 << 20;
const BOMB_ENTRIES: usize = 4_000;
/// What a command may take: a bomb is 8 MiB, and somebody else may use the machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Less than what is in a bomb.
const FILE_MAX_BYTES: u64 = 5 << 20;
const STORE_MAX_BYTES: u64 = 5 << 20;
const MEMORY_MAX_KIB: u64 = 256 << 10;

/// One file, of something that no file system leaves out as zeros.
fn large() -> Vec<u8> {
    let mut tar = RawTar::default();
    tar.header(RawHeader { name: b"large", size: BOMB_BYTES as u64, ..Default::default() });
    tar.data(&b"boom".repeat(BOMB_BYTES / 4)).end()
}

/// Files without end.
fn many() -> Vec<u8> {
    let mut tar = RawTar::default();
    for number in 0..BOMB_ENTRIES {
        tar.file(format!("{number}").as_bytes(), b"");
    }
    tar.end()
}

/// What a program makes of bytes.
fn packed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    let mut child = command.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes).expect("it reads all"));
        child.wait_with_output().expect("it ends").stdout
    })
}

/// A store in which little may be unpacked; what a command on it must come to.
struct Bench {
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let store = Store::new();
        store.configure(SETTINGS);
        Self { store }
    }

    /// It must fail with one error of these words.
    #[track_caller]
    fn refuses(&self, command: &Command, words: &[&str]) {
        self.refuses_with(command, Stdio::null(), words);
    }

    /// The same with something on standard input.
    #[track_caller]
    fn refuses_with(&self, command: &Command, stdin: Stdio, words: &[&str]) {
        let began = Instant::now();
        let (outcome, peak) = bounded(&self.store, command, stdin, FILE_MAX_BYTES);
        let outcome = outcome.fails_saying(words);
        assert!(began.elapsed() < PATIENCE, "{:?}: {outcome}", began.elapsed());
        assert!(peak < MEMORY_MAX_KIB, "{peak} KiB: {outcome}");
        assert_eq!(self.store.drafts(), Vec::<std::ffi::OsString>::new(), "{outcome}");
        assert_eq!(self.store.rbuild(["images", "--quiet", "made"]).stdout, "", "{outcome}");
        let bytes = store_bytes(&self.store);
        assert!(bytes < STORE_MAX_BYTES, "{bytes} bytes: {outcome}");
    }

    fn refuses_build(&self, context: &Context, args: &[&str], words: &[&str]) {
        self.refuses(&self.store.build_command(context, [&["-t", "made:1"], args].concat()), words);
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.store.path(name);
        std::fs::write(&path, bytes).expect("the directory is ours");
        path.display().to_string()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.store.rbuild(["verify"]).ok();
        }
    }
}

/// A step that needs the files of an image.
fn upon(name: &str) -> Context {
    Context::new(&format!("FROM {name}\nCOPY mine /mine\n")).file("mine", "x")
}

const TOO_MUCH: &str = "which makes it a bomb";
const TOO_MANY: &str = "exceeds the limit of 1000 entries";

/// The bombs that layers can be, and what is said of them.
fn layers() -> [(OneLayer, &'static str); 4] {
    let (large, many) = (large(), many());
    let layer =
        |tar: &[u8], program: &str| OneLayer::new(packed(program, tar), &format!("+{program}"), &digest(tar), "amd64");
    [
        (layer(&large, "gzip"), TOO_MUCH),
        (layer(&large, "zstd"), TOO_MUCH),
        (layer(&many, "gzip"), TOO_MANY),
        (OneLayer::plain(&many), TOO_MANY),
    ]
}

#[test]
fn bombs_that_are_pulled_or_loaded_are_refused_with_their_layer() {
    let bench = Bench::new();
    for (image, words) in layers() {
        let blob = digest(&image.blob);
        let (_registry, name) = image.serve();
        bench.refuses_build(&upon(&name), &[], &[words, &blob]);

        let file = bench.file("layout.tar", &image.layout("loaded:1"));
        bench.store.rbuild(["load", "-i", &file]).ok();
        bench.refuses_build(&upon("loaded:1"), &[], &[words, &blob]);
        bench.refuses(&bench.store.command(["run", "--network=none", "loaded:1", "/x"]), &[words, &blob]);
        bench.store.rbuild(["rmi", "loaded:1"]).ok();

        let dir = bench.store.path("layout");
        layout_directory(&dir, &[image.descriptor()], &[&image]);
        let named = format!("--build-context=base=oci-layout://{}", dir.display());
        bench.refuses_build(&upon("base"), &[&named], &[words, &blob]);
        std::fs::remove_dir_all(&dir).expect("it is ours");

        // What docker's own form says of a layer is looked at before it is believed.
        let file = bench.file("docker.tar", &image.docker_archive("made:1"));
        bench.refuses(&bench.store.command(["load", "-i", &file]), &["cannot load", words, &blob]);
        bench.store.rbuild(["prune", "--all"]).ok();
    }
}

#[test]
fn bombs_that_are_added_imported_or_sent_as_a_context_are_refused_with_their_name() {
    let bench = Bench::new();
    let (large, many) = (large(), many());
    let bombs = [
        ("gzip", &large, TOO_MUCH),
        ("zstd", &large, TOO_MUCH),
        ("bzip2", &large, TOO_MUCH),
        ("xz", &large, TOO_MUCH),
        ("gzip", &many, TOO_MANY),
    ];
    for (program, tar, words) in bombs {
        let bytes = packed(program, tar);
        let add = Context::new("FROM scratch\nADD bomb.bin /there/\n").file("bomb.bin", &bytes);
        bench.refuses_build(&add, &[], &["Dockerfile:2", "cannot unpack `bomb.bin`", words]);
        // What decompresses is the same everywhere; the ways differ.
        if program != "gzip" {
            continue;
        }
        let file = bench.file("bomb.bin", &bytes);
        bench.refuses(&bench.store.command(["import", &file, "made:1"]), &["cannot import `", "bomb.bin", words]);
        let from_stdin = |verb: &[&str], words: &[&str]| {
            let bomb = std::fs::File::open(&file).expect("it was just written");
            bench.refuses_with(&bench.store.command(verb), bomb.into(), words);
        };
        from_stdin(&["import", "-", "made:1"], &["cannot import standard input", words]);
        from_stdin(&["build", "--progress=plain", "-t", "made:1", "-"], &["cannot unpack", words]);
        from_stdin(&["load"], &["cannot load standard input", words]);
    }
}
