//! A cache that is down, slow, damaged or hostile: one warning, bounded time, and the build goes on.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{from as from_registry, machine, passed_on, to};
use crate::support::bounded::{bounded, store_bytes};
use crate::support::fake::{Fake, Reply, Request};
use crate::support::hosted::Registry as Hosted;
use crate::support::one_layer::digest;
use crate::support::raw_tar::RawTar;
use crate::support::registry::Registry;
use crate::support::{Context, Outcome, Store};

const DOCKERFILE: &str = "FROM busybox\nRUN echo ran-a && echo a > /a\nRUN echo ran-b && cat /a > /b\n";

fn context() -> Context {
    Context::new(DOCKERFILE)
}

/// A directory with the cache of the build.
fn cache(store: &Store) -> PathBuf {
    let dir = store.path("cache");
    store.build(&context(), ["--cache-to", &format!("type=local,dest={}", dir.display())]).ok();
    dir
}

pub(crate) fn from(dir: &Path) -> String {
    format!("type=local,src={}", dir.display())
}

/// A cache that has less time than usual: what is slow here never ends.
fn impatient(name: &str) -> String {
    format!("type=registry,ref={name},timeout=3s")
}

#[test]
fn a_registry_that_is_down_slow_or_talks_nonsense_costs_one_warning() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.local_addr().expect("it listens").to_string()
    };
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let silent_address = silent.local_addr().expect("it listens").to_string();
    let nonsense = Fake::start(|request| match request.path.as_str() {
        "/v2/" => Reply::new(200, "{}"),
        _ => Reply::new(200, "\x1b[2Jnonsense"),
    });
    let error = Fake::start(|_| Reply::new(403, "no"));
    // What says yes to everything has everything.
    let all = [(&closed, 1), (&silent_address, 1), (&nonsense.address, 0), (&error.address, 1)];
    let check = |address: &str, not_sent: usize| {
        let store = machine();
        let (began, cache) = (Instant::now(), impatient(&format!("{address}/app:cache")));
        let built = store.build(&context(), ["--cache-from", &cache, "--cache-to", &cache]).ok();
        assert_eq!(built.lines_of_steps("ran-a"), 1, "{built}");
        assert_eq!(built.stderr.matches("WARN: the build does without a cache").count(), 1, "{built}");
        assert_eq!(built.stderr.matches("WARN: the cache was not sent").count(), not_sent, "{built}");
        assert!(!built.stderr.contains("\x1b[2J"), "{built}");
        assert!(began.elapsed() < Duration::from_secs(60), "{address}: {:?}", began.elapsed());
    };
    let [closed, silent, nonsense, error] = all.map(|(address, not_sent)| move || check(address, not_sent));
    at_once(&[&closed, &silent, &nonsense, &error]);
}

/// Does all at the same time: each waits for somebody's patience.
fn at_once(cases: &[&(dyn Fn() + Sync)]) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(case);
        }
    });
}

