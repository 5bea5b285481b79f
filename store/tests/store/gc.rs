//! What is given back and what stays: names, running processes, uses; and what a killed collection leaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oci::content::put_bytes;
use rbuild_store::{Collected, HeldMount, Holder, Kind, Limit, MountKey, MountWish, Store, StoreError, Taken, Wish};
use solver::op::CacheSharing;
use solver::seam::ResultId;

use crate::support::{Place, built, content, diff, image, key, name, parts, place, remember, time};

/// A layer of about this size on `parent`, made by the step `text`, and its key.
fn step(store: &Store, parent: Option<&ResultId>, text: &str, kilobytes: usize) -> ResultId {
    let draft = store.draft().expect("a draft");
    std::fs::write(draft.fs().join("file"), text).expect("a file");
    std::fs::write(draft.fs().join("bulk"), vec![1; kilobytes << 10]).expect("a file");
    let layer = store.add_built_layer(parent, Some(draft), time(1)).expect("a layer");
    remember(store, &key(text), &parts(text), std::slice::from_ref(&layer)).expect("remembered");
    layer
}

/// A process of its own that builds these steps, each on the one before, and ends.
fn build(place: &Place, steps: &[&str]) -> Vec<ResultId> {
    let store = place.open();
    let mut layers: Vec<ResultId> = Vec::new();
    for text in steps {
        layers.push(match store.lookup(&key(text)).expect("a look") {
            Some(found) => found[0].clone(),
            None => step(&store, layers.last(), text, 100),
        });
    }
    layers
}

fn knows(store: &Store, text: &str) -> bool {
    store.lookup(&key(text)).expect("a look").is_some()
}

fn prune(store: &Store) -> Collected {
    store.prune(&Wish::default(), false).expect("a collection")
}

#[test]
fn what_no_name_and_no_process_holds_goes() {
    let place = place();
    let kept = build(&place, &["base", "named"]);
    let store = place.open();
    store.tag(&name("app:1"), &image(&store, "app", kept.last())).unwrap();
    drop(store);
    build(&place, &["base", "other", "on top"]);
    let store = place.open();
    let nameless = image(&store, "nameless", None);
    store.add_image(&nameless).unwrap();
    put_bytes(store.blobs(), b"nobody's").unwrap();
    drop(store);

    let store = place.open();
    let would = store.prune(&Wish::default(), true).unwrap();
    assert_eq!(place.names("layers").len(), 4, "nothing goes by looking");
    let gone = prune(&store);
    let words = |collected: &Collected| {
        let mut words: Vec<_> = collected.gone.iter().map(|gone| (gone.kind, gone.name.clone())).collect();
        words.sort();
        words
    };
    assert_eq!(words(&gone), words(&would));
    assert!(gone.freed_bytes() > 200 << 10, "{gone:?}");
    assert_eq!((place.names("layers").len(), place.names("records").len()), (2, 2));
    assert_eq!(place.names("blobs/sha256").len(), 2, "manifest and config of the named image");
    assert_eq!(place.names("trash"), [""; 0]);
    assert!(knows(&store, "base") && knows(&store, "named"));
    assert!(!knows(&store, "other") && !knows(&store, "on top"));
    assert_eq!(content(&store, &kept[1]), "named");
    assert_eq!(store.nameless_images().unwrap(), []);
    assert_eq!(prune(&store).gone, [], "a second one finds nothing");
}

#[test]
fn a_running_process_holds_what_it_made_and_what_it_found() {
    let place = place();
    build(&place, &["found", "not looked at"]);
    let busy = place.open();
    assert!(knows(&busy, "found"));
    let made = step(&busy, None, "made", 1);
    let blob = put_bytes(busy.blobs(), b"put").unwrap().0;

    let store = place.open();
    let held = |kind: Kind| {
        let things = store.usage().unwrap().things;
        let held: Vec<_> = things.into_iter().filter(|used| used.kind == kind && used.held.is_some()).collect();
        assert!(held.iter().all(|used| used.held == Some(Holder::Build)), "{held:?}");
        held.len()
    };
    assert_eq!((held(Kind::Layer), held(Kind::Blob)), (2, 1));
    prune(&store);
    assert!(busy.blobs().size(&blob).unwrap().is_some());
    assert!(knows(&busy, "found") && knows(&busy, "made"));
    assert_eq!(content(&busy, &made), "made");
    assert!(!knows(&busy, "not looked at"));
    drop(busy);
    prune(&store);
    assert_eq!((place.names("layers"), place.names("blobs/sha256")), (vec![], vec![]));
}

