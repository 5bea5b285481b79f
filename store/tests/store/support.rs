//! A store in a directory of its own, and short names for what is put into it.

use std::path::PathBuf;

use jiff::Timestamp;
use oci::content::put_bytes;
use oci::model::{Descriptor, DiffId, Digest, Index, Platform, Reference, media_type};
use rbuild_store::{ImageRecord, Store, StoreError};
use solver::canon::Part;
use solver::key::Key;
use solver::seam::{CacheStore as _, KeyKind, Record, ResultId};

/// The boot that tests start in.
pub const BOOT: &str = "boot-1";

/// A directory that is removed with the value, and a store's root in it that does not exist yet.
pub struct Place {
    _dir: tempfile::TempDir,
    pub root: PathBuf,
}

pub fn place() -> Place {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("a/store");
    Place { _dir: dir, root }
}

impl Place {
    pub fn open(&self) -> Store {
        self.open_in(BOOT)
    }

    pub fn open_in(&self, boot: &str) -> Store {
        Store::open_in_boot(&self.root, boot).expect("the store opens")
    }

    /// Names in one of the store's folders, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join(folder)).expect("a folder of the store");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }
}

pub fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

pub fn diff(text: &str) -> DiffId {
    DiffId(Digest::of(text.as_bytes()))
}

pub fn key(text: &str) -> Key {
    Key(*Digest::of(text.as_bytes()).as_bytes())
}

pub fn name(text: &str) -> Reference {
    text.parse().expect("an image name")
}

pub fn parts(value: &str) -> Vec<Part> {
    vec![Part { name: "exec.args[0]".into(), value: value.into() }]
}

/// A built layer with one file.
pub fn built(store: &Store, parent: Option<&ResultId>, content: &str) -> ResultId {
    let draft = store.draft().expect("a draft");
    std::fs::write(draft.fs().join("file"), content).expect("a file");
    store.add_built_layer(parent, Some(draft), time(1)).expect("a layer")
}

/// What the one file of a built layer holds.
pub fn content(store: &Store, id: &ResultId) -> String {
    let layer = store.layer(id).expect("a look").expect("a layer");
    let path = store.layers_dir().join(layer.name.expect("a tree")).join("file");
    std::fs::read_to_string(path).expect("a file")
}

/// An image whose manifest and config are in the store.
pub fn image(store: &Store, text: &str, top: Option<&ResultId>) -> ImageRecord {
    let (manifest, size) = put_bytes(store.blobs(), format!("manifest {text}").as_bytes()).expect("a blob");
    let (config, _) = put_bytes(store.blobs(), format!("config {text}").as_bytes()).expect("a blob");
    ImageRecord {
        manifest: Descriptor::new(media_type::OCI_MANIFEST, manifest, size),
        config,
        top: top.cloned(),
        platform: Platform::normalised("linux", "arm", "v7"),
        created: time(7),
        size_bytes: 12,
    }
}

/// An index of images, as text. Each is for the platform that its record says.
pub fn index(members: &[&ImageRecord]) -> String {
    let entry =
        |member: &&ImageRecord| Descriptor { platform: Some(member.platform.clone()), ..member.manifest.clone() };
    serde_json::to_string(&Index::new(members.iter().map(entry).collect())).expect("plain data becomes JSON")
}

/// Remembers the results of a definition key; the operation is of no concern.
pub fn remember(store: &Store, key: &Key, parts: &[Part], results: &[ResultId]) -> Result<(), StoreError> {
    let record = Record { kind: KeyKind::Definition, operation: Key([0; 32]), parts, results };
    store.record(key, &record)
}
