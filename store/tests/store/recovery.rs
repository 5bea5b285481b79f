//! What is left after a crash, a power loss, or damage; and what a newer store is spared.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use oci::model::{Descriptor, Digest, media_type};
use rbuild_store::{Layer, Store, StoreError};
use solver::key::ContentDigest;
use solver::seam::ResultId;

use crate::support::{Place, built, content, diff, image, key, name, parts, place, remember, time};

/// A store with some of everything, synced and closed; the layers and image that must be there again.
struct Filled {
    pulled: ResultId,
    top: ResultId,
    chain: Vec<Layer>,
}

fn fill(store: &Store) -> Filled {
    let blob = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(b"blob"), 4);
    let pulled = store.add_pulled_layer(None, diff("base"), time(3), None, None).unwrap();
    store.add_pulled_layer(None, diff("base"), time(3), Some(&blob), Some(&name("debian:12"))).unwrap();
    let empty = store.add_built_layer(Some(&pulled), None, time(4)).unwrap();
    let top = built(store, Some(&empty), "built");
    store.set_content(&top, ContentDigest([7; 32])).unwrap();
    store.set_diff_id(&top, diff("built"), 77).unwrap();
    store.attach_tree(&pulled, store.draft().unwrap().with_bytes(4096)).unwrap();
    remember(store, &key("k"), &parts("make"), std::slice::from_ref(&top)).unwrap();
    store.tag(&name("app:1"), &image(store, "app", Some(&top))).unwrap();
    store.add_image(&image(store, "nameless", Some(&pulled))).unwrap();
    // Enough rows that the database has pages beyond its first few.
    for i in 0..50 {
        remember(store, &key(&format!("k{i}")), &parts(&"x".repeat(500)), std::slice::from_ref(&top)).unwrap();
    }
    store.sync().unwrap();
    Filled { chain: store.chain(&top).unwrap(), pulled, top }
}

fn check_all_there(store: &Store, filled: &Filled) {
    assert_eq!(store.chain(&filled.top).unwrap(), filled.chain);
    assert_eq!(content(store, &filled.top), "built");
    assert_eq!(store.lookup(&key("k")).unwrap(), Some(vec![filled.top.clone()]));
    assert_eq!(store.lookup(&key("k49")).unwrap(), Some(vec![filled.top.clone()]));
    assert_eq!(store.key_parts(&key("k")).unwrap(), Some(parts("make")));
    let app = image(store, "app", Some(&filled.top));
    assert_eq!(store.images().unwrap(), [(name("app:1"), app)]);
    let nameless = image(store, "nameless", Some(&filled.pulled));
    assert_eq!(store.image_by_digest(&nameless.config).unwrap(), Some(nameless));
    assert_eq!(store.blob_sources(&Digest::of(b"blob")).unwrap(), [name("debian:12")]);
}

/// Damages the closed index, opens the store, and wants everything back with a notice that says `word`.
fn check_rebuilt(damage: impl Fn(&Path), word: &str) {
    for boot in [crate::support::BOOT, "boot-2"] {
        let place = place();
        let filled = fill(&place.open());
        damage(&place.root.join("index.db"));
        let store = open_after_damage(&place, boot);
        assert_eq!(store.notices().len(), 1, "{:?}", store.notices());
        assert!(store.notices()[0].contains("3 layers, 51 cache keys and 2 images"), "{:?}", store.notices());
        assert!(store.notices()[0].contains(word), "{:?}", store.notices());
        check_all_there(&store, &filled);
        let new = built(&store, Some(&filled.top), "new");
        store.sync().unwrap();
        drop(store);
        let store = place.open_in("boot-3");
        assert_eq!(store.notices(), [] as [String; 0], "it is told once");
        check_all_there(&store, &filled);
        assert_eq!(content(&store, &new), "new");
    }
}

