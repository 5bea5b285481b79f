//! Several platforms in one build: one index, the same everywhere, in the order of their mention.

mod moved;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::registry::Registry;
use crate::support::{Archive, Context, Outcome, Store, archive, bases, readers, tree};

/// Needs no step of any machine.
const COPIES: &str = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /file\nCOPY common /\n";
const THREE: [&str; 3] = ["--platform=linux/riscv64,linux/amd64", "--platform", "linux/arm64"];

fn copies() -> Context {
    let context = Context::new(COPIES).file("common", "common");
    ["amd64", "arm64", "riscv64"].into_iter().fold(context, |context, name| context.file(name, name))
}

/// The index that an archive holds: its digest, and per entry its platform and config.
fn index(file: &Path) -> (String, Vec<(String, Value)>) {
    let files = Archive::files(file);
    readers::check_schemas(&files);
    let top: Value = serde_json::from_slice(&files[Path::new("index.json")]).expect("JSON");
    let [entry] = top["manifests"].as_array().expect("an index").as_slice() else { panic!("not one entry: {top}") };
    assert_eq!(entry["mediaType"], "application/vnd.oci.image.index.v1+json", "{top}");
    let index = blob(&files, entry);
    let digest = entry["digest"].as_str().expect("a digest").to_owned();
    let entries = index["manifests"].as_array().expect("an index").iter().map(|entry| {
        let Value::Object(platform) = &entry["platform"] else { panic!("no platform: {entry}") };
        let part = |name: &str| platform.get(name).and_then(Value::as_str).unwrap_or_default();
        let manifest = blob(&files, entry);
        (format!("{}/{}", part("os"), part("architecture")), blob(&files, &manifest["config"]))
    });
    (digest, entries.collect())
}

/// A document by its descriptor, its digest derived anew.
fn blob(files: &BTreeMap<PathBuf, Vec<u8>>, descriptor: &Value) -> Value {
    let hex = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest");
    let bytes = &files[&Path::new("blobs/sha256").join(hex)];
    assert_eq!(archive::hex(bytes), hex);
    serde_json::from_slice(bytes).expect("JSON")
}

fn to_archive(store: &Store, context: &Context, words: &[&str], name: &str) -> PathBuf {
    let file = store.path(name);
    let output = format!("type=oci,dest={}", file.display());
    store.build(context, words.iter().copied().chain(["-o", &output])).ok();
    file
}

fn metadata(store: &Store, context: &Context, words: &[&str]) -> Value {
    let file = store.path("metadata.json");
    let path = file.display().to_string();
    store.build(context, words.iter().copied().chain(["--metadata-file", &path])).ok();
    serde_json::from_slice(&std::fs::read(file).expect("it was asked for")).expect("JSON")
}

