//! What `--against` compares with: indexes and images in archives and under names, and what lies about itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{tells, verify};
use crate::support::archive::hex;
use crate::support::one_layer::digest;
use crate::support::raw_tar::{RawHeader, RawTar};
use crate::support::registry::Registry;
use crate::support::{Context, Store, readers};

const EPOCH: &str = "--source-date-epoch=1600000000";
const TWO: &str = "--platform=linux/amd64,linux/arm64";
const THREE: &str = "--platform=linux/amd64,linux/arm64,linux/riscv64";

fn copies() -> Context {
    let context = Context::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /file\nCOPY common /\n");
    ["amd64", "arm64", "riscv64", "common"].into_iter().fold(context, |context, name| context.file(name, name))
}

/// Builds an archive, and answers its path as text.
fn archive(store: &Store, context: &Context, name: &str, args: &[&str]) -> String {
    let file = store.path(name).display().to_string();
    store.build(context, [&[EPOCH, "-o", &format!("type=oci,dest={file}")], args].concat()).ok();
    file
}

#[test]
fn an_index_is_or_is_not_what_is_built_for_several_platforms() {
    let (store, registry, context) = (Store::new(), Registry::open(), copies());
    let (two, three) = (archive(&store, &context, "two.tar", &[TWO]), archive(&store, &context, "three.tar", &[THREE]));
    let one = archive(&store, &context, "one.tar", &["--platform=linux/arm64"]);
    let (pushed, tagged) = (registry.name("app:1"), "app:1");
    store.build(&context, [EPOCH, TWO, "-t", &pushed, "--push"]).ok();
    store.build(&context, [EPOCH, TWO, "-t", tagged]).ok();
    // Images that an archive has beside each other, without an index of their own.
    let flat = store.path("flat").display().to_string();
    for arch in ["amd64", "arm64"] {
        let copied = format!("oci:{flat}:{arch}");
        readers::skopeo(["copy", "--override-arch", arch, &format!("oci-archive:{two}"), &copied]);
    }
    let is = |store: &Store, against: &str, platforms: &str, words: &[&str]| {
        let outcome =
            verify(store, &context, &["--against", against, platforms]).ok().says(&["taken to be 1600000000"]);
        tells(&outcome, &["is built from this"]);
        tells(&outcome, words);
    };
    is(&store, &two, TWO, &["is built from this: sha256:"]);
    is(&Store::new(), &pushed, TWO, &["is built from this: sha256:"]);
    for against in [&pushed, tagged, &flat] {
        is(&store, against, TWO, &[]);
    }
    for platform in ["--platform=linux/amd64", "--platform=linux/arm64"] {
        is(&store, &two, platform, &["is built from this: sha256:"]);
        for against in [&pushed, tagged, &flat] {
            is(&store, against, platform, &[]);
        }
    }
    // More than was built is no fault of what was.
    is(&store, &three, TWO, &["only its manifest is another", "manifests (linux/riscv64): nothing and `sha256:"]);

    let is_not = |against: &str, platforms: &str, words: &[&str]| {
        let outcome = verify(&store, &context, &["--against", against, platforms]).exits(2);
        tells(&outcome, &["is not what is built from this"]);
        tells(&outcome, words);
    };
    is_not(&two, THREE, &["manifests (linux/riscv64): `sha256:"]);
    is_not(&one, "--platform=linux/arm64,linux/amd64", &["manifests (linux/amd64): `sha256:"]);
    context.write("common", "changed");
    let changed = ["layer 2 (linux/amd64): COPY common /", "layer 2 (linux/arm64): COPY common /", "+ common"];
    for against in [&two, &pushed, tagged, &flat] {
        is_not(against, TWO, &changed);
    }
    let missing = verify(&store, &context, &["--against", &two, "--platform=linux/s390x"]);
    missing.fails_saying(&["has no image for `linux/s390x`; it has: `linux/amd64`, `linux/arm64`"]);
    assert_eq!(store.drafts().len(), 0, "nothing is left behind");
}

/// An image layout that a test changes.
struct Layout {
    dir: PathBuf,
}

impl Layout {
    fn path(&self, digest: &Value) -> PathBuf {
        let hex = digest.as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest");
        self.dir.join("blobs/sha256").join(hex)
    }

    fn json(&self, path: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("it was made")).expect("JSON")
    }

    fn put(&self, bytes: &[u8]) -> (String, usize) {
        std::fs::write(self.dir.join("blobs/sha256").join(hex(bytes)), bytes).expect("it is ours");
        (digest(bytes), bytes.len())
    }

    fn manifest(&self) -> Value {
        self.json(&self.path(&self.json(&self.dir.join("index.json"))["manifests"][0]["digest"]))
    }

    /// Another manifest, named by all that named the one before.
    fn with_manifest(&self, change: impl FnOnce(&mut Value)) {
        let mut manifest = self.manifest();
        change(&mut manifest);
        let (digest, size) = self.put(manifest.to_string().as_bytes());
        let index = self.dir.join("index.json");
        let mut top = self.json(&index);
        (top["manifests"][0]["digest"], top["manifests"][0]["size"]) = (digest.into(), size.into());
        std::fs::write(index, top.to_string()).expect("it is ours");
    }

    /// Another config, likewise.
    fn with_config(&self, change: impl FnOnce(&mut Value)) {
        let mut config = self.json(&self.path(&self.manifest()["config"]["digest"]));
        change(&mut config);
        let (digest, size) = self.put(config.to_string().as_bytes());
        self.with_manifest(|manifest| {
            (manifest["config"]["digest"], manifest["config"]["size"]) = (digest.into(), size.into());
        });
    }

    /// Another blob for its one layer.
    fn with_layer(&self, bytes: &[u8], kind: &str) {
        let (digest, size) = self.put(bytes);
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{kind}");
        self.with_manifest(|manifest| {
            manifest["layers"] = json!([{ "mediaType": media_type, "digest": digest, "size": size }]);
        });
    }

    fn layer(&self) -> PathBuf {
        self.path(&self.manifest()["layers"][0]["digest"])
    }
}

