//! Push and pull: Debian's registry, then one that lies.

use serde_json::json;

use crate::support::archive::hex;
use crate::support::fake::{Fake, Reply};
use crate::support::registry::{PASSWORD, Registry, USER, log_in};
use crate::support::{Archive, Context, Store, readers};

const APP: &str = "FROM busybox\nRUN echo made > /made\nCMD [\"cat\", \"/made\"]\n";

#[test]
fn pushed_image_is_read_by_skopeo_and_pulled_by_another_store() {
    let registry = Registry::open();
    let name = registry.name("team/app:1");
    let store = Store::with_busybox();
    let metadata = store.path("metadata.json");
    store.build(&Context::new(APP), ["-t", &name, "--push", "--metadata-file", &metadata.display().to_string()]).ok();

    let seen = readers::inspect(&format!("docker://{name}"));
    let metadata: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&metadata).expect("it was asked for")).expect("it is JSON");
    assert_eq!(seen["Digest"], metadata["containerimage.digest"]);
    assert_eq!(seen["Layers"].as_array().map(Vec::len), Some(2));

    let other = Store::new();
    let context = Context::new(&format!("FROM {name}\nRUN echo over $(cat /made)\n"));
    let built = other.build(&context, ["-t", "on-top:1"]).ok();
    assert_eq!(built.lines_of_steps("over made"), 1, "{built}");
    // By digest, and with the tag gone from the words.
    let pinned =
        format!("FROM {}@{}\nRUN echo again\n", registry.name("team/app"), seen["Digest"].as_str().expect("a digest"));
    Store::new().build(&Context::new(&pinned), ["-t", "pinned:1"]).ok();
}

#[test]
fn image_pushed_by_skopeo_is_pulled_unchanged() {
    let registry = Registry::open();
    let store = Store::with_busybox();
    let file = store.path("app.tar");
    store.build(&Context::new(APP), ["-o", &format!("type=oci,dest={}", file.display())]).ok();
    let name = registry.name("app:1");
    readers::skopeo([
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
        &format!("oci-archive:{}", file.display()),
        &format!("docker://{name}"),
    ]);

    let other = Store::new();
    let saved = other.path("saved.tar");
    other.build(&Context::new(&format!("FROM {name}\n")), ["-t", "app:1"]).ok();
    other.rbuild(["save", "-o", &saved.display().to_string(), "app:1"]).ok();
    let (pushed, pulled) = (Archive::read(&file), Archive::read(&saved));
    assert_eq!(pulled.config["rootfs"], pushed.config["rootfs"]);
    assert_eq!(pulled.config["config"], pushed.config["config"]);
    assert_eq!(pulled.manifest["layers"], pushed.manifest["layers"], "pulled layers are never compressed again");
}

#[test]
fn second_push_sends_nothing_again() {
    let registry = Registry::open();
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let (first, second) = (registry.name("app:1"), registry.name("app:2"));
    store.build(&context, ["-t", &first, "--push"]).ok();
    store.build(&context, ["-t", &second, "--push"]).ok();
    let digest = |name: &str| readers::inspect(&format!("docker://{name}"))["Digest"].clone();
    assert_eq!(digest(&first), digest(&second));
}

#[test]
fn basic_auth_lets_in_who_logged_in_and_nobody_else() {
    let registry = Registry::guarded();
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let name = registry.name("private/app:1");
    store.build(&context, ["-t", &name, "--push"]).fails_saying(&[&registry.address, "wants credentials", "help"]);
    log_in(&store, &registry.address, USER, "wrong");
    store.build(&context, ["-t", &name, "--push"]).fails_saying(&["not accepted"]).never_says(&["wrong"]);
    log_in(&store, &registry.address, USER, PASSWORD);
    store.build(&context, ["-t", &name, "--push"]).ok().never_says(&[PASSWORD]);

    let other = Store::new();
    let on_top = Context::new(&format!("FROM {name}\nRUN cat /made\n"));
    other.build(&on_top, ["-t", "on-top:1"]).fails_saying(&["wants credentials", "Dockerfile:1"]);
    log_in(&other, &registry.address, USER, PASSWORD);
    other.build(&on_top, ["-t", "on-top:1"]).ok();
}

