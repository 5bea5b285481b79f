//! What is put in comes out: layers, keys, images, blobs and what is known of them.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use oci::content::{ContentError, ContentStore, put_bytes};
use oci::model::{Descriptor, Digest, chain_ids, media_type};
use rbuild_store::{ImageRecord, Store, StoreError};
use solver::seam::ResultId;

use crate::support::{built, content, diff, image, key, name, parts, place, remember, time};

#[test]
fn a_store_is_for_its_user_alone_whatever_was_there() {
    let place = place();
    std::fs::create_dir_all(&place.root).unwrap();
    std::fs::set_permissions(&place.root, PermissionsExt::from_mode(0o777)).unwrap();
    let store = place.open();
    let draft = store.draft().unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&place.root), 0o700);
    for folder in ["blobs", "blobs/sha256", "layers", "records", "images", "tmp", "trash"] {
        assert_eq!(mode(&place.root.join(folder)), 0o700, "{folder}");
    }
    for file in ["index.db", "lock", "index.lock"] {
        assert_eq!(mode(&place.root.join(file)) & 0o077, 0, "{file}");
    }
    // The root directory of an image is what everybody in it must pass.
    assert_eq!(mode(draft.fs()), 0o755);
    assert_eq!(store.notices(), [] as [String; 0]);
}

