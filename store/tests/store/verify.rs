//! Bit rot: one byte flipped in each kind of file is found and named, and what is healthy stays untouched.

use std::collections::BTreeMap;
use std::path::Path;

use oci::content::{ContentStore as _, put_bytes};
use oci::model::{Descriptor, media_type};
use rbuild_store::{Damage, Imported, Kind, MountKey, MountWish, Node, NodeEntry, NodeKind, Store, Taken};
use solver::key::ContentDigest;
use solver::op::CacheSharing;

use crate::support::{Place, built, diff, image, key, name, parts, place, remember, time};

/// A store with some of everything.
fn filled() -> Place {
    let place = place();
    let store = place.open();
    let (digest, size) = put_bytes(store.blobs(), b"a pulled layer").unwrap();
    let blob = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size);
    let base =
        store.add_pulled_layer(None, diff("base"), time(1), Some(&blob), Some(&name("registry.example/base"))).unwrap();
    let top = built(&store, Some(&base), "top");
    store.set_diff_id(&top, diff("top"), 7).unwrap();
    store.set_content(&top, ContentDigest([3; 32])).unwrap();
    remember(&store, &key("k"), &parts("v"), std::slice::from_ref(&top)).unwrap();
    remember(&store, &key("k"), &parts("w"), std::slice::from_ref(&top)).unwrap();
    store.tag(&name("app:1"), &image(&store, "app", Some(&top))).unwrap();
    store.tag(&name("app:2"), &image(&store, "app", Some(&top))).unwrap();
    store.add_image(&image(&store, "nameless", Some(&base))).unwrap();
    let derived = store.derive_layer(None, &top, None, true).unwrap();
    assert_ne!(derived, top);
    let entry = NodeEntry {
        name: b"f".to_vec(),
        mode: 0o644,
        owner: (0, 0),
        attributes: None,
        what: NodeKind::Link(b"target".to_vec()),
    };
    let node = Node::directory([entry].iter());
    store.keep_nodes(&node.digest, std::iter::once(node.clone())).unwrap();
    store.sync().unwrap();
    drop(store);
    place
}

/// A note of each kind, what is remembered of a context, and a cache mount.
fn with_files(place: &Place) {
    let store = place.open();
    store.set_note("http", "https://host/file", r#"{"etag":"x"}"#).unwrap();
    store.set_note("tag", "registry.example/app:1", &oci::model::Digest::of(b"manifest").to_string()).unwrap();
    store.set_context(b"/home/u/project", |out| out.write_all(b"what is known")).unwrap();
    let key = MountKey { id: "/root/.cache".into(), seed: String::new() };
    let wishes = [MountWish { key, sharing: CacheSharing::Shared }];
    let Taken::All(_) = store.take_mounts(&wishes, &mut BTreeMap::new(), None).unwrap() else { panic!("it is free") };
}

fn verify(store: &Store) -> Vec<Damage> {
    let mut damages = store.verify_records().unwrap();
    damages.extend(store.verify_blobs(2, &|_| {}).unwrap());
    damages
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 0x01;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_fresh_store_and_a_used_one_are_whole() {
    let place = place();
    assert_eq!(verify(&place.open()), []);
    let place = filled();
    assert_eq!(verify(&place.open()), []);
    assert_eq!(verify(&place.open_in("boot-2")), [], "after a reboot too");
}

#[test]
fn what_was_learned_anew_and_names_that_moved_are_no_damage() {
    let place = place();
    let store = place.open();
    let of_a_cache = |bytes: &[u8]| Imported {
        tar: Some((diff("imported"), {
            let digest = oci::model::Digest::of(bytes);
            Descriptor::new(media_type::OCI_LAYER_GZIP, digest, bytes.len() as u64)
        })),
        content: None,
        made: time(1).into(),
    };
    for bytes in [b"one blob", b"or other"] {
        store.add_imported_layer(None, &of_a_cache(bytes)).unwrap();
    }
    for text in ["one", "other"] {
        store.tag(&name("moved:1"), &image(&store, text, None)).unwrap();
    }
    assert_eq!(verify(&store), []);
}

#[test]
fn every_flipped_byte_of_a_blob_is_found_and_the_blob_dropped() {
    let place = filled();
    for blob in place.names("blobs/sha256") {
        let path = place.root.join("blobs/sha256").join(&blob);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            flip(&path, at);
            let store = place.open();
            let damages = verify(&store);
            assert_eq!(damages.len(), 1, "{damages:?}");
            assert_eq!((damages[0].kind, &damages[0].name), (Kind::Blob, &blob));
            assert!(!damages[0].used_by.is_empty() && damages[0].healed.is_some(), "{damages:?}");
            assert!(!path.exists(), "from now on it is missing");
            std::fs::write(&path, &whole).unwrap();
        }
    }
}

#[test]
fn flipped_bytes_of_record_and_image_files_are_found_and_the_file_written_anew() {
    // Every so many bytes: all columns of all facts are met.
    const STRIDE: usize = 11;
    let place = filled();
    let store = place.open();
    for (folder, kind) in [("records", Kind::Layer), ("images", Kind::Image)] {
        for file in place.names(folder) {
            let path = place.root.join(folder).join(&file);
            let whole = std::fs::read(&path).unwrap();
            for at in (0..whole.len()).step_by(STRIDE) {
                std::fs::write(&path, &whole).unwrap();
                // Line breaks between facts say nothing: a torn line is skipped.
                if whole[at] == b'\n' {
                    continue;
                }
                flip(&path, at);
                let damages = store.verify_records().unwrap();
                let is_superseded = superseded(&whole, at);
                if is_superseded && damages.is_empty() {
                    continue;
                }
                assert_eq!(damages.len(), 1, "{folder}/{file} at {at}: {}", String::from_utf8_lossy(&whole));
                assert_eq!(damages[0].kind, kind);
                assert_eq!(store.verify_records().unwrap(), [], "written anew");
            }
        }
    }
    drop(store);
    // What was written anew serves a rebuild as well as what was there.
    std::fs::remove_file(place.root.join("index.db")).unwrap();
    let store = place.open();
    assert!(store.lookup(&key("k")).unwrap().is_some());
    assert_eq!(store.images().unwrap().len(), 2);
    assert_eq!(verify(&store), []);
}

/// Whether a byte belongs to a fact that a later line replaced, to where a blob can be had (a hint), or to the time of an
/// image, which its name and the image may say differently.
fn superseded(bytes: &[u8], at: usize) -> bool {
    let begin = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |found| found + 1);
    let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |found| at + found);
    let line = String::from_utf8_lossy(&bytes[begin..end]);
    line.starts_with("{\"source\"") || line.contains("{\"key\"") || line.contains("\"tag\"")
}