#[test]
fn the_cap_is_hard_and_takes_what_was_used_longest_ago() {
    let place = place();
    for text in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        build(&place, &[text]);
        // Each use is a use of its own: what ended is counted when garbage is collected or usage told.
        place.open().usage().unwrap();
    }
    build(&place, &["a"]);
    let store = place.open();
    let total = store.usage().unwrap().total_bytes;
    let limit = Limit { max_bytes: total - (150 << 10), ..Limit::default() };
    let collected = store.collect(limit).unwrap();
    assert!(collected.total_bytes <= limit.max_bytes, "{collected:?}");
    let store = place.open();
    assert!(knows(&store, "a") && knows(&store, "h"), "used last");
    assert!(!knows(&store, "b") && !knows(&store, "c"), "used longest ago");
}

#[test]
fn a_process_that_has_ended_its_work_holds_nothing_even_of_its_own() {
    let place = place();
    let store = place.open();
    step(&store, None, "made", 200);
    let collected = store.collect(Limit { max_bytes: 1, ..Limit::default() }).unwrap();
    assert!(collected.freed_bytes() > 200 << 10, "{collected:?}");
    assert_eq!(collected.held_bytes, 0);
    assert!(!knows(&store, "made"));
}

#[test]
fn nothing_is_looked_at_while_nothing_is_due() {
    let place = place();
    let store = place.open();
    step(&store, None, "made", 1);
    drop(store);
    {
        let mut index = rusqlite::Connection::open(place.root.join("index.db")).unwrap();
        let rows = index.transaction().unwrap();
        for number in 0..10_000 {
            rows.execute(
                "INSERT INTO layers (id, empty, pulled, created, boot, generation, tree_bytes)
                 VALUES (?1, 1, 0, '2026-01-01T00:00:00Z', 'boot-1', 1, 0)",
                [format!("b-{number}")],
            )
            .unwrap();
        }
        rows.commit().unwrap();
    }
    let limit = Limit { max_bytes: 1 << 40, ..Limit::default() };
    let store = place.open();
    assert!(store.collect(limit).unwrap().examined >= 10_000, "the first measures");
    for _ in 0..3 {
        let store = place.open();
        assert!(knows(&store, "made"));
        step(&store, None, "small", 1);
        assert_eq!(store.collect(limit).unwrap().examined, 0);
    }
    // As soon as what was added is too much, it looks.
    let store = place.open();
    put_bytes(store.blobs(), &vec![7; 3 << 20]).unwrap();
    let collected = store.collect(Limit { max_bytes: 3 << 20, ..Limit::default() }).unwrap();
    assert!(collected.examined >= 10_000 && collected.total_bytes < 3 << 20, "{collected:?}");
}

#[test]
fn what_is_unused_for_long_goes_and_a_clock_that_jumped_takes_nothing() {
    let place = place();
    build(&place, &["old"]);
    let store = place.open();
    store.usage().unwrap();
    drop(store);
    let age = |seconds: i64| {
        let index = rusqlite::Connection::open(place.root.join("index.db")).unwrap();
        for table in ["layers", "keys", "uses"] {
            index.execute(&format!("UPDATE {table} SET used_at = used_at - ?1"), [seconds]).unwrap();
        }
        index.execute("UPDATE state SET measured_at = 0", []).unwrap();
    };
    let limit = Limit { max_bytes: 1 << 40, keep_for: Some(Duration::from_secs(1000)), ..Limit::default() };
    age(10_000);
    // Nothing was used meanwhile: the machine slept, or the clock jumped.
    let store = place.open();
    let collected = store.collect(limit).unwrap();
    assert_eq!((collected.gone.len(), collected.examined > 0), (0, true));
    drop(store);
    build(&place, &["new"]);
    place.open().usage().unwrap();
    age(0);
    let store = place.open();
    store.collect(limit).unwrap();
    assert!(knows(&store, "new") && !knows(&store, "old"));
    drop(store);
    // A clock that was set back makes nothing old.
    age(-100_000);
    let store = place.open();
    assert_eq!(store.collect(limit).unwrap().gone, []);
}