#[test]
fn a_directory_with_other_contents_is_refused_and_left_as_it_is() {
    let place = place();
    std::fs::create_dir_all(&place.root).unwrap();
    std::fs::write(place.root.join("letter"), "x").unwrap();
    std::fs::set_permissions(&place.root, PermissionsExt::from_mode(0o755)).unwrap();
    let error = Store::open(&place.root).unwrap_err();
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error}");
    assert_eq!(place.names("."), ["letter"]);
    assert_eq!(std::fs::metadata(&place.root).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn built_layers_stand_on_each_other_and_empty_ones_have_no_tree() {
    let place = place();
    let store = place.open();
    let bottom = built(&store, None, "one");
    let empty = store.add_built_layer(Some(&bottom), None, time(2)).unwrap();
    let top = built(&store, Some(&empty), "two");
    assert_eq!(place.names("tmp"), [] as [&str; 0], "drafts are gone");
    assert_eq!(content(&store, &top), "two");
    let chain = place.open().chain(&top).unwrap();
    assert_eq!(chain.iter().map(|layer| &layer.id).collect::<Vec<_>>(), [&bottom, &empty, &top]);
    assert_eq!(chain.iter().map(|layer| layer.empty).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(chain[1].name, None);
    assert_eq!(chain[1].created, time(2));
    assert!(chain[0].name.as_ref().is_some_and(|name| name.len() == 8), "short enough for mount options");
    let stranger = ResultId("b-stranger".into());
    assert!(matches!(store.chain(&stranger), Err(StoreError::NoSuchLayer { id }) if id == stranger));
    let error = store.add_built_layer(Some(&stranger), Some(store.draft().unwrap()), time(1)).unwrap_err();
    assert!(matches!(error, StoreError::NoSuchLayer { .. }), "{error}");
    assert_eq!(place.names("layers").len(), 2, "what could not be recorded leaves no tree");
    assert_eq!(place.names("records").len(), 3);
}

#[test]
fn a_dropped_draft_leaves_nothing() {
    let place = place();
    let store = place.open();
    let draft = store.draft().unwrap();
    std::fs::create_dir_all(draft.fs().join("a/b")).unwrap();
    std::fs::create_dir(draft.work().join("work")).unwrap();
    std::fs::set_permissions(draft.work().join("work"), PermissionsExt::from_mode(0o000)).unwrap();
    drop(draft);
    assert_eq!(place.names("tmp"), [] as [&str; 0]);
    assert_eq!(place.names("trash"), [] as [&str; 0]);
}

#[test]
fn chain_ids_become_known_from_below_whatever_the_order() {
    let store_place = place();
    let store = store_place.open();
    let scratch_empty = store.add_built_layer(None, None, time(1)).unwrap();
    let a = built(&store, Some(&scratch_empty), "a");
    let empty = store.add_built_layer(Some(&a), None, time(1)).unwrap();
    let b = built(&store, Some(&empty), "b");
    let chain_of = |id: &ResultId| store.layer(id).unwrap().unwrap().chain_id;
    store.set_diff_id(&b, diff("b"), 20).unwrap();
    assert_eq!(chain_of(&b), None);
    store.set_diff_id(&a, diff("a"), 10).unwrap();
    let expected = chain_ids(&[diff("a"), diff("b")]);
    assert_eq!(chain_of(&scratch_empty), None);
    assert_eq!(chain_of(&a), Some(expected[0]));
    assert_eq!(chain_of(&empty), Some(expected[0]));
    assert_eq!(chain_of(&b), Some(expected[1]));
    assert_eq!(store.layer_by_chain(&expected[1]).unwrap(), Some(b.clone()));
    assert_eq!(store.layer_by_chain(&expected[0]).unwrap(), Some(a.clone()), "never an empty one");
    assert_eq!(store.layer(&b).unwrap().unwrap().tar_bytes, Some(20));
    store.set_diff_id(&b, diff("b"), 20).unwrap();
    let error = store.set_diff_id(&b, diff("other"), 20).unwrap_err();
    assert!(matches!(error, StoreError::DiffIdDiffers { .. }), "{error}");
    assert!(matches!(store.set_diff_id(&empty, diff("x"), 1), Err(StoreError::EmptyLayer { .. })));
}

#[test]
fn a_pulled_layer_is_one_record_however_often_it_is_added() {
    let place = place();
    let store = place.open();
    let blob = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(b"blob"), 4);
    let bottom = store.add_pulled_layer(None, diff("a"), time(1), None, None).unwrap();
    let again = store.add_pulled_layer(None, diff("a"), time(9), Some(&blob), Some(&name("debian:12"))).unwrap();
    assert_eq!(bottom, again);
    let layer = store.layer(&bottom).unwrap().unwrap();
    assert_eq!((layer.created, layer.blob, layer.name), (time(1), Some(blob.clone()), None));
    let top = store.add_pulled_layer(Some(&bottom), diff("b"), time(1), None, None).unwrap();
    let chain = chain_ids(&[diff("a"), diff("b")]);
    assert_eq!(top, ResultId(format!("c-{}", chain[1].hex())));
    assert_eq!(store.layer_by_chain(&chain[1]).unwrap(), Some(top));
    assert_eq!(store.blob_sources(&blob.digest).unwrap(), [name("debian:12")]);

    let unknown = built(&store, None, "x");
    let error = store.add_pulled_layer(Some(&unknown), diff("b"), time(1), None, None).unwrap_err();
    assert!(matches!(error, StoreError::UnknownChain { id } if id == unknown));
}

#[test]
fn the_first_tree_of_a_pulled_layer_stays() {
    let place = place();
    let (one, two) = (place.open(), place.open());
    let id = one.add_pulled_layer(None, diff("a"), time(1), None, None).unwrap();
    let attach = |store: &Store, text: &str| {
        let draft = store.draft().unwrap();
        std::fs::write(draft.fs().join("file"), text).unwrap();
        store.attach_tree(&id, draft).unwrap();
    };
    attach(&one, "first");
    attach(&two, "second");
    assert_eq!(content(&two, &id), "first");
    assert_eq!(place.names("layers").len(), 1);
    assert_eq!(place.names("tmp"), [] as [&str; 0]);
    let tree = one.layer(&id).unwrap().unwrap().name.unwrap();
    std::fs::remove_dir_all(place.root.join("layers").join(tree)).unwrap();
    assert_eq!(one.layer(&id).unwrap().unwrap().name, None, "a tree that is gone is not offered");
    attach(&two, "third");
    assert_eq!(content(&one, &id), "third");
    let empty = one.add_built_layer(None, None, time(1)).unwrap();
    assert!(matches!(one.attach_tree(&empty, one.draft().unwrap()), Err(StoreError::EmptyLayer { .. })));
}

#[test]
fn a_key_leads_to_its_results_while_they_are_there() {
    let place = place();
    let store = place.open();
    let (a, b) = (built(&store, None, "a"), built(&store, None, "b"));
    assert_eq!(store.lookup(&key("k")).unwrap(), None);
    remember(&store, &key("k"), &parts("make"), std::slice::from_ref(&a)).unwrap();
    remember(&store, &key("k"), &parts("make it"), &[a.clone(), b.clone()]).unwrap();
    let other = place.open();
    assert_eq!(other.lookup(&key("k")).unwrap(), Some(vec![a.clone(), b.clone()]));
    assert_eq!(other.key_parts(&key("k")).unwrap(), Some(parts("make it")));
    remember(&other, &key("gone"), &[], &[a, ResultId("b-never".into())]).unwrap();
    assert_eq!(other.lookup(&key("gone")).unwrap(), None);
    // Somebody removes a tree by hand: the step runs again rather than being served air.
    let tree = store.layer(&b).unwrap().unwrap().name.unwrap();
    std::fs::remove_dir_all(place.root.join("layers").join(tree)).unwrap();
    assert_eq!(store.lookup(&key("k")).unwrap(), None);
}

#[test]
fn blobs_are_visible_once_they_are_whole_and_right() {
    let place = place();
    let store = place.open();
    let blobs = store.blobs();
    let digest = Digest::of(b"hello");
    let mut writer = blobs.writer().unwrap();
    writer.write_all(b"hel").unwrap();
    writer.write_all(b"lo").unwrap();
    assert!(blobs.open(&digest).unwrap().is_none());
    let wrong = writer.commit(Some(&Digest::of(b"other"))).unwrap_err();
    assert!(matches!(wrong, ContentError::WrongDigest { actual, .. } if actual == digest), "{wrong}");
    drop(blobs.writer().unwrap());
    assert_eq!((place.names("blobs/sha256"), place.names("tmp")), (vec![], vec![]), "nothing is kept");
    for _ in 0..2 {
        assert_eq!(put_bytes(blobs, b"hello").unwrap(), (digest, 5));
    }
    let mut blob = blobs.open(&digest).unwrap().unwrap();
    assert_eq!(blob.size(), 5);
    assert_eq!(std::io::read_to_string(&mut blob).unwrap(), "hello");
    assert_eq!((place.names("blobs/sha256"), place.names("tmp")), (vec![digest.hex()], vec![]));
}

#[test]
fn a_damaged_blob_is_put_aside_or_replaced() {
    let place = place();
    let store = place.open();
    let (digest, _) = put_bytes(store.blobs(), b"hello").unwrap();
    let path = store.blobs().path(&digest);
    for damaged in ["hellx", "hello!"] {
        std::fs::write(&path, damaged).unwrap();
        put_bytes(store.blobs(), b"hello").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello", "{damaged}");
    }
    assert!(store.blobs().verify(&digest).unwrap());
    std::fs::write(&path, "hellx").unwrap();
    assert!(!store.blobs().verify(&digest).unwrap());
    assert!(store.blobs().open(&digest).unwrap().is_none());
}

#[test]
fn a_compressed_layer_counts_while_its_blob_is_there() {
    let place = place();
    let store = place.open();
    let (digest, size) = put_bytes(store.blobs(), b"tar.gz").unwrap();
    let blob = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size);
    store.add_blob_variant(&diff("a"), "gzip-6-1", &blob).unwrap();
    assert_eq!(store.blob_variant(&diff("a"), "gzip-6-1").unwrap(), Some(blob));
    assert_eq!(store.blob_variant(&diff("a"), "zstd-3-1").unwrap(), None);
    std::fs::remove_file(store.blobs().path(&digest)).unwrap();
    assert_eq!(store.blob_variant(&diff("a"), "gzip-6-1").unwrap(), None);
}