#[test]
fn an_index_names_an_image_per_platform_in_the_order_of_mention() {
    let (store, context) = (Store::new(), copies());
    let (meta, iid) = (store.path("meta.json"), store.path("iid"));
    let (meta_path, iid_path) = (meta.display().to_string(), iid.display().to_string());
    let words = [&THREE[..], &["-t", "app:1", "--metadata-file", &meta_path, "--iidfile", &iid_path]].concat();
    let file = to_archive(&store, &context, &words, "app.tar");
    let (digest, entries) = index(&file);
    let platforms: Vec<&str> = entries.iter().map(|(platform, _)| platform.as_str()).collect();
    assert_eq!(platforms, ["linux/riscv64", "linux/amd64", "linux/arm64"]);
    for (platform, config) in &entries {
        assert_eq!(format!("linux/{}", config["architecture"].as_str().expect("a config says it")), *platform);
    }
    let said: Value = serde_json::from_slice(&std::fs::read(meta).expect("asked for")).expect("JSON");
    assert_eq!(said["containerimage.digest"], digest.as_str());
    assert_eq!(said["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert!(said.get("containerimage.config.digest").is_none(), "{said}");
    assert_eq!(std::fs::read_to_string(iid).expect("asked for"), digest);
    // Another reader takes one image out of it.
    let chosen = readers::skopeo([
        "inspect",
        "--config",
        "--override-arch",
        "arm64",
        &format!("oci-archive:{}", file.display()),
    ]);
    assert!(chosen.contains("\"arm64\""), "{chosen}");
    // Another order is another index of the same images.
    let other = ["--platform", "linux/arm64", "--platform", "linux/riscv64,linux/amd64,linux/aarch64"];
    let (other_digest, other_entries) = index(&to_archive(&store, &context, &other, "other.tar"));
    let platforms: Vec<&str> = other_entries.iter().map(|(platform, _)| platform.as_str()).collect();
    assert_eq!(platforms, ["linux/arm64", "linux/riscv64", "linux/amd64"]);
    assert_ne!(other_digest, digest);
    assert_eq!(other_entries[1..], entries[..2]);
}

#[test]
fn a_second_build_is_cached_and_gives_the_same_index() {
    let (store, context) = (Store::new(), copies());
    let build = |name: &str| index(&to_archive(&store, &context, &THREE, name)).0;
    let first = build("one.tar");
    assert_eq!(build("two.tar"), first);
    let planned = store.rbuild([&["plan"][..], &THREE, &[context.path().to_str().expect("ASCII")]].concat()).ok();
    for arch in ["riscv64", "amd64", "arm64"] {
        assert!(planned.stdout.contains(&format!("cached  [linux/{arch} 1/2] COPY")), "{planned}");
    }
    assert!(planned.stdout.contains("0 would run"), "{planned}");
    // A machine that never saw it makes the same, given a time.
    let timed = ["--source-date-epoch", "1700000000"];
    let epoch = |store: &Store| index(&to_archive(store, &context, &[&THREE[..], &timed].concat(), "epoch.tar")).0;
    assert_eq!(epoch(&store), epoch(&Store::new()));
}

#[test]
fn a_registry_gets_the_index_and_gives_it_back_with_the_same_digest() {
    let registry = Registry::open();
    let (store, context) = (Store::new(), copies());
    let (name, copy) = (registry.name("app:1"), registry.name("copy:1"));
    let said = [
        "index:who=all",
        "manifest[linux/arm64]:who=arm64",
        "who=others",
        "manifest-descriptor:on=entry",
        "index-descriptor:on=archive",
    ];
    let said: Vec<&str> = said.iter().flat_map(|&text| ["--annotation", text]).collect();
    let built = metadata(&store, &context, &[&THREE[..], &said, &["-t", &name, "--push"]].concat());
    let raw = readers::manifest(&format!("docker://{name}"));
    let digest = format!("sha256:{}", archive::hex(raw.as_bytes()));
    assert_eq!(built["containerimage.digest"], digest.as_str());
    assert_eq!(built["image.name"], name.as_str());
    let pushed: Value = serde_json::from_str(&raw).expect("JSON");
    assert_eq!(pushed["annotations"]["who"], "all");
    let manifests = pushed["manifests"].as_array().expect("an index");
    let who: Vec<Value> = manifests
        .iter()
        .map(|entry| {
            assert_eq!(entry["annotations"]["on"], "entry", "{entry}");
            let digest = entry["digest"].as_str().expect("a digest");
            let manifest = readers::manifest(&format!("docker://{}@{digest}", name.trim_end_matches(":1")));
            serde_json::from_str::<Value>(&manifest).expect("JSON")["annotations"]["who"].clone()
        })
        .collect();
    assert_eq!(who, ["others", "others", "arm64"]);
    let (there, back) = (format!("docker://{name}"), format!("docker://{copy}"));
    let layout = format!("oci:{}", store.path("layout").display());
    let copy = |from: &str, to: &str| {
        readers::skopeo([
            "copy",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            from,
            to,
        ]);
    };
    copy(&there, &layout);
    copy(&layout, &back);
    assert_eq!(readers::manifest(&back), raw);
    // Nothing has a tag but the index.
    let pinned = format!("{}@{digest}", name.trim_end_matches(":1"));
    assert_eq!(readers::manifest(&format!("docker://{pinned}")), raw);
    // A second store builds on it for each platform, and remembers all of it for when there is no registry.
    let other = Store::new();
    let app = Context::new(&format!("FROM {name}\nCOPY own /own\n")).file("own", "own");
    let (first, entries) = index(&to_archive(&other, &app, &THREE, "one.tar"));
    let layers: Vec<usize> =
        entries.iter().map(|(_, config)| config["rootfs"]["diff_ids"].as_array().expect("layers").len()).collect();
    assert_eq!(layers, [3, 3, 3]);
    drop(registry);
    assert_eq!(index(&to_archive(&other, &app, &[&THREE[..], &["--offline"]].concat(), "two.tar")).0, first);
}

#[test]
fn a_stage_on_the_build_platform_runs_once() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox AS build\nRUN echo once | tee /out\nFROM scratch\nCOPY --from=build /out /out\n",
    );
    let built = store.build(&context, THREE.iter().copied().chain(["-t", "app:1"])).ok();
    assert_eq!(built.lines_of_steps("once"), 1, "{built}");
    assert!(built.stderr.contains("[linux/amd64 build 2/2] RUN echo once"), "{built}");
    assert!(built.stderr.contains("[linux/riscv64 stage-1 1/1] COPY"), "{built}");
    let one = store.build(&context, ["--platform", "linux/amd64"]).ok();
    assert!(one.stderr.contains("[build 2/2] RUN echo once") && one.stderr.contains("CACHED"), "{one}");
}