#[test]
fn a_layer_whose_tree_was_deleted_by_hand_is_collected_with_all_that_stands_on_it() {
    let place = place();
    build(&place, &["base", "top"]);
    let store = place.open();
    let base = store.lookup(&key("base")).unwrap().expect("it was built").remove(0);
    let tree = store.layer(&base).unwrap().and_then(|layer| layer.name).expect("it has a tree");
    std::fs::remove_dir_all(store.layers_dir().join(tree)).unwrap();
    drop(store);
    let store = place.open();
    let keep = Wish { keep_bytes: Some(1 << 40), ..Wish::default() };
    let gone = store.prune(&keep, false).unwrap().gone;
    assert_eq!(gone.len(), 4, "{gone:?}");
    assert_eq!(place.names("records"), [""; 0]);
}

#[test]
fn trees_and_records_that_nothing_names_go_and_drafts_stay() {
    let place = place();
    let store = place.open();
    built(&store, None, "known");
    let draft = store.draft().unwrap();
    std::fs::create_dir(place.root.join("layers/abcdefgh")).unwrap();
    std::fs::write(place.root.join("records/b-gone.jsonl"), "").unwrap();
    let other = place.open();
    prune(&other);
    assert_eq!((place.names("layers").len(), place.names("records").len(), place.names("tmp").len()), (1, 1, 1));
    store.add_built_layer(None, Some(draft), time(1)).unwrap();
    assert_eq!(place.names("layers").len(), 2);
}

#[test]
fn pulled_layers_keep_the_blob_that_they_are_made_of() -> Result<(), StoreError> {
    let place = place();
    let store = place.open();
    let (blob, size) = put_bytes(store.blobs(), b"a layer").unwrap();
    let blob = oci::model::Descriptor::new(oci::model::media_type::OCI_LAYER_GZIP, blob, size);
    let base = store.add_pulled_layer(None, diff("base"), time(1), Some(&blob), None)?;
    let app = image(&store, "app", Some(&base));
    store.tag(&name("app:1"), &app)?;
    drop(store);
    let store = place.open();
    prune(&store);
    assert!(store.blobs().size(&blob.digest).unwrap().is_some());
    drop(store);
    let store = place.open();
    store.untag(&name("app:1"))?;
    drop(store);
    let store = place.open();
    prune(&store);
    assert_eq!((place.names("blobs/sha256"), place.names("records")), (vec![], vec![]));
    Ok(())
}