#[test]
fn a_missing_file_is_found_too() {
    for (folder, kind, least) in
        [("records", Kind::Layer, 3), ("images", Kind::Image, 2), ("blobs/sha256", Kind::Blob, 4)]
    {
        let place = filled();
        let mut named = 0;
        for file in place.names(folder) {
            std::fs::remove_file(place.root.join(folder).join(&file)).unwrap();
            let damages = verify(&place.open());
            assert!(damages.iter().all(|damage| damage.kind == kind), "{damages:?}");
            named += damages.len();
        }
        // A pulled layer's blob can be fetched again, and an image without a name may have no file.
        assert!(named >= least, "{folder}: {named}");
    }
}

#[test]
fn a_damaged_node_is_dropped_and_a_damaged_index_is_rebuilt_by_the_next_start() {
    let place = filled();
    let index = rusqlite::Connection::open(place.root.join("index.db")).unwrap();
    index.execute("UPDATE nodes SET body = x'00'", []).unwrap();
    drop(index);
    let damages = verify(&place.open());
    assert_eq!(damages.iter().map(|damage| damage.kind).collect::<Vec<_>>(), [Kind::Node]);
    assert_eq!(verify(&place.open()), []);
}

#[test]
fn a_damaged_tree_goes_from_its_layer_and_not_under_a_running_build() {
    let place = filled();
    let busy = place.open();
    let top = busy.lookup(&key("k")).unwrap().expect("it is known").remove(0);
    let store = place.open();
    assert!(!store.drop_tree(&top).unwrap(), "somebody uses it");
    drop(busy);
    assert_eq!(store.users_of_layer(&top).unwrap(), ["image docker.io/library/app:1", "image docker.io/library/app:2"]);
    assert!(store.drop_tree(&top).unwrap());
    assert!(place.open().lookup(&key("k")).unwrap().is_none(), "the step runs again");
}

