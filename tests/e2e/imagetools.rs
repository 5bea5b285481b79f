//! Images that are in registries already: joined, renamed, annotated, looked at; and many that join at once.

use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::support::archive::hex;
use crate::support::hosted::{self, Registry as Hosted};
use crate::support::registry::Registry;
use crate::support::{Context, Outcome, Store, readers};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const PLATFORMS: [&str; 16] = [
    "linux/amd64",
    "linux/arm64",
    "linux/arm/v5",
    "linux/arm/v6",
    "linux/arm/v7",
    "linux/386",
    "linux/ppc64le",
    "linux/s390x",
    "linux/riscv64",
    "linux/loong64",
    "linux/mips64le",
    "linux/mips64",
    "linux/mips",
    "linux/mipsle",
    "windows/amd64",
    "freebsd/amd64",
];

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hosted() -> Hosted {
    Hosted::start(digest)
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// Puts an image for a platform there, whose one layer says `text`, and returns its digest.
pub fn put(registry: &Hosted, repository: &str, tag: &str, platform: &str, text: &str) -> String {
    let parts: Vec<&str> = platform.split('/').collect();
    let layer = tar(text);
    let mut config = json!({
        "architecture": parts[1], "os": parts[0], "config": { "Env": [format!("SAYS={text}")] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    if let Some(variant) = parts.get(2) {
        config["variant"] = json!(variant);
    }
    let config = config.to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": digest(config.as_bytes()), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar",
                     "digest": digest(&layer), "size": layer.len() }],
    });
    registry.put_blob(repository, config.as_bytes());
    registry.put_blob(repository, &layer);
    registry.put_manifest(repository, tag, MANIFEST, manifest.to_string().as_bytes())
}

/// A tar of one file.
fn tar(text: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "says", text.as_bytes()).expect("memory is patient");
    tar.into_inner().expect("memory is patient")
}

/// `PLATFORM=DIGEST` of the index that a name means, sorted.
pub fn entries(index: &Value) -> Vec<String> {
    let entries = index["manifests"].as_array().unwrap_or_else(|| panic!("{index}"));
    let mut entries: Vec<String> = entries
        .iter()
        .map(|entry| {
            let text = |key: &str| entry["platform"][key].as_str().unwrap_or_default().to_owned();
            let variant = Some(text("variant")).filter(|variant| !variant.is_empty());
            let variant = variant.map(|variant| format!("/{variant}")).unwrap_or_default();
            format!("{}/{}{variant}={}", text("os"), text("architecture"), entry["digest"].as_str().unwrap_or("?"))
        })
        .collect();
    entries.sort();
    entries
}

/// What skopeo reads of a name.
fn index_of(name: &str) -> Value {
    serde_json::from_str(&readers::manifest(&format!("docker://{name}"))).expect("JSON")
}

#[test]
fn an_index_is_made_of_images_in_other_registries_and_copied_by_skopeo() {
    let (source, registry) = (hosted(), Registry::open());
    let (amd, arm) =
        (put(&source, "team/a", "1", PLATFORMS[0], "amd"), put(&source, "team/b", "1", PLATFORMS[1], "arm"));
    let (store, name) = (Store::new(), registry.name("app:1"));
    let of = |rest: &str| format!("{}/{rest}", source.host());
    let metadata = store.path("metadata.json").display().to_string();
    let args = ["imagetools", "create", "-t", &name, "--metadata-file", &metadata, &of("team/a:1"), &of("team/b:1")];
    let made = store.rbuild(args).ok();
    let index = index_of(&name);
    assert_eq!(entries(&index), [format!("linux/amd64={amd}"), format!("linux/arm64={arm}")]);
    let raw = readers::manifest(&format!("docker://{name}"));
    assert_eq!(made.stdout, format!("{name}: digest: {} size: {}\n", digest(raw.as_bytes()), raw.len()));
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).expect("asked for")).expect("JSON");
    assert_eq!(metadata["containerimage.descriptor"]["digest"], digest(raw.as_bytes()));
    assert_eq!(metadata["image.name"], name);
    // Everything is there, and what it should be: skopeo checks every digest.
    let copy = store.path("copy");
    let from = format!("docker://{name}");
    let to = format!("oci:{}:1", copy.display());
    readers::skopeo(["copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false", &from, &to]);
    assert!(!store.root().exists(), "nothing touches the store");

    // Another name in the same repository is the same, and nothing but manifests moves; in another, blobs are mounted.
    for other in [registry.name("app:stable"), registry.name("elsewhere/app:1")] {
        let again = store.rbuild(["imagetools", "create", "-q", "-t", &other, &name]).ok();
        assert_eq!(again.stdout.trim(), format!("{other}@{}", digest(raw.as_bytes())));
        assert_eq!(readers::manifest(&format!("docker://{other}")), raw);
    }
    // A single image goes on byte for byte too, or becomes an index.
    let one = registry.name("one:1");
    store.rbuild(["imagetools", "create", "-t", &one, &of("team/a:1")]).ok();
    assert_eq!(digest(readers::manifest(&format!("docker://{one}")).as_bytes()), amd);
    store.rbuild(["imagetools", "create", "-t", &one, "--prefer-index", &of("team/a:1")]).ok();
    assert_eq!(entries(&index_of(&one)), [format!("linux/amd64={amd}")]);
}