#[test]
fn errors_of_a_registry_name_the_request() {
    let check = |status: u16, words: &[&str]| {
        let body = json!({ "errors": [{ "code": "X", "message": "words of the registry" }] }).to_string();
        let fake = Fake::start(move |_| Reply::new(status, body.clone()).header("Content-Type", "application/json"));
        let store = Store::new();
        let image = format!("{}/app:1", fake.address);
        let built = store.build(&Context::new(&format!("FROM {image}\nRUN true\n")), ["-t", "x:1"]);
        built.fails_saying(words).says(&[&fake.address, "Dockerfile:1", "words of the registry"]);
        assert!(!fake.requests().is_empty());
        // The store is as good as new.
        store.rbuild(["images"]).ok();
    };
    check(401, &["wants credentials", "/manifests/1", "help"]);
    check(403, &["denied", "/manifests/1"]);
    check(404, &["not found", "help"]);
    // Of those that are asked once: how often others are is the client's own tests' business.
    check(501, &["501", "/manifests/1"]);
}

#[test]
fn wrong_bytes_are_refused_and_not_kept() {
    let layer = std::fs::read(crate::support::bases::busybox()).expect("the base is there");
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))] },
        "history": [{ "created_by": "test" }],
    })
    .to_string()
    .into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": format!("sha256:{}", hex(&config)), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar",
                     "digest": format!("sha256:{}", hex(&layer)), "size": layer.len() }],
    })
    .to_string()
    .into_bytes();

    // One byte of one of the three is flipped; the length stays.
    let serve = |spoiled: &'static str| {
        let spoil = move |name: &str, bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            if name == spoiled {
                *bytes.last_mut().expect("it is not empty") ^= 1;
            }
            bytes
        };
        let digest = format!("sha256:{}", hex(&manifest));
        let paths = [
            (format!("/manifests/{digest}"), spoil("manifest", &manifest)),
            ("/manifests/1".into(), spoil("manifest", &manifest)),
            (format!("/blobs/sha256:{}", hex(&config)), spoil("config", &config)),
            (format!("/blobs/sha256:{}", hex(&layer)), spoil("layer", &layer)),
        ];
        let fake = Fake::start(move |request| {
            let found = paths.iter().find(|(end, _)| request.path.ends_with(end.as_str()));
            match found {
                Some((end, bytes)) if end.starts_with("/manifests") => Reply::new(200, bytes.clone())
                    .header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                    .header("Docker-Content-Digest", digest.clone()),
                Some((_, bytes)) => Reply::new(200, bytes.clone()),
                None if request.path.ends_with("/v2/") => Reply::new(200, "{}"),
                None => Reply::new(404, "{}"),
            }
        });
        (fake, format!("sha256:{}", hex(&manifest)))
    };
    let check = |spoiled: &'static str| {
        let (fake, digest) = serve(spoiled);
        let store = Store::new();
        let dockerfile = format!("FROM {}/app@{digest}\nRUN echo never-run\n", fake.address);
        let built = store.build(&Context::new(&dockerfile), ["-t", "x:1"]);
        if spoiled == "nothing" {
            // The same server is believed when it tells the truth: it is the flipped byte that is refused.
            built.ok();
            return;
        }
        built.fails_saying(&["sha256:", "Dockerfile"]).never_prints(&["never-run"]);
        let blobs = store.root().join("blobs/sha256");
        for entry in std::fs::read_dir(&blobs).into_iter().flatten() {
            let path = entry.expect("the store can be read").path();
            let bytes = std::fs::read(&path).expect("the store can be read");
            assert_eq!(
                path.file_name().and_then(|name| name.to_str()),
                Some(hex(&bytes).as_str()),
                "with a wrong {spoiled}"
            );
        }
        assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new(), "with a wrong {spoiled}");
    };
    for spoiled in ["nothing", "manifest", "config", "layer"] {
        check(spoiled);
    }
}

#[test]
fn credentials_go_only_to_their_registry() {
    let fake = Fake::start(|_| Reply::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"x\""));
    let store = Store::new();
    log_in(&store, "registry.example:5000", USER, PASSWORD);
    let context = Context::new(&format!("FROM {}/app:1\nRUN true\n", fake.address));
    store.build(&context, ["-t", "x:1"]).fails_saying(&["wants credentials"]);
    let requests = fake.requests();
    assert!(!requests.is_empty());
    assert!(requests.iter().all(|request| request.header("authorization").is_none()), "{requests:?}");
}
