//! What is asked of the network: as little as can be, nothing at all with `--offline`, and what happens when it is down.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::archive::hex;
use crate::support::fake::{Fake, Reply};
use crate::support::git::GitServer;
use crate::support::rbuild::RBUILD;
use crate::support::registry::Registry;
use crate::support::{Context, Outcome, Store, bases};

/// Part of the warning that a tag is what it was last.
const FALLEN_BACK: &str = "is taken to be what it was last";

/// Answers to the paths of one image; `index` stands before it.
struct Image {
    config: Vec<u8>,
    layer: Vec<u8>,
    manifest: Vec<u8>,
    index: Vec<u8>,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn described(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len() })
}

impl Image {
    /// Busybox, with the variable `VERSION`.
    fn new(version: &str) -> Self {
        let layer = std::fs::read(bases::busybox()).expect("the base is there");
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Env": ["PATH=/bin", format!("VERSION={version}")] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] }, "history": [{ "created_by": "test" }],
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("config.v1+json", &config), "layers": [described("layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = described("manifest.v1+json", &manifest);
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry],
        });
        Self { config, layer, manifest, index: index.to_string().into_bytes() }
    }

    fn reply(&self, path: &str) -> Option<Reply> {
        let of = |kind: &str, bytes: &[u8]| {
            Some(Reply::new(200, bytes).header("Content-Type", format!("application/vnd.oci.image.{kind}")))
        };
        match path.rsplit('/').next()? {
            "1" => Some(of("index.v1+json", &self.index)?.header("Docker-Content-Digest", digest(&self.index))),
            name if name == digest(&self.index) => of("index.v1+json", &self.index),
            name if name == digest(&self.manifest) => of("manifest.v1+json", &self.manifest),
            name if name == digest(&self.config) => of("config.v1+json", &self.config),
            name if name == digest(&self.layer) => of("layer.v1.tar", &self.layer),
            _ => None,
        }
    }
}

/// A registry whose `app:1` can be moved, with the images of all versions.
fn moving() -> (Fake, Arc<AtomicUsize>, Arc<[Image; 2]>) {
    let version = Arc::new(AtomicUsize::new(0));
    let images = Arc::new([Image::new("one"), Image::new("two")]);
    let (now, all) = (version.clone(), images.clone());
    let fake = Fake::start(move |request| {
        let tagged = all[now.load(Ordering::SeqCst)].reply(&request.path);
        let reply = tagged.or_else(|| all.iter().find_map(|image| image.reply(&request.path)));
        reply.unwrap_or_else(|| Reply::new(404, "{}"))
    });
    (fake, version, images)
}

fn asked(fake: &Fake, before: usize) -> Vec<String> {
    let requests = fake.requests();
    requests[before..].iter().map(|request| format!("{} {}", request.method, request.path)).collect()
}

#[test]
fn tag_of_a_registry_is_asked_about_in_every_build_with_one_request() {
    let (fake, version, _) = moving();
    let store = Store::new();
    let context = Context::new(&format!("FROM {}/app:1\nRUN echo ran $VERSION\n", fake.address));
    let check = |args: &[&str], line: &str, times: usize, requests: &[&str]| {
        let before = fake.requests().len();
        let built = store.build(&context, args).ok().never_says(&[FALLEN_BACK]);
        assert_eq!(built.lines_of_steps(line), times, "{built}");
        if times == 0 {
            assert_eq!(asked(&fake, before), requests, "{args:?}");
        }
    };
    check(&[], "ran one", 1, &[]);
    check(&[], "ran one", 0, &["HEAD /v2/app/manifests/1"]);
    check(&["--pull"], "ran one", 0, &["HEAD /v2/app/manifests/1"]);
    check(&["--offline"], "ran one", 0, &[]);
    version.store(1, Ordering::SeqCst);
    check(&["--offline"], "ran two", 0, &[]);
    check(&[], "ran two", 1, &[]);
    check(&["--offline"], "ran two", 0, &[]);
}

#[test]
fn pinned_image_that_is_here_is_asked_about_never() {
    let (fake, version, images) = moving();
    let name = format!("{}/app", fake.address);
    for pin in [digest(&images[0].manifest), digest(&images[0].index)] {
        for reference in [format!("{name}@{pin}"), format!("{name}:1@{pin}")] {
            let store = Store::new();
            let context = Context::new(&format!("FROM {reference}\nRUN echo ran $VERSION\n"));
            let built = store.build(&context, [""; 0]).ok();
            assert_eq!(built.lines_of_steps("ran one"), 1, "{built}");
            // Where a tag stands now does not matter.
            version.store(1, Ordering::SeqCst);
            let before = fake.requests().len();
            for args in [&[][..], &["--pull"], &["--offline"], &["--no-cache"]] {
                store.build(&context, args).ok().never_says(&[FALLEN_BACK]);
            }
            assert_eq!(asked(&fake, before), Vec::<String>::new(), "{reference}");
            version.store(0, Ordering::SeqCst);
        }
    }
}