#[test]
fn inspect_lists_platforms_and_digests() {
    let source = hosted();
    let name = format!("{}/app", source.host());
    put(&source, "app", "amd", "linux/amd64", "amd");
    let arm = put(&source, "app", "arm", "linux/arm/v7", "arm");
    let store = Store::new();
    let inspect = |args: &[&str]| store.rbuild([&["imagetools", "inspect"], args].concat()).ok();
    let create =
        ["imagetools", "create", "-t", &format!("{name}:1"), "--annotation", "manifest-descriptor[linux/arm/v7]:k=v"];
    store.rbuild([&create[..], &[&format!("{name}:amd"), &format!("{name}:arm")]].concat()).ok();
    let shown = inspect(&[&format!("{name}:1")]).stdout.replace(&source.host(), "HOST");
    insta::assert_snapshot!(shown, @"
    Name:      HOST/app:1
    MediaType: application/vnd.oci.image.index.v1+json
    Digest:    sha256:c64d33326e3f5702b111807734185bb39493621583bb2139c3cd963c202e0450

    Manifests:
      Name:      HOST/app@sha256:bc2dd4967f0b50e006c9590e7e27c8329e0fff493358b99d5e89c2301e418a94
      MediaType: application/vnd.oci.image.manifest.v1+json
      Platform:  linux/amd64

      Name:      HOST/app@sha256:aaf9a537d43191486cf31aaf07a5a920f8c359456edb883b0e5e96fe6272192c
      MediaType: application/vnd.oci.image.manifest.v1+json
      Platform:  linux/arm/v7
      Annotations:
        k: v
    ");
    let one = inspect(&[&format!("{name}:arm")]).stdout.replace(&source.host(), "HOST");
    insta::assert_snapshot!(one, @"
    Name:      HOST/app:arm
    MediaType: application/vnd.oci.image.manifest.v1+json
    Digest:    sha256:aaf9a537d43191486cf31aaf07a5a920f8c359456edb883b0e5e96fe6272192c
    Platform:  linux/arm/v7
    ");
    // By digest, byte for byte, and for programs.
    let pinned = format!("{name}@{arm}");
    let raw = inspect(&["--raw", &pinned]).stdout;
    assert_eq!(digest(raw.as_bytes()), arm);
    let facts = json(&inspect(&["--format", "json", &pinned]));
    assert_eq!((&facts["manifest"]["digest"], &facts["image"]["variant"]), (&json!(arm), &json!("v7")));
    let facts = json(&inspect(&["--format", "{{json .}}", &format!("docker://{name}:1")]));
    assert_eq!(
        (&facts["name"], facts["manifest"]["manifests"][1]["annotations"]["k"].as_str()),
        (&json!(format!("{name}:1")), Some("v"))
    );
    let failing = |args: &[&str], words: &[&str]| {
        store.rbuild([&["imagetools", "inspect"], args].concat()).fails_saying(words);
    };
    failing(&[&format!("{name}:none")], &["is not found"]);
    failing(&["--format", "{{.Manifest.Digest}}", &name], &["Go template", ".manifest.digest"]);
}

#[test]
fn sources_are_filtered_annotated_and_replaced_as_asked() {
    let registry = hosted();
    let name = |rest: &str| format!("{}/app{rest}", registry.host());
    let (amd, arm) =
        (put(&registry, "app", "amd", "linux/amd64", "a"), put(&registry, "app", "arm", "linux/arm64", "b"));
    let newer = put(&registry, "app", "newer", "linux/amd64", "c");
    let store = Store::new();
    let create = |args: &[&str]| store.rbuild([&["imagetools", "create"], args].concat());
    let there = |tag: &str| -> Value {
        serde_json::from_slice(&registry.manifest("app", tag).expect("it was made")).expect("JSON")
    };
    create(&["-t", &name(":1"), &name(":amd"), &name(":arm")]).ok();
    // Of two for one platform the later wins, which is said.
    let replaced = create(&["-t", &name(":2"), "--format", "json", &name(":1"), &name(":newer")]).ok();
    assert_eq!(entries(&there("2")), [format!("linux/amd64={newer}"), format!("linux/arm64={arm}")]);
    assert_eq!(json(&replaced)[0]["replaced"], json!([{ "platform": "linux/amd64", "old": amd, "new": newer }]));
    replaced.says(&[&format!("`linux/amd64`: {newer} takes the place of {amd}")]);
    create(&["-t", &name(":3"), "--platform", "linux/arm64", &name(":1")]).ok();
    assert_eq!(entries(&there("3")), [format!("linux/arm64={arm}")]);
    create(&["-t", &name(":3"), "--platform", "linux/s390x", &name(":1")])
        .fails_saying(&["has an image for `linux/s390x`", "help"]);
    create(&["-t", &name(":4"), "--annotation", "a=1", "--annotation", "index:b=2", &name(":1")]).ok();
    assert_eq!(there("4")["annotations"], json!({ "a": "1", "b": "2" }));
    create(&["-t", &name(":4"), "--append", "--annotation", "c=3", &name(":newer")]).ok();
    assert_eq!(there("4")["annotations"], json!({ "a": "1", "b": "2", "c": "3" }));
    assert_eq!(entries(&there("4")), [format!("linux/amd64={newer}"), format!("linux/arm64={arm}")]);
    // Nothing is written.
    let dry = create(&["-t", &name(":5"), "--dry-run", &name(":amd"), &name(":arm")]).ok();
    assert_eq!(json(&dry), there("1"));
    assert_eq!(registry.manifest("app", "5"), None);
    // A digest, a descriptor in a file, and what a build wrote of itself.
    let descriptor = json!({ "mediaType": MANIFEST, "digest": arm, "size": registry.manifest("app", "arm").expect("there").len(),
                             "annotations": { "from": "file" } });
    let file = store.path("descriptor.json").display().to_string();
    std::fs::write(&file, descriptor.to_string()).expect("ours");
    create(&["-t", &name(":6"), &amd, "-f", &file]).ok();
    assert_eq!(entries(&there("6")), [format!("linux/amd64={amd}"), format!("linux/arm64={arm}")]);
    assert_eq!(there("6")["manifests"][1]["annotations"], json!({ "from": "file" }));
    std::fs::write(&file, json!({ "containerimage.descriptor": descriptor, "image.name": name(":arm") }).to_string())
        .expect("ours");
    create(&["-t", &name(":7"), "--prefer-index", "-f", &file]).ok();
    assert_eq!(entries(&there("7")), [format!("linux/arm64={arm}")]);

    create(&[&name(":1")]).fails_saying(&["nothing says what the image is called"]);
    create(&["-t", &name(":1")]).fails_saying(&["nothing says what the image is made of"]);
    create(&["-t", &name(":8"), &name(":none")]).fails_saying(&["is not found"]);
    create(&["-t", &name(":8"), "--annotation", "manifest:a=1", &name(":1")]).fails_saying(&["byte for byte"]);
}

#[test]
fn what_a_registry_says_wrongly_is_refused_and_gets_no_name() {
    let (registry, target) = (hosted(), hosted());
    let name = |rest: &str| format!("{}/app{rest}", registry.host());
    let good = put(&registry, "app", "good", "linux/amd64", "a");
    let size = registry.manifest("app", "good").expect("it is there").len();
    let entry = |digest: &str, size: usize, kind: &str| json!({ "mediaType": kind, "digest": digest, "size": size });
    let index = |tag: &str, entries: Vec<Value>| {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string();
        (registry.put_manifest("app", tag, INDEX, index.as_bytes()), index.len())
    };
    let store = Store::new();
    let check = |tag: &str, words: &[&str]| {
        let to = format!("{}/copy:1", target.host());
        let made = store.rbuild(["imagetools", "create", "-t", &to, &name(&format!(":{tag}"))]);
        made.fails_saying(words);
        assert_eq!(target.tags(), [""; 0], "{tag}");
    };
    index("many", vec![entry(&good, size, MANIFEST); 100_000]);
    check("many", &["larger than 4194304 bytes"]);
    index("several", vec![entry(&good, size, MANIFEST); 1001]);
    check("several", &["it has 1001 entries; 1000 at most are read"]);
    index("size", vec![entry(&good, size + 1, MANIFEST)]);
    check("size", &["bytes where", &good]);
    index("huge", vec![entry(&good, 1 << 40, MANIFEST)]);
    check("huge", &["4194304 at most are read"]);
    index("absent", vec![entry(&digest(b"nothing"), 7, MANIFEST)]);
    check("absent", &["is not found"]);
    index("kind", vec![entry(&good, size, "application/vnd.example.unknown")]);
    check("kind", &["the index calls it"]);
    // An index in an index in an index …
    let mut inner = index("deep", vec![entry(&good, size, MANIFEST)]);
    for _ in 0..5 {
        inner = index("deep", vec![entry(&inner.0, inner.1, INDEX)]);
    }
    check("deep", &["nested too deep"]);
    // Bytes that are not the digest's: of a manifest, of a layer.
    index("lies", vec![entry(&good, size, MANIFEST)]);
    registry.fault("GET", &format!("/manifests/{good}"), 99, |_, response| {
        if let Some(last) = response.body.last_mut() {
            *last = b' ';
        }
    });
    check("lies", &["other bytes than asked for"]);
    let other = put(&registry, "app", "rotten", "linux/arm64", "b");
    registry.fault("GET", "/blobs/", 99, |_: &hosted::Request, response: &mut hosted::Response| {
        if response.body.len() > 1000 {
            response.body[0] ^= 1;
        }
    });
    check("rotten", &["sha256:"]);
    assert!(target.manifest("copy", &other).is_none(), "no manifest without its layer");
}

/// Starts a command that ends by itself.
fn start(store: &Store, args: &[&str]) -> Child {
    let mut command = store.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("rbuild was built")
}

/// Sixteen processes append sixteen images to one tag at the same time.
fn check_crowd(name: &str, read: impl Fn() -> Value) {
    let source = hosted();
    let digests: Vec<String> = PLATFORMS
        .iter()
        .enumerate()
        .map(|(n, platform)| put(&source, "parts", &n.to_string(), platform, platform))
        .collect();
    let store = Store::new();
    let children: Vec<Child> = (0..PLATFORMS.len())
        .map(|n| {
            let part = format!("{}/parts:{n}", source.host());
            start(&store, &["imagetools", "create", "-q", "-t", name, "--append", &part])
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        Outcome::from_output("imagetools create --append".into(), &output).ok();
    }
    let mut want: Vec<String> =
        PLATFORMS.iter().zip(&digests).map(|(platform, digest)| format!("{platform}={digest}")).collect();
    want.sort();
    assert_eq!(entries(&read()), want);
}

#[test]
fn of_sixteen_that_join_one_tag_at_once_each_gets_in_at_a_registry_without_conditions() {
    let registry = Registry::open();
    let name = registry.name("crowd/app:1");
    check_crowd(&name, || index_of(&name));
}

#[test]
fn of_sixteen_that_join_one_tag_at_once_each_gets_in_at_a_registry_with_conditions() {
    let registry = hosted();
    registry.heed_conditions();
    let name = format!("{}/crowd/app:1", registry.host());
    check_crowd(&name, || serde_json::from_slice(&registry.manifest("crowd/app", "1").expect("made")).expect("JSON"));
    // Nobody's was overwritten: every write of the tag was one of what was read before.
    let writes = registry.seen().into_iter().filter(|one| one.method == "PUT" && one.path.ends_with("/manifests/1"));
    assert!(writes.clone().count() >= 16);
    assert!(writes.into_iter().all(|one| one.header("if-match").is_some() || one.header("if-none-match").is_some()));
}

#[test]
fn a_push_joins_what_the_tag_means_and_does_it_once() {
    let registry = hosted();
    let name = format!("{}/app:1", registry.host());
    let arm = put(&registry, "app", "1", "linux/arm64", "arm");
    let store = Store::with_busybox();
    let id = store.image_id(&Context::new("FROM busybox\nRUN echo made > /made\n"), ["-t", "app:1"]);
    let pushed = json(&store.rbuild(["push", "--join", "--format", "json", "app:1", &name]).ok());
    let there = || registry.manifest("app", "1").expect("it is there");
    let index: Value = serde_json::from_slice(&there()).expect("JSON");
    let image = &pushed[0]["images"][0];
    assert_eq!(image["id"], json!(id));
    let own = format!("{}={}", image["platform"].as_str().expect("text"), image["digest"].as_str().expect("text"));
    let mut want = [own, format!("linux/arm64={arm}")];
    want.sort();
    assert_eq!(entries(&index), want);
    assert_eq!((&pushed[0]["digest"], &pushed[0]["writes"]), (&json!(digest(&there())), &json!(1)));
    // Again: nothing is to be done.
    let before = there();
    let again = json(&store.rbuild(["push", "--join", "--format", "json", "app:1", &name]).ok());
    assert_eq!((again[0]["writes"].as_u64(), there()), (Some(0), before));
    let pinned = format!("{}/app@{arm}", registry.host());
    store.rbuild(["push", "--join", "app:1", &pinned]).fails_saying(&["has a digest", "name a tag"]);
}
