//! Images of OCI layouts: `oci-layout://DIR[:TAG][@DIGEST]`, on this machine or with whoever asked for the build.
//!
//! In come a layout and a platform; out comes the descriptor of a manifest, with everything beneath it in the store,
//! each blob checked against its digest. So the executor finds all of it there, as if it had been pulled.

use std::os::fd::AsFd as _;

use oci::content::put_bytes;
use oci::export::archive;
use oci::image::{Document, ImageError, MANIFEST_MAX_BYTES, NESTING_MAX, choose, read_document};
use oci::model::{Descriptor, Platform, media_type};
use rustix::fs::{Mode, OFlags};
use store::Store;

use crate::engine::Failure;
use crate::options::context::Layout;
use crate::options::theirs::TheirLayouts;

/// What is meant where neither tag nor digest is given and there are several images.
const DEFAULT_TAG: &str = "latest";

/// Brings an image into the store. Blocking.
pub fn bring(store: &Store, name: &str, layout: &Layout, platform: &Platform) -> Result<Descriptor, Failure> {
    let shown = layout.path.display();
    let failed = |error: &(dyn std::error::Error + 'static)| {
        let mut failure = Failure::from_error(error);
        let reason = std::mem::replace(
            &mut failure.problems[0].message,
            format!("cannot read the OCI layout `{shown}` of the context `{name}`"),
        );
        failure.problems[0].notes.insert(0, reason);
        failure
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&layout.path, flags, Mode::empty()).map_err(|errno| failed(&errno))?;
    let entries = archive::entries(root.as_fd(), store.blobs()).map_err(|error| failed(&error))?;
    let entry = choose_entry(layout, &entries).map_err(|advice| {
        let wanted = match (&layout.digest, &layout.tag) {
            (Some(digest), _) => format!("the digest `{digest}`"),
            (None, tag) => format!("the tag `{}`", tag.as_deref().unwrap_or(DEFAULT_TAG)),
        };
        Failure::new(format!("the OCI layout `{shown}` has no image with {wanted}")).help(advice)
    })?;
    archive::bring_one(root.as_fd(), entry, platform, store.blobs()).map_err(|error| failed(&error))
}

/// Brings the image that a digest means on a platform out of a layout that is not on this machine.
///
/// # Errors
/// When a blob cannot be had or is not what its digest and size say, and when there is no image for the platform.
pub async fn bring_theirs(
    store: &Store,
    theirs: &TheirLayouts,
    layout: &Layout,
    platform: &Platform,
) -> Result<Descriptor, Failure> {
    let name = layout.path.to_string_lossy();
    let failed = |error: &(dyn std::error::Error + 'static)| {
        let failure = Failure::new("the client's OCI layout holds no image that can be used");
        failure.note(Failure::from_error(error).problems[0].message.clone())
    };
    let digest = layout.digest.ok_or_else(|| Failure::new("the client names no digest of its OCI layout"))?;
    let bytes = theirs.0.document(&name, &digest, MANIFEST_MAX_BYTES).await?;
    // Nobody has said what it is.
    let media_type = match oci::json::parse::<serde_json::Value>(&bytes).map_err(|error| failed(&error))? {
        value if value["mediaType"].is_string() => value["mediaType"].as_str().unwrap_or_default().to_owned(),
        value if value.get("manifests").is_some() => media_type::OCI_INDEX.to_owned(),
        _ => media_type::OCI_MANIFEST.to_owned(),
    };
    let (digest, size) = put_bytes(store.blobs(), &bytes).map_err(|error| failed(&error))?;
    let mut current = Descriptor::new(media_type, digest, size);
    for _ in 0..NESTING_MAX {
        match read_document(store.blobs(), &current).map_err(|error| failed(&error))?.0 {
            Document::Manifest(manifest) => {
                for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    theirs.0.bring(&name, blob, store.blobs()).await?;
                }
                return Ok(current);
            }
            Document::Index(index) => {
                let Some(chosen) = choose(&index, platform) else {
                    let (digest, wanted) = (current.digest, Box::new(platform.clone()));
                    let available = oci::image::available(&index);
                    return Err(failed(&ImageError::NoPlatform { digest, wanted, available }));
                };
                current = Descriptor::new(chosen.media_type.clone(), chosen.digest, chosen.size);
                theirs.0.bring(&name, &current, store.blobs()).await?;
            }
        }
    }
    Err(Failure::new("the client's OCI layout has indexes that are nested too deep"))
}

/// The entry that is meant, or advice.
fn choose_entry<'a>(layout: &Layout, entries: &'a [(Option<String>, Descriptor)]) -> Result<&'a Descriptor, String> {
    let found = match (layout.digest, layout.tag.as_deref()) {
        (Some(digest), _) => entries.iter().find(|(_, entry)| entry.digest == digest),
        (None, Some(tag)) => entries.iter().find(|(name, _)| name.as_deref() == Some(tag)),
        (None, None) => match entries {
            [only] => Some(only),
            _ => entries.iter().find(|(name, _)| name.as_deref() == Some(DEFAULT_TAG)),
        },
    };
    if let Some((_, entry)) = found {
        return Ok(entry);
    }
    let names: Vec<&str> = entries.iter().filter_map(|(name, _)| name.as_deref()).collect();
    let near = layout.tag.as_deref().and_then(|tag| frontend::did_you_mean(tag, names.iter().copied()));
    Err(near.unwrap_or_else(|| match names[..] {
        [] => "its images have no tags; write `@` and the digest of one behind the directory".into(),
        _ => format!("its tags are {}", names.iter().take(20).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
    }))
}

#[cfg(test)]
mod tests {
    use oci::model::Digest;

    use super::*;

    #[test]
    fn the_image_that_is_meant_is_chosen() {
        let entry = |name: Option<&str>, bytes: &[u8]| {
            (name.map(str::to_owned), Descriptor::new(media_type::OCI_MANIFEST, Digest::of(bytes), 1))
        };
        let one = [entry(Some("v1"), b"1")];
        let two = [entry(Some("v1"), b"1"), entry(Some("latest"), b"2")];
        let bare = [entry(None, b"1"), entry(None, b"2")];
        let check = |tag: Option<&str>, digest: Option<&[u8]>, entries: &[_], expected: Result<&[u8], &str>| {
            let digest = digest.map(Digest::of);
            let layout = Layout { path: "x".into(), tag: tag.map(str::to_owned), digest, theirs: None };
            match (choose_entry(&layout, entries), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.digest, Digest::of(expected)),
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{said}"),
                other => panic!("{other:?}"),
            }
        };
        check(None, None, &one, Ok(b"1"));
        check(None, None, &two, Ok(b"2"));
        check(Some("v1"), None, &two, Ok(b"1"));
        check(None, Some(b"1"), &two, Ok(b"1"));
        check(Some("other"), Some(b"1"), &two, Ok(b"1"));
        check(Some("v2"), None, &two, Err("did you mean `v1`?"));
        check(Some("something"), None, &two, Err("its tags are `v1`, `latest`"));
        check(None, None, &bare, Err("have no tags"));
        check(None, Some(b"3"), &bare, Err("have no tags"));
        check(None, None, &[], Err("have no tags"));
    }
}