#[test]
fn the_platform_that_fails_is_named() {
    let store = Store::with_busybox();
    let context = Context::new(COPIES).file("common", "common").file("amd64", "amd64");
    store.build(&context, ["--platform", "linux/amd64,linux/arm64", "-t", "app:1"]).fails_saying(&[
        "arm64",
        "needed for linux/arm64",
        "Dockerfile:3",
    ]);
    assert_eq!(store.rbuild(["images", "-q"]).ok().stdout.lines().count(), 1, "the base alone is there");
    store
        .build(&Context::new("FROM busybox\n"), ["--platform", "linux/amd64,linux/arm64", "--offline"])
        .fails_saying(&["busybox", "for the platform linux/arm64"]);
    // What is wrong for all is not one's fault.
    store
        .build(&Context::new("FROM scratch\nCOPY\n"), ["--platform", "linux/amd64,linux/arm64"])
        .fails_saying(&["Dockerfile:2"])
        .never_says(&["for the platform"]);
}

#[test]
fn trees_of_platforms_lie_side_by_side() {
    let (store, context) = (Store::new(), copies());
    let (folder, tar, untarred) = (store.path("out"), store.path("out.tar"), store.path("untarred"));
    let (local, archive) =
        (format!("type=local,dest={}", folder.display()), format!("type=tar,dest={}", tar.display()));
    store.build(&context, THREE.iter().copied().chain(["-o", &local, "-o", &archive])).ok();
    readers::untar(&tar, &untarred);
    let expected = tree::list(&folder);
    assert_eq!(tree::list(&untarred), expected);
    for arch in ["riscv64", "amd64", "arm64"] {
        let file = folder.join(format!("linux_{arch}/file"));
        assert_eq!(std::fs::read_to_string(file).expect("the image's file"), arch, "{expected}");
    }
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 3);
}