#[test]
fn one_name_per_repository_is_remembered_for_a_blob() {
    let place = place();
    let store = place.open();
    let digest = Digest::of(b"x");
    for (text, is_new) in [("debian:12", true), ("debian:11", false), ("localhost:5000/debian:12", true)] {
        assert_eq!(store.add_blob_source(&digest, &name(text)).unwrap(), is_new, "{text}");
    }
    assert_eq!(store.blob_sources(&digest).unwrap(), [name("debian:12"), name("localhost:5000/debian:12")]);
}

#[test]
fn names_move_between_images_and_can_be_taken_away() {
    let place = place();
    let store = place.open();
    let top = built(&store, None, "x");
    let (old, new) = (image(&store, "old", Some(&top)), image(&store, "new", None));
    store.tag(&name("app:1"), &old).unwrap();
    store.tag(&name("app:2"), &old).unwrap();
    store.tag(&name("app:1"), &ImageRecord { created: time(99), ..old.clone() }).unwrap();
    assert_eq!(store.image(&name("app:1")).unwrap(), Some(old.clone()), "the same image again changes nothing");
    store.tag(&name("app:2"), &ImageRecord { top: None, ..old.clone() }).unwrap();
    assert_eq!(store.image(&name("app:2")).unwrap(), Some(old.clone()), "nor are its layers forgotten");
    store.tag(&name("app:1"), &new).unwrap();
    let other = place.open();
    assert_eq!(other.images().unwrap(), [(name("app:1"), new.clone()), (name("app:2"), old.clone())]);
    assert_eq!(other.image_names(&old.manifest.digest).unwrap(), [name("app:2")]);
    assert!(other.untag(&name("app:1")).unwrap());
    assert!(!other.untag(&name("app:1")).unwrap());
    assert_eq!(store.image(&name("app:1")).unwrap(), None);
    assert_eq!(store.image_by_digest(&new.manifest.digest).unwrap(), Some(new.clone()), "it is nameless, not gone");
    assert_eq!(store.nameless_images().unwrap(), std::slice::from_ref(&new));
    assert_eq!(store.remove_image(&new.manifest.digest).unwrap(), []);
    assert_eq!(store.remove_image(&old.manifest.digest).unwrap(), [name("app:2")]);
    assert_eq!((store.images().unwrap(), store.nameless_images().unwrap()), (vec![], vec![]));
    assert_eq!(place.names("images"), [] as [&str; 0], "nor does a rebuilt index know them");
    assert!(store.blobs().verify(&new.config).unwrap(), "what others may use stays");
}

