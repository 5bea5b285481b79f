//! What is measured: each hot path on its own, with an input that is the same every time.
//!
//! In: a folder for whatever a case needs. Out: something that does the work once, as often as it is called. What is made
//! beforehand is not measured; it is small, because under valgrind it takes fifty times as long. Inputs have no clock and
//! no chance in them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::hint::black_box;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin as Pinned;
use std::sync::Arc;

use executor::source::Connectivity;
use executor::source::image::{BlobFetcher, FetchError};
use executor::{Worker, WorkerConfig};
use frontend::{Answers, ImageAnswer, Plan, PlanOptions, Planned};
use jiff::Timestamp;
use oci::content::ContentStore;
use oci::layer::{ApplyOptions, Codec, Compression, Hashing, XattrNamespace, apply_layer, write_layer};
use oci::model::{Config, Descriptor, DiffId, Digest, ImageConfig, Reference, RootFs};
use solver::canon::Part;
use solver::graph::VertexId;
use solver::key::{ContentDigest, InputKey, Key, definition_key, selections, source_key};
use solver::op::{Op, SourceOp};
use solver::seam::{CacheStore, Executor, KeyKind, Pin, Record, ResultId, Selection};
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::sandbox;

#[path = "../../frontend/benches/large/variants.rs"]
mod variants;

/// What is counted, for the time of one.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Bytes that are worked on.
    Bytes(usize),
    /// Things, and their name.
    Items(usize, &'static str),
}

/// Does the work once.
pub type Work = Box<dyn FnMut()>;

/// One hot path.
pub struct Case {
    /// How it is called.
    pub name: &'static str,
    /// What one repetition works on.
    pub unit: Unit,
    /// Whether its instructions can be counted.
    pub is_counted: bool,
    /// Makes what it needs.
    pub prepare: fn(&Scratch) -> Work,
}

const INSTRUCTIONS: usize = 1_000;
const DOCKERFILE_BYTES: usize = 100_000;
const DIRECTORIES: usize = 20;
const FILES: usize = 25;
const FILE_BYTES: usize = 4_096;
const DATA_BYTES: usize = 4 << 20;
const STEPS: usize = 20;

/// All of them, in the order in which a build comes to them.
pub const CASES: &[Case] = &[
    Case { name: "parse", unit: Unit::Items(INSTRUCTIONS, "line"), is_counted: true, prepare: parse },
    Case { name: "lower", unit: Unit::Items(INSTRUCTIONS, "line"), is_counted: true, prepare: lower },
    Case { name: "keys", unit: Unit::Items(INSTRUCTIONS, "line"), is_counted: true, prepare: keys },
    // Valgrind of Debian 12 knows no openat2, by which a context is read.
    Case { name: "stat-walk", unit: Unit::Items(DIRECTORIES * FILES, "file"), is_counted: false, prepare: stat_walk },
    Case { name: "context-digest", unit: Unit::Items(DIRECTORIES * FILES, "file"), is_counted: false, prepare: digest },
    Case { name: "store-lookups", unit: Unit::Items(STEPS, "step"), is_counted: true, prepare: lookups },
    Case { name: "tar-digest", unit: Unit::Items(DIRECTORIES * FILES, "file"), is_counted: true, prepare: tar_digest },
    Case { name: "gzip", unit: Unit::Bytes(DATA_BYTES), is_counted: true, prepare: gzip },
    // libzstd's threads wait for each other in loops: now more often, now less.
    Case { name: "zstd", unit: Unit::Bytes(DATA_BYTES), is_counted: false, prepare: zstd },
    Case { name: "unpack", unit: Unit::Items(DIRECTORIES * FILES, "file"), is_counted: true, prepare: unpack },
    // Valgrind does not follow a clone into new namespaces.
    Case { name: "sandbox-start", unit: Unit::Items(1, "step"), is_counted: false, prepare: sandbox::start },
];

/// A folder that goes when it is dropped.
pub struct Scratch(tempfile::TempDir);

impl Default for Scratch {
    /// A new one.
    fn default() -> Self {
        Self(tempfile::tempdir().expect("there is room for a folder"))
    }
}

