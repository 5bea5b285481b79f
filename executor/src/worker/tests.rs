//! Operations through the worker, over a real store: one layer per vertex, images fetched no more than needed.

use std::fs;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

use oci::content::{ContentStore, MemoryStore, put_bytes};
use oci::layer::{Codec, Compression};
use oci::model::{Descriptor, DiffId, Digest, ImageConfig, Manifest, Reference, RootFs, media_type};
use solver::graph::{Edge, Vertex, VertexId};
use solver::op::{BuildOp, CopyAction, DiffOp, FileAction, FileActionKind, FileOp, MergeOp, OpMeta, attr};

mod arriving;
mod content;
mod derived;
mod packed;

use super::*;
use crate::layers::SCRATCH;
use crate::snapshot::CopySnapshotter;
use crate::source::image::{self, FetchError};
use crate::testing::{Log, build, mounts, open, shell, show};

/// A registry in memory that counts what it is asked for.
#[derive(Default)]
struct Registry {
    blobs: MemoryStore,
    asked: Mutex<Vec<Digest>>,
}

impl BlobFetcher for Registry {
    fn fetch<'a>(
        &'a self,
        _reference: &'a Reference,
        descriptor: &'a Descriptor,
        into: &'a dyn ContentStore,
        progress: &'a (dyn Fn(u64) + Send + Sync),
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), FetchError>> + Send + 'a>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(descriptor.digest);
            let mut blob = self.blobs.open(&descriptor.digest)?.ok_or("no such blob")?;
            let mut writer = into.writer()?;
            std::io::copy(&mut blob, &mut writer)?;
            writer.commit(Some(&descriptor.digest))?;
            progress(descriptor.size);
            Ok(())
        })
    }
}

struct Bench {
    dir: tempfile::TempDir,
    registry: Arc<Registry>,
    worker: Worker,
}

impl Bench {
    fn new(context: &[&str]) -> Self {
        Self::with(context, |_| None)
    }

    fn with(context: &[&str], snapshots: impl Fn(&Store) -> Option<Arc<dyn Snapshotter>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        build(&dir.path().join("context"), context);
        let store = Store::open(&dir.path().join("store")).unwrap();
        let registry = Arc::new(Registry::default());
        let worker = Worker::new(WorkerConfig {
            connectivity: Default::default(),
            steps: Default::default(),
            snapshots: snapshots(&store),
            store,
            local_sources: BTreeMap::from([("context".into(), dir.path().join("context"))]),
            fetcher: registry.clone(),
            clock: || Timestamp::UNIX_EPOCH,
        });
        Self { dir, registry, worker: worker.unwrap() }
    }

    async fn run(&self, op: Op, inputs: &[&ResultId]) -> Result<Vec<ResultId>, ExecError> {
        self.run_on(op, inputs, None).await
    }

    /// As [`Bench::run`]; the first input is what this source gave.
    async fn run_on(&self, op: Op, inputs: &[&ResultId], base: Option<&SourceOp>) -> Result<Vec<ResultId>, ExecError> {
        let vertex = Vertex { op, inputs: Vec::<Edge>::new(), platform: None };
        let job = Job {
            id: VertexId::of_name("test"),
            vertex: &vertex,
            meta: &OpMeta::default(),
            inputs: inputs.iter().map(|id| (*id).clone()).collect(),
            sources: vec![base],
            place: solver::place::Place::uncounted(VertexId::of_name("test")),
        };
        let before = mounts();
        let result = self.worker.run(job, &Log::default(), &CancellationToken::new()).await;
        assert_eq!(mounts(), before, "a mount is left");
        result
    }

    async fn source(&self, identifier: &str, ignore: &[&str]) -> Result<ResultId, ExecError> {
        let list = serde_json::to_string(ignore).unwrap();
        let attrs = [(attr::EXCLUDE_PATTERNS.to_owned(), list)].into_iter().filter(|_| !ignore.is_empty());
        let op = Op::Source(SourceOp { identifier: identifier.into(), attrs: attrs.collect() });
        Ok(self.run(op, &[]).await?.remove(0))
    }