/// Something that unpacks to more than it may here.
fn bomb() -> Vec<u8> {
    let mut tar = RawTar::default();
    tar.header(RawHeader { name: b"large", size: 24 << 20, ..Default::default() });
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&tar.data(&vec![0; 24 << 20]).end()).and_then(|()| gzip.finish()).expect("memory can be written")
}

#[test]
fn an_image_that_lies_about_itself_is_an_error_and_never_what_was_built() {
    type Change = fn(&Layout);
    let rows: [(&str, Change, &[&str]); 11] = [
        (
            "a byte of a layer is another",
            |layout| {
                let mut bytes = std::fs::read(layout.layer()).expect("a blob");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(layout.layer(), bytes).expect("it is ours");
            },
            &["cannot load", "sha256:"],
        ),
        (
            "a layer is cut short",
            |layout| {
                let bytes = std::fs::read(layout.layer()).expect("a blob");
                std::fs::write(layout.layer(), &bytes[..bytes.len() / 2]).expect("it is ours");
            },
            &["cannot load", "sha256:"],
        ),
        (
            "a layer is not there",
            |layout| std::fs::remove_file(layout.layer()).expect("it is ours"),
            &["cannot load", "sha256:"],
        ),
        (
            "its index is none",
            |layout| std::fs::write(layout.dir.join("index.json"), "{\"manifests\": 7}").expect("it is ours"),
            &["cannot load"],
        ),
        (
            "its index names nothing",
            |layout| {
                std::fs::write(layout.dir.join("index.json"), "{\"schemaVersion\":2,\"manifests\":[]}")
                    .expect("it is ours");
            },
            &["cannot load", "lists no image"],
        ),
        ("its manifest is an array", |layout| layout.with_manifest(|manifest| *manifest = json!([])), &["cannot load"]),
        (
            "its config has a layer more",
            |layout| {
                layout.with_config(|config| {
                    let more = config["rootfs"]["diff_ids"][0].clone();
                    config["rootfs"]["diff_ids"].as_array_mut().expect("a list").push(more);
                });
            },
            &["malformed"],
        ),
        ("its config is for no machine", |layout| layout.with_config(|config| *config = json!({})), &["config"]),
        (
            "behind the config that is built stands another layer",
            |layout| layout.with_layer(&RawTar::default().file(b"evil", b"evil").end(), ""),
            &["unpacks to `sha256:", "but the image's config says"],
        ),
        (
            "behind the config that is built stands a bomb",
            |layout| layout.with_layer(&bomb(), "+gzip"),
            &["cannot read layer `sha256:", "makes it a bomb"],
        ),
        (
            "behind another config stands a bomb",
            |layout| {
                layout.with_layer(&bomb(), "+gzip");
                layout.with_config(|config| config["rootfs"]["diff_ids"][0] = digest(b"bomb").into());
            },
            &["cannot be read", "makes it a bomb"],
        ),
    ];
    let (store, context) = (Store::new(), Context::new("FROM scratch\nCOPY a /a\n").file("a", "a"));
    store.configure("unpack_max_size = '8MiB'\n");
    let made = store.path("made");
    store.build(&context, [EPOCH, "-o", &format!("type=oci,tar=false,dest={}", made.display())]).ok();
    let against = |dir: &Path| verify(&store, &context, &["--against", &dir.display().to_string()]);
    tells(&against(&made).ok(), &["is built from this: sha256:"]);
    for (number, (what, change, words)) in rows.into_iter().enumerate() {
        let layout = Layout { dir: store.path(&format!("changed{number}")) };
        let copied = std::process::Command::new("cp").arg("-a").arg(&made).arg(&layout.dir).status();
        assert!(copied.expect("cp starts").success());
        change(&layout);
        let outcome = against(&layout.dir);
        assert!(outcome.stdout.is_empty(), "{what}: {outcome}");
        assert_eq!(outcome.code, Some(1), "{what}: {outcome}");
        outcome.fails_saying(words);
    }
    for (name, bytes) in [("empty.tar", &b""[..]), ("text.tar", b"no archive\n"), ("zeros.tar", &[0; 4096])] {
        std::fs::write(store.path(name), bytes).expect("the directory is ours");
        against(&store.path(name)).fails_saying(&["cannot load", name]);
    }
    assert_eq!(store.drafts().len(), 0, "nothing is left behind");
    store.rbuild(["verify"]).ok();
}