/// Damage inside a page is found when the page is read: that run fails and says so, the next one opens a whole index.
fn open_after_damage(place: &Place, boot: &str) -> Store {
    let store = place.open_in(boot);
    if !store.notices().is_empty() {
        return store;
    }
    let mut found = None;
    for i in 0..50 {
        found = found.or(store.lookup(&key(&format!("k{i}"))).err());
    }
    let found = found.or(store.chain(&ResultId("b-none".into())).err()).or(store.images().err());
    assert!(matches!(found, Some(StoreError::IndexDamaged { .. })), "{found:?}");
    drop(store);
    place.open_in(boot)
}

#[test]
fn a_deleted_index_comes_back() {
    check_rebuilt(|index| std::fs::remove_file(index).unwrap(), "missing");
}

#[test]
fn a_truncated_index_comes_back() {
    let cut =
        |bytes: u64| move |index: &Path| OpenOptions::new().write(true).open(index).unwrap().set_len(bytes).unwrap();
    check_rebuilt(cut(0), "missing");
    check_rebuilt(cut(50), "index.db.damaged-1");
    check_rebuilt(cut(4096), "index.db.damaged-1");
    check_rebuilt(cut(9000), "index.db.damaged-1");
}

#[test]
fn an_index_of_garbage_comes_back() {
    check_rebuilt(|index| std::fs::write(index, "garbage ".repeat(5000)).unwrap(), "index.db.damaged-1");
}

#[test]
fn an_index_with_zeroed_pages_comes_back() {
    let zero = |index: &Path| {
        let file = OpenOptions::new().write(true).open(index).unwrap();
        let len = file.metadata().unwrap().len();
        assert!(len > 12 * 4096, "{len}");
        // All but the first page, which holds the schema.
        file.write_all_at(&vec![0; len as usize - 4096], 4096).unwrap();
    };
    check_rebuilt(zero, "index.db.damaged-1");
}

#[test]
fn a_record_that_cannot_be_read_is_left_out_with_all_that_stands_on_it() {
    let place = place();
    let store = place.open();
    let filled = fill(&store);
    let other = built(&store, None, "other");
    drop(store);
    std::fs::remove_file(place.root.join("index.db")).unwrap();
    let record = place.root.join("records").join(format!("{}.jsonl", filled.pulled));
    std::fs::write(&record, "{\"layer\":{\"id\":\"c-").unwrap();
    let store = place.open();
    let notices = store.notices().join("\n");
    assert!(notices.contains("1 layers, 0 cache keys"), "{notices}");
    assert!(notices.contains("3 layer records and 0 image records could not be used"), "{notices}");
    assert!(notices.contains("2 trees that no record names"), "{notices}");
    assert_eq!(store.layer(&filled.top).unwrap(), None);
    assert_eq!(store.images().unwrap(), []);
    assert_eq!(content(&store, &other), "other");
}

#[test]
fn a_torn_line_loses_only_itself() {
    let place = place();
    let store = place.open();
    let id = built(&store, None, "x");
    let record = place.root.join("records").join(format!("{id}.jsonl"));
    let mut bytes = std::fs::read(&record).unwrap();
    bytes.extend_from_slice(b"\n{\"key\":{\"key\":\"12");
    std::fs::write(&record, bytes).unwrap();
    remember(&store, &key("k"), &parts("make"), std::slice::from_ref(&id)).unwrap();
    drop(store);
    std::fs::remove_file(place.root.join("index.db")).unwrap();
    let store = place.open();
    assert_eq!(content(&store, &id), "x");
    assert_eq!(store.lookup(&key("k")).unwrap(), Some(vec![id]));
}