    /// One copy from the second input onto the first, or onto nothing.
    async fn copy(
        &self,
        src: &str,
        dest: &str,
        onto: Option<&ResultId>,
        from: &ResultId,
    ) -> Result<ResultId, ExecError> {
        let (inputs, input) = match onto {
            Some(onto) => (vec![onto, from], Some(0)),
            None => (vec![from], None),
        };
        let action =
            FileAction { input, secondary_input: Some(inputs.len() - 1), output: Some(0), kind: copy(src, dest) };
        Ok(self.run(Op::File(FileOp { actions: vec![action] }), &inputs).await?.remove(0))
    }

    fn tree(&self, result: &ResultId) -> Vec<String> {
        show(self.worker.view(result).unwrap().fd(), false)
    }

    fn chain(&self, result: &ResultId) -> Vec<store::Layer> {
        self.worker.layers().chain(result).unwrap()
    }

    /// Puts an image into the registry and its manifest and config into the store. Layers are trees in overlayfs form.
    fn image(&self, layers: &[&[&str]], compression: Compression) -> (String, Manifest) {
        let registry = &self.registry.blobs;
        let (mut diff_ids, mut blobs) = (Vec::new(), Vec::new());
        for lines in layers {
            let tree = tempfile::tempdir().unwrap();
            build(tree.path(), lines);
            fs::set_permissions(tree.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let mut bytes = Vec::new();
            let encoded = oci::layer::encode(open(tree.path()).as_fd(), &Codec::new(compression), &mut bytes).unwrap();
            put_bytes(registry, &bytes).unwrap();
            diff_ids.push(encoded.diff_id);
            let kind = compression.layer_media_type(oci::layer::Dialect::Docker);
            blobs.push(Descriptor::new(kind, encoded.digest, encoded.size));
        }
        self.publish(diff_ids, blobs)
    }

    fn publish(&self, diff_ids: Vec<DiffId>, layers: Vec<Descriptor>) -> (String, Manifest) {
        let rootfs = RootFs { diff_ids, ..RootFs::default() };
        self.publish_with(ImageConfig { rootfs, ..ImageConfig::default() }, layers)
    }

    fn publish_with(&self, config: ImageConfig, layers: Vec<Descriptor>) -> (String, Manifest) {
        let store = self.worker.store().blobs();
        let (digest, size) = put_bytes(store, &serde_json::to_vec(&config).unwrap()).unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            config: Descriptor::new(media_type::OCI_CONFIG, digest, size),
            layers,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        };
        let (digest, _) = put_bytes(store, &serde_json::to_vec(&manifest).unwrap()).unwrap();
        (format!("docker-image://registry.test/image:1@{digest}"), manifest)
    }

    fn asked(&self) -> usize {
        std::mem::take(&mut *self.registry.asked.lock().unwrap()).len()
    }
}

fn copy(src: &str, dest: &str) -> FileActionKind {
    FileActionKind::Copy(CopyAction {
        src: src.into(),
        dest: dest.into(),
        follow_symlinks: true,
        dir_contents_only: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..CopyAction::default()
    })
}

fn mkfile(path: &str, data: &str) -> FileActionKind {
    FileActionKind::MkFile { path: path.into(), mode: 0o644, data: data.into(), owner: None, timestamp: Some(5) }
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", words(cause)))
}