#[test]
fn what_stands_on_a_damaged_tree_is_built_again_with_it() {
    let place = place();
    let store = place.open();
    let below = built(&store, None, "below");
    let above = built(&store, Some(&below), "above");
    remember(&store, &key("below"), &parts("x"), std::slice::from_ref(&below)).unwrap();
    remember(&store, &key("above"), &parts("x"), std::slice::from_ref(&above)).unwrap();
    let apart = built(&store, None, "apart");
    remember(&store, &key("apart"), &parts("x"), std::slice::from_ref(&apart)).unwrap();
    assert!(store.drop_tree(&below).unwrap());
    let knows = |text: &str| store.lookup(&key(text)).unwrap().is_some();
    assert!(!knows("below") && !knows("above") && knows("apart"));
}

#[test]
fn damaged_notes_and_contexts_are_dropped_and_cache_mounts_say_again_what_they_are() {
    type Harm = fn(&Path);
    let check = |folder: &str, file: &str, harm: Harm, kind: Kind, stays: bool| {
        let place = place();
        with_files(&place);
        assert_eq!(verify(&place.open()), [], "whole as it is");
        let dir = place.root.join(folder);
        let first = dir.join(place.names(folder).remove(0));
        let path = if file.is_empty() { first } else { first.join(file) };
        harm(&path);
        let damages = verify(&place.open());
        assert_eq!(damages.iter().map(|damage| damage.kind).collect::<Vec<_>>(), [kind], "{damages:?}");
        assert!(damages[0].healed.is_some());
        assert_eq!(path.exists(), stays, "{}", path.display());
        assert_eq!(verify(&place.open()), [], "healed");
        place
    };
    let flip_first: Harm = |path| flip(path, 0);
    let flip_last: Harm = |path| flip(path, usize::MAX - 7);
    let empty: Harm = |path| std::fs::write(path, "").unwrap();
    let link: Harm = |path| {
        std::fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
    };
    for harm in [flip_first, empty, link] {
        check("notes/http", "", harm, Kind::Note, false);
        check("notes/tag", "", harm, Kind::Note, false);
    }
    for harm in [flip_first, flip_last, empty, link] {
        check("contexts", "", harm, Kind::Context, false);
    }
    for harm in [flip_first, empty, link, |path| std::fs::remove_file(path).unwrap()] {
        let place = check("mounts", "about.json", harm, Kind::Mount, true);
        // What it says serves an index that is made anew.
        std::fs::remove_file(place.root.join("index.db")).unwrap();
        assert_eq!(place.open().mounts().unwrap()[0].key.id, "/root/.cache");
    }
    let place = check("mounts", "", |path| std::fs::remove_dir_all(path).unwrap(), Kind::Mount, false);
    assert_eq!(place.open().mounts().unwrap(), []);
}

#[test]
fn a_flipped_byte_of_the_index_is_found_by_its_own_check_and_the_next_start_makes_it_anew() {
    let place = filled();
    let path = place.root.join("index.db");
    let mut healed = 0;
    let pages = std::fs::metadata(&path).unwrap().len() / 4096;
    // The beginning of a page says where its cells are.
    for page in 2..pages {
        let place = filled();
        let path = place.root.join("index.db");
        let store = place.open();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = usize::try_from(page).unwrap() * 4096;
        bytes[at..at + 8].fill(0xff);
        std::fs::write(&path, &bytes).unwrap();
        // Either its check says so, or a question that met the page. A process that has it open has what it read in
        // memory: then the next one finds it.
        let mut names = false;
        for store in [Some(store), None] {
            let store = store.unwrap_or_else(|| place.open());
            names |= !store.notices().is_empty();
            names |= store.verify_records().map_or(true, |damages| damages.iter().any(|it| it.name == "index.db"));
            if names {
                break;
            }
        }
        assert!(names, "page {page}");
        let store = place.open();
        assert_eq!(store.images().unwrap().len(), 2, "page {page}");
        assert!(store.lookup(&key("k")).unwrap().is_some(), "page {page}");
        assert_eq!(verify(&store), [], "page {page}");
        healed += 1;
    }
    assert!(healed > 10, "{healed}");
}

#[test]
fn a_blob_is_fresh_only_where_it_was_written() {
    let place = place();
    let store = place.open();
    let (digest, _) = put_bytes(store.blobs(), b"a layer").unwrap();
    assert!(store.blobs().is_fresh(&digest) && store.clone().blobs().is_fresh(&digest));
    let other = place.open();
    assert!(!other.blobs().is_fresh(&digest), "another process reads what the disk has");
    // It is there already, and was only compared.
    put_bytes(other.blobs(), b"a layer").unwrap();
    assert!(!other.blobs().is_fresh(&digest));
}
