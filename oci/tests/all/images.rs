//! Manifests and configs: what is made, what is taken, what is refused.

use std::collections::BTreeMap;

use rbuild_oci::content::{MemoryStore, put_bytes};
use rbuild_oci::image::{CONFIG_MAX_BYTES, Image, MANIFEST_MAX_BYTES, assemble, find_manifest, verify_layer};
use rbuild_oci::layer::{Codec, Compression, Dialect, encode};
use rbuild_oci::model::{Descriptor, DiffId, Digest, ImageConfig, media_type};
use serde_json::{Value, json};
use std::os::fd::AsFd;

use crate::support::Tree;

/// An image with one layer per compression, its blobs in the store.
pub fn sample_image(store: &MemoryStore, dialect: Dialect, compressions: &[Compression]) -> Descriptor {
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for (i, compression) in compressions.iter().enumerate() {
        let tree = Tree::new();
        tree.file(format!("layer-{i}"), format!("content {i}").as_bytes()).mtime(&format!("layer-{i}"), 1_700_000_000);
        let mut blob = Vec::new();
        let layer = encode(tree.fd().as_fd(), &Codec::new(*compression), &mut blob).unwrap();
        put_bytes(store, &blob).unwrap();
        layers.push(Descriptor::new(compression.layer_media_type(dialect), layer.digest, layer.size));
        diff_ids.push(layer.diff_id);
    }
    let mut config = ImageConfig {
        created: Some("2026-11-22T00:00:00Z".into()),
        architecture: "amd64".into(),
        os: "linux".into(),
        ..Default::default()
    };
    config.config.cmd = Some(vec!["/bin/true".into()]);
    config.rootfs.diff_ids = diff_ids;
    let config_bytes = serde_json::to_vec(&config).unwrap();
    put_bytes(store, &config_bytes).unwrap();
    let assembled = assemble(&config_bytes, layers, BTreeMap::new(), dialect).unwrap();
    put_bytes(store, &assembled.manifest_bytes).unwrap();
    assembled.descriptor
}

#[test]
fn manifests_are_those_of_the_specification() {
    let store = MemoryStore::default();
    for dialect in [Dialect::Oci, Dialect::Docker] {
        let descriptor = sample_image(&store, dialect, &[Compression::Gzip, Compression::Zstd, Compression::None]);
        assert_eq!(
            sample_image(&store, dialect, &[Compression::Gzip, Compression::Zstd, Compression::None]),
            descriptor
        );
        let image = Image::open(&store, &descriptor).unwrap();
        let oracle = oci_spec::image::ImageManifest::from_reader(&image.manifest_bytes[..]).unwrap();
        assert_eq!(oracle.schema_version(), 2);
        assert_eq!(oracle.media_type().as_ref().unwrap().to_string(), descriptor.media_type);
        assert_eq!(oracle.config().digest().to_string(), image.manifest.config.digest.to_string());
        assert_eq!(oracle.config().size(), image.config_bytes.len() as u64);
        let oracle_layers: Vec<_> =
            oracle.layers().iter().map(|l| (l.media_type().to_string(), l.digest().to_string(), l.size())).collect();
        let ours: Vec<_> =
            image.manifest.layers.iter().map(|l| (l.media_type.clone(), l.digest.to_string(), l.size)).collect();
        assert_eq!(oracle_layers, ours);
        let config = oci_spec::image::ImageConfiguration::from_reader(&image.config_bytes[..]).unwrap();
        assert_eq!(config.rootfs().diff_ids().len(), 3);
        for (layer, diff_id) in image.layers() {
            verify_layer(&store, layer, diff_id).unwrap();
        }
    }
}

/// Stores a manifest with a change made to it and opens it; `None` opens.
fn check(change: impl FnOnce(&mut Value, &mut Value), refused_with: Option<&str>) {
    let store = MemoryStore::default();
    let image = Image::open(&store, &sample_image(&store, Dialect::Oci, &[Compression::Gzip])).unwrap();
    let mut config: Value = serde_json::from_slice(&image.config_bytes).unwrap();
    let mut manifest: Value = serde_json::from_slice(&image.manifest_bytes).unwrap();
    change(&mut manifest, &mut config);
    let config_bytes = config.to_string().into_bytes();
    let (digest, size) = put_bytes(&store, &config_bytes).unwrap();
    if manifest["config"]["digest"] == image.manifest.config.digest.to_string() {
        manifest["config"]["digest"] = json!(digest.to_string());
        if manifest["config"]["size"] == image.config_bytes.len() {
            manifest["config"]["size"] = json!(size);
        }
    }
    opened(&store, manifest.to_string().as_bytes(), media_type::OCI_MANIFEST, refused_with);
}

