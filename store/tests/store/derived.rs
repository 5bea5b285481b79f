//! Derived records: another parent, other times, the same tree.

use oci::model::{Descriptor, Digest, chain_ids, media_type};
use rbuild_store::{Made, Store, StoreError, TimeRule};
use solver::seam::ResultId;

use crate::support::{built, content, diff, key, parts, place, remember, time};

const RULE: Option<TimeRule> = Some(TimeRule { epoch: 1_600_000_000 });

fn layer(store: &Store, id: &ResultId) -> rbuild_store::Layer {
    store.layer(id).expect("a look").expect("a layer")
}

#[test]
fn a_derived_layer_shares_the_tree_and_is_the_same_record_every_time() {
    let place = place();
    let store = place.open();
    let (base, other) = (built(&store, None, "base"), built(&store, None, "other"));
    let made = Made { created: time(9), started: time(5), from_context: true, on_base: true };
    let draft = store.draft().unwrap();
    std::fs::write(draft.fs().join("file"), "top").unwrap();
    let top = store.add_built_layer(Some(&base), Some(draft), made).unwrap();
    let moved = store.derive_layer(Some(&other), &top, None, false).unwrap();
    let timed = store.derive_layer(Some(&other), &top, RULE, false).unwrap();
    assert!(moved.as_str().starts_with("d-") && moved != timed);
    assert_eq!(store.derive_layer(Some(&other), &top, None, false).unwrap(), moved);
    assert_eq!(store.derive_layer(Some(&other), &moved, None, false).unwrap(), moved, "by way of its origin");
    assert_eq!(store.derive_layer(Some(&other), &moved, RULE, false).unwrap(), timed);
    assert_eq!(store.derive_layer(Some(&other), &timed, None, false).unwrap(), timed, "a rule stays");
    assert_eq!(place.names("layers").len(), 3);
    assert_eq!(content(&store, &moved), "top");
    for id in [&moved, &timed] {
        let derived = layer(&store, id);
        assert_eq!((derived.parent, derived.origin), (Some(other.clone()), Some(top.clone())));
        assert_eq!((derived.created, derived.started, derived.from_context), (time(9), time(5), true));
        assert!(!derived.on_base && !derived.pulled && !derived.empty);
    }
    let chain: Vec<_> = store.chain(&timed).unwrap().into_iter().map(|layer| layer.id).collect();
    assert_eq!(chain, [other, timed]);
    let stranger = ResultId("b-stranger".into());
    for (parent, of) in [(None, &stranger), (Some(&stranger), &top)] {
        let error = store.derive_layer(parent, of, None, false).unwrap_err();
        assert!(matches!(&error, StoreError::NoSuchLayer { id } if *id == stranger), "{error}");
    }
}

#[test]
fn an_empty_layer_stays_empty_on_another_parent() {
    let place = place();
    let store = place.open();
    let base = built(&store, None, "base");
    let empty = store.add_built_layer(None, None, time(3)).unwrap();
    let moved = store.derive_layer(Some(&base), &empty, RULE, false).unwrap();
    let found = layer(&store, &moved);
    assert_eq!((found.empty, found.name, found.times, found.created), (true, None, None, time(3)));
    store.set_diff_id(&base, diff("base"), 1).unwrap();
    assert_eq!(layer(&store, &moved).chain_id, Some(diff("base").0));
}