#[test]
fn people_find_images_by_name_id_digest_and_beginning_of_id() {
    let place = place();
    let store = place.open();
    let (one, two) = (image(&store, "one", None), image(&store, "two", None));
    store.tag(&name("app:1"), &one).unwrap();
    store.add_image(&two).unwrap();
    let found = |text: &str| store.find_image(text).unwrap().map(|found| (found.image.config, found.name.is_some()));
    assert_eq!(found("app:1"), Some((one.config, true)));
    assert_eq!(found("docker.io/library/app:1"), Some((one.config, true)));
    assert_eq!(found("app:2"), None);
    for image in [&one, &two] {
        let id = image.config.hex();
        for text in [&id, &id[..12], &format!("sha256:{id}"), &format!("sha256:{}", &id[..6])] {
            assert_eq!(found(text), Some((image.config, false)), "{text}");
        }
        assert_eq!(found(&image.manifest.digest.to_string()), Some((image.config, false)));
    }
    assert_eq!(found(&one.config.hex()[..3]), None, "three digits are a name");
    assert_eq!(found(&"f".repeat(64)), None);
    let names = store.find_image(&one.config.hex()).unwrap().unwrap().names;
    assert_eq!(names, [name("app:1")]);
    // The image is looked for among all ids: find two that begin alike.
    let mut begun = std::collections::HashMap::new();
    let twin = (0..).find_map(|i: u32| {
        let digits = Digest::of(format!("config {i}").as_bytes()).hex()[..4].to_owned();
        begun.insert(digits.clone(), i).map(|earlier| (digits, earlier, i))
    });
    let (digits, first, second) = twin.unwrap();
    for i in [first, second] {
        store.add_image(&image(&store, &i.to_string(), None)).unwrap();
    }
    let error = store.find_image(&digits).unwrap_err();
    assert!(matches!(&error, StoreError::AmbiguousId { candidates, .. } if candidates.len() == 2), "{error}");
}