#[tokio::test]
async fn every_vertex_makes_one_layer_even_when_nothing_changed() {
    type Make = fn(&Store) -> Option<Arc<dyn Snapshotter>>;
    let toys: [Make; 2] = [
        |_| None,
        |store| {
            let scratch = store.root().parent().unwrap().join("scratch");
            fs::create_dir_all(&scratch).unwrap();
            Some(Arc::new(CopySnapshotter::new(store.layers_dir(), &scratch)))
        },
    ];
    for snapshots in toys {
        let bench = Bench::with(&["a=A", "d/b=B", "skip=1"], snapshots);
        let context = bench.source("local://context", &["skip"]).await.unwrap();
        let first = bench.copy("/", "/app/", None, &context).await.unwrap();
        assert_eq!(bench.tree(&first), ["app/", "app/a=A", "app/d/", "app/d/b=B"]);
        let second = bench.copy("/none*", "/x", Some(&first), &context).await.unwrap();
        let third = bench.copy("/a", "/new", Some(&second), &first).await;
        let third = match third {
            Ok(_) => panic!("`/a` is not in the first result"),
            Err(error) => {
                assert!(words(&error).contains("`/a` does not exist"), "{}", words(&error));
                bench.copy("/app/a", "/new", Some(&second), &first).await.unwrap()
            }
        };
        // The same once more: replaced by the same bytes, mode, owner and time.
        let fourth = bench.copy("/app/a", "/new", Some(&third), &first).await.unwrap();
        assert_eq!(bench.tree(&fourth), ["app/", "app/a=A", "app/d/", "app/d/b=B", "new=A"]);
        let chain = bench.chain(&fourth);
        assert_eq!(chain.iter().map(|layer| layer.empty).collect::<Vec<_>>(), [false, true, false, true]);
        assert!(chain.iter().all(|layer| layer.created == Timestamp::UNIX_EPOCH));
        let third_tree = bench.worker.store().layers_dir().join(chain[2].name.as_ref().unwrap());
        assert_eq!(show(open(&third_tree).as_fd(), false), ["new=A"]);
    }
}

#[tokio::test]
async fn a_copy_of_a_tree_onto_itself_is_safe() {
    let bench = Bench::new(&["a=A", "d/b=B"]);
    let context = bench.source("local://context", &[]).await.unwrap();
    let first = bench.copy("/", "/", None, &context).await.unwrap();
    let second = bench.copy("/", "/d/again/", Some(&first), &first).await.unwrap();
    assert_eq!(bench.tree(&second), ["a=A", "d/", "d/again/", "d/again/a=A", "d/again/d/", "d/again/d/b=B", "d/b=B"]);
    let third = bench.copy("/", "/", Some(&second), &second).await.unwrap();
    assert_eq!(bench.tree(&third), bench.tree(&second));
}

#[tokio::test]
async fn actions_stand_on_each_other_and_read_each_other() {
    let bench = Bench::new(&["a=A"]);
    let context = bench.source("local://context", &[]).await.unwrap();
    let base = bench.copy("/", "/", None, &context).await.unwrap();
    let action = |input, secondary_input, output, kind| FileAction { input, secondary_input, output, kind };
    // Two on top of each other are one layer.
    let chained =
        vec![action(Some(0), None, None, mkfile("/b", "B")), action(Some(1), None, Some(0), mkfile("/c", "C"))];
    let results = bench.run(Op::File(FileOp { actions: chained }), &[&base]).await.unwrap();
    assert_eq!(bench.tree(&results[0]), ["a=A", "b=B", "c=C"]);
    assert_eq!(bench.chain(&results[0]).len(), 2);
    // One that reads another, which stands on nothing; and two outputs.
    let read = vec![
        action(None, None, Some(1), mkfile("/made", "M")),
        action(Some(0), Some(1), Some(0), copy("/made", "/copied")),
    ];
    let results = bench.run(Op::File(FileOp { actions: read }), &[&base]).await.unwrap();
    assert_eq!(bench.tree(&results[0]), ["a=A", "copied=M"]);
    assert_eq!(bench.tree(&results[1]), ["made=M"]);
    // What names itself or what comes later fails, and ends.
    for (input, secondary) in [(Some(1), Some(0)), (Some(0), Some(1)), (Some(9), Some(0)), (Some(0), Some(9))] {
        let bad = vec![action(input, secondary, Some(0), copy("/a", "/x"))];
        let error = bench.run(Op::File(FileOp { actions: bad }), &[&base]).await.unwrap_err();
        assert!(words(&error).contains("malformed"), "{error}");
    }
}

