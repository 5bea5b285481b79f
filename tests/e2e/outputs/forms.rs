//! Every form of an image: types, compressions and media types, each read by programs that are not ours.

use std::path::Path;

use serde_json::Value;

use super::APP;
use crate::support::buildah::Buildah;
use crate::support::registry::Registry;
use crate::support::{Archive, Context, Store, archive, readers, temp_dir, tree};

/// A type, a compression, whether with OCI's media types.
type Form = (&'static str, &'static str, bool);

const FORMS: [Form; 12] = [
    ("oci", "uncompressed", true),
    ("oci", "gzip", true),
    ("oci", "estargz", true),
    ("oci", "zstd", true),
    ("oci", "uncompressed", false),
    ("oci", "gzip", false),
    ("docker", "uncompressed", true),
    ("docker", "gzip", true),
    ("docker", "estargz", true),
    ("docker", "zstd", true),
    ("docker", "uncompressed", false),
    ("docker", "gzip", false),
];

fn file_of(store: &Store, (kind, compression, oci): Form) -> std::path::PathBuf {
    store.path(&format!("{kind}-{compression}-{oci}.tar"))
}

/// One build with all forms.
fn built() -> Store {
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let mut words = vec!["-t".to_owned(), "app:1".into()];
    for form in FORMS {
        let (kind, compression, oci) = form;
        let dest = file_of(&store, form);
        words.push("-o".into());
        words.push(format!(
            "type={kind},compression={compression},force-compression=true,oci-mediatypes={oci},dest={}",
            dest.display()
        ));
    }
    store.build(&context, words).ok();
    store
}

