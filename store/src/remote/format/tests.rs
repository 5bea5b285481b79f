use oci::model::media_type;
use serde_json::{Value, json};

use super::*;

fn hex(text: &str) -> String {
    Digest::of(text.as_bytes()).hex()
}

fn blob(text: &str) -> Value {
    json!({"mediaType": media_type::OCI_LAYER_GZIP, "digest": Digest::of(text.as_bytes()), "size": 7})
}

/// A base, two steps of which the second is empty, and their records.
fn document() -> Value {
    json!({
        "version": 1,
        "layers": [
            {"diff_id": Digest::of(b"base"), "blob": blob("base.gz"), "pulled": true,
             "created": "2024-01-01T00:00:00Z"},
            {"parent": 0, "diff_id": Digest::of(b"one"), "blob": blob("one.gz"), "content": hex("content"),
             "created": "2024-01-02T00:00:01Z", "started": "2024-01-02T00:00:00Z", "from_context": true, "on_base": true},
            {"parent": 1, "created": "2024-01-02T00:00:02Z", "started": "2024-01-02T00:00:02Z"},
        ],
        "records": [
            {"key": hex("k1"), "kind": "definition", "operation": hex("o1"), "results": [1]},
            {"key": hex("k1c"), "kind": "content", "operation": hex("o1"), "results": [1]},
            {"key": hex("k2"), "kind": "definition", "operation": hex("o2"), "results": [2]},
        ],
        "mounts": [{"id": "/root/.cache", "created": "2024-01-01T00:00:00Z", "blob": blob("mount.gz")}],
    })
}

#[test]
fn what_is_written_is_what_is_read_byte_for_byte() {
    let bytes = serde_json::to_vec(&document()).expect("it is JSON");
    let (cache, refused) = Cache::read(&bytes).expect("a document");
    assert_eq!((refused.count, refused.line()), (0, None));
    assert_eq!((cache.layers.len(), cache.records.len()), (3, 3));
    let again = Cache::read(&cache.to_bytes()).expect("our own").0;
    assert_eq!(again, cache);
    assert_eq!(again.to_bytes(), cache.to_bytes());
    let written: Value = serde_json::from_slice(&cache.to_bytes()).expect("it is JSON");
    assert_eq!(written, document());
}

#[test]
fn a_damaged_document_is_refused_record_by_record() {
    // What is done to it; layers and records that are left; what is said.
    let check = |change: &dyn Fn(&mut Value), left: (usize, usize), expected: &str| {
        let mut value = document();
        change(&mut value);
        let (cache, refused) = Cache::read(&serde_json::to_vec(&value).expect("it is JSON")).expect("a document");
        let line = refused.line().unwrap_or_default();
        assert_eq!((cache.layers.len(), cache.records.len()), left, "{line}");
        assert!(line.contains(expected), "{line}");
        assert!(!line.contains('\x1b') && line.len() < 1000, "{line:?}");
        for (i, layer) in cache.layers.iter().enumerate() {
            assert!(layer.parent.is_none_or(|parent| parent < i));
        }
        for result in cache.records.iter().flat_map(|record| &record.results) {
            assert!(*result < cache.layers.len());
        }
    };
    let set = |value: &mut Value, list: &str, i: usize, field: &str, new: Value| value[list][i][field] = new;
    check(&|v| set(v, "layers", 1, "parent", json!(1)), (1, 0), "layer 1: it stands on layer 1, which does not come");
    check(&|v| set(v, "layers", 0, "parent", json!(2)), (0, 0), "layer 0: it stands on layer 2");
    check(&|v| set(v, "layers", 1, "parent", json!(99)), (1, 0), "layer 99");
    check(&|v| set(v, "layers", 1, "parent", json!(-1)), (1, 0), "layer 1: ");
    check(&|v| set(v, "layers", 1, "parent", json!(u64::MAX)), (1, 0), "layer 1: ");
    check(&|v| set(v, "layers", 1, "diff_id", json!("sha256:../../etc")), (1, 0), "layer 1: ");
    check(&|v| set(v, "layers", 1, "diff_id", json!("md5:00")), (1, 0), "layer 1: ");
    check(&|v| set(v, "layers", 1, "diff_id", Value::Null), (1, 0), "a blob without a digest");
    check(&|v| set(v, "layers", 1, "blob", Value::Null), (1, 0), "a digest without a blob");
    check(&|v| set(v, "layers", 1, "blob", json!({"digest": 5})), (1, 0), "layer 1: ");
    check(&|v| v["layers"][1]["blob"]["size"] = json!(u64::MAX), (1, 0), "its blob has 18446744073709551615 bytes");
    check(&|v| v["layers"][1]["blob"]["size"] = json!(-1), (1, 0), "layer 1: ");
    check(&|v| v["layers"][1]["blob"]["digest"] = json!("sha256:/etc/passwd"), (1, 0), "layer 1: ");
    check(&|v| v["layers"][1]["blob"]["mediaType"] = json!("text/\u{1b}[2J"), (1, 0), "of the unknown kind");
    check(&|v| set(v, "layers", 1, "content", json!("xyz")), (1, 0), "its content digest is none");
    check(&|v| set(v, "layers", 1, "created", json!("yesterday\u{1b}")), (1, 0), "is no time");
    check(&|v| set(v, "layers", 1, "started", json!(7)), (1, 0), "layer 1: ");
    check(&|v| set(v, "layers", 2, "pulled", json!(true)), (2, 2), "a digest without a blob");
    check(
        &|v| {
            v["layers"][2] = json!({"parent": 1, "pulled": true, "diff_id": Digest::of(b"x"), "blob": blob("x"),
            "created": "2024-01-01T00:00:00Z"})
        },
        (2, 2),
        "stands on a step",
    );
    check(&|v| v["layers"][1] = json!("text"), (1, 0), "layer 1: ");
    check(&|v| v["layers"][2] = json!([[[[]]]]), (2, 2), "layer 2: ");
    check(&|v| set(v, "records", 1, "key", json!("k")), (3, 2), "record 1: `k` is no key");
    check(&|v| set(v, "records", 1, "key", json!("A".repeat(64))), (3, 2), "is no key");
    check(&|v| set(v, "records", 1, "operation", json!("")), (3, 2), "is no key");
    check(&|v| set(v, "records", 1, "kind", json!("magic")), (3, 2), "record 1: ");
    check(&|v| set(v, "records", 1, "results", json!([])), (3, 2), "it has 0 results");
    check(&|v| set(v, "records", 1, "results", json!([3])), (3, 2), "there is no layer 3");
    check(&|v| set(v, "records", 1, "results", json!(vec![1; 65])), (3, 2), "it has 65 results");
    for (field, new, expected) in [
        ("id", json!("x".repeat(5000)), "cache mount 0: its id has 5000 bytes"),
        ("created", json!(""), "cache mount 0: `` is no time"),
        ("blob", json!(1), "cache mount 0: "),
    ] {
        check(&|v| set(v, "mounts", 0, field, new.clone()), (3, 3), expected);
    }
    check(&|v| v["records"][0] = Value::Null, (3, 2), "record 0: ");
    check(&|v| v["records"] = json!(vec![1; 100]), (3, 0), "; and 97 more");
}

