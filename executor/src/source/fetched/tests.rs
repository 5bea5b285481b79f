//! Git and http sources through the worker: keys, layers, and what they hold.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use solver::graph::{Vertex, VertexId};
use solver::op::{Op, OpMeta};
use solver::seam::{Executor as _, Job, Pin, ResultId};

use super::*;
use crate::source::git::tests::{Bench, files, words};
use crate::source::image::{BlobFetcher, FetchError};
use crate::source::test_server::{Reply, Server};
use crate::testing::Log;
use crate::{ExecError, Worker, WorkerConfig};

/// Nothing here comes from a registry.
struct NoRegistry;

impl BlobFetcher for NoRegistry {
    fn fetch<'a>(
        &'a self,
        reference: &'a oci::model::Reference,
        _descriptor: &'a Descriptor,
        _into: &'a dyn oci::content::ContentStore,
        _progress: &'a (dyn Fn(u64) + Send + Sync),
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), FetchError>> + Send + 'a>> {
        panic!("{reference} was asked for")
    }
}

/// A build of its own over the bench's store.
fn worker(bench: &Bench) -> Worker {
    Worker::new(WorkerConfig {
        store: bench.store.clone(),
        local_sources: BTreeMap::new(),
        fetcher: Arc::new(NoRegistry),
        connectivity: Default::default(),
        steps: Default::default(),
        snapshots: None,
        clock: || jiff::Timestamp::UNIX_EPOCH,
    })
    .unwrap()
}

fn op(identifier: &str, attrs: &[(&str, &str)]) -> SourceOp {
    let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    SourceOp { identifier: identifier.to_owned(), attrs }
}

async fn pin(worker: &Worker, op: &SourceOp) -> Result<ContentDigest, ExecError> {
    match worker.pin(op, &Log::default(), &CancellationToken::new()).await? {
        Pin::Content(digest) => Ok(digest),
        Pin::Selected => panic!("{} has a key of its own", op.identifier),
    }
}

async fn run(worker: &Worker, op: &SourceOp) -> Result<ResultId, ExecError> {
    let vertex = Vertex { op: Op::Source(op.clone()), inputs: Vec::new(), platform: None };
    let job = Job {
        id: VertexId::of_name("test"),
        vertex: &vertex,
        meta: &OpMeta::default(),
        inputs: Vec::new(),
        sources: Vec::new(),
        place: solver::place::Place::uncounted(VertexId::of_name("test")),
    };
    Ok(worker.run(job, &Log::default(), &CancellationToken::new()).await?.remove(0))
}

/// The one layer of a result, as a folder.
fn layer(worker: &Worker, result: &ResultId) -> std::path::PathBuf {
    let chain = worker.layers().chain(result).unwrap();
    assert_eq!(chain.len(), 1);
    worker.store().layers_dir().join(chain[0].name.as_ref().unwrap())
}

