//! An image of one layer whose bytes are whatever a test says, as registries and archives have it.

use std::path::Path;

use serde_json::{Value, json};

use super::archive::hex;
use super::hosted::Registry;
use super::raw_tar::RawTar;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image of one layer.
pub struct OneLayer {
    /// The layer as it is sent.
    pub blob: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl OneLayer {
    /// Whose layer is this tar.
    pub fn plain(tar: &[u8]) -> Self {
        Self::new(tar.to_vec(), "", &digest(tar), "amd64")
    }

    /// Whose layer is a blob, compressed as `compression` says (`+gzip`), of a tar that is said to have that digest.
    pub fn new(blob: Vec<u8>, compression: &str, diff_id: &str, architecture: &str) -> Self {
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [diff_id] }, "history": [{ "created_by": "test" }],
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
                        "digest": digest(&config), "size": config.len() },
            "layers": [{ "mediaType": format!("application/vnd.oci.image.layer.v1.tar{compression}"),
                         "digest": digest(&blob), "size": blob.len() }],
        });
        Self { blob, config, manifest: manifest.to_string().into_bytes() }
    }

    /// What an index says of it.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": MANIFEST, "digest": digest(&self.manifest), "size": self.manifest.len() })
    }

    /// A registry with the image as `app:1`; its name there.
    pub fn serve(&self) -> (Registry, String) {
        let registry = Registry::start(digest);
        self.put_named(&registry, "app", "1");
        let name = format!("{}/app:1", registry.host());
        (registry, name)
    }

    /// Puts all of it into a repository, under a tag.
    pub fn put_named(&self, registry: &Registry, repository: &str, tag: &str) {
        self.put(registry, repository);
        registry.put_manifest(repository, tag, MANIFEST, &self.manifest);
    }

    /// Puts all of it into a repository, without a name.
    pub fn put(&self, registry: &Registry, repository: &str) {
        registry.put_blob(repository, &self.config);
        registry.put_blob(repository, &self.blob);
        registry.put_manifest(repository, &digest(&self.manifest), MANIFEST, &self.manifest);
    }

    /// Its blobs, as an OCI layout has them.
    pub fn blobs(&self) -> impl Iterator<Item = (String, &[u8])> {
        let blobs = [&self.config, &self.manifest, &self.blob].into_iter().map(Vec::as_slice);
        blobs.map(|blob| (format!("blobs/sha256/{}", hex(blob)), blob))
    }

    /// An OCI layout as a tar; there the image is `name`.
    pub fn layout(&self, name: &str) -> Vec<u8> {
        let mut entry = self.descriptor();
        entry["annotations"] = json!({ "io.containerd.image.name": name });
        layout(&[entry], &[self])
    }

    /// An archive as old versions of `docker save` made them; there the image is `name`.
    pub fn docker_archive(&self, name: &str) -> Vec<u8> {
        let list = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
        let mut tar = RawTar::default();
        tar.file(b"manifest.json", list.to_string().as_bytes()).file(b"config.json", &self.config);
        tar.file(b"layer.tar", &self.blob).end()
    }
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// An OCI layout as a tar: the entries of its index, and the images that they name.
pub fn layout(entries: &[Value], images: &[&OneLayer]) -> Vec<u8> {
    let mut tar = RawTar::default();
    for (path, bytes) in layout_files(entries, images) {
        tar.file(path.as_bytes(), &bytes);
    }
    tar.end()
}

/// The same in a directory.
pub fn layout_directory(dir: &Path, entries: &[Value], images: &[&OneLayer]) {
    for (path, bytes) in layout_files(entries, images) {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("the directory is ours");
        std::fs::write(path, bytes).expect("the directory is ours");
    }
}

fn layout_files(entries: &[Value], images: &[&OneLayer]) -> Vec<(String, Vec<u8>)> {
    let index = json!({ "schemaVersion": 2, "manifests": entries }).to_string().into_bytes();
    let head =
        [("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()), ("index.json".to_owned(), index)];
    let blobs = images.iter().flat_map(|image| image.blobs()).map(|(path, bytes)| (path, bytes.to_vec()));
    head.into_iter().chain(blobs).collect()
}
