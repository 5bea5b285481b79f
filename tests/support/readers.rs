//! Readers of images that are not ours: skopeo, umoci, runc.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Outcome;

/// `skopeo ARGS…`, which must go well; its standard output.
#[track_caller]
pub fn skopeo<I: IntoIterator<Item = A>, A: AsRef<OsStr>>(args: I) -> String {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy").args(args);
    Outcome::of(&mut command).ok().stdout
}

/// What `skopeo inspect` says of `image` (`oci-archive:FILE`, `docker://…`).
#[track_caller]
pub fn inspect(image: &str) -> Value {
    let text = skopeo(["inspect", "--tls-verify=false", image]);
    serde_json::from_str(&text).expect("skopeo prints JSON")
}

/// The manifest of `image`, byte for byte.
#[track_caller]
pub fn manifest(image: &str) -> String {
    skopeo(["inspect", "--tls-verify=false", "--raw", image])
}

/// The config of `image`, as skopeo reads it.
#[track_caller]
pub fn inspect_config(image: &str) -> Value {
    let text = skopeo(["inspect", "--tls-verify=false", "--config", "--raw", image]);
    serde_json::from_str(&text).expect("skopeo prints JSON")
}

/// Copies `image` by skopeo, which checks every digest, and unpacks it by umoci; the bundle's directory, in `dir`.
#[track_caller]
pub fn unpack(image: &str, dir: &Path) -> PathBuf {
    let (layout, bundle) = (dir.join("layout"), dir.join("bundle"));
    skopeo(["copy", "--quiet", "--src-tls-verify=false", image, &format!("oci:{}:unpack", layout.display())]);
    let mut command = Command::new("umoci");
    command.arg("unpack").arg("--image").arg(format!("{}:unpack", layout.display())).arg(&bundle);
    Outcome::of(&mut command).ok();
    bundle
}

/// Unpacks a plain tar by GNU tar, with owners, permissions and extended attributes, into the new directory `dir`.
#[track_caller]
pub fn untar(file: &Path, dir: &Path) {
    std::fs::create_dir(dir).expect("it is new");
    let mut command = Command::new("tar");
    command.arg("-xpf").arg(file).arg("-C").arg(dir).args(["--numeric-owner", "--xattrs", "--xattrs-include=*"]);
    Outcome::of(&mut command).ok();
}

/// What zstd, the program, makes of compressed bytes.
#[track_caller]
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let dir = super::temp_dir();
    let file = dir.path().join("blob.zst");
    std::fs::write(&file, bytes).expect("the directory is new");
    let output = Command::new("zstd").args(["-q", "-d", "-c"]).arg(&file).output().expect("zstd is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Checks all documents of an OCI layout by the schemas of image-spec: `files` by their names in it. Docker's documents
/// have none there.
#[track_caller]
pub fn check_schemas(files: &std::collections::BTreeMap<PathBuf, Vec<u8>>) {
    let dir = super::temp_dir();
    // Debian's, which has the module.
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemas.py"));
    let mut check = |kind: &str, bytes: &[u8]| {
        let file = dir.path().join(super::archive::hex(bytes));
        std::fs::write(&file, bytes).expect("the directory is ours");
        command.arg(kind).arg(&file);
    };
    let file = |name: &str| &files[Path::new(name)];
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
        file(&format!("blobs/sha256/{}", &digest["sha256:".len()..]))
    };
    check("image-layout", file("oci-layout"));
    check("image-index", file("index.json"));
    let index: Value = serde_json::from_slice(file("index.json")).expect("an index is JSON");
    let mut todo = index["manifests"].as_array().expect("an index lists manifests").clone();
    while let Some(descriptor) = todo.pop() {
        let descriptor = &descriptor;
        match descriptor["mediaType"].as_str() {
            Some("application/vnd.oci.image.index.v1+json") => {
                check("image-index", blob(descriptor));
                let index: Value = serde_json::from_slice(blob(descriptor)).expect("an index is JSON");
                todo.extend(index["manifests"].as_array().expect("an index lists manifests").clone());
                continue;
            }
            Some("application/vnd.oci.image.manifest.v1+json") => {}
            _ => continue,
        }
        check("image-manifest", blob(descriptor));
        let manifest: Value = serde_json::from_slice(blob(descriptor)).expect("a manifest is JSON");
        check("config", blob(&manifest["config"]));
    }
    Outcome::of(&mut command).ok();
}

/// Checks an eStargz layer by the text of its specification: `blob` is the bytes of `layer`, a descriptor, whose config
/// says `diff_id`.
#[track_caller]
pub fn check_estargz(blob: &Path, layer: &Value, diff_id: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{layer} lacks something")).to_owned();
    let annotation = |name: &str| text(&layer["annotations"][name]);
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/estargz.py")).arg(blob);
    command.arg(annotation("containerd.io/snapshot/stargz/toc.digest"));
    command.arg(annotation("io.containers.estargz.uncompressed-size")).arg(text(diff_id));
    Outcome::of(&mut command).ok();
}

/// Runs the bundle that [`unpack`] made, by runc, without a terminal.
pub fn runc(bundle: &Path) -> Outcome {
    let file = bundle.join("config.json");
    let text = std::fs::read(&file).expect("umoci wrote config.json");
    let mut config: Value = serde_json::from_slice(&text).expect("umoci writes JSON");
    config["process"]["terminal"] = Value::Bool(false);
    std::fs::write(&file, config.to_string()).expect("the bundle can be written");
    let state = super::temp_dir();
    // A name that no other test has: the directory's own.
    let name = state.path().file_name().expect("a temporary directory has a name");
    Outcome::of(Command::new("runc").arg("--root").arg(state.path()).args(["run", "--bundle"]).arg(bundle).arg(name))
}