#[test]
fn what_one_twin_learns_of_its_tar_all_know() {
    let place = place();
    let store = place.open();
    let bases = [built(&store, None, "1"), built(&store, None, "2")];
    let top = built(&store, None, "top");
    let [one, two] = bases.each_ref().map(|base| store.derive_layer(Some(base), &top, None, false).unwrap());
    let timed = store.derive_layer(Some(&bases[0]), &top, RULE, false).unwrap();
    store.set_diff_id(&bases[0], diff("1"), 1).unwrap();
    store.set_diff_id(&one, diff("top"), 7).unwrap();
    for id in [&top, &one, &two] {
        assert_eq!((layer(&store, id).diff_id, layer(&store, id).tar_bytes), (Some(diff("top")), Some(7)), "{id}");
    }
    assert_eq!(layer(&store, &one).chain_id, chain_ids(&[diff("1"), diff("top")]).last().copied());
    assert_eq!(layer(&store, &two).chain_id, None, "what is beneath it is not known");
    assert_eq!(layer(&store, &timed).diff_id, None, "its tar is another");
    store.set_diff_id(&timed, diff("timed"), 7).unwrap();
    assert_eq!(layer(&store, &top).diff_id, Some(diff("top")));
    // Those that come later know it at once.
    let third = built(&store, None, "3");
    for (rule, known) in [(None, diff("top")), (RULE, diff("timed"))] {
        let late = store.derive_layer(Some(&third), &top, rule, false).unwrap();
        assert_eq!((layer(&store, &late).diff_id, layer(&store, &late).tar_bytes), (Some(known), Some(7)));
    }
    let error = store.set_diff_id(&two, diff("else"), 7).unwrap_err();
    assert!(matches!(error, StoreError::DiffIdDiffers { .. }), "{error}");
}

#[test]
fn a_layer_that_is_only_a_blob_is_shared_as_one() {
    let place = place();
    let store = place.open();
    let blob = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(b"blob"), 4);
    let pulled = store.add_pulled_layer(None, diff("p"), time(1), None, None).unwrap();
    let base = built(&store, None, "base");
    let moved = store.derive_layer(Some(&base), &pulled, None, false).unwrap();
    let timed = store.derive_layer(Some(&base), &pulled, RULE, false).unwrap();
    assert_eq!(timed, moved, "the times of an image are content");
    store.add_pulled_layer(None, diff("p"), time(1), Some(&blob), None).unwrap();
    let found = layer(&store, &moved);
    assert_eq!((found.blob, found.diff_id, found.name, found.pulled), (Some(blob), Some(diff("p")), None, true));
    // A tree that one of them gets is all theirs.
    let draft = store.draft().unwrap();
    std::fs::write(draft.fs().join("file"), "unpacked").unwrap();
    store.attach_tree(&moved, draft).unwrap();
    for id in [&pulled, &moved] {
        assert_eq!(content(&store, id), "unpacked");
    }
}

#[test]
fn a_layer_with_other_times_gets_a_tree_of_its_own_when_it_needs_one() {
    let place = place();
    let store = place.open();
    let top = built(&store, None, "top");
    let timed = store.derive_layer(None, &top, RULE, true).unwrap();
    assert_eq!(layer(&store, &timed).name, None);
    let draft = store.draft().unwrap();
    std::fs::write(draft.fs().join("file"), "timed").unwrap();
    store.attach_tree(&timed, draft).unwrap();
    assert_eq!(content(&store, &timed), "timed");
    assert_eq!(content(&store, &top), "top");
    drop(store);
    std::fs::remove_file(place.root.join("index.db")).unwrap();
    assert_eq!(content(&place.open(), &timed), "timed", "in a rebuilt index too");
}

#[test]
fn a_power_loss_takes_derived_layers_with_their_origin_and_nothing_else() {
    let place = place();
    let store = place.open();
    let base = built(&store, None, "base");
    let kept = built(&store, None, "kept");
    let kept_derived = store.derive_layer(Some(&base), &kept, None, false).unwrap();
    remember(&store, &key("k"), &parts("x"), std::slice::from_ref(&kept_derived)).unwrap();
    store.sync().unwrap();
    let lost = built(&store, None, "lost");
    let lost_derived = store.derive_layer(Some(&kept_derived), &lost, RULE, false).unwrap();
    let late_derived = store.derive_layer(None, &kept, RULE, false).unwrap();
    drop(store);
    let store = place.open_in("boot-2");
    for id in [&base, &kept, &kept_derived] {
        assert!(store.layer(id).unwrap().is_some_and(|layer| layer.name.is_some()), "{id} was synced");
    }
    for id in [&lost, &lost_derived, &late_derived] {
        assert_eq!(store.layer(id).unwrap(), None, "{id} was not");
    }
    assert_eq!(content(&store, &kept_derived), "kept", "a dropped twin does not take the tree along");
    assert_eq!(place.names("layers").len(), 2);
    assert_eq!(place.names("records").len(), 3);
    assert_eq!(store.lookup(&key("k")).unwrap(), Some(vec![kept_derived]));
}

