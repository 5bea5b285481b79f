//! Digests of what layers hold, and what trees take on disk: known of a layer and of all that share its tree.

use rbuild_store::{StoreError, TimeRule};
use solver::key::ContentDigest;
use solver::seam::ResultId;

use crate::support::{built, diff, image, key, parts, place, remember, time};

const A: ContentDigest = ContentDigest([1; 32]);
const B: ContentDigest = ContentDigest([2; 32]);

#[test]
fn content_is_kept_by_the_record_with_the_tree_and_follows_for_the_others() {
    let place = place();
    let store = place.open();
    let content = |id: &ResultId| store.layer(id).unwrap().unwrap().content;
    let base = store.add_pulled_layer(None, diff("base"), time(1), None, None).unwrap();
    let same = place.open().add_pulled_layer(Some(&base), diff("base"), time(2), None, None).unwrap();
    let other = store.add_pulled_layer(Some(&base), diff("other"), time(2), None, None).unwrap();
    assert_eq!(content(&base), content(&same), "of a pulled layer it follows from its digest, wherever it stands");
    assert!(content(&base).is_some() && content(&base) != content(&other));

    let origin = built(&store, None, "x");
    let moved = store.derive_layer(Some(&base), &origin, None, true).unwrap();
    let timed = |epoch| store.derive_layer(Some(&base), &origin, Some(TimeRule { epoch }), true).unwrap();
    let (early, late) = (timed(1), timed(2));
    let all = [&origin, &moved, &early, &late];
    assert_eq!(all.map(content), [None; 4]);
    store.set_content(&moved, A).unwrap();
    assert_eq!([&origin, &moved].map(content), [Some(A); 2]);
    let (at_one, at_two) = (content(&early), content(&late));
    assert!(at_one.is_some() && at_one != Some(A) && at_one != at_two, "other times are other content");
    store.set_content(&early, B).unwrap();
    store.set_content(&base, B).unwrap();
    assert_eq!((content(&origin), content(&early)), (Some(A), at_one), "what follows cannot be said otherwise");
    assert_ne!(content(&base), Some(B));
    store.set_content(&origin, B).unwrap();
    assert_eq!([&origin, &moved].map(content), [Some(B); 2]);
    assert_ne!(content(&early), at_one);

    let empty = store.add_built_layer(Some(&base), None, time(1)).unwrap();
    assert!(matches!(store.set_content(&empty, A), Err(StoreError::EmptyLayer { .. })));
    let nobody = ResultId("b-0".into());
    assert!(matches!(store.set_content(&nobody, A), Err(StoreError::NoSuchLayer { .. })));
}

#[test]
fn what_a_tree_takes_is_known_of_all_that_share_it() {
    let place = place();
    let store = place.open();
    let bytes = |id: &ResultId| store.layer(id).unwrap().unwrap().tree_bytes;
    let origin = store.add_built_layer(None, Some(store.draft().unwrap().with_bytes(4096)), time(1)).unwrap();
    let base = store.add_pulled_layer(None, diff("base"), time(1), None, None).unwrap();
    assert_eq!((bytes(&origin), bytes(&base)), (Some(4096), None));
    store.attach_tree(&base, store.draft().unwrap().with_bytes(8192)).unwrap();
    assert_eq!(bytes(&base), Some(8192));
    let moved = store.derive_layer(Some(&base), &origin, None, true).unwrap();
    let timed = store.derive_layer(Some(&base), &origin, Some(TimeRule { epoch: 1 }), true).unwrap();
    assert_eq!((bytes(&moved), bytes(&timed)), (Some(4096), None), "with other times the tree is its own");
    store.attach_tree(&timed, store.draft().unwrap().with_bytes(12288)).unwrap();
    assert_eq!((bytes(&moved), bytes(&timed)), (Some(4096), Some(12288)));
}

#[test]
fn only_a_layer_that_nobody_has_heard_of_is_dropped() {
    let place = place();
    let store = place.open();
    let keep = built(&store, None, "keep");
    let parent = built(&store, None, "parent");
    let child = built(&store, Some(&parent), "child");
    let derived = store.derive_layer(None, &child, None, true).unwrap();
    let known = built(&store, None, "known");
    remember(&store, &key("k"), &parts("make"), &[keep.clone(), known.clone()]).unwrap();
    let tagged = built(&store, None, "tagged");
    store.add_image(&image(&store, "app", Some(&tagged))).unwrap();
    let before = (place.names("layers"), place.names("records"));
    for id in [&parent, &child, &keep, &known, &tagged] {
        assert!(!store.drop_fresh_layer(id).unwrap(), "{id}");
        assert!(store.layer(id).unwrap().is_some());
    }
    let fresh = [built(&store, Some(&keep), "fresh"), store.add_built_layer(Some(&keep), None, time(1)).unwrap()];
    for id in fresh.iter().chain([&derived]) {
        assert!(store.drop_fresh_layer(id).unwrap(), "{id}");
        assert_eq!(store.layer(id).unwrap(), None);
        assert!(store.drop_fresh_layer(id).unwrap(), "once more is fine");
    }
    let derived = format!("{derived}.jsonl");
    let records: Vec<_> = before.1.into_iter().filter(|name| *name != derived).collect();
    assert_eq!((place.names("layers"), place.names("records")), (before.0, records));
}