#[test]
fn pruned_keys_are_remembered_for_who_asks() {
    let place = place();
    build(&place, &["a"]);
    prune(&place.open());
    let index = rusqlite::Connection::open(place.root.join("index.db")).unwrap();
    let (pruned, at): (Vec<u8>, i64) =
        index.query_row("SELECT key, at FROM pruned", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(pruned, key("a").0);
    assert!(at > 0);
}

/// A process of its own with a step that leaves so much in a cache mount.
fn fill_mount(place: &Place, id: &str, kilobytes: usize) -> Collected {
    fill_mount_under(place, id, kilobytes, Limit { max_bytes: 1 << 40, ..Limit::default() })
}

fn fill_mount_under(place: &Place, id: &str, kilobytes: usize, limit: Limit) -> Collected {
    let store = place.open();
    drop(mount(&store, id, kilobytes));
    store.collect(limit).expect("a collection")
}

fn mount(store: &Store, id: &str, kilobytes: usize) -> Vec<Arc<HeldMount>> {
    let key = MountKey { id: id.into(), seed: String::new() };
    let wishes = [MountWish { key, sharing: CacheSharing::Shared }];
    let Ok(Taken::All(held)) = store.take_mounts(&wishes, &mut BTreeMap::new(), None) else { panic!("it is free") };
    std::fs::write(held[0].path().join("bulk"), vec![1; kilobytes << 10]).expect("a file");
    held
}

fn mounts(store: &Store) -> Vec<String> {
    let mut ids: Vec<String> = store.mounts().unwrap().into_iter().map(|mount| mount.key.id).collect();
    ids.sort();
    ids
}

#[test]
fn what_a_step_writes_into_a_cache_mount_counts_at_the_end_of_its_build() {
    let place = place();
    fill_mount(&place, "/a", 4);
    let limit = Limit { max_bytes: 2 << 20, ..Limit::default() };
    // Nothing but the mount grows, by less than the limit and then beyond it.
    assert_eq!(fill_mount_under(&place, "/a", 200, limit).examined, 0, "it fits, and nothing else is looked at");
    let store = place.open();
    assert_eq!(store.collect(limit).unwrap().examined, 0);
    assert!(store.mounts().unwrap()[0].size_bytes.is_some_and(|bytes| bytes >= 200 << 10), "it was measured");
    drop(store);
    let collected = fill_mount_under(&place, "/a", 4 << 10, limit);
    assert!(collected.examined > 0 && collected.freed_bytes() >= 4 << 20, "{collected:?}");
    assert!(collected.total_bytes <= limit.max_bytes, "{collected:?}");
    // What shrinks gives room: the count follows in both directions, and so do mounts that are dropped.
    fill_mount_under(&place, "/b", 1500, limit);
    fill_mount_under(&place, "/b", 10, limit);
    assert_eq!(fill_mount_under(&place, "/c", 1000, limit).examined, 0);
    let store = place.open();
    store.mounts().unwrap().iter().for_each(|mount| assert!(store.drop_mount(&mount.name).unwrap()));
    assert_eq!(fill_mount_under(&place, "/d", 1500, limit).examined, 0);
}

#[test]
fn what_a_killed_build_left_in_a_cache_mount_is_measured_by_the_next_that_uses_one() {
    let place = place();
    fill_mount(&place, "/mine", 4);
    let killed = place.open();
    drop(mount(&killed, "/left", 3 << 10));
    // It never comes to its collection.
    drop(killed);
    let limit = Limit { max_bytes: 2 << 20, ..Limit::default() };
    assert_eq!(place.open().collect(limit).unwrap().examined, 0, "who uses none measures none");
    let collected = fill_mount_under(&place, "/mine", 4, limit);
    assert!(collected.freed_bytes() >= 3 << 20, "{collected:?}");
    assert!(!mounts(&place.open()).contains(&"/left".to_owned()));
}

#[test]
fn cache_mounts_have_a_cap_of_their_own_the_longest_unused_goes_and_none_in_use() {
    let place = place();
    build(&place, &["a step"]);
    for id in ["/a", "/b", "/c", "/d"] {
        fill_mount(&place, id, 1000);
        // Each use is a use of its own.
        place.open().usage().unwrap();
    }
    let limit = Limit { max_bytes: 1 << 40, max_mount_bytes: Some(3500 << 10), ..Limit::default() };
    let busy = place.open();
    let held = mount(&busy, "/a", 1000);
    place.open().usage().unwrap();
    fill_mount_under(&place, "/b", 1000, limit);
    let store = place.open();
    assert_eq!(mounts(&store), ["/a", "/b", "/d"], "`/c` was used longest ago");
    assert!(knows(&store, "a step"), "nothing else goes");
    assert_eq!(store.collect(limit).unwrap().examined, 0, "they fit now");
    drop(store);
    let tight = Limit { max_mount_bytes: Some(1), ..limit };
    let collected = place.open().collect(tight).unwrap();
    assert_eq!(mounts(&place.open()), ["/a"], "a step uses it");
    assert_eq!((collected.gone.len(), collected.max_mount_bytes), (2, Some(1)), "{collected:?}");
    assert!(collected.gone.iter().all(|gone| gone.kind == Kind::Mount && gone.label.starts_with("cache mount ")));
    drop(held);
    busy.collect(tight).unwrap();
    assert_eq!(mounts(&place.open()), [""; 0]);
}

#[test]
fn a_store_that_names_alone_make_too_large_is_looked_at_once() {
    let place = place();
    let kept = build(&place, &["kept"]);
    let store = place.open();
    store.tag(&name("app:1"), &image(&store, "app", kept.last())).unwrap();
    drop(store);
    let limit = Limit { max_bytes: 50 << 10, ..Limit::default() };
    let collect = || place.open().collect(limit).unwrap();
    assert!(collect().examined > 0);
    let again = collect();
    assert_eq!((again.examined, again.max_bytes), (0, limit.max_bytes), "{again:?}");
    assert!(again.total_bytes > limit.max_bytes && again.held_bytes > 100 << 10, "it is told all the same");
    // What is added does not stay.
    let store = place.open();
    let blob = put_bytes(store.blobs(), b"added").unwrap().0;
    let collected = store.collect(limit).unwrap();
    assert!(collected.examined > 0 && store.blobs().size(&blob).unwrap().is_none(), "{collected:?}");
    assert_eq!(collect().examined, 0);
    // A name that goes gives room, one that comes holds more.
    for change in [
        (|store: &Store| drop(store.tag(&name("app:2"), &image(store, "app", None)))) as fn(&Store),
        |store| assert!(store.untag(&name("app:2")).unwrap()),
        |store| assert!(store.untag(&name("app:1")).unwrap()),
    ] {
        change(&place.open());
        assert!(collect().examined > 0);
    }
    assert_eq!(place.names("layers"), [""; 0]);
    assert_eq!(collect().held_bytes, 0);
}