#[test]
fn a_chain_is_no_longer_than_can_be_stacked() {
    let mut value = document();
    let layer = |parent: usize| json!({"parent": parent, "created": "2024-01-01T00:00:00Z"});
    value["layers"] = json!([{"created": "2024-01-01T00:00:00Z"}]);
    value["layers"].as_array_mut().expect("a list").extend((0..5000).map(layer));
    value["records"] = json!([]);
    let (cache, refused) = Cache::read(&serde_json::to_vec(&value).expect("it is JSON")).expect("a document");
    assert_eq!((cache.layers.len(), refused.count), (DEPTH_MAX + 1, 5000 - DEPTH_MAX));
}

#[test]
fn what_is_no_document_is_refused_as_a_whole() {
    let check = |bytes: &[u8], expected: &str| {
        let error = Cache::read(bytes).expect_err("no document");
        assert!(error.contains(expected), "{error}");
    };
    check(b"", "EOF");
    check(b"\0\0", "expected");
    check(b"{}", "missing field");
    check(b"{\"version\":2,\"layers\":[],\"records\":[]}", "it has the version 2");
    check(b"{\"version\":1,\"version\":1,\"layers\":[],\"records\":[]}", "duplicate");
    check(&vec![b' '; (DOCUMENT_MAX_BYTES + 1) as usize], "more than 8388608 bytes");
    let many = |layers: usize, records: usize| {
        let list = |count: usize| vec!["0"; count].join(",");
        format!("{{\"version\":1,\"layers\":[{}],\"records\":[{}]}}", list(layers), list(records)).into_bytes()
    };
    check(&many(LAYERS_MAX + 1, 0), "20000 at most");
    check(&many(0, RECORDS_MAX + 1), "50000 at most");
    check("[".repeat(100_000).as_bytes(), "");
}

#[test]
fn an_inline_document_takes_its_blobs_from_the_image() {
    let (cache, _) = Cache::read(&serde_json::to_vec(&document()).expect("it is JSON")).expect("a document");
    let inline = serde_json::to_vec(&cache.to_inline()).expect("it is JSON");
    assert!(!String::from_utf8_lossy(&inline).contains("mediaType"));
    let blobs = |diff_id: &DiffId| {
        let tars = cache.layers.iter().filter_map(|layer| layer.tar.as_ref());
        tars.filter(|tar| tar.diff_id == *diff_id).map(|tar| tar.blob.clone()).next()
    };
    let (again, refused) = Cache::read_with(&inline, &blobs).expect("a document");
    assert_eq!((again, refused.count), (Cache { mounts: Vec::new(), ..cache.clone() }, 0));
    let (none, refused) = Cache::read(&inline).expect("a document");
    assert_eq!((none.layers.len(), none.records.len(), refused.count), (0, 0, 6));
}
