use oci::content::put_bytes;
use oci::model::{DiffId, media_type};
use solver::seam::{CacheStore as _, KeyKind};
use tempfile::TempDir;

use super::super::memory::Memory;
use super::super::{Answer, Document, Selection, Sent, Supplier, send};
use super::*;
use crate::{Blobs, Made};

/// Nobody has what a test's store lacks.
struct Nobody;

impl Supplier for Nobody {
    fn supply<'a>(&'a self, blob: &'a Descriptor, _: &'a Blobs, _: &'a (dyn Fn(u64) + Sync)) -> Answer<'a, ()> {
        Box::pin(async move { Err(RemoteError::NoBlob { place: "nowhere".into(), digest: blob.digest }) })
    }
}

fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("store")).expect("a new store");
    (folder, store)
}

fn key(text: &str) -> Key {
    Key(*Digest::of(text.as_bytes()).as_bytes())
}

/// A machine on which a base image was pulled and two steps ran, the second of which changed nothing.
struct Machine {
    _folder: TempDir,
    store: Store,
    base: ResultId,
    one: ResultId,
    two: ResultId,
    blobs: HashMap<ResultId, Descriptor>,
}

fn machine() -> Machine {
    let (_folder, store) = store();
    let blob = |text: &str| {
        let (digest, size) = put_bytes(store.blobs(), text.as_bytes()).expect("the store takes it");
        Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size)
    };
    let at = |second| jiff::Timestamp::from_second(second).expect("a time");
    let diff_id = |text: &str| DiffId(Digest::of(text.as_bytes()));
    let base = store.add_pulled_layer(None, diff_id("base"), at(1), Some(&blob("base.gz")), None).expect("recorded");
    let draft = store.draft().expect("a draft");
    let made = Made { created: at(20), started: at(10), from_context: true, on_base: true };
    let one = store.add_built_layer(Some(&base), Some(draft), made).expect("recorded");
    store.set_diff_id(&one, diff_id("one"), 7).expect("recorded");
    store.set_content(&one, solver::key::ContentDigest([3; 32])).expect("recorded");
    let made = Made { created: at(30), started: at(25), from_context: false, on_base: false };
    let two = store.add_built_layer(Some(&one), None, made).expect("recorded");
    for (name, kind, operation, result) in [
        ("k1", KeyKind::Definition, "o1", &one),
        ("k1 by content", KeyKind::Content, "o1", &one),
        ("k2", KeyKind::Definition, "o2", &two),
        ("elsewhere", KeyKind::Definition, "o3", &base),
    ] {
        let record = Record { kind, operation: key(operation), parts: &[], results: std::slice::from_ref(result) };
        store.record(&key(name), &record).expect("recorded");
    }
    let blobs = HashMap::from([(base.clone(), blob("base.gz")), (one.clone(), blob("one.gz"))]);
    Machine { _folder, store, base, one, two, blobs }
}

impl Machine {
    fn document(&self, keys: &[&str]) -> Document {
        let keys: Vec<Key> = keys.iter().map(|name| key(name)).collect();
        let selection = Selection::of(&self.store, &keys).expect("a selection");
        Document::of(&selection.cache(&self.store, &self.blobs).expect("a cache"))
    }

    async fn send(&self, place: &Memory, document: &Document) -> Sent {
        send(place, &self.store, document, &Nobody, 2, &|_, _| {}).await.expect("it is sent")
    }
}

#[tokio::test]
async fn what_one_machine_built_another_knows_and_nothing_is_brought_for_it() {
    let (here, place) = (machine(), Memory::default());
    let sent = here.send(&place, &here.document(&["k1", "k2"])).await;
    assert_eq!((sent.blobs, sent.unchanged), (3, false), "two layers and the list");
    let (_folder, there) = store();
    let (book, refused) = read(&place, &there).await.expect("it is read").expect("it is there");
    assert_eq!((book.len(), refused.count), (3, 0));
    place.shelf().fetched.clear();
    let record = book.find(&key("k2")).expect("it is known");
    let top = book.adopt(&there, record, None, &|_| Vec::new()).expect("it is taken");
    let chain = there.chain(&top[0]).expect("a chain");
    let fact = |layer: &crate::Layer| (layer.diff_id, layer.empty, layer.pulled);
    let facts: Vec<_> = chain.iter().map(fact).collect();
    let theirs = here.store.chain(&here.two).expect("a chain");
    let expected: Vec<_> = theirs.iter().map(fact).collect();
    assert_eq!(facts, expected);
    assert_eq!(chain[0].id, here.base, "layers of images have the same id everywhere");
    assert_eq!((chain[1].content, chain[1].from_context, chain[1].on_base), (theirs[1].content, true, true));
    assert_eq!((chain[1].started, chain[1].created), (theirs[1].started, theirs[1].created));
    assert_eq!(chain[2].created, theirs[2].created);
    assert!(chain[1].id.as_str().starts_with("i-") && chain[1].name.is_none());
    assert_eq!(place.shelf().fetched, [], "no layer was brought");

    // Every key that led there is known, but only as long as the bytes can be had.
    let known = |name: &str| there.lookup_with(&key(name), &|blob| book.has_blob(blob)).expect("a look");
    assert_eq!(known("k2"), Some(top.clone()));
    assert_eq!(known("k1"), Some(vec![chain[1].id.clone()]));
    assert_eq!(known("k1 by content"), Some(vec![chain[1].id.clone()]));
    assert_eq!(known("elsewhere"), None);
    assert_eq!(there.lookup(&key("k2")).expect("a look"), None, "nobody has its blobs");
    for blob in here.blobs.values() {
        place.fetch(blob, there.blobs(), &|_| {}).await.expect("it is there");
    }
    assert_eq!(there.lookup(&key("k2")).expect("a look"), Some(top.clone()));
    let again = book.adopt(&there, record, None, &|_| Vec::new()).expect("it is taken");
    assert_eq!(again, top, "taking it again is taking nothing");

    // What turns out not to be to be had is forgotten, with all that stands on it.
    assert_eq!(there.forget_keys_of(&chain[1].id).expect("forgotten"), 3);
    assert_eq!(known("k2"), None);
}

