//! Blobs that a client has: OCI layouts as named contexts, caches in its directories.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::control::control_client::ControlClient;
use api::control::{CacheOptions, CacheOptionsEntry, SolveRequest};
use oci::model::Digest;
use serde_json::{Value, json};

use super::client::{Daemon, Entry, request, session_with};
use super::extras::Extras;
use super::shelf::Shelf;
use super::{offer, solve};
use crate::support::Store;

/// An image with one file, in a store of the shelf; returns the digests of its index, its manifest and its layer.
fn image(shelf: &Shelf, store: &str) -> [Digest; 3] {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let text = b"from a layout\n";
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "of-layout", &text[..]).expect("memory takes everything");
    let layer = tar.into_inner().expect("memory takes everything");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        shelf.put(store, &digest, bytes);
        digest
    };
    let layer_digest = put(&layer);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({ "os": "linux", "architecture": architecture, "config": {},
        "rootfs": { "type": "layers", "diff_ids": [layer_digest.to_string()] } })
    .to_string();
    let config_digest = put(config.as_bytes());
    let descriptor = |media_type: &str, digest: &Digest, size: usize| json!({ "mediaType": format!("application/vnd.oci.image.{media_type}"), "digest": digest.to_string(), "size": size });
    let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config_digest, config.len()),
        "layers": [descriptor("layer.v1.tar", &layer_digest, layer.len())] })
    .to_string();
    let manifest_digest = put(manifest.as_bytes());
    let mut entry = descriptor("manifest.v1+json", &manifest_digest, manifest.len());
    entry["platform"] = json!({ "os": "linux", "architecture": architecture });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
    [put(index.as_bytes()), manifest_digest, layer_digest]
}

/// Asks for a build with a named context, as docker buildx says it.
fn with_layout(name: &str, of: &str) -> SolveRequest {
    let asked = request(name, name);
    let context = ("context:lay".to_owned(), format!("oci-layout://{of}"));
    SolveRequest { frontend_attrs: asked.frontend_attrs.into_iter().chain([context]).collect(), ..asked }
}

/// What becomes of a layout before it is used.
type Change<'a> = &'a dyn Fn(&Shelf, &[Digest; 3]);

const DOCKERFILE: &str = "FROM busybox\nCOPY --from=lay /of-layout /x\nRUN cat /x\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_a_clients_layout_is_a_named_context_and_one_that_lies_is_refused() {
    let cases: [(&str, Change<'_>, Result<&str, &str>); 5] = [
        ("whole", &|_, _| {}, Ok("from a layout")),
        ("other-layer", &|shelf, [.., layer]| shelf.put("oci:s", layer, &[7; 2048]), Err("but `sha256:")),
        ("longer-layer", &|shelf, [.., layer]| shelf.put("oci:s", layer, &[7; 9999]), Err("were promised")),
        ("other-index", &|shelf, [index, ..]| shelf.put("oci:s", index, b"{}"), Err("but `sha256:")),
        (
            "no-manifest",
            &|shelf, [_, manifest, _]| {
                let mut stores = shelf.stores.lock().expect("nobody panicked");
                stores.get_mut("oci:s").expect("it is there").remove(&manifest.to_string());
            },
            Err("there is no blob"),
        ),
    ];
    for (name, change, expected) in cases {
        let store = Store::with_busybox();
        let daemon = Daemon::start(&store);
        let channel = daemon.connect().await;
        let shelf = Arc::new(Shelf::default());
        let digests = image(&shelf, "oci:s");
        change(&shelf, &digests);
        let extras = Extras { shelf: Some(shelf.clone()), ..Extras::default() };
        let open = session_with(channel.clone(), name, offer(DOCKERFILE, Vec::new()), extras).await;
        let built = solve(&channel, with_layout(name, &format!("s:latest@{}", digests[0]))).await;
        match (built, expected) {
            (Ok(told), Ok(words)) => assert!(told.iter().any(|line| line.contains(words)), "{name}: {told:?}"),
            (Err(status), Err(words)) => {
                let message = status.message();
                assert!(message.contains("OCI layout") && message.contains(words), "{name}: {status:?}");
            }
            (found, _) => panic!("{name}: {found:?}"),
        }
        if name == "whole" {
            let unnamed = SolveRequest { session: name.into(), ..with_layout("unnamed", "s:latest") };
            let status = solve(&channel, unnamed).await.expect_err("there is no digest");
            assert!(status.message().contains("names no digest"), "{status:?}");
        }
        drop(open);
        assert_eq!(daemon.stop(), Some(0));
        store.rbuild(["verify"]).ok();
        assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
    }
}

fn cache(attrs: &[(&str, &str)]) -> CacheOptionsEntry {
    let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    CacheOptionsEntry { r#type: "local".into(), attrs }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_in_a_clients_directory_is_written_and_known_from() {
    let shelf = Arc::new(Shelf::default());
    let dockerfile = "FROM busybox\nCOPY f /f\nRUN echo this ran; cat /f >/made\n";
    let context = || vec![Entry::file("f", "kept far away")];
    let extras = || Extras { shelf: Some(shelf.clone()), ..Extras::default() };

    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let open = session_with(channel.clone(), "to", offer(dockerfile, context()), extras()).await;
    let exports = vec![cache(&[("dest", "/home/me/cache"), ("mode", "max")])];
    let cache_options = CacheOptions { exports, ..CacheOptions::default() };
    let asked = SolveRequest { cache: Some(cache_options), ..request("to", "to") };
    let answer = ControlClient::new(channel.clone()).solve(asked).await.expect("it builds").into_inner();
    let told: BTreeMap<String, String> = answer.exporter_response;
    let manifest: Value = serde_json::from_str(&told["cache.manifest"]).expect("it is JSON");
    let digest = manifest["digest"].as_str().expect("it has one").to_owned();
    let kept = shelf.store("local:/home/me/cache");
    assert_eq!(kept[&digest].len() as u64, manifest["size"].as_u64().expect("it has one"));
    for (digest, bytes) in &kept {
        assert_eq!(*digest, Digest::of(bytes).to_string());
    }
    drop(open);
    assert_eq!(daemon.stop(), Some(0));

    // Another machine, on which nothing was built.
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let from = |name: &str, attrs: &[(&str, &str)]| {
        let cache = CacheOptions { imports: vec![cache(attrs)], ..CacheOptions::default() };
        SolveRequest { cache: Some(cache), ..request(name, name) }
    };
    let attrs = [("src", "/home/me/cache"), ("digest", digest.as_str())];
    let open = session_with(channel.clone(), "from", offer(dockerfile, context()), extras()).await;
    let told = solve(&channel, from("from", &attrs)).await.expect("it builds");
    assert!(!told.iter().any(|line| line.starts_with("this ran")), "{told:?}");
    assert!(*shelf.reads.lock().expect("nobody panicked") > 0);
    drop(open);
    let open = session_with(channel.clone(), "none", offer(dockerfile, context()), extras()).await;
    let status = solve(&channel, from("none", &attrs[..1])).await.expect_err("there is no digest");
    assert!(status.message().contains("names no digest"), "{status:?}");
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
    store.rbuild(["verify"]).ok();
}