/// One warning that begins so, in less time than a minute.
fn warned_once(words: &str, build: impl FnOnce() -> Outcome) -> Outcome {
    let began = Instant::now();
    let built = build();
    let warnings = built.stderr.lines().filter(|line| line.contains("WARN: ") && line.contains("cache")).count();
    assert_eq!(warnings, 1, "{built}");
    assert!(built.stderr.contains(&format!("WARN: {words}")), "{built}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    built
}

/// A registry that passes on, at a byte a second what `is_slow` says.
fn dripping(registry: &Registry, is_slow: impl Fn(&Request, &Reply) -> bool + Send + Sync + 'static) -> Fake {
    let address = registry.address.clone();
    Fake::start(move |request| {
        let reply = passed_on(&address, request);
        if is_slow(request, &reply) { reply.paced(Duration::from_secs(1)) } else { reply }
    })
}

fn is_layer(reply: &Reply) -> bool {
    reply.body.starts_with(&[0x1f, 0x8b])
}

#[test]
fn a_registry_that_drips_costs_one_warning_whatever_drips() {
    let registry = Registry::open();
    machine().build(&context(), ["--cache-to", &to(&registry, "mode=max")]).ok();
    let check = |slow: fn(&Request, &Reply) -> bool, words: &str| {
        let (there, dripping) = (machine(), dripping(&registry, slow));
        let cache = impatient(&format!("{}/app:cache", dripping.address));
        let built = warned_once(words, || there.build(&context(), ["--cache-from", &cache, "-t", "app"]).ok());
        assert_eq!(built.lines_of_steps("ran-a"), 1, "{built}");
        assert_eq!(there.rbuild(["run", "app", "cat", "/b"]).ok().stdout.trim(), "a");
    };
    at_once(&[
        &|| check(|request, _| request.path.contains("/manifests/"), "the build does without a cache: the cache `"),
        &|| check(|_, reply| reply.body.starts_with(b"{\"version\":"), "the build does without a cache: the cache `"),
        &|| check(|_, reply| is_layer(reply), "a step runs that a cache knew: "),
    ]);
}

#[test]
fn a_registry_that_is_full_costs_one_warning_unless_it_may_fail_the_build() {
    let check = |status: u16| {
        let full = Fake::start(move |request| match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/v2/") => Reply::new(200, "{}"),
            ("GET" | "HEAD", _) => Reply::new(404, ""),
            _ => Reply::new(status, r#"{"errors":[{"code":"DENIED","message":"quota exceeded"}]}"#),
        });
        let store = machine();
        let cache = impatient(&format!("{}/app:cache", full.address));
        let build = || store.build(&context(), ["--cache-to", &cache]).ok();
        warned_once("the cache was not sent: ", build).says(&[&status.to_string()]);
        store.build(&context(), ["--cache-to", &format!("{cache},ignore-error=false")]).exits(1);
    };
    at_once(&[&|| check(507), &|| check(413), &|| check(500)]);
}

#[test]
fn an_image_is_pushed_whose_layer_the_cache_has_lost() {
    let (registry, other) = (Registry::open(), Registry::open());
    machine().build(&context(), ["--cache-to", &to(&registry, "mode=max")]).ok();
    let address = registry.address.clone();
    let forgetful = Fake::start(move |request| match passed_on(&address, request) {
        reply if is_layer(&reply) || (request.method == "HEAD" && request.path.contains("/blobs/")) => {
            Reply::new(404, "")
        }
        reply => reply,
    });
    let (there, name) = (machine(), other.name("app:1"));
    let cache = format!("{}/app:cache", forgetful.address);
    let push = || there.build(&context(), ["--cache-from", &cache, "-t", &name, "--push"]).ok();
    let built = warned_once("a step runs that a cache knew: ", push);
    assert_eq!((built.lines_of_steps("ran-a"), built.lines_of_steps("ran-b")), (1, 1), "{built}");
    let elsewhere = Store::new();
    assert_eq!(elsewhere.rbuild(["run", &name, "cat", "/b"]).ok().stdout.trim(), "a");
    // What the cache has is not asked of it twice.
    let again = there.build(&context(), ["--cache-from", &from_registry(&registry), "-t", &name, "--push"]).ok();
    again.never_prints(&["ran-"]).never_says(&["WARN: a step runs"]);
}

#[test]
fn what_is_asked_to_may_fail_the_build_and_nothing_else() {
    let (store, context) = (machine(), context());
    let file = store.path("file");
    std::fs::write(&file, "no directory").expect("the directory is ours");
    let to = |more: &str| format!("type=local,dest={}/cache{more}", file.display());
    store.build(&context, ["-t", "app", "--cache-to", &to("")]).ok().says(&["WARN: the cache was not sent"]);
    store.build(&context, ["--cache-to", &to(",ignore-error=true")]).ok();
    store.build(&context, ["--cache-to", &to(",ignore-error=false")]).fails_saying(&["cannot write to the cache"]);
}

#[test]
fn a_blob_that_is_gone_or_damaged_makes_its_step_run() {
    let (here, damages) = (machine(), ["gone", "other", "short"]);
    let dir = cache(&here);
    let blobs: Vec<PathBuf> = std::fs::read_dir(dir.join("blobs/sha256"))
        .expect("it was made")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| std::fs::read(path).expect("a blob").starts_with(&[0x1f, 0x8b]))
        // The base image is there already.
        .filter(|path| path.metadata().expect("a blob").len() < 1000)
        .collect();
    assert_eq!(blobs.len(), 2);
    for damage in damages {
        for blob in &blobs {
            let bytes = std::fs::read(blob).expect("a blob");
            match damage {
                "gone" => std::fs::remove_file(blob).expect("it is ours"),
                "other" => std::fs::write(blob, vec![7; bytes.len()]).expect("it is ours"),
                _ => std::fs::write(blob, &bytes[..bytes.len() / 2]).expect("it is ours"),
            }
            let there = machine();
            let built = there.build(&context(), ["--cache-from", &from(&dir), "-t", "app"]).ok();
            let warnings = built.stderr.matches("WARN: a step runs that a cache knew").count();
            assert_eq!(warnings, 1, "{damage}: {built}");
            assert!(!built.stderr.contains("ERROR"), "{built}");
            let said = there.rbuild(["run", "app", "cat", "/b"]).ok();
            assert_eq!(said.stdout.trim(), "a");
            std::fs::write(blob, bytes).expect("it is ours");
        }
    }
}