#[tokio::test]
async fn only_what_is_missing_is_sent_and_the_same_cache_is_not_sent_twice() {
    let (here, place) = (machine(), Memory::default());
    here.send(&place, &here.document(&["k1"])).await;
    let sent = here.send(&place, &here.document(&["k1"])).await;
    assert_eq!(sent, Sent { unchanged: true, ..Sent::default() });
    assert_eq!(place.shelf().manifest_writes, 1);
    place.shelf().sent.clear();
    let sent = here.send(&place, &here.document(&["k1", "k2"])).await;
    assert_eq!((sent.blobs, place.shelf().sent.len()), (1, 1), "only the list of records is another");
}

#[tokio::test]
async fn a_cache_that_was_taken_over_is_the_same_cache() {
    let (here, place) = (machine(), Memory::default());
    let document = here.document(&["k1", "k2"]);
    here.send(&place, &document).await;
    let (_folder, there) = store();
    let (book, _) = read(&place, &there).await.expect("it is read").expect("it is there");
    let record = book.find(&key("k2")).expect("it is known");
    let top = book.adopt(&there, record, None, &|_| Vec::new()).expect("it is taken");
    let chain = there.chain(&top[0]).expect("a chain");
    let blobs = chain.iter().filter_map(|layer| Some((layer.id.clone(), layer.blob.clone()?)));
    let selection = Selection::of(&there, &[key("k2"), key("k1")]).expect("a selection");
    let again = Document::of(&selection.cache(&there, &blobs.collect()).expect("a cache"));
    assert_eq!(again, document, "no name of a machine is in it, no order either");
}

#[tokio::test]
async fn the_final_results_own_records_are_those_of_its_layers() {
    let here = machine();
    let keys: Vec<Key> = ["k1", "k2", "elsewhere", "never"].iter().map(|name| key(name)).collect();
    let mut selection = Selection::of(&here.store, &keys).expect("a selection");
    assert_eq!(selection.layers().len(), 2);
    let count = |selection: &Selection| selection.cache(&here.store, &here.blobs).expect("a cache").records.len();
    assert_eq!(count(&selection), 4);
    selection.only_beneath(&here.store, &[&here.one]).expect("a selection");
    assert_eq!(count(&selection), 3, "not the one above it");
    let none = selection.cache(&here.store, &HashMap::new()).expect("a cache");
    assert_eq!((none.layers.len(), none.records.len()), (0, 0), "what has no blob does not go");
}

#[tokio::test]
async fn what_a_place_holds_instead_of_a_cache_is_refused_in_one_line() {
    let manifest = |config: &str, kind: &str, size: u64| {
        let blob = Descriptor::new(kind, Digest::of(config.as_bytes()), size);
        serde_json::json!({"schemaVersion": 2, "config": blob, "layers": []}).to_string()
    };
    let kind = crate::remote::format::CONFIG_TYPE;
    let check = async |manifest: String, config: &str, expected: &str| {
        let (_folder, there) = store();
        let place = Memory::default();
        place.shelf().manifest = Some(manifest.into_bytes());
        place.shelf().blobs.insert(Digest::of(config.as_bytes()), config.into());
        let said = match read(&place, &there).await {
            Ok(None) => "nothing there".to_owned(),
            Ok(Some((book, refused))) => format!("{} records, {:?}", book.len(), refused.line()),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(expected), "{said}");
    };
    check("garbage".into(), "", "holds no cache that can be read").await;
    check("{}".into(), "", "holds no cache that can be read").await;
    check(manifest("{}", "text/\u{1b}plain", 2), "{}", "of the unknown kind `text/plain`").await;
    check(manifest("{}", kind, 1 << 40), "{}", "its config has 1099511627776 bytes").await;
    check(manifest("{}", kind, 3), "{}", "has 2 bytes, but 3 were promised").await;
    check(manifest("other", kind, 2), "{}", "does not have the blob").await;
    check(manifest("{}", kind, 2), "{}", "missing field").await;
    check(manifest("{}", media_type::OCI_CONFIG, 2), "{}", "nothing there").await;
    let entry = |platform: &str| {
        let mut entry =
            serde_json::json!({"mediaType": media_type::OCI_MANIFEST, "digest": Digest::of(b"x"), "size": 1});
        if !platform.is_empty() {
            entry["platform"] = serde_json::json!({"os": "linux", "architecture": platform});
        }
        entry
    };
    let index = |entries: &[serde_json::Value]| {
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries}).to_string()
    };
    let told =
        format!("name one of its entries by its digest (`NAME@sha256:…`): {0} for linux/am d64, {0}", Digest::of(b"x"));
    check(index(&[entry("am\u{1b} d64"), entry("")]), "", &told).await;
    check(index(&vec![entry("arm64"); 9]), "", "arm64, …").await;
    check(index(&[]), "", "an index without entries").await;
    let inline = r#"{"vnd.rbuild.cache.v1":{"version":1,"layers":[{"diff_id":"x"}],"records":[7]}}"#;
    check(manifest(inline, media_type::OCI_CONFIG, inline.len() as u64), inline, "0 records, Some(\"layer 0: ").await;
}
