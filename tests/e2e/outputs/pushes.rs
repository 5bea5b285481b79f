//! What goes to registries and into the local store: names, digests, metadata.

use std::process::Command;

use serde_json::Value;

use super::APP;
use crate::support::registry::Registry;
use crate::support::{Context, Outcome, Store, archive, readers};

fn metadata(store: &Store, context: &Context, words: &[&str]) -> Value {
    let file = store.path("metadata.json");
    let path = file.display().to_string();
    let words = words.iter().copied().chain(["--metadata-file", &path]);
    store.build(context, words).ok();
    serde_json::from_slice(&std::fs::read(file).expect("it was asked for")).expect("it is JSON")
}

#[test]
fn each_output_has_its_own_names_and_compression() {
    let registry = Registry::open();
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let (gzip, zstd, file) = (registry.name("gzip:1"), registry.name("zstd:1"), store.path("app.tar"));
    let said = metadata(
        &store,
        &context,
        &[
            "-t",
            "local:1",
            "-o",
            &format!("type=oci,dest={},\"name=in/archive:1,in/archive:2\"", file.display()),
            "-o",
            &format!("type=registry,name={zstd},compression=zstd"),
            "-o",
            &format!("type=image,push=true,name={gzip},store=false"),
        ],
    );
    let of = |name: &str| readers::inspect(&format!("docker://{name}"));
    let type_of = |name: &str| {
        let manifest = readers::manifest(&format!("docker://{name}"));
        let manifest: Value = serde_json::from_str(&manifest).expect("a manifest is JSON");
        manifest["layers"][1]["mediaType"].as_str().expect("a layer has a media type").to_owned()
    };
    assert!(type_of(&zstd).ends_with("+zstd") && type_of(&gzip).ends_with("+gzip"));
    assert_eq!(said["containerimage.digest"], of(&zstd)["Digest"], "what was pushed first");
    assert_eq!(said["image.name"], zstd.as_str());
    let index: Value =
        serde_json::from_slice(&crate::support::Archive::files(&file)[std::path::Path::new("index.json")])
            .expect("JSON");
    let tags: Vec<&Value> = index["manifests"]
        .as_array()
        .expect("an index")
        .iter()
        .map(|entry| &entry["annotations"]["org.opencontainers.image.ref.name"])
        .collect();
    assert_eq!(tags, ["1", "2"]);
    // A name of an output is its own: `-t` is for those without; and the store keeps what it was told to keep.
    let kept = store.rbuild(["images"]).ok().stdout;
    assert!(kept.contains(&zstd[..zstd.len() - 2]), "{kept}");
    assert!(!kept.contains("gzip") && !kept.contains("local"), "{kept}");
}

#[test]
fn metadata_is_that_of_buildx() {
    let registry = Registry::open();
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let name = registry.name("app:1");
    let said = metadata(&store, &context, &["-t", &name, "--push"]);
    let digest = readers::inspect(&format!("docker://{name}"))["Digest"].clone();
    assert_eq!(said["containerimage.digest"], digest);
    let descriptor = &said["containerimage.descriptor"];
    assert_eq!(descriptor["digest"], digest);
    assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(descriptor["annotations"]["config.digest"], said["containerimage.config.digest"]);
    assert!(descriptor["annotations"]["org.opencontainers.image.created"].is_string());
    assert!(descriptor["size"].is_u64());
    assert_eq!(said["image.name"], name.as_str());
}

#[test]
fn a_push_by_digest_leaves_no_tag() {
    let registry = Registry::open();
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let name = registry.name("app");
    let said = metadata(&store, &context, &["-o", &format!("type=image,push=true,push-by-digest=true,name={name}")]);
    let digest = said["containerimage.digest"].as_str().expect("a digest").to_owned();
    let manifest = readers::manifest(&format!("docker://{name}@{digest}"));
    assert_eq!(format!("sha256:{}", archive::hex(manifest.as_bytes())), digest);
    // This registry does not know a repository without tags.
    let tags =
        Outcome::of(Command::new("skopeo").args(["list-tags", "--tls-verify=false", &format!("docker://{name}")]));
    assert!(tags.code == Some(1) && tags.stderr.contains("404"), "{tags}");
}

#[test]
fn annotations_of_an_output_are_its_own() {
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let (one, two) = (store.path("one.tar"), store.path("two.tar"));
    store
        .build(
            &context,
            [
                "-t",
                "app:1",
                "--annotation",
                "all=1",
                "-o",
                &format!("type=oci,dest={},annotation.Own.Key=2,annotation-manifest-descriptor.d=3", one.display()),
                "-o",
                &format!("type=oci,dest={},annotation.all=4", two.display()),
            ],
        )
        .ok();
    let of = |file| crate::support::Archive::read(file).manifest["annotations"].clone();
    assert_eq!(of(&one), serde_json::json!({ "all": "1", "Own.Key": "2" }));
    assert_eq!(of(&two), serde_json::json!({ "all": "4" }));
    let index = &crate::support::Archive::files(&one)[std::path::Path::new("index.json")];
    let index: Value = serde_json::from_slice(index).expect("JSON");
    assert_eq!(index["manifests"][0]["annotations"]["d"], "3");
}