#[tokio::test]
async fn a_repository_is_keyed_by_its_commit_and_becomes_one_layer() {
    let bench = Bench::new();
    let commit = bench.repository("a", "mkdir d; echo -n A >d/a; echo -n R >r");
    let server = bench.serve();
    let url = server.url("/a");
    let full = (attr::GIT_FULL_URL, url.as_str());
    let by_name = op("git://host/a#main", &[full]);
    let by_commit = op(&format!("git://host/a#{commit}"), &[full]);
    let build = worker(&bench);
    let key = pin(&build, &by_name).await.unwrap();
    // The branch moves between the key and the run: the tree is the key's.
    bench.sh("cd a; echo -n B >d/a; git commit -qam two");
    let result = run(&build, &by_name).await.unwrap();
    let tree = layer(&build, &result);
    assert_eq!(files(&tree), ["d/", "d/a=A", "r=R"]);
    for entry in ["", "d", "d/a"] {
        let stat = std::fs::metadata(tree.join(entry)).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7022), (0, 0, 0), "{entry}");
    }
    server.asked();
    assert_eq!(pin(&worker(&bench), &by_commit).await.unwrap(), key, "the name by which it was found is no content");
    assert!(server.asked().is_empty(), "a commit says what it is");
    assert_ne!(pin(&worker(&bench), &by_name).await.unwrap(), key, "another build asks again");
    // Whatever changes the tree changes the key; what does not, does not.
    let frozen = format!("git://host/a#{commit}");
    for (identifier, attrs, same) in [
        (format!("{frozen}:"), vec![full], true),
        (format!("{frozen}:/x/.."), vec![full], true),
        (frozen.clone(), vec![full, (attr::GIT_CHECKSUM, &commit[..8])], true),
        (frozen.clone(), vec![full, (attr::GIT_KEEP_DIR, "false")], true),
        (frozen.clone(), vec![(attr::GIT_FULL_URL, "https://elsewhere.test/a")], true),
        (format!("{frozen}:d"), vec![full], false),
        (frozen.clone(), vec![full, (attr::GIT_KEEP_DIR, "true")], false),
        (frozen.clone(), vec![full, (attr::GIT_SKIP_SUBMODULES, "true")], false),
        (frozen.clone(), vec![full, (attr::GIT_MTIME, "commit")], false),
    ] {
        let other = pin(&worker(&bench), &op(&identifier, &attrs)).await.unwrap();
        assert_eq!(other == key, same, "{identifier} {attrs:?}");
    }
    let by_subdir = op(&format!("{frozen}:d"), &[full, (attr::GIT_MTIME, "commit")]);
    let tree = layer(&build, &run(&build, &by_subdir).await.unwrap());
    assert_eq!(files(&tree), ["a=A"]);
    assert_eq!(std::fs::metadata(tree.join("a")).unwrap().mtime(), 1_100_000_000);
    for attrs in
        [[full, (attr::GIT_KEEP_DIR, "yes")], [full, (attr::GIT_MTIME, "now")], [full, (attr::GIT_SKIP_SUBMODULES, "")]]
    {
        let error = pin(&build, &op("git://host/a", &attrs)).await.unwrap_err();
        assert!(words(&error).contains(attrs[1].0), "{error}");
    }
}

#[tokio::test]
async fn a_file_is_keyed_by_bytes_name_mode_and_time_and_becomes_one_layer() {
    let bench = Bench::new();
    let server = Server::new(|request| match request.target.as_str() {
        "/dated" => Reply::new(200, &[("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")], "bytes"),
        "/named" => Reply::new(200, &[("Content-Disposition", "attachment; filename=name")], "bytes"),
        "/none" => Reply::new(404, &[], "no such thing"),
        _ => Reply::new(200, &[], "bytes"),
    });
    let file = |path: &str, attrs: &[(&str, &str)]| op(&server.url(path), attrs);
    let build = worker(&bench);
    let key = pin(&build, &file("/f", &[])).await.unwrap();
    assert_eq!(server.asked().len(), 1);
    let tree = layer(&build, &run(&build, &file("/f", &[])).await.unwrap());
    assert_eq!(server.asked().len(), 0, "what the key was made of is what runs");
    assert_eq!(files(&tree), ["f=bytes"]);
    let stat = std::fs::metadata(tree.join("f")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.mtime()), (0o600, 0, 0, 0));
    let attrs = [(attr::HTTP_FILENAME, "g"), (attr::HTTP_PERM, "4755")];
    let tree = layer(&build, &run(&build, &file("/dated", &attrs)).await.unwrap());
    let stat = std::fs::metadata(tree.join("g")).unwrap();
    assert_eq!((stat.permissions().mode() & 0o7777, stat.mtime()), (0o4755, 784_111_777));
    for (path, attrs, same) in [
        ("/other/f", vec![], true),
        ("/f", vec![(attr::HTTP_PERM, "0600")], true),
        ("/x", vec![(attr::HTTP_FILENAME, "f")], true),
        ("/x", vec![], false),
        ("/named", vec![], false),
        ("/dated", vec![(attr::HTTP_FILENAME, "f")], false),
        ("/f", vec![(attr::HTTP_PERM, "644")], false),
    ] {
        let other = pin(&build, &file(path, &attrs)).await.unwrap();
        assert_eq!(other == key, same, "{path} {attrs:?}");
    }
    // A checksum is a key without asking; then the bytes must be those.
    server.asked();
    let good = format!("sha256:{}", Digest::of(b"bytes").hex());
    let wrong = format!("sha256:{}", Digest::of(b"other").hex());
    let build = worker(&bench);
    pin(&build, &file("/c", &[(attr::HTTP_CHECKSUM, &good)])).await.unwrap();
    pin(&build, &file("/c", &[(attr::HTTP_CHECKSUM, &wrong)])).await.unwrap();
    assert_eq!(server.asked().len(), 0);
    assert_eq!(
        files(&layer(&build, &run(&build, &file("/named", &[(attr::HTTP_CHECKSUM, &good)])).await.unwrap())),
        ["named=bytes"]
    );
    let error = run(&build, &file("/c", &[(attr::HTTP_CHECKSUM, &wrong)])).await.unwrap_err();
    assert!(words(&error).contains(&good) && words(&error).contains(&wrong), "{}", words(&error));
    for (attrs, want) in [
        ([(attr::HTTP_FILENAME, "../x")], attr::HTTP_FILENAME),
        ([(attr::HTTP_FILENAME, "")], attr::HTTP_FILENAME),
        ([(attr::HTTP_FILENAME, "..")], attr::HTTP_FILENAME),
        ([(attr::HTTP_PERM, "888")], attr::HTTP_PERM),
        ([(attr::HTTP_PERM, "77777")], attr::HTTP_PERM),
        ([(attr::HTTP_CHECKSUM, "md5:x")], "no checksum"),
    ] {
        let url = server.url("/f").replacen("://", "://user:secret@", 1);
        let error = pin(&build, &op(&url, &attrs)).await.unwrap_err();
        assert!(words(&error).contains(want) && !format!("{error:?}").contains("secret"), "{error:?}");
    }
    let error = run(&build, &file("/none", &[])).await.unwrap_err();
    assert!(
        words(&error).contains("404: no such thing") && error.help().unwrap().contains("check the address"),
        "{error}"
    );
    let error = pin(&build, &op("gopher://u:secret@host/a", &[])).await.unwrap_err();
    assert!(error.to_string().contains("gopher://***@host/a"), "{error}");
}