#[test]
fn an_index_that_others_use_is_not_rebuilt_under_them() {
    let place = place();
    let user = place.open();
    let id = built(&user, None, "x");
    std::fs::rename(place.root.join("index.db"), place.root.join("elsewhere")).unwrap();
    let error = Store::open_in_boot(&place.root, crate::support::BOOT).unwrap_err();
    assert!(matches!(error, StoreError::IndexInUse { .. }), "{error}");
    assert_eq!(content(&user, &id), "x");
    drop(user);
    assert_eq!(content(&place.open(), &id), "x");
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    let place = place();
    drop(place.open().draft().unwrap());
    fill(&place.open());
    let connection = rusqlite::Connection::open(place.root.join("index.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    std::fs::create_dir(place.root.join("tmp/b-something-newer")).unwrap();
    let before = snapshot(&place.root);
    let error = Store::open_in_boot(&place.root, "boot-2").unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 99, .. }), "{error}");
    assert_eq!(snapshot(&place.root), before);
}

/// Every path under a directory, with the bytes of files.
fn snapshot(dir: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path.clone());
                all.insert(path, Vec::new());
            } else {
                all.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

#[test]
fn a_power_loss_takes_what_was_never_synced_and_nothing_else() {
    let place = place();
    let store = place.open();
    let filled = fill(&store);
    let later = built(&store, Some(&filled.top), "later");
    remember(&store, &key("later"), &parts("x"), std::slice::from_ref(&later)).unwrap();
    store.tag(&name("app:2"), &image(&store, "later", Some(&later))).unwrap();
    let lone = store.add_pulled_layer(Some(&filled.pulled), diff("lone"), time(1), None, None).unwrap();
    drop(store);

    let store = place.open();
    assert_eq!(content(&store, &later), "later", "the death of a process takes nothing");
    drop(store);

    let store = place.open_in("boot-2");
    assert_eq!(store.notices().len(), 2, "{:?}", store.notices());
    assert!(store.notices()[0].starts_with("2 layers"), "{:?}", store.notices());
    assert!(store.notices()[1].ends_with(": app:2"), "{:?}", store.notices());
    check_all_there(&store, &filled);
    assert_eq!((store.layer(&later).unwrap(), store.layer(&lone).unwrap()), (None, None));
    assert_eq!(store.lookup(&key("later")).unwrap(), None);
    assert_eq!(place.names("layers").len(), 2);
    assert_eq!(place.names("records").len(), 3);
    assert_eq!(place.names("trash"), [] as [&str; 0]);
    drop(store);

    // A rebuilt index keeps to the same rule: the files say when they were written.
    let store = place.open_in("boot-2");
    let again = built(&store, Some(&filled.top), "again");
    drop(store);
    std::fs::remove_file(place.root.join("index.db")).unwrap();
    let store = place.open_in("boot-3");
    check_all_there(&store, &filled);
    assert_eq!(store.layer(&again).unwrap(), None);
}

#[test]
fn a_tree_that_was_attached_after_the_last_sync_goes_alone() {
    let place = place();
    let store = place.open();
    let id = store.add_pulled_layer(None, diff("a"), time(1), None, None).unwrap();
    store.sync().unwrap();
    store.attach_tree(&id, store.draft().unwrap()).unwrap();
    drop(store);
    let store = place.open_in("boot-2");
    let layer = store.layer(&id).unwrap().unwrap();
    assert_eq!((layer.name, layer.diff_id), (None, Some(diff("a"))));
    assert_eq!(place.names("layers"), [] as [&str; 0]);
    store.attach_tree(&id, store.draft().unwrap()).unwrap();
    store.sync().unwrap();
    drop(store);
    assert!(place.open_in("boot-3").layer(&id).unwrap().unwrap().name.is_some());
}

#[test]
fn what_a_sync_of_another_process_covered_is_covered() {
    let place = place();
    let (one, two) = (place.open(), place.open());
    let a = built(&one, None, "a");
    two.sync().unwrap();
    let b = built(&one, None, "b");
    drop((one, two));
    let store = place.open_in("boot-2");
    assert_eq!(content(&store, &a), "a");
    assert_eq!(store.layer(&b).unwrap(), None);
}