impl Scratch {
    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A tree of files of text.
    fn tree(&self) -> PathBuf {
        let tree = self.path("tree");
        let data = data(FILE_BYTES * 4);
        for directory in 0..DIRECTORIES {
            let path = tree.join(format!("component-{directory}/src"));
            fs::create_dir_all(&path).expect("a folder");
            for file in 0..FILES {
                let from = (directory * FILES + file) % (FILE_BYTES * 3);
                let file = path.join(format!("file-{file}.rs"));
                fs::write(file, &data[from..from + FILE_BYTES]).expect("a file");
            }
        }
        tree
    }
}

/// Text that compresses about as well as programs do: words in an order of their own.
fn data(bytes: usize) -> Vec<u8> {
    let (mut data, mut state) = (Vec::with_capacity(bytes + 32), 1_u64);
    while data.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = state >> 53;
        match state >> 40 & 7 {
            0 => data.extend_from_slice(&state.to_le_bytes()),
            1 => data.extend_from_slice(b"\n    return Err(Error::"),
            _ => write!(data, "word_{word:x} ").expect("a Vec takes everything"),
        }
    }
    data.truncate(bytes);
    data
}

fn dockerfile() -> String {
    let (_, mixture) = variants::VARIANTS[0];
    mixture(INSTRUCTIONS, DOCKERFILE_BYTES)
}

fn options() -> PlanOptions {
    let platform = || "linux/amd64".parse().expect("a platform");
    PlanOptions { platform: platform(), build_platform: platform(), ..PlanOptions::default() }
}

/// What a registry would have said.
fn answers(text: &str) -> Answers {
    let mut answers = Answers::new();
    let Ok(Planned::Need(asked)) = frontend::plan(text, &options(), &answers) else { panic!("images are asked for") };
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
    answers
}

fn planned(text: &str, answers: &Answers) -> Plan {
    match frontend::plan(text, &options(), answers) {
        Ok(Planned::Plan(plan)) => *plan,
        _ => panic!("everything was answered"),
    }
}

fn parse(_: &Scratch) -> Work {
    let text = dockerfile();
    Box::new(move || drop(black_box(frontend::read(black_box(&text)))))
}

fn lower(_: &Scratch) -> Work {
    let text = dockerfile();
    let answers = answers(&text);
    Box::new(move || drop(black_box(planned(black_box(&text), &answers))))
}

/// The definition key of every vertex, from the bottom up.
fn keys(_: &Scratch) -> Work {
    let text = dockerfile();
    let plan = planned(&text, &answers(&text));
    Box::new(move || {
        let mut keys: HashMap<VertexId, Key> = HashMap::new();
        for (id, vertex, _) in plan.graph.iter() {
            let pin = Pin::Content(ContentDigest([7; 32]));
            let key = match &vertex.op {
                Op::Source(source) if source.scheme() == "local" => continue,
                Op::Source(_) => source_key(vertex, &pin).expect("it is pinned").0,
                _ => {
                    let inputs = vertex.inputs.iter().enumerate().map(|(at, edge)| match keys.get(&edge.vertex) {
                        Some(key) => InputKey::Key(*key, edge.output),
                        None => InputKey::Selected(vec![ContentDigest([9; 32]); selections(vertex, at).len()]),
                    });
                    definition_key(vertex, &inputs.collect::<Vec<_>>()).0
                }
            };
            keys.insert(id, key);
        }
        black_box(keys);
    })
}

/// A context of which nothing changed since it was digested.
fn stat_walk(scratch: &Scratch) -> Work {
    let context = Context::new(scratch);
    // What was written just now proves nothing yet; then it is read once more.
    context.age();
    context.digest();
    Box::new(move || context.digest())
}

/// A context that was never seen.
fn digest(scratch: &Scratch) -> Work {
    let context = Context::new(scratch);
    let root = scratch.path("store");
    Box::new(move || {
        let contexts = root.join("contexts");
        for entry in fs::read_dir(&contexts).into_iter().flatten() {
            fs::remove_file(entry.expect("a folder can be listed").path()).expect("the store is ours");
        }
        context.digest();
    })
}