#[tokio::test]
async fn a_failed_operation_leaves_nothing_behind() {
    let bench = Bench::new(&["a=A"]);
    let context = bench.source("local://context", &[]).await.unwrap();
    let base = bench.copy("/", "/", None, &context).await.unwrap();
    let listing = || {
        let root = bench.worker.store().root();
        let names =
            |dir: &str| fs::read_dir(root.join(dir)).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        (names("tmp"), names("layers"))
    };
    let before = listing();
    bench.copy("/gone", "/", Some(&base), &context).await.unwrap_err();
    let canceled = CancellationToken::new();
    canceled.cancel();
    let vertex = Vertex { op: Op::File(FileOp { actions: vec![] }), inputs: Vec::new(), platform: None };
    let (id, inputs) = (VertexId::of_name("x"), vec![base.clone()]);
    let job = Job {
        id,
        vertex: &vertex,
        meta: &OpMeta::default(),
        inputs,
        sources: Vec::new(),
        place: solver::place::Place::uncounted(id),
    };
    let error = bench.worker.run(job, &Log::default(), &canceled).await.unwrap_err();
    assert!(matches!(error, ExecError::Canceled));
    assert_eq!(listing(), before);
}

#[tokio::test]
async fn layers_of_an_image_are_fetched_once_and_unpacked_when_needed() {
    let bench = Bench::new(&[]);
    let base = &["etc/passwd=root", "usr/lib/x=1 4755 3:4", "d/gone=1", "d/kept=2"][..];
    let top = &["d/gone!", "usr/lib/y=2", "usr/lib/z == usr/lib/y"][..];
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let bench = Bench::new(&[]);
        let (image, manifest) = bench.image(&[base, top], compression);
        let result = bench.source(&image, &[]).await.unwrap();
        assert_eq!(bench.asked(), 2);
        assert!(bench.chain(&result).iter().all(|layer| layer.name.is_none()), "nothing asked for a tree yet");
        assert_eq!(
            bench.tree(&result),
            [
                "d/",
                "d/kept=2",
                "etc/",
                "etc/passwd=root",
                "usr/",
                "usr/lib/",
                "usr/lib/x=1 4755 3:4",
                "usr/lib/y=2",
                "usr/lib/z == usr/lib/y"
            ]
        );
        // Again: the same result, and nobody is asked.
        assert_eq!(bench.source(&image, &[]).await.unwrap(), result);
        assert_eq!(bench.asked(), 0);
        // Trees are enough: without the blobs nothing is fetched either.
        for blob in &manifest.layers {
            fs::remove_file(bench.worker.store().blobs().path(&blob.digest)).unwrap();
        }
        assert_eq!(bench.source(&image, &[]).await.unwrap(), result);
        assert_eq!(bench.asked(), 0);
        // As a blob again: the diff id stays.
        let layer = &bench.chain(&result)[1];
        let blob = bench.worker.layers().ensure_blob(&layer.id, &Codec::new(Compression::Gzip), false).unwrap();
        assert_eq!(bench.worker.store().blobs().size(&blob.digest).unwrap(), Some(blob.size));
    }
    // A third layer on a known base: only the third.
    let (image, _) = bench.image(&[base], Compression::Gzip);
    bench.source(&image, &[]).await.unwrap();
    bench.asked();
    let (image, _) = bench.image(&[base, &["new=1"]], Compression::Gzip);
    bench.source(&image, &[]).await.unwrap();
    assert_eq!(bench.asked(), 1);
}