/// Changes the cache's document, and all that names it.
pub(crate) fn rewrite(dir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut index: serde_json::Value = read(&dir.join("index.json"));
    let mut manifest: serde_json::Value = read(&blob(dir, &index["manifests"][0]["digest"]));
    let mut document: serde_json::Value = read(&blob(dir, &manifest["config"]["digest"]));
    change(&mut document);
    manifest["config"] = write(dir, &document, "application/vnd.rbuild.cache.config.v1+json");
    let entry = write(dir, &manifest, "application/vnd.oci.image.manifest.v1+json");
    index["manifests"][0]["digest"] = entry["digest"].clone();
    index["manifests"][0]["size"] = entry["size"].clone();
    std::fs::write(dir.join("index.json"), index.to_string()).expect("it is ours");
}

/// The cache in a directory, as a registry has it; and what `--cache-from` says of it.
fn served(dir: &Path) -> (Hosted, String) {
    let registry = Hosted::start(digest);
    for blob in std::fs::read_dir(dir.join("blobs/sha256")).expect("it was made") {
        let bytes = std::fs::read(blob.expect("it can be read").path()).expect("a blob");
        registry.put_blob("app", &bytes);
    }
    let entry = read(&dir.join("index.json"))["manifests"][0].clone();
    let manifest = std::fs::read(self::blob(dir, &entry["digest"])).expect("a manifest");
    registry.put_manifest("app", "cache", entry["mediaType"].as_str().expect("a media type"), &manifest);
    let from = format!("type=registry,ref={}/app:cache", registry.host());
    (registry, from)
}