/// A context, and a store that remembers it.
struct Context {
    tree: PathBuf,
    store: Store,
    runtime: tokio::runtime::Runtime,
}

impl Context {
    fn new(scratch: &Scratch) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { tree: scratch.tree(), store: Store::open(&scratch.path("store")).expect("a store"), runtime }
    }

    /// Lets the time pass in which a look proves nothing.
    fn age(&self) {
        let newest = || Timestamp::now().as_millisecond();
        let begun = newest();
        while newest() - begun < 50 {
            std::thread::yield_now();
        }
    }

    /// As one build does.
    fn digest(&self) {
        let worker = Worker::new(WorkerConfig {
            store: self.store.clone(),
            local_sources: [("context".to_owned(), self.tree.clone())].into(),
            fetcher: Arc::new(NoFetcher),
            connectivity: Connectivity::Offline,
            steps: Default::default(),
            snapshots: None,
            clock: Timestamp::now,
        })
        .expect("a worker");
        let source = SourceOp { identifier: "local://context".into(), attrs: Default::default() };
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
        black_box(self.runtime.block_on(digest).expect("a digest"));
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
    ) -> Pinned<Box<dyn Future<Output = Result<(), FetchError>> + Send + 'a>> {
        unreachable!("a context has no blobs")
    }
}

/// What a build asks of the store in which everything is cached.
fn lookups(scratch: &Scratch) -> Work {
    let store = Store::open(&scratch.path("store")).expect("a store");
    let key = |step: usize| Key(*Digest::of(format!("{step}").as_bytes()).as_bytes());
    let part = |i: usize| Part { name: format!("exec.env[{i}]"), value: "a value of usual length".into() };
    let parts: Vec<Part> = (0..40).map(part).collect();
    let mut top: Option<ResultId> = None;
    for step in 0..STEPS {
        let draft = store.draft().expect("a draft");
        let layer = store.add_built_layer(top.as_ref(), Some(draft), Timestamp::UNIX_EPOCH).expect("a layer");
        let (kind, results) = (KeyKind::Definition, std::slice::from_ref(&layer));
        let record = Record { kind, operation: key(step), parts: &parts, results };
        store.record(&key(step), &record).expect("a record");
        top = Some(layer);
    }
    let top = top.expect("there are steps");
    Box::new(move || {
        for step in 0..STEPS {
            assert!(store.lookup(&key(step)).expect("the store is read").is_some());
        }
        black_box(store.chain(&top).expect("the store is read"));
    })
}

fn open(path: &std::path::Path) -> OwnedFd {
    fs::File::open(path).expect("it is there").into()
}

fn tar_digest(scratch: &Scratch) -> Work {
    let tree = open(&scratch.tree());
    Box::new(move || {
        let mut tar = Hashing::new(std::io::sink());
        write_layer(tree.as_fd(), &mut tar).expect("an archive");
        black_box(tar.finish());
    })
}

fn gzip(_: &Scratch) -> Work {
    compress(Codec::new(Compression::Gzip))
}

fn zstd(_: &Scratch) -> Work {
    compress(Codec::new(Compression::Zstd))
}

fn compress(codec: Codec) -> Work {
    let data = data(DATA_BYTES);
    Box::new(move || {
        let mut encoder = codec.encoder(std::io::sink()).expect("an encoder");
        encoder.write_all(&data).expect("nothing fails");
        black_box(encoder.finish().expect("nothing fails"));
    })
}

fn unpack(scratch: &Scratch) -> Work {
    let mut tar = Vec::new();
    write_layer(open(&scratch.tree()).as_fd(), &mut tar).expect("an archive");
    let into = scratch.path("into");
    let mut name = String::new();
    let mut count = 0;
    Box::new(move || {
        // Each into a folder of its own: to remove the last one is not what is measured.
        count += 1;
        name.clear();
        write!(name, "{count}").expect("it is a String");
        let into = into.join(&name);
        fs::create_dir_all(&into).expect("a folder");
        let options = ApplyOptions::new(XattrNamespace::here());
        black_box(apply_layer(&tar[..], open(&into).as_fd(), &[], &options).expect("an archive of ours"));
    })
}