#[test]
fn the_local_store_keeps_all_of_it_under_one_name() {
    let (store, context) = (Store::new(), copies());
    store.build(&context, THREE.iter().copied().chain(["-t", "app:1", "-t", "app:2"])).ok();
    let listed = |store: &Store| -> Vec<Value> {
        let text = store.rbuild(["images", "--format", "json"]).ok().stdout;
        serde_json::from_str(&text).expect("JSON")
    };
    let images = listed(&store);
    assert_eq!(images.len(), 2, "{images:?}");
    assert_eq!(images[0]["platforms"], serde_json::json!(["linux/riscv64", "linux/amd64", "linux/arm64"]));
    let table = store.rbuild(["images"]).ok().stdout;
    assert!(table.contains("linux/riscv64, linux/amd64, linux/arm64"), "{table}");
    store.build(&context, THREE).ok().says(&["without a name (`-t`) the local store keeps the images"]);
    // A base of that name is the image for the platform that is built.
    let app = Context::new("FROM app:1\nCOPY own /own\n").file("own", "own");
    let file = to_archive(&store, &app, &["--platform", "linux/arm64"], "arm64.tar");
    assert_eq!(Archive::read(&file).config["architecture"], "arm64");
    // Saved and loaded it is what it was.
    let save = |store: &Store, name: &str| {
        let file = store.path(name);
        store.rbuild(["save", "-o", file.to_str().expect("ASCII"), "app:1"]).ok();
        file
    };
    let saved = save(&store, "saved.tar");
    let (digest, entries) = index(&saved);
    assert_eq!(entries.len(), 3);
    let other = Store::new();
    let loaded = other.rbuild(["load", "-i", saved.to_str().expect("ASCII")]).ok();
    assert!(loaded.stdout.contains("app:1"), "{loaded}");
    assert_eq!(listed(&other)[0]["id"], digest.as_str());
    assert_eq!(index(&save(&other, "again.tar")), (digest.clone(), entries));
    store.rbuild(["verify"]).ok();
    // The name goes, the other still means all of it; then everything goes.
    store.rbuild(["rmi", "app:1"]).ok();
    store.rbuild(["prune", "--force"]).ok();
    assert_eq!(listed(&store)[0]["platforms"].as_array().expect("a list").len(), 3);
    let removed = other.rbuild(["rmi", &digest[..19]]).ok();
    assert!(removed.stdout.contains("untagged app:1"), "{removed}");
    assert_eq!(listed(&other), Vec::<Value>::new());
}

#[test]
fn one_platform_is_a_manifest_unless_an_index_is_asked_for() {
    let (store, context) = (Store::new(), copies());
    let plain = to_archive(&store, &context, &["--platform", "linux/arm64"], "plain.tar");
    assert_eq!(Archive::read(&plain).config["architecture"], "arm64");
    let words = ["--platform", "linux/arm64", "--build-arg", "BUILDKIT_MULTI_PLATFORM=1"];
    let (_, entries) = index(&to_archive(&store, &context, &words, "index.tar"));
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].0, "linux/arm64");
}

#[test]
fn one_cache_knows_the_steps_of_all_platforms() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETARCH\nRUN echo $TARGETARCH > /out\nFROM scratch\nCOPY --from=build /out /out\n",
    );
    let cache = store.path("cache");
    let both = ["--platform", "linux/amd64,linux/arm64"];
    for mode in ["min", "max"] {
        let to = format!("type=local,dest={},mode={mode}", cache.display());
        store.build(&context, both.into_iter().chain(["--cache-to", &to])).ok();
        let other = Store::with_busybox();
        let from = format!("type=local,src={}", cache.display());
        let built: Outcome = other.build(&context, both.into_iter().chain(["--cache-from", &from])).ok();
        assert!(built.stderr.contains("2 cached") || built.stderr.contains("4 cached"), "{mode}: {built}");
        let arm = other.build(&context, ["--platform", "linux/arm64"]).ok();
        assert!(arm.stderr.contains("CACHED"), "{arm}");
    }
}

#[test]
fn steps_of_every_platform_run() {
    let store = Store::new();
    let read = |path: PathBuf| std::fs::read(path).expect("it was made");
    let file = "FROM scratch\nARG TARGETARCH\nADD $TARGETARCH.tar /\nRUN uname -m > /on && echo ran on $(uname -m)\n";
    let context = |more: &str| {
        Context::new(&format!("{file}{more}"))
            .file("amd64.tar", read(bases::busybox()))
            .file("arm64.tar", read(bases::busybox_of("arm64", "aarch64")))
    };
    let folder = store.path("out");
    let both = ["--platform", "linux/amd64,linux/arm64"];
    let output = format!("type=local,dest={}", folder.display());
    let built = store.build(&context(""), both.into_iter().chain(["-o", &output])).ok();
    for (directory, machine) in [("linux_amd64", "x86_64"), ("linux_arm64", "aarch64")] {
        assert_eq!(built.lines_of_steps(&format!("ran on {machine}")), 1, "{built}");
        let on = std::fs::read_to_string(folder.join(directory).join("on")).expect("the step made it");
        assert_eq!(on.trim(), machine);
    }
    store
        .build(&context("RUN test $(uname -m) = x86_64\n"), both)
        .fails_saying(&["needed for linux/arm64", "Dockerfile:5"]);
}