#[test]
fn a_layer_that_unpacks_to_far_more_than_it_says_costs_neither_memory_nor_disk() {
    /// 256 MiB of zeros, in blocks of 64 MiB, where a layer of that size may have a quarter of it.
    const BLOCKS: usize = 4;
    /// More than a layer may have here, and fewer than the base image has.
    const ENTRIES: usize = 20_000;
    const SETTINGS: &str = "unpack_max_size = '64MiB'\nunpack_max_entries = 4000\n";
    /// The base image and what two steps write have a few MiB.
    const STORE_MAX_BYTES: u64 = 64 << 20;
    /// No file that the build writes may be larger; whoever does is killed.
    const FILE_MAX_BYTES: u64 = 64 << 20;
    const MEMORY_MAX_KIB: u64 = 256 << 10;

    let here = machine();
    let dir = cache(&here);
    let block = Command::new("sh").args(["-c", "head -c 67108864 /dev/zero | zstd -c"]).output();
    let large = block.expect("zstd is installed").stdout.repeat(BLOCKS);
    let mut many = RawTar::default();
    for number in 0..ENTRIES {
        many.file(format!("{number}").as_bytes(), b"");
    }
    let many = many.end();
    let check =
        |bomb: &[u8], kind: &str, layer_from_end: usize, diff_id: Option<String>, words: &str, ran: (usize, usize)| {
            let bombed = here.path(&format!("bombed{layer_from_end}"));
            Outcome::of(Command::new("cp").arg("-a").arg(&dir).arg(&bombed)).ok();
            let blob = write_bytes(&bombed, bomb, &format!("application/vnd.oci.image.layer.v1.tar{kind}"));
            rewrite(&bombed, |document| {
                let layers = document["layers"].as_array_mut().expect("a list");
                let layer = layers.iter_mut().rev().nth(layer_from_end).expect("it has some");
                layer["blob"] = blob.clone();
                diff_id.iter().for_each(|diff_id| layer["diff_id"] = diff_id.as_str().into());
            });
            let (_registry, ways) = {
                let (registry, from_registry) = served(&bombed);
                (registry, [from(&bombed), from_registry])
            };
            for from in ways {
                let there = machine();
                there.configure(SETTINGS);
                let context = context();
                if layer_from_end > 0 {
                    // What stands on the bomb is new: it needs the files.
                    context.write("Dockerfile", DOCKERFILE.replace("ran-b &&", "ran-b && test ! -e /1 &&"));
                }
                let build = there.build_command(&context, ["--cache-from", &from, "-t", "app"]);
                let (built, peak) = bounded(&there, &build, Stdio::null(), FILE_MAX_BYTES);
                let built = built.ok().says(&["WARN: a step runs that a cache knew", words]);
                assert_eq!((built.lines_of_steps("ran-a"), built.lines_of_steps("ran-b")), ran, "{from}: {built}");
                assert!(peak < MEMORY_MAX_KIB, "{peak} KiB: {built}");
                let bytes = store_bytes(&there);
                assert!(bytes < STORE_MAX_BYTES, "{from}: {bytes}");
                assert_eq!(there.rbuild(["run", "app", "cat", "/b"]).ok().stdout.trim(), "a");
                assert_eq!(there.drafts().len(), 0, "{built}");
            }
        };
    assert!(large.len() < 1 << 20, "{} bytes", large.len());
    check(&large, "+zstd", 0, None, "unpack to more than", (0, 1));
    // Of the tar that its record says: only who unpacks it sees how much it is.
    check(&many, "", 1, Some(digest(&many)), "exceeds the limit of 4000 entries", (1, 1));
}

#[test]
fn a_cache_that_lies_about_its_layers_makes_their_steps_run() {
    let here = machine();
    let dir = cache(&here);
    rewrite(&dir, |document| {
        // The tar of one layer is said to be that of the other.
        let last = document["layers"].as_array().expect("a list").len() - 1;
        document["layers"][last]["blob"] = document["layers"][last - 1]["blob"].clone();
        document["records"][0]["key"] = "../../etc/passwd".into();
    });

    let there = machine();
    let built = there.build(&context(), ["--cache-from", &from(&dir), "-t", "app"]).ok();
    let built = built.says(&["are refused: record 0: `../../etc/passwd` is no key"]);
    assert!(built.lines_of_steps("ran-b") <= 1, "{built}");
    let said = there.rbuild(["run", "app", "cat", "/b"]).ok();
    assert_eq!(said.stdout.trim(), "a");
}

fn read(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).expect("it was made")).expect("it is JSON")
}

fn blob(dir: &Path, digest: &serde_json::Value) -> PathBuf {
    dir.join("blobs/sha256").join(digest.as_str().expect("a digest").trim_start_matches("sha256:"))
}

/// Puts a blob into the layout and describes it.
fn write(dir: &Path, value: &serde_json::Value, kind: &str) -> serde_json::Value {
    write_bytes(dir, value.to_string().as_bytes(), kind)
}

pub(crate) fn write_bytes(dir: &Path, bytes: &[u8], kind: &str) -> serde_json::Value {
    use sha2::Digest as _;
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(dir.join("blobs/sha256").join(&hex), bytes).expect("it is ours");
    serde_json::json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len()})
}