#[tokio::test]
async fn a_failed_or_canceled_source_leaves_no_layer() {
    let bench = Bench::new();
    bench.repository("a", "ln -s / root");
    let server = bench.serve();
    let url = server.url("/a");
    let build = worker(&bench);
    let escaping = op("git://host/a#main:root/etc", &[(attr::GIT_FULL_URL, &url)]);
    assert!(words(&run(&build, &escaping).await.unwrap_err()).contains("no such directory"));
    let stop = CancellationToken::new();
    stop.cancel();
    let vertex = Vertex {
        op: Op::Source(op("git://host/a", &[(attr::GIT_FULL_URL, &url)])),
        inputs: Vec::new(),
        platform: None,
    };
    let job = Job {
        id: VertexId::of_name("test"),
        vertex: &vertex,
        meta: &OpMeta::default(),
        inputs: Vec::new(),
        sources: Vec::new(),
        place: solver::place::Place::uncounted(VertexId::of_name("test")),
    };
    assert!(matches!(build.run(job, &Log::default(), &stop).await, Err(ExecError::Canceled)));
    let count = |folder: &str| std::fs::read_dir(bench.store.root().join(folder)).unwrap().count();
    assert_eq!((count("layers"), count("tmp"), count("records")), (0, 0, 0));
}

#[tokio::test]
async fn an_image_of_a_layout_is_asked_of_no_registry() {
    let bench = Bench::new();
    let build = worker(&bench);
    let blobs = bench.store.blobs();
    let tar = oci::content::put_bytes(blobs, &[0; 1024]).unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [tar.0]},
    });
    let config = oci::content::put_bytes(blobs, config.to_string().as_bytes()).unwrap();
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.0, "size": config.1},
        "layers": [{"mediaType": kind, "digest": tar.0, "size": tar.1}],
    });
    let (manifest, _) = oci::content::put_bytes(blobs, manifest.to_string().as_bytes()).unwrap();
    let image = op(&format!("oci-layout://docker.io/library/x:1@{manifest}"), &[]);
    assert_eq!(pin(&build, &image).await.unwrap().0, *manifest.as_bytes());
    let result = run(&build, &image).await.unwrap();
    assert_eq!(build.layers().chain(&result).unwrap().len(), 1);
    std::fs::remove_file(blobs.path(&tar.0)).unwrap();
    let error = run(&build, &image).await.unwrap_err();
    assert!(words(&error).contains(&format!("lacks its blob `{}`", tar.0)), "{}", words(&error));
}
