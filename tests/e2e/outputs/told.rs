//! What is told of images beside them.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::registry::Registry;
use crate::support::{Archive, Context, Store, readers};

const APP: &str = "FROM busybox AS base\nARG COLOUR\nRUN --network=none --mount=type=secret,id=token,env=TOKEN echo $COLOUR > /made\nFROM base\nLABEL a=b\n";

/// An index in an OCI archive with one image: the image's descriptor, and what is told of it.
fn told(file: &Path) -> (Value, Value, Value) {
    let files = Archive::files(file);
    let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).expect("it is JSON") };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest").replace(':', "/");
        json(&files[&Path::new("blobs").join(digest)])
    };
    let index = blob(&json(&files[Path::new("index.json")])["manifests"][0]);
    let [image, about] = index["manifests"].as_array().expect("an index").as_slice() else { panic!("{index}") };
    let manifest = blob(about);
    assert_eq!(about["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    assert_eq!(manifest["subject"]["digest"], image["digest"]);
    let statement = blob(&manifest["layers"][0]);
    let hex = image["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
    assert_eq!(statement["subject"][0]["digest"]["sha256"], hex);
    (image.clone(), index["manifests"][1].clone(), statement)
}

#[test]
fn a_provenance_stands_beside_the_image_in_registries_and_archives() {
    let registry = Registry::open();
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let (name, file) = (registry.name("app:1"), store.path("app.tar"));
    let archive = format!("type=oci,dest={}", file.display());
    let secret = context.path().join("token");
    std::fs::write(&secret, "canary-7d1f").expect("the folder is ours");
    let secret = format!("id=token,src={}", secret.display());
    let words = ["-t", &name, "--push", "-o", &archive, "--build-arg", "COLOUR=teal", "--secret", &secret];
    store.build(&context, words.into_iter().chain(["--provenance=mode=max,builder-id=https://ci.example/7"])).ok();

    let (image, about, statement) = told(&file);
    assert_eq!(about["platform"], json!({ "os": "unknown", "architecture": "unknown" }));
    let subject = statement["subject"][0]["name"].as_str().expect("a name");
    assert!(subject.starts_with("pkg:docker/") && subject.contains("/app@1?platform=linux%2F"), "{subject}");
    let predicate = &statement["predicate"];
    let request = &predicate["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:COLOUR"], "teal");
    assert_eq!(request["secrets"], json!([{ "id": "token", "optional": true }]));
    assert_eq!(predicate["runDetails"]["builder"]["id"], "https://ci.example/7");
    assert_eq!(predicate["runDetails"]["metadata"]["buildkit_hermetic"], true);
    assert_eq!(predicate["runDetails"]["metadata"]["buildkit_completeness"]["resolvedDependencies"], true);
    let base = &predicate["buildDefinition"]["resolvedDependencies"][0];
    assert!(base["uri"].as_str().is_some_and(|uri| uri.starts_with("pkg:docker/busybox@latest")), "{base}");
    assert!(base["digest"]["sha256"].is_string(), "{base}");
    assert!(!statement.to_string().contains("canary-7d1f"), "the value of a secret is told");

    let pushed: Value = serde_json::from_str(&readers::manifest(&format!("docker://{name}"))).expect("it is JSON");
    assert_eq!(pushed["manifests"], json!([image, about]), "the registry has the same index");
    // Whoever takes an image takes the image.
    let other = Store::new();
    other.rbuild(["pull", &name]).ok();
    let images: Value = serde_json::from_str(&other.rbuild(["images", "--format", "json"]).ok().stdout).expect("JSON");
    assert_eq!(images.as_array().map(Vec::len), Some(1), "{images}");
}

#[test]
fn a_small_provenance_keeps_arguments_to_itself_and_an_epoch_makes_it_reproducible() {
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let build = |file: &Path, words: &[&str]| {
        let archive = format!("type=oci,dest={}", file.display());
        let all = ["--build-arg", "COLOUR=teal", "-o", &archive, "--provenance=mode=min"];
        store.build(&context, all.iter().chain(words)).ok();
        told(file)
    };
    let (_, _, statement) = build(&store.path("plain.tar"), &[]);
    let predicate = &statement["predicate"];
    assert!(predicate["runDetails"]["metadata"]["startedOn"].is_string(), "{predicate}");
    let request = &predicate["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request.get("secrets"), None);
    assert!(!statement.to_string().contains("teal"), "{statement}");
    let epoch = ["--source-date-epoch=1700000000"];
    let [first, second] = ["a.tar", "b.tar"].map(|file| build(&store.path(file), &epoch));
    assert_eq!(first, second, "the same build is told of in the same bytes");
}

#[test]
fn what_has_no_place_for_a_provenance_says_so() {
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let built = store.build(&context, ["-t", "app:1", "--provenance=true"]).ok();
    assert!(built.stderr.contains("a provenance stands in what is pushed and in OCI archives"), "{}", built.stderr);
    store
        .build(&context, ["--provenance=true", "-o", "type=docker,dest=x.tar"])
        .fails_saying(&["`type=docker` with `dest` cannot hold a provenance"]);
}
