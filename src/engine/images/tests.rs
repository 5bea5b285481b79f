//! Archives in, images out, archives again; and what must not happen on the way.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use oci::model::{Digest, ImageConfig, Platform, Reference};
use solver::seam::{Event, Progress};
use store::Store;
use tokio_util::sync::CancellationToken;

use super::{Removed, import, list, load, remove, save};
use crate::engine::{Failure, FailureKind, Settings};
use crate::options::output::{ArchiveFormat, ArchiveOutput, Dest, ImageForm};

/// Listens and forgets nothing.
#[derive(Default)]
struct Ears(Mutex<Vec<Event>>);

impl Progress for Ears {
    fn event(&self, event: Event) {
        self.0.lock().expect("nobody panics here").push(event);
    }
}

fn nobody() -> Arc<dyn Progress> {
    Arc::new(Ears::default())
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// The settings for one of several stores.
    fn store(&self, name: &str) -> Settings {
        Settings {
            root: self.dir.path().join(name),
            registries: Default::default(),
            offline: false,
            foreign_layers: false,
            max_size: None,
            keep_free: None,
            at_least: None,
            mounts_max_size: None,
            keep_for: None,
            rung: executor::isolation::Rung::Full,
            network: Default::default(),
            native_platform: Platform::normalised("linux", "arm64", ""),
            user: None,
            history: crate::engine::HistorySettings { keep: 0, log_max_bytes: 0 },
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn name(text: &str) -> Reference {
    text.parse().expect("an image name")
}

/// A small root file system; `order` permutes its members.
fn rootfs(order: [usize; 3]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for member in order {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_600_000_000);
        header.set_uid(7);
        header.set_gid(8);
        let (path, data): (&str, &[u8]) = match member {
            0 => ("etc/", b""),
            1 => ("etc/motd", b"welcome\n"),
            _ => ("init", b"#!/bin/sh\n"),
        };
        header.set_entry_type(if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(0o755);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, path, data).expect("in memory");
    }
    tar.into_inner().expect("in memory")
}

async fn imported(settings: &Settings, file: &Path, as_name: &str) -> Result<Digest, Failure> {
    import(settings, Some(file), &name(as_name), None, nobody(), CancellationToken::new()).await
}

fn message(failure: &Failure) -> String {
    let problem = &failure.problems[0];
    format!("{} | {} | {}", problem.message, problem.notes.join(" "), problem.help.as_deref().unwrap_or_default())
}

#[tokio::test]
async fn an_import_depends_on_the_tree_and_not_on_how_it_was_packed() {
    let place = Place::new();
    let settings = place.store("store");
    let plain = place.file("plain.tar", &rootfs([0, 1, 2]));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&rootfs([2, 0, 1])).expect("in memory");
    let packed = place.file("packed.tar.gz", &gzip.finish().expect("in memory"));
    let id = imported(&settings, &plain, "base:1").await.unwrap();
    assert_eq!(imported(&settings, &packed, "base:2").await.unwrap(), id);

    let store = Store::open(&settings.root).unwrap();
    let image = store.image(&name("base:1")).unwrap().unwrap();
    let bytes = std::fs::read(store.blobs().path(&image.config)).unwrap();
    let config: ImageConfig = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((config.os.as_str(), config.architecture.as_str()), ("linux", "arm64"));
    assert_eq!(config.history.len(), 1);
    assert_eq!((config.history[0].created_by.as_str(), config.history[0].empty_layer), ("IMPORT", false));
    let layers = store.chain(&image.top.unwrap()).unwrap();
    assert_eq!(layers.len(), 1);
    assert_eq!(layers[0].diff_id, Some(config.rootfs.diff_ids[0]));
    let tree = store.layers_dir().join(layers[0].name.as_ref().unwrap());
    assert_eq!(std::fs::read_to_string(tree.join("etc/motd")).unwrap(), "welcome\n");
}

#[tokio::test]
async fn an_archive_that_is_none_or_half_of_one_leaves_no_image() {
    let place = Place::new();
    let settings = place.store("store");
    let whole = rootfs([0, 1, 2]);
    let check = async |file: &str, bytes: &[u8]| {
        let path = place.file(file, bytes);
        let failure = imported(&settings, &path, "base").await.unwrap_err();
        assert!(message(&failure).contains(file), "{}", message(&failure));
    };
    check("text", b"this is not an archive, and long enough that nobody takes it for an empty one").await;
    check("half.tar", &whole[..700]).await;
    check("no-end.tar", &whole[..whole.len() - 1024]).await;
    check("half.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1]).await;
    let missing = imported(&settings, &place.path("missing.tar"), "base").await.unwrap_err();
    assert!(message(&missing).contains("missing.tar"), "{}", message(&missing));
    assert_eq!(list(&settings, nobody()).await.unwrap(), []);
    for folder in ["tmp", "layers", "trash"] {
        assert_eq!(std::fs::read_dir(settings.root.join(folder)).unwrap().count(), 0, "{folder}");
    }
}

#[tokio::test]
async fn a_canceled_import_leaves_nothing() {
    let place = Place::new();
    let settings = place.store("store");
    let file = place.file("base.tar", &rootfs([0, 1, 2]));
    let cancel = CancellationToken::new();
    cancel.cancel();
    let failure = import(&settings, Some(&file), &name("base"), None, nobody(), cancel).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Canceled);
    assert_eq!(list(&settings, nobody()).await.unwrap(), []);
    assert_eq!(std::fs::read_dir(settings.root.join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_name_goes_alone_until_it_is_the_last() {
    let place = Place::new();
    let settings = place.store("store");
    let file = place.file("base.tar", &rootfs([0, 1, 2]));
    let id = imported(&settings, &file, "base:1").await.unwrap();
    imported(&settings, &file, "base:2").await.unwrap();
    let run = async |images: &[&str]| {
        let images: Vec<String> = images.iter().map(|&image| image.to_owned()).collect();
        remove(&settings, &images, nobody()).await
    };
    let names = async || -> Vec<String> {
        let listed = list(&settings, nobody()).await.unwrap();
        listed.iter().map(|image| image.name.as_ref().map_or_else(String::new, Reference::familiar)).collect()
    };
    let short = &id.hex()[..12];
    let failure = run(&["base:1", short]).await.unwrap_err();
    assert!(message(&failure).contains("base:1, base:2"), "{}", message(&failure));
    let failure = run(&["base:1", "nothing:1"]).await.unwrap_err();
    assert!(message(&failure).contains("`nothing:1`"), "{}", message(&failure));
    assert_eq!(names().await, ["base:1", "base:2"], "a refusal removes nothing");
    let name = |name: &str| Removed::Name(name.parse().expect("a name"));
    assert_eq!(run(&["base:1", "base:1"]).await.unwrap(), [name("base:1")]);
    assert_eq!(run(&[short]).await.unwrap(), [name("base:2"), Removed::Image(id)]);
    assert_eq!(names().await, [] as [&str; 0]);
}

#[tokio::test]
async fn what_is_saved_loads_elsewhere_as_the_same_image() {
    let place = Place::new();
    let settings = place.store("store");
    let file = place.file("base.tar", &rootfs([0, 1, 2]));
    let id = imported(&settings, &file, "base:1").await.unwrap();
    imported(&settings, &file, "team/base:latest").await.unwrap();
    for (format, store) in [(ArchiveFormat::Oci, "oci"), (ArchiveFormat::Docker, "docker")] {
        let to = |path: PathBuf| ArchiveOutput { form: ImageForm::default(), format, dest: Dest::File(path) };
        let archive = place.path(&format!("{store}.tar"));
        let output = to(archive.clone());
        let images = [name("base:1"), name("team/base")];
        save(&settings, &images, None, &output, nobody(), CancellationToken::new()).await.unwrap();
        let elsewhere = place.store(store);
        for _ in 0..2 {
            let loaded = load(&elsewhere, Some(&archive), nobody(), CancellationToken::new()).await.unwrap();
            let loaded: Vec<_> = loaded.into_iter().map(|image| (image.name, image.id)).collect();
            assert_eq!(loaded, [(Some(name("base:1")), id), (Some(name("team/base")), id)], "{store}");
        }
        let listed = list(&elsewhere, nobody()).await.unwrap();
        assert_eq!(listed.len(), 2);
        // A docker archive is an OCI layout too; unpacked, both are one in a directory.
        let layout = place.path(&format!("{store}.d"));
        tar::Archive::new(std::fs::File::open(&archive).unwrap()).unpack(&layout).unwrap();
        let from_directory = place.store(&format!("{store}-from-directory"));
        let loaded = load(&from_directory, Some(&layout), nobody(), CancellationToken::new()).await.unwrap();
        assert_eq!(loaded.len(), 2, "{store}");
        assert!(loaded.iter().all(|image| image.id == id), "{store}");
        // Nothing but the archive was needed: out again it goes.
        let again = to(place.path("again.tar"));
        save(&elsewhere, &[name("base:1"), name("team/base")], None, &again, nobody(), CancellationToken::new())
            .await
            .unwrap();
        assert_eq!(std::fs::read(place.path("again.tar")).unwrap(), std::fs::read(&archive).unwrap(), "{store}");
    }
}

#[tokio::test]
async fn what_is_no_archive_of_images_is_not_loaded() {
    let place = Place::new();
    let settings = place.store("store");
    let check = async |file: &str, bytes: &[u8]| {
        let path = place.file(file, bytes);
        let failure = load(&settings, Some(&path), nobody(), CancellationToken::new()).await.unwrap_err();
        assert!(message(&failure).contains(file), "{}", message(&failure));
    };
    check("text", b"this is not an archive, and long enough that nobody takes it for an empty one").await;
    check("rootfs.tar", &rootfs([0, 1, 2])).await;
    assert_eq!(list(&settings, nobody()).await.unwrap(), []);
}