fn expected_types(compression: &str, oci: bool) -> (&'static str, &'static str) {
    match (compression, oci) {
        ("uncompressed", true) => {
            ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar")
        }
        ("zstd", true) => ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+zstd"),
        (_, true) => ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("uncompressed", false) => {
            ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.image.rootfs.diff.tar")
        }
        (_, false) => (
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    }
}

#[test]
fn every_form_is_what_it_says_and_one_build_writes_them_all() {
    let store = built();
    let local = store.path("local");
    store.build(&Context::new(APP), ["-o", &format!("type=tar,dest={}", local.display())]).ok();
    let root = store.path("root");
    readers::untar(&local, &root);
    let expected = tree::list(&root);
    let buildah = Buildah::new(Path::new("/"), &[]);
    let mut ids = Vec::new();
    for form in FORMS {
        let (kind, compression, oci) = form;
        let file = file_of(&store, form);
        let files = Archive::files(&file);
        readers::check_schemas(&files);
        // Derives every digest anew.
        let read = Archive::read(&file);
        let (manifest_type, layer_type) = expected_types(compression, oci);
        assert_eq!(read.manifest["mediaType"], manifest_type, "{form:?}");
        for layer in read.manifest["layers"].as_array().expect("a manifest has layers") {
            assert_eq!(layer["mediaType"], layer_type, "{form:?}");
            let has_table = layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string();
            assert_eq!(has_table, compression == "estargz", "{form:?}");
            assert!(layer["annotations"]["containerd.io/uncompressed"].is_null(), "{form:?}: that is our own");
        }
        if compression == "estargz" {
            check_estargz(&read.manifest, &read.config, |hex| files[&Path::new("blobs/sha256").join(hex)].clone());
        } else {
            ids.push(read.id().to_owned());
        }
        let name = format!("{}-archive:{}", kind, file.display());
        if matches!(compression, "gzip" | "uncompressed") {
            let dir = store.path(&format!("umoci-{kind}-{compression}-{oci}"));
            std::fs::create_dir(&dir).expect("it is new");
            let bundle = readers::unpack(&name, &dir);
            assert_eq!(tree::list(&bundle.join("rootfs")), expected, "{form:?}: umoci");
        }
        if !matches!(compression, "gzip" | "uncompressed") || !oci {
            let found = tree::list(&buildah.unpack(&name));
            assert_eq!(found, expected, "{form:?}: buildah");
        }
        if kind == "docker" {
            check_legacy(&files, &read);
        }
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "compression changes no image id: {ids:?}");
}

/// Every layer, as the specification of eStargz says.
fn check_estargz(manifest: &Value, config: &Value, blob: impl Fn(&str) -> Vec<u8>) {
    let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("a config has them");
    let dir = temp_dir();
    for (layer, diff_id) in manifest["layers"].as_array().expect("a manifest has layers").iter().zip(diff_ids) {
        let hex = &layer["digest"].as_str().expect("a descriptor has a digest")["sha256:".len()..];
        let file = dir.path().join(hex);
        std::fs::write(&file, blob(hex)).expect("the directory is new");
        readers::check_estargz(&file, layer, diff_id);
    }
}

/// What `docker load` reads: `manifest.json`, and what it names.
fn check_legacy(files: &std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>, read: &Archive) {
    let list: Value = serde_json::from_slice(&files[Path::new("manifest.json")]).expect("manifest.json is JSON");
    let config = &files[Path::new(list[0]["Config"].as_str().expect("a path"))];
    assert_eq!(format!("sha256:{}", archive::hex(config)), read.id());
    assert_eq!(list[0]["RepoTags"], serde_json::json!(["app:1"]));
    let layers = list[0]["Layers"].as_array().expect("paths");
    assert_eq!(layers.len(), read.len());
    for (path, layer) in layers.iter().zip(read.manifest["layers"].as_array().expect("a manifest has layers")) {
        let bytes = &files[Path::new(path.as_str().expect("a path"))];
        assert_eq!(layer["digest"], format!("sha256:{}", archive::hex(bytes)));
    }
}

#[test]
fn a_registry_takes_and_gives_back_every_form_with_the_same_digest() {
    let registry = Registry::open();
    // With a file that eStargz has in several pieces.
    let large = format!("{APP}RUN yes piece | head -c 9000000 > /large\n");
    let (store, context) = (Store::with_busybox(), Context::new(&large));
    let forms = [("uncompressed", true), ("gzip", true), ("estargz", true), ("zstd", true), ("gzip", false)];
    let mut words = Vec::new();
    for (compression, oci) in forms {
        let name = registry.name(&format!("app:{compression}-{oci}"));
        words.push("-o".to_owned());
        words.push(format!(
            "type=registry,name={name},compression={compression},force-compression=1,oci-mediatypes={oci}"
        ));
    }
    store.build(&context, words).ok();
    for (compression, oci) in forms {
        let name = format!("docker://{}", registry.name(&format!("app:{compression}-{oci}")));
        let digest = readers::inspect(&name)["Digest"].as_str().expect("a digest").to_owned();
        let dir = store.path(&format!("dir-{compression}-{oci}"));
        let into = format!("dir:{}", dir.display());
        readers::skopeo(["copy", "--quiet", "--preserve-digests", "--src-tls-verify=false", &name, &into]);
        let read = |file: &str| std::fs::read(dir.join(file)).expect("skopeo wrote it");
        if compression == "estargz" {
            let manifest: Value = serde_json::from_slice(&read("manifest.json")).expect("JSON");
            let config = manifest["config"]["digest"].as_str().expect("a digest");
            let config: Value = serde_json::from_slice(&read(&config["sha256:".len()..])).expect("JSON");
            check_estargz(&manifest, &config, read);
        }
        let back = format!("docker://{}", registry.name(&format!("back:{compression}-{oci}")));
        readers::skopeo(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", &into, &back]);
        assert_eq!(readers::inspect(&back)["Digest"], digest.as_str(), "{compression} {oci}");
        // And again by ours.
        let other = Store::new();
        let from = Context::new(&format!("FROM {}\nRUN grep made /data/in/file\n", &back["docker://".len()..]));
        other.build(&from, ["-t", "x:1"]).ok();
    }
}

#[test]
fn layers_that_came_compressed_go_as_they_came_unless_another_codec_is_forced() {
    let registry = Registry::open();
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let base = registry.name("base:1");
    store.build(&context, ["-o", &format!("type=registry,name={base}")]).ok();
    let other = Store::new();
    let on_top = Context::new(&format!("FROM {base}\nRUN echo more > /more\n"));
    let types = |force: bool| -> Vec<String> {
        let file = other.path("app.tar");
        let output = format!("type=oci,compression=zstd,force-compression={force},dest={}", file.display());
        other.build(&on_top, ["-t", "x:1", "-o", &output]).ok();
        let read = Archive::read(&file);
        let layers = read.manifest["layers"].as_array().expect("a manifest has layers").clone();
        let ends = |layer: &Value| layer["mediaType"].as_str().expect("text").rsplit('+').next().map(str::to_owned);
        layers.iter().filter_map(ends).collect()
    };
    assert_eq!(types(false), ["gzip", "gzip", "zstd"]);
    assert_eq!(types(true), ["zstd", "zstd", "zstd"]);
}

#[test]
fn a_layout_in_a_directory_is_added_to() {
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let dir = store.path("layout");
    let build = |name: &str, compression: &str| {
        let output = format!("type=oci,tar=false,name={name},compression={compression},dest={}", dir.display());
        store.build(&context, ["-o", &output]).ok().says(&["added the image to the OCI layout"]);
    };
    build("app:one", "gzip");
    build("app:two", "zstd");
    build("app:two", "uncompressed");
    let index: Value =
        serde_json::from_slice(&std::fs::read(dir.join("index.json")).expect("it is there")).expect("JSON");
    assert_eq!(index["manifests"].as_array().expect("an index").len(), 2);
    for tag in ["one", "two"] {
        let unpacked = store.path(tag);
        std::fs::create_dir(&unpacked).expect("it is new");
        let bundle = readers::unpack(&format!("oci:{}:{tag}", dir.display()), &unpacked);
        assert!(bundle.join("rootfs/data/in/file").exists(), "{tag}");
    }
}