fn opened(store: &MemoryStore, manifest: &[u8], media_type: &str, refused_with: Option<&str>) {
    let (digest, size) = put_bytes(store, manifest).unwrap();
    let result = Image::open(store, &Descriptor::new(media_type, digest, size));
    let shown = String::from_utf8_lossy(&manifest[..manifest.len().min(300)]).into_owned();
    match (result, refused_with) {
        (Ok(_), None) => {}
        (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{error} for {shown}"),
        (Ok(_), Some(words)) => panic!("opened, but `{words}` was expected: {shown}"),
        (Err(error), None) => panic!("{error} for {shown}"),
    }
}

#[test]
fn doubtful_images_are_refused_with_a_reason() {
    check(|_, _| {}, None);
    check(|manifest, _| drop(manifest.as_object_mut().unwrap().remove("mediaType")), None);
    check(|manifest, _| manifest["annotations"] = json!({"a": "1"}), None);
    check(|manifest, _| manifest["annotations"] = Value::Null, None);
    check(|_, config| config["history"] = Value::Null, None);
    check(|_, config| config["config"] = json!({"Env": null, "Labels": null, "ExposedPorts": null}), None);
    check(|manifest, _| manifest["manifests"] = json!([]), Some("both `manifests` and `layers`"));
    check(|manifest, _| manifest["mediaType"] = json!(media_type::OCI_INDEX), Some("calls itself"));
    check(|manifest, _| manifest["mediaType"] = json!(7), Some("calls itself `7`"));
    check(|manifest, _| manifest["schemaVersion"] = json!(1), Some("`schemaVersion` is not 2"));
    check(|manifest, _| manifest["layers"] = Value::Null, Some("malformed"));
    check(|manifest, _| drop(manifest.as_object_mut().unwrap().remove("config")), Some("config"));
    check(|manifest, _| manifest["layers"] = json!([]), Some("names 1 layers, the manifest 0"));
    check(|manifest, _| manifest["layers"][0]["size"] = json!(-1), Some("malformed"));
    check(|manifest, _| manifest["layers"][0]["size"] = json!(1e30), Some("malformed"));
    check(|manifest, _| manifest["layers"][0]["digest"] = json!("sha256:../../x"), Some("is not a digest"));
    check(|manifest, _| manifest["layers"][0]["mediaType"] = json!("text/html"), Some("unknown kind `text/html`"));
    check(|manifest, _| manifest["config"]["mediaType"] = json!("application/vnd.helm"), Some("is no image"));
    check(|manifest, _| manifest["config"]["size"] = json!(1), Some("were promised"));
    check(|manifest, _| manifest["config"]["size"] = json!(CONFIG_MAX_BYTES + 1), Some("at most"));
    check(|manifest, _| manifest["config"]["digest"] = json!(Digest::of(b"no").to_string()), Some("no blob"));
    check(|_, config| config["rootfs"]["diff_ids"] = json!([]), Some("names 0 layers"));
    check(|_, config| drop(config.as_object_mut().unwrap().remove("rootfs")), Some("names 0 layers"));
    check(|_, config| config["rootfs"]["diff_ids"][0] = json!("sha256:ABC"), Some("is not a digest"));

    let store = MemoryStore::default();
    let image = Image::open(&store, &sample_image(&store, Dialect::Oci, &[Compression::Gzip])).unwrap();
    let text = String::from_utf8(image.manifest_bytes.clone()).unwrap();
    let twice = text.replacen("\"layers\":", "\"layers\":[],\"layers\":", 1);
    opened(&store, twice.as_bytes(), media_type::OCI_MANIFEST, Some("`layers` stands twice"));
    let folded = text.replacen("\"layers\":", "\"Layers\":[],\"layers\":", 1);
    opened(&store, folded.as_bytes(), media_type::OCI_MANIFEST, Some("`layers` stands twice"));
    opened(&store, text.as_bytes(), media_type::DOCKER_MANIFEST, Some("calls itself"));
    opened(&store, text.as_bytes(), "application/vnd.docker.distribution.manifest.v1+prettyjws", Some("is no image"));
    opened(&store, &vec![b' '; MANIFEST_MAX_BYTES as usize + 1], media_type::OCI_MANIFEST, Some("at most"));
    opened(&store, b"", media_type::OCI_MANIFEST, Some("EOF"));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    opened(&store, deep.as_bytes(), media_type::OCI_MANIFEST, Some("recursion"));
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_named() {
    let store = MemoryStore::default();
    let image = Image::open(&store, &sample_image(&store, Dialect::Oci, &[Compression::Gzip])).unwrap();
    let layer = &image.manifest.layers[0];
    let other = DiffId(Digest::of(b"other"));
    let error = verify_layer(&store, layer, other).unwrap_err().to_string();
    assert!(error.contains(&layer.digest.to_string()) && error.contains(&other.to_string()), "{error}");
}

#[test]
fn indexes_lead_to_the_platform_and_unknown_entries_are_skipped() {
    let store = MemoryStore::default();
    let one = sample_image(&store, Dialect::Oci, &[Compression::Gzip]);
    let two = sample_image(&store, Dialect::Oci, &[Compression::Zstd]);
    let platform = |os: &str, arch: &str| json!({"os": os, "architecture": arch});
    let entry = |image: &Descriptor, platform: Value| json!({"mediaType": image.media_type, "digest": image.digest, "size": image.size, "platform": platform});
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [
        {"mediaType": "application/vnd.future+json", "digest": "sha512:00", "size": 3, "platform": platform("linux", "arm64")},
        entry(&one, platform("linux", "amd64")),
        entry(&two, platform("linux", "arm64")),
        entry(&two, platform("unknown", "unknown")),
    ]});
    let (digest, size) = put_bytes(&store, index.to_string().as_bytes()).unwrap();
    let index = Descriptor::new(media_type::OCI_INDEX, digest, size);
    let found = |wanted: &str| find_manifest(&store, &index, &wanted.parse().unwrap());
    assert_eq!(found("linux/amd64").unwrap().digest, one.digest);
    assert_eq!(found("linux/arm64").unwrap().digest, two.digest);
    let error = found("linux/s390x").unwrap_err().to_string();
    assert!(error.contains("it has: `linux/amd64`, `linux/arm64`"), "{error}");
    assert_eq!(find_manifest(&store, &one, &"linux/s390x".parse().unwrap()).unwrap(), one);
}