#[test]
fn registry_that_is_down_costs_a_warning_and_with_pull_the_build() {
    let registry = Registry::open();
    let name = registry.name("app:1");
    let store = Store::with_busybox();
    store.build(&Context::new("FROM busybox\nRUN echo made > /made\n"), ["-t", &name, "--push"]).ok();
    let other = Store::new();
    let context = Context::new(&format!("FROM {name}\nRUN echo ran $(cat /made)\n"));
    other.build(&context, [""; 0]).ok().never_says(&[FALLEN_BACK]);
    let address = registry.address.clone();
    drop(registry);
    let built = other.build(&context, ["--no-cache"]).ok().says(&[FALLEN_BACK, &name, "sha256:"]);
    assert_eq!(built.lines_of_steps("ran made"), 1, "{built}");
    assert_eq!(built.stderr.matches(FALLEN_BACK).count(), 1, "{built}");
    other.build(&context, ["--pull"]).fails_saying(&[&name, "without `--pull`"]);
    other.build(&context, ["--offline"]).ok().never_says(&[FALLEN_BACK]);
    // Whoever built it never asks.
    store.build(&Context::new(&format!("FROM {name}\nRUN true\n")), [""; 0]).ok().never_says(&[FALLEN_BACK]);
    let unknown = Context::new(&format!("FROM {address}/other:1\nRUN true\n"));
    other.build(&unknown, [""; 0]).fails_saying(&["/other:1", "Dockerfile:1"]);
}

/// What `rbuild ARGS…` connects to, told by strace: addresses of the internet.
fn connections(store: &Store, args: &[&str]) -> (Outcome, Vec<String>) {
    let log = store.path("strace.log");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o"]).arg(&log).arg(RBUILD).args(args);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", store.home());
    command.env("RBUILD_ROOT", store.root());
    let outcome = Outcome::of(&mut command);
    let log = std::fs::read_to_string(&log).expect("strace wrote it");
    (outcome, log.lines().filter(|line| line.contains("AF_INET")).map(str::to_owned).collect())
}

#[test]
fn offline_build_opens_no_connection_and_uses_what_was_fetched() {
    let (fake, ..) = moving();
    let web = Fake::start(|_| Reply::new(200, "from the web\n").header("ETag", "\"1\""));
    let git = GitServer::start();
    git.commit("lib", "echo from git > l");
    let store = Store::new();
    let text = format!(
        "FROM {}/app:1\nADD http://{}/f /f\nADD {}#main /lib\nRUN echo ran $(cat /f /lib/l)\n",
        fake.address,
        web.address,
        git.url("lib")
    );
    let context = Context::new(&text);
    let path = context.path().to_str().expect("UTF-8").to_owned();
    let (first, made) = connections(&store, &["build", "--network=none", "--progress=plain", &path]);
    assert_eq!(first.ok().lines_of_steps("ran from the web from git"), 1);
    assert!(!made.is_empty(), "strace shows connections");
    let before = (fake.requests().len(), web.requests().len());
    for args in [&["--offline"][..], &["--offline", "--no-cache"], &["--offline=true", "--target", "stage-0"][..1]] {
        let words = [&["build", "--network=none", "--progress=plain"], args, &[path.as_str()]].concat();
        let (built, made) = connections(&store, &words);
        assert_eq!(made, Vec::<String>::new(), "{}", built.ok());
    }
    for words in [&["check", "--offline"][..], &["debug", "plan", "--offline"]] {
        let (_, made) = connections(&store, &[words, &[path.as_str()]].concat());
        assert_eq!(made, Vec::<String>::new(), "{words:?}");
    }
    let mut command = store.build_command(&context, [""; 0]);
    Outcome::of(command.env("RBUILD_OFFLINE", "1")).ok();
    assert_eq!((fake.requests().len(), web.requests().len()), before);
}

#[test]
fn what_is_not_here_is_named_with_what_to_do() {
    let (fake, ..) = moving();
    let web = Fake::start(|_| Reply::new(200, "x"));
    let git = GitServer::start();
    git.commit("lib", "echo l > l; printf 'FROM scratch\\nCOPY l /\\n' > Dockerfile");
    let (store, busybox) = (Store::new(), Store::with_busybox());
    let check = |store: &Store, text: String, words: &[&str]| {
        let built = store.build(&Context::new(&text), ["--offline"]);
        built.fails_saying(words).says(&["--offline"]);
    };
    check(&store, format!("FROM {}/app:1\nRUN true\n", fake.address), &["/app:1", "Dockerfile:1", "rbuild load"]);
    check(&busybox, format!("FROM busybox\nADD http://{}/f /\n", web.address), &["/f", "Dockerfile:2"]);
    check(&busybox, format!("FROM busybox\nADD {}#main /l\n", git.url("lib")), &["lib", "Dockerfile:2"]);
    let place = git.url("lib");
    store.rbuild(["build", "--offline", &place]).fails_saying(&["lib", "--offline"]);
    store
        .rbuild(["build", "--offline", &format!("http://{}/c.tar", web.address)])
        .fails_saying(&["/c.tar", "--offline"]);
    // The plan needs no layers; a step does.
    let context = Context::new(&format!("FROM {}/app:1\nRUN true\n", fake.address));
    let path = context.path().to_str().expect("UTF-8");
    store.rbuild(["debug", "plan", path]).ok();
    let before = fake.requests().len();
    store.build(&context, ["--offline"]).fails_saying(&["no connection may be made", "--offline"]);
    assert_eq!((asked(&fake, before), web.requests().len()), (Vec::new(), 0));
    for flag in ["--pull", "--push"] {
        store.build(&context, ["-t", "a", "--offline", flag]).fails_saying(&[flag, "--offline"]);
    }
}
