//! An OCI archive read without rbuild's own code, every digest derived anew. image-spec: image-layout.md, manifest.md,
//! config.md.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The one image of an OCI archive whose every promise holds.
pub struct Archive {
    /// The manifest's digest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// The config.
    pub config: Value,
    /// The tar of every layer, from the base on.
    pub layers: Vec<Vec<u8>>,
}

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As in the tar, without a leading `./` and a trailing slash.
    pub name: Vec<u8>,
    /// `-`, `h`, `l`, `c`, `b`, `d`, `p`.
    pub kind: char,
    /// Permissions with the set-id bits.
    pub mode: u32,
    /// Owner.
    pub owner: (u64, u64),
}

impl Archive {
    /// Reads and checks the archive.
    #[track_caller]
    pub fn read(file: &Path) -> Self {
        Self::check(&Self::files(file))
    }

    /// Every file of an archive.
    #[track_caller]
    pub fn files(file: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut tar = tar::Archive::new(std::fs::File::open(file).unwrap_or_else(|error| panic!("{file:?}: {error}")));
        for entry in tar.entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            if entry.header().entry_type().is_file() {
                let name = entry.path().expect("a name").into_owned();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("the entry is whole");
                assert!(files.insert(name.clone(), bytes).is_none(), "{name:?} is there twice");
            }
        }
        files
    }

    fn check(files: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let file = |name: &str| files.get(Path::new(name)).unwrap_or_else(|| panic!("no `{name}` in the archive"));
        let layout: Value = serde_json::from_slice(file("oci-layout")).expect("oci-layout is JSON");
        assert_eq!(layout["imageLayoutVersion"], "1.0.0");
        for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("blobs")) {
            let expected = Path::new("blobs/sha256").join(hex(bytes));
            assert_eq!(name, &expected, "the blob is not what its name says");
        }
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
            let hex = digest.strip_prefix("sha256:").expect("the digest is SHA-256");
            let bytes = file(&format!("blobs/sha256/{hex}"));
            assert_eq!(descriptor["size"], bytes.len(), "size of {digest}");
            bytes
        };
        let index: Value = serde_json::from_slice(file("index.json")).expect("index.json is JSON");
        assert_eq!(index["schemaVersion"], 2);
        let [descriptor] = index["manifests"].as_array().expect("an index").as_slice() else {
            panic!("not one manifest: {index}")
        };
        let manifest: Value = serde_json::from_slice(blob(descriptor)).expect("the manifest is JSON");
        let config: Value = serde_json::from_slice(blob(&manifest["config"])).expect("the config is JSON");
        let listed = manifest["layers"].as_array().expect("a manifest has layers");
        let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("a config has diff_ids");
        assert_eq!(listed.len(), diff_ids.len(), "layers and diff_ids");
        let layers: Vec<Vec<u8>> = listed.iter().map(|layer| inflate(blob(layer), layer)).collect();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            assert_eq!(diff_id, &format!("sha256:{}", hex(layer)), "diff_id");
        }
        let history = config["history"].as_array().expect("a config has history");
        let full = history.iter().filter(|entry| entry["empty_layer"] != true).count();
        assert_eq!(full, layers.len(), "history entries with a layer, and layers");

        let known = listed.iter().chain([descriptor, &manifest["config"]]);
        let named: std::collections::BTreeSet<_> = known.map(|each| each["digest"].to_string()).collect();
        let blobs = files.keys().filter(|name| name.starts_with("blobs")).count();
        assert_eq!(blobs, named.len(), "blobs that nothing names");
        Self { digest: descriptor["digest"].as_str().expect("seen above").into(), manifest, config, layers }
    }

    /// The image id: the digest of the config.
    pub fn id(&self) -> &str {
        self.manifest["config"]["digest"].as_str().expect("checked when it was read")
    }

    /// What the layer at `index` holds, in its order.
    pub fn entries(&self, index: usize) -> Vec<Entry> {
        let mut tar = tar::Archive::new(&self.layers[index][..]);
        let entries = tar.entries().expect("a tar").map(|entry| {
            let entry = entry.expect("an entry");
            let header = entry.header();
            let name = entry.path_bytes();
            let name = name.strip_prefix(b"./").unwrap_or(&name);
            Entry {
                name: name.strip_suffix(b"/").unwrap_or(name).to_vec(),
                kind: match header.entry_type() {
                    tar::EntryType::Directory => 'd',
                    tar::EntryType::Symlink => 'l',
                    tar::EntryType::Link => 'h',
                    tar::EntryType::Char => 'c',
                    tar::EntryType::Block => 'b',
                    tar::EntryType::Fifo => 'p',
                    _ => '-',
                },
                mode: header.mode().expect("a mode"),
                owner: (header.uid().expect("an owner"), header.gid().expect("a group")),
            }
        });
        entries.collect()
    }

    /// The names in the layer at `index`, in its order.
    pub fn names(&self, index: usize) -> Vec<String> {
        self.entries(index).into_iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
    }

    /// How many layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }
}

fn inflate(bytes: &[u8], descriptor: &Value) -> Vec<u8> {
    match descriptor["mediaType"].as_str().expect("a descriptor has a media type") {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => bytes.to_vec(),
        "application/vnd.oci.image.layer.v1.tar+zstd" => super::readers::zstd(bytes),
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            let mut out = Vec::new();
            flate2::bufread::MultiGzDecoder::new(bytes).read_to_end(&mut out).expect("the layer is gzip");
            out
        }
        other => panic!("a layer of type {other}"),
    }
}

/// SHA-256, as digests are written.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