#[test]
fn derived_layers_come_back_with_a_rebuilt_index() {
    let place = place();
    let store = place.open();
    let pulled = store.add_pulled_layer(None, diff("p"), time(1), None, None).unwrap();
    let base = built(&store, None, "base");
    let made = Made { created: time(9), started: time(5), from_context: true, on_base: true };
    let top = store.add_built_layer(Some(&base), Some(store.draft().unwrap()), made).unwrap();
    let first = store.derive_layer(Some(&base), &pulled, None, true).unwrap();
    let second = store.derive_layer(Some(&first), &top, RULE, false).unwrap();
    let third = store.derive_layer(Some(&second), &top, None, false).unwrap();
    store.set_diff_id(&base, diff("base"), 3).unwrap();
    store.set_diff_id(&second, diff("timed"), 4).unwrap();
    store.set_diff_id(&third, diff("top"), 5).unwrap();
    let ids = [pulled, base, top, first, second, third];
    let before = ids.each_ref().map(|id| layer(&store, id));
    drop(store);
    std::fs::remove_file(place.root.join("index.db")).unwrap();
    let store = place.open();
    assert_eq!(ids.each_ref().map(|id| layer(&store, id)), before);
}

#[test]
fn a_store_of_the_first_schema_is_brought_up_and_keeps_what_it_has() {
    let place = place();
    let store = place.open();
    let base = built(&store, None, "base");
    drop(store);
    let connection = rusqlite::Connection::open(place.root.join("index.db")).unwrap();
    let back = "DROP INDEX layers_by_origin; DROP INDEX keys_by_operation;
        DROP TABLE nodes; DROP TABLE mounts; DROP TABLE pruned; ALTER TABLE state DROP COLUMN tick;
        DROP VIEW names; DROP TRIGGER members_went; DROP TABLE members; DROP INDEX tags_by_index;
        ALTER TABLE tags DROP COLUMN document; ALTER TABLE tags DROP COLUMN index_digest;
        DROP TRIGGER name_came; DROP TRIGGER name_moved; DROP TRIGGER name_went;
        ALTER TABLE state DROP COLUMN floor_bytes; ALTER TABLE state DROP COLUMN held_bytes;
        DROP TABLE uses; ALTER TABLE state DROP COLUMN bytes; ALTER TABLE state DROP COLUMN measured_at;
        ALTER TABLE layers DROP COLUMN content; ALTER TABLE layers DROP COLUMN tree_bytes;
        ALTER TABLE layers DROP COLUMN used_tick; ALTER TABLE layers DROP COLUMN used_at;
        ALTER TABLE keys DROP COLUMN kind; ALTER TABLE keys DROP COLUMN operation;
        ALTER TABLE keys DROP COLUMN used_tick; ALTER TABLE keys DROP COLUMN used_at;
        ALTER TABLE layers DROP COLUMN origin; ALTER TABLE layers DROP COLUMN times;
        ALTER TABLE layers DROP COLUMN started; ALTER TABLE layers DROP COLUMN from_context;
        ALTER TABLE layers DROP COLUMN on_base; PRAGMA user_version = 1;";
    connection.execute_batch(back).unwrap();
    drop(connection);
    let store = place.open();
    assert_eq!(store.notices(), [] as [&str; 0]);
    assert_eq!(content(&store, &base), "base");
    assert_eq!(layer(&store, &base).started, layer(&store, &base).created, "nothing else is known");
    let derived = store.derive_layer(None, &base, RULE, false).unwrap();
    drop(store);
    assert_eq!(layer(&place.open(), &derived).origin, Some(base));
}
