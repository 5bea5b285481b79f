//! Blobs from repository to repository: mounted, streamed, in chunks, and from a registry that fails on the way.

use super::*;

/// Half a mebibyte of noise.
fn noise() -> Vec<u8> {
    let mut state = 7_u64;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    bytes.take(512 << 10).collect()
}

async fn copy(from: &Registry, to: &Registry, bytes: &[u8], chunk: u64) -> Result<(), RegistryError> {
    let (client, _) = client(|settings| settings.chunk_bytes = chunk);
    let told = Mutex::new(Vec::new());
    let tell = |digest: &Digest, done| told.lock().unwrap().push((*digest, done));
    let descriptor = descriptor(media_type::OCI_LAYER, bytes);
    client.copy_blob(&name(from, "old/app:1"), &name(to, "new/app:1"), &descriptor, &tell).await?;
    assert_eq!(told.lock().unwrap().last(), Some(&(descriptor.digest, descriptor.size)));
    Ok(())
}

#[tokio::test]
async fn a_blob_goes_to_another_registry_whole_or_in_chunks() {
    let bytes = noise();
    for chunk in [1 << 20, 64 << 10] {
        let (from, to) = (start(), start());
        from.put_blob("old/app", &bytes);
        copy(&from, &to, &bytes, chunk).await.unwrap();
        assert_eq!(to.blob("new/app", &digest_of(&bytes)), Some(bytes.clone()));
        assert_eq!(from.count("GET", "/blobs/"), 1, "it is read once, whatever the chunks");
        // What is there is not read again.
        copy(&from, &to, &bytes, chunk).await.unwrap();
        assert_eq!((from.count("GET", "/blobs/"), to.count("POST", "")), (1, 1));
    }
}

#[tokio::test]
async fn within_a_registry_it_is_mounted_or_streamed_where_that_is_refused() {
    let bytes = noise();
    for mounts in [true, false] {
        let registry = start();
        registry.allow_mounts(mounts);
        registry.put_blob("old/app", &bytes);
        copy(&registry, &registry, &bytes, 1 << 20).await.unwrap();
        assert_eq!(registry.blob("new/app", &digest_of(&bytes)), Some(bytes.clone()));
        assert_eq!(registry.count("GET", "/blobs/"), usize::from(!mounts));
    }
}

#[tokio::test]
async fn a_source_that_is_cut_is_read_on_and_one_that_lies_gives_nothing() {
    let bytes = noise();
    let (from, to) = (start(), start());
    from.put_blob("old/app", &bytes);
    from.fault("GET", "/blobs/", 2, |_, response| response.cut_after = Some(100 << 10));
    copy(&from, &to, &bytes, 1 << 20).await.unwrap();
    assert_eq!(to.blob("new/app", &digest_of(&bytes)), Some(bytes.clone()));
    assert_eq!(from.count("GET", "/blobs/"), 3);

    for chunk in [1 << 20, 64 << 10] {
        let (from, to) = (start(), start());
        from.put_blob("old/app", &bytes);
        from.fault("GET", "/blobs/", 9, |_, response| {
            if let Some(last) = response.body.last_mut() {
                *last ^= 1;
            }
        });
        check("lies", copy(&from, &to, &bytes, chunk).await, Err(&[&digest_of(&bytes)]));
        assert_eq!(to.blob("new/app", &digest_of(&bytes)), None);
    }
    let (from, to) = (start(), start());
    check("absent", copy(&from, &to, &bytes, 1 << 20).await, Err(&["is not found", "old/app"]));
}