#[tokio::test]
async fn an_image_that_contradicts_itself_is_refused() {
    let bench = Bench::new(&[]);
    let (_, manifest) = bench.image(&[&["a=1"], &["b=2"]], Compression::Gzip);
    let wrong = DiffId(Digest::of(b"something else"));
    let (image, _) = bench.publish(vec![wrong], manifest.layers[..1].to_vec());
    let result = bench.source(&image, &[]).await.unwrap();
    let error = bench.worker.view(&result).unwrap_err();
    assert!(words(&error).contains("unpacks to") && words(&error).contains(&wrong.to_string()), "{}", words(&error));
    assert!(bench.chain(&result)[0].name.is_none(), "a tree that is not what it should be is not kept");
    let (image, _) = bench.publish(vec![wrong], manifest.layers.clone());
    let error = bench.source(&image, &[]).await.unwrap_err();
    assert!(words(&error).contains("names 1 layers, its manifest 2"), "{}", words(&error));
    let odd = Descriptor::new("application/x-unknown", manifest.layers[0].digest, manifest.layers[0].size);
    let (image, _) = bench.publish(vec![DiffId(Digest::of(b"a third thing"))], vec![odd]);
    let error = bench.source(&image, &[]).await.unwrap_err();
    assert!(words(&error).contains("unknown kind `application/x-unknown`"), "{}", words(&error));
    let gone = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(b"gone"), 4);
    let (image, _) = bench.publish(vec![DiffId(Digest::of(b"other"))], vec![gone]);
    let error = bench.source(&image, &[]).await.unwrap_err();
    assert!(words(&error).contains("cannot fetch the layers of `registry.test/image:1"), "{}", words(&error));
    for identifier in ["docker-image://debian:12", "docker-image://debian@sha256:zz", "docker-image://"] {
        let error = bench.source(identifier, &[]).await.unwrap_err();
        assert!(words(&error).contains("not an image pinned by digest"), "{}", words(&error));
    }
}

#[tokio::test]
async fn an_image_that_lies_about_a_layer_spoils_no_other_image() {
    let bench = Bench::new(&[]);
    let (honest, manifest) = bench.image(&[&["a=1"]], Compression::Gzip);
    let (_, other) = bench.image(&[&["evil=1"]], Compression::Gzip);
    let config: ImageConfig =
        oci::content::read_json(bench.worker.store().blobs(), &manifest.config, 1 << 20).unwrap().0;
    // The honest layer's diff id, another layer's blob.
    let (liar, _) = bench.publish(config.rootfs.diff_ids.clone(), other.layers.clone());
    let result = bench.source(&liar, &[]).await.unwrap();
    assert!(words(&bench.worker.view(&result).unwrap_err()).contains("unpacks to"));
    let result = bench.source(&honest, &[]).await.unwrap();
    assert_eq!(bench.tree(&result), ["a=1"]);
    let blob = bench.worker.layers().ensure_blob(&result, &Codec::new(Compression::Gzip), false).unwrap();
    assert_eq!(blob.digest, manifest.layers[0].digest, "the blob that was found to be right is the one to push");
}

#[tokio::test]
async fn an_image_without_layers_is_the_empty_tree() {
    let bench = Bench::new(&["a=A"]);
    let (image, _) = bench.publish(Vec::new(), Vec::new());
    let result = bench.source(&image, &[]).await.unwrap();
    assert_eq!(result.as_str(), SCRATCH);
    assert_eq!(bench.tree(&result), Vec::<String>::new());
    let context = bench.source("local://context", &[]).await.unwrap();
    let first = bench.copy("/a", "/", Some(&result), &context).await.unwrap();
    assert_eq!(bench.chain(&first).len(), 1);
}

