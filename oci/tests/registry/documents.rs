//! Manifests and indexes as they are, and names that get them on a condition.

use rbuild_oci::registry::{Asked, Condition, Content, Document, INDEX_ENTRIES_MAX, Put};

use super::*;

fn index(entries: &[Descriptor]) -> Vec<u8> {
    format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":{}}}"#, media_type::OCI_INDEX, json(&entries)).into()
}

async fn read(registry: &Registry, rest: &str) -> Result<Document, RegistryError> {
    client(|_| {}).0.document(&name(registry, rest), Asked::Registry).await
}

#[tokio::test]
async fn documents_come_byte_for_byte_with_every_entry() {
    let registry = start();
    let image = Image::new("a");
    image.serve(&registry, "app", "1");
    let mut odd = Descriptor::new("application/vnd.example.thing+json", Digest::of(b"odd"), 3);
    odd.annotations.insert("k".into(), "v".into());
    odd.extra.insert("artifactType".into(), "x".into());
    let bytes = index(&[image.manifest_descriptor(), odd.clone()]);
    registry.put_manifest("app", "all", media_type::OCI_INDEX, &bytes);
    let found = read(&registry, "app:all").await.unwrap();
    assert_eq!((&found.bytes, found.descriptor.digest), (&bytes, Digest::of(&bytes)));
    let Content::Index(read_index) = &found.content else { panic!("{found:?}") };
    assert_eq!(read_index.manifests, [image.manifest_descriptor(), odd]);
    let one = read(&registry, "app:1").await.unwrap();
    assert_eq!(one.bytes, image.manifest);
    assert!(matches!(one.content, Content::Manifest(_)));
    let missing = read(&registry, "app:none").await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
}

#[tokio::test]
async fn what_is_too_much_or_not_what_it_should_be_is_refused() {
    let registry = start();
    let image = Image::new("a");
    image.serve(&registry, "app", "1");
    let entry = image.manifest_descriptor();
    let check = async |case: &str, bytes: &[u8], words: &[&str]| {
        registry.put_manifest("app", "bad", media_type::OCI_INDEX, bytes);
        check(case, read(&registry, "app:bad").await, Err(words));
    };
    let many = vec![entry.clone(); INDEX_ENTRIES_MAX + 1];
    check("entries", &index(&many), &["it has 1001 entries; 1000 at most"]).await;
    let huge = vec![entry.clone(); 100_000];
    check("bytes", &index(&huge), &["is larger than 4194304 bytes"]).await;
    check("both", br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, &["both `manifests` and `layers`"]).await;
    check("twice", br#"{"schemaVersion":2,"manifests":[],"Manifests":[]}"#, &["stands twice"]).await;
    check(
        "sizes",
        br#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:00","size":-1}]}"#,
        &["index"],
    )
    .await;

    let (client, _) = client(|_| {});
    let app = name(&registry, "app:1");
    let get = async |entry: &Descriptor| client.entry(&app, entry, Asked::Registry).await;
    super::check("entry", get(&entry).await, Ok(()));
    let longer = Descriptor { size: entry.size + 1, ..entry.clone() };
    super::check("size", get(&longer).await, Err(&["bytes where", &entry.digest.to_string()]));
    let huge = Descriptor { size: 5 << 20, ..entry.clone() };
    super::check("too large", get(&huge).await, Err(&["4194304 at most are read"]));
    let other = Descriptor { media_type: media_type::OCI_INDEX.into(), ..entry.clone() };
    super::check("type", get(&other).await, Err(&["the index calls it"]));
    registry.fault("GET", "/manifests/", 1, |_, response| response.body = b"{}".to_vec());
    super::check("digest", get(&entry).await, Err(&["gave other bytes than asked for"]));
}

#[tokio::test]
async fn conditions_are_heeded_or_known_not_to_be() {
    for heeds in [false, true] {
        let registry = start();
        if heeds {
            registry.heed_conditions();
        }
        let (client, _) = client(|_| {});
        let name = name(&registry, "app:1");
        let bytes: Vec<Vec<u8>> = (0..3).map(|n| index(&[Image::new(&n.to_string()).manifest_descriptor()])).collect();
        let of = |bytes: &Vec<u8>| descriptor(media_type::OCI_INDEX, bytes);
        assert_eq!(client.put_by_digest(&name, &of(&bytes[0]), &bytes[0]).await.unwrap(), heeds);
        assert_eq!(registry.manifest("app", &digest_of(&bytes[0])).as_ref(), Some(&bytes[0]), "it is there either way");
        assert_eq!(registry.manifest("app", "1"), None, "and has no name");

        let put = async |n: usize, condition: &Condition| {
            client.put_document(&name, &of(&bytes[n]), &bytes[n], condition).await.unwrap()
        };
        let overtaken = if heeds { Put::Overtaken } else { Put::Done };
        assert_eq!(put(0, &Condition::Absent).await, Put::Done);
        assert_eq!(put(1, &Condition::Absent).await, overtaken);
        let state = client.document(&name, Asked::ToPush).await.unwrap().etag.expect("the registry gives one");
        assert_eq!(put(1, &Condition::Still(state.clone())).await, Put::Done);
        if heeds {
            assert_eq!(put(2, &Condition::Still(state)).await, overtaken);
            assert_eq!(registry.manifest("app", "1").as_ref(), Some(&bytes[1]));
        }
        assert_eq!(put(2, &Condition::Always).await, Put::Done);
        assert_eq!(registry.manifest("app", "1").as_ref(), Some(&bytes[2]));
    }
}
