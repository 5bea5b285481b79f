//! An index that was built here on its way through registries and archives: the same everywhere.

use super::*;
use crate::support::hosted;

const TWO: &str = "--platform=linux/amd64,linux/arm64";

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// The digest and the images of what `push` says that it pushed.
fn pushed(store: &Store, name: &str, to: &str) -> (String, Value) {
    let said = &json(&store.rbuild(["push", "--format", "json", name, to]).ok())[0];
    (said["digest"].as_str().expect("a digest").to_owned(), said["images"].clone())
}

/// What another reader finds under a name, its digest derived anew.
fn seen(name: &str) -> (String, Value) {
    let raw = readers::manifest(&format!("docker://{name}"));
    (format!("sha256:{}", archive::hex(raw.as_bytes())), serde_json::from_str(&raw).expect("JSON"))
}

#[test]
fn index_is_the_same_after_push_pull_save_load_and_push() {
    let registry = Registry::open();
    let (store, context) = (Store::new(), copies());
    store.build(&context, [TWO, "-t", "app:1"]).ok();
    let name = registry.name("team/app:1");
    let (digest, images) = pushed(&store, "app:1", &name);
    let (found, index) = seen(&name);
    assert_eq!(found, digest);
    let platforms: Vec<&Value> =
        index["manifests"].as_array().expect("an index").iter().map(|e| &e["platform"]).collect();
    assert_eq!(
        platforms,
        [
            &serde_json::json!({ "os": "linux", "architecture": "amd64" }),
            &serde_json::json!({ "os": "linux", "architecture": "arm64" })
        ]
    );
    for (image, arch) in images.as_array().expect("a list").iter().zip(["amd64", "arm64"]) {
        let alone = store.image_id(&context, ["--platform", &format!("linux/{arch}")]);
        assert_eq!(image["id"], alone.as_str(), "{images}");
    }
    // Another reader takes all of it away and checks every digest.
    let layout = format!("oci:{}", store.path("layout").display());
    readers::skopeo([
        "copy",
        "--all",
        "--preserve-digests",
        "--src-tls-verify=false",
        &format!("docker://{name}"),
        &layout,
    ]);

    let other = Store::new();
    other.rbuild(["pull", "--all-platforms", &name]).ok();
    let raw = other.rbuild(["inspect", "--raw", &name]).ok().stdout;
    assert_eq!(format!("sha256:{}", archive::hex(raw.as_bytes())), digest);
    let file = other.path("app.tar");
    other.rbuild(["save", "-o", file.to_str().expect("ASCII"), &name]).ok();
    let (saved, entries) = super::index(&file);
    assert_eq!((saved, entries.len()), (digest.clone(), 2));

    let third = Store::new();
    third.rbuild(["load", "-i", file.to_str().expect("ASCII")]).ok();
    let again = registry.name("again/app:2");
    assert_eq!(pushed(&third, &name, &again).0, digest);
    assert_eq!(seen(&again).0, digest);
    // What the first store saves has blobs of its own making, and the same index as the registry.
    let file = store.path("app.tar");
    store.rbuild(["save", "-o", file.to_str().expect("ASCII"), "app:1"]).ok();
    assert_eq!(super::index(&file).0, digest);
}

#[test]
fn blobs_come_first_and_once_then_manifests_and_the_name_last() {
    let (store, context) = (Store::new(), copies());
    store.build(&context, [TWO, "-t", "app:1"]).ok();
    let check = |send: &dyn Fn(&str) -> Outcome| {
        let registry = hosted::Registry::start(|bytes| format!("sha256:{}", archive::hex(bytes)));
        send(&format!("{}/app:1", registry.host())).ok();
        let log: Vec<String> = registry.log().into_iter().filter(|line| line.starts_with("PUT ")).collect();
        let (manifests, blobs): (Vec<&String>, Vec<_>) = log.iter().partition(|line| line.contains("/manifests/"));
        assert_eq!(blobs.len(), 2 + 3, "two configs, two layers and the one of both: {log:?}");
        assert_eq!(manifests.len(), 3, "{log:?}");
        assert!(log[..blobs.len()].iter().all(|line| line.contains("/blobs/")), "{log:?}");
        assert_eq!(manifests[2], "PUT /v2/app/manifests/1");
        assert!(manifests[..2].iter().all(|line| line.starts_with("PUT /v2/app/manifests/sha256:")), "{log:?}");
    };
    check(&|name| store.rbuild(["push", "app:1", name]));
    check(&|name| store.build(&context, [TWO, "-t", name, "--push"]));
}