#[tokio::test]
async fn a_built_layer_survives_the_way_through_a_registry() {
    let bench = Bench::new(&["a=A 4755", "d/b=B", "d/l -> ../a", "e/ 1777", "k=K @user.k=v"]);
    let odd = bench.dir.path().join("context");
    shell(open(&odd).as_fd(), "printf 1 >\"$(printf 'n\\377')\"; truncate -s 3M hole; printf x >>hole");
    let context = bench.source("local://context", &[]).await.unwrap();
    let built = bench.copy("/", "/app/", None, &context).await.unwrap();
    let layers = bench.worker.layers();
    for (codec, again) in [(Codec::new(Compression::Gzip), false), (Codec::new(Compression::Zstd), true)] {
        let blob = layers.ensure_blob(&built, &codec, false).unwrap();
        assert_eq!(layers.ensure_blob(&built, &codec, false).unwrap(), blob, "encoded once");
        let (diff_id, _) = layers.ensure_diff_id(&built).unwrap();
        let other = Bench::new(&[]);
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut bench.worker.store().blobs().open(&blob.digest).unwrap().unwrap(), &mut bytes)
            .unwrap();
        put_bytes(&other.registry.blobs, &bytes).unwrap();
        let (image, _) = other.publish(vec![diff_id], vec![blob.clone()]);
        let pulled = other.source(&image, &[]).await.unwrap();
        assert_eq!(other.tree(&pulled), bench.tree(&built));
        // As it was pulled, unless another form is insisted on.
        let gzip = Codec::new(Compression::Gzip);
        assert_eq!(other.worker.layers().ensure_blob(&pulled, &gzip, false).unwrap(), blob);
        let forced = other.worker.layers().ensure_blob(&pulled, &gzip, true).unwrap();
        assert_eq!(forced.digest != blob.digest, again);
    }
}

#[tokio::test]
async fn keys_of_sources_are_known_before_they_are_fetched() {
    let bench = Bench::new(&["a=A"]);
    let pin = |identifier: &str| {
        let source = SourceOp { identifier: identifier.into(), attrs: BTreeMap::new() };
        let worker = bench.worker.clone();
        async move { worker.pin(&source, &Log::default(), &CancellationToken::new()).await }
    };
    assert_eq!(pin("local://context").await.unwrap(), Pin::Selected);
    let digest = Digest::of(b"manifest");
    let pinned = pin(&format!("docker-image://docker.io/library/a:1@{digest}")).await.unwrap();
    assert_eq!(pinned, Pin::Content(ContentDigest(*digest.as_bytes())));
    for (identifier, expected) in [
        ("ftp://example.com/x", "no source is of the kind `ftp://example.com/x`"),
        ("oci-layout://x", "`oci-layout://x` is not an image pinned by digest"),
    ] {
        let error = pin(identifier).await.unwrap_err();
        assert!(words(&error).contains(expected), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_done_yet_is_refused_by_name() {
    let bench = Bench::new(&["a=A"]);
    let nested = BuildOp { builder: "llb".into(), inputs: BTreeMap::new(), attrs: BTreeMap::new() };
    let error = bench.run(Op::Build(nested), &[]).await.unwrap_err();
    assert!(words(&error).contains("is not supported yet"), "{error}");
    let error = bench.source("local://other", &[]).await.unwrap();
    let error = bench.copy("/a", "/", None, &error).await.unwrap_err();
    assert!(words(&error).contains("no local source `other`"), "{}", words(&error));
    // The context is nothing to build upon.
    let context = bench.source("local://context", &[]).await.unwrap();
    let error = bench.copy("/a", "/", Some(&context), &context).await.unwrap_err();
    assert!(words(&error).contains("a tree of the store is needed"), "{}", words(&error));
}

#[tokio::test]
async fn a_tree_is_copied_out_over_what_is_there() {
    let bench = Bench::new(&["a=A", "d/b=B", "d/l -> ../a", "h=1 4755", "i == h"]);
    let context = bench.source("local://context", &[]).await.unwrap();
    let built = bench.copy("/", "/", None, &context).await.unwrap();
    let dest = bench.dir.path().join("out/deep");
    build(&dest, &["a=old", "own=kept"]);
    let out = |dest: &Path| crate::copy_tree_out(&bench.worker.view(&built).unwrap(), dest, false);
    out(&dest).unwrap();
    assert_eq!(
        show(open(&dest).as_fd(), false),
        ["a=A", "d/", "d/b=B", "d/l -> ../a", "h=1 4755", "i=1 4755", "own=kept"]
    );
    build(&bench.dir.path().join("bad"), &["d=file"]);
    assert!(words(&out(&bench.dir.path().join("bad")).unwrap_err()).contains("cannot copy a directory to `d`"));
}
