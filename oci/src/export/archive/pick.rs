//! One image of an OCI layout directory, and nothing else of it: a layout may hold hundreds.
//!
//! In come the directory and an entry of its `index.json`; out comes the manifest for a platform, whose config and
//! layers are in the store then, each checked against its digest.

use std::os::fd::BorrowedFd;

use super::index::{Brought, bring_manifest, check_layout};
use super::{copy_blob, small};
use crate::content::{ContentError, ContentStore, put_bytes};
use crate::export::error::ExportError;
use crate::export::{INDEX_FILE, LAYOUT_FILE, REF_NAME};
use crate::image::{Document, ImageError, NESTING_MAX, available, choose, read_document};
use crate::model::{Descriptor, Platform, media_type};

/// The entries of a layout's `index.json`, each with its name there.
///
/// # Errors
/// When the directory is no layout.
pub fn entries(
    root: BorrowedFd<'_>,
    into: &dyn ContentStore,
) -> Result<Vec<(Option<String>, Descriptor)>, ExportError> {
    check_layout(&small(root, LAYOUT_FILE)?)?;
    let bytes = small(root, INDEX_FILE)?;
    let (digest, size) = put_bytes(into, &bytes)?;
    match read_document(into, &Descriptor::new(media_type::OCI_INDEX, digest, size))?.0 {
        Document::Index(index) => {
            let named = |entry: Descriptor| (entry.annotations.get(REF_NAME).cloned(), entry);
            Ok(index.manifests.into_iter().map(named).collect())
        }
        Document::Manifest(_) => Err(ExportError::malformed(INDEX_FILE, "it is no index")),
    }
}

/// Brings the image that an entry means on a platform into the store, and returns the descriptor of its manifest.
///
/// # Errors
/// When the layout lacks a blob, a blob is not what its digest says, or there is no image for the platform.
pub fn bring_one(
    root: BorrowedFd<'_>,
    entry: &Descriptor,
    wanted: &Platform,
    into: &dyn ContentStore,
) -> Result<Descriptor, ExportError> {
    let mut current = Descriptor::new(entry.media_type.clone(), entry.digest, entry.size);
    for _ in 0..NESTING_MAX {
        if !copy_blob(root, &current, into)? {
            return Err(ContentError::Missing { digest: current.digest }.into());
        }
        match read_document(into, &current)?.0 {
            Document::Manifest(manifest) => {
                let brought = bring_manifest(&current, &manifest, into, &mut |blob| copy_blob(root, blob, into))?;
                if brought == Brought::Image {
                    return Ok(current);
                }
                let media_type = manifest.config.media_type;
                return Err(ImageError::NoImage { digest: current.digest, media_type }.into());
            }
            Document::Index(index) => {
                let Some(chosen) = choose(&index, wanted) else {
                    let (digest, wanted) = (current.digest, Box::new(wanted.clone()));
                    return Err(ImageError::NoPlatform { digest, wanted, available: available(&index) }.into());
                };
                current = Descriptor::new(chosen.media_type.clone(), chosen.digest, chosen.size);
            }
        }
    }
    Err(ExportError::malformed(INDEX_FILE, "its indexes are nested too deep"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::path::Path;

    use super::*;
    use crate::content::MemoryStore;
    use crate::image::assemble;
    use crate::layer::Dialect;
    use crate::model::Digest;

    fn blob(dir: &Path, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = dir.join("blobs/sha256");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(digest.hex()), bytes).unwrap();
        digest
    }

    /// A layout with an image per platform under the tag `all`; returns the digest of each manifest.
    fn layout(dir: &Path, platforms: &[&str]) -> Vec<Digest> {
        let mut manifests = Vec::new();
        for platform in platforms {
            let layer = platform.as_bytes();
            let layer = Descriptor::new(media_type::OCI_LAYER, blob(dir, layer), layer.len() as u64);
            let (os, architecture) = platform.split_once('/').unwrap();
            let diff_id = layer.digest;
            let config = format!(
                r#"{{"os":"{os}","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
            );
            blob(dir, config.as_bytes());
            let made = assemble(config.as_bytes(), vec![layer], Default::default(), Dialect::Oci).unwrap();
            blob(dir, &made.manifest_bytes);
            manifests.push((made.descriptor, platform.parse::<Platform>().unwrap()));
        }
        let entry = |(descriptor, platform): &(Descriptor, Platform)| {
            format!(
                r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"{}","architecture":"{}"}}}}"#,
                descriptor.media_type, descriptor.digest, descriptor.size, platform.os, platform.architecture
            )
        };
        let entries: Vec<String> = manifests.iter().map(entry).collect();
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let digest = blob(dir, index.as_bytes());
        let top = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":{},"annotations":{{"{REF_NAME}":"all"}}}}]}}"#,
            media_type::OCI_INDEX,
            index.len()
        );
        std::fs::write(dir.join(INDEX_FILE), top).unwrap();
        std::fs::write(dir.join(LAYOUT_FILE), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        manifests.into_iter().map(|(descriptor, _)| descriptor.digest).collect()
    }

    #[test]
    fn only_the_image_for_the_platform_is_brought() {
        let dir = tempfile::tempdir().unwrap();
        let digests = layout(dir.path(), &["linux/amd64", "linux/arm64"]);
        let store = MemoryStore::default();
        let root = std::fs::File::open(dir.path()).unwrap();
        let found = entries(root.as_fd(), &store).unwrap();
        assert_eq!(found.iter().map(|(name, _)| name.as_deref()).collect::<Vec<_>>(), [Some("all")]);
        let brought = bring_one(root.as_fd(), &found[0].1, &"linux/arm64".parse().unwrap(), &store).unwrap();
        assert_eq!(brought.digest, digests[1]);
        assert!(store.open(&digests[1]).unwrap().is_some());
        assert!(store.open(&digests[0]).unwrap().is_none());
        let none = bring_one(root.as_fd(), &found[0].1, &"linux/s390x".parse().unwrap(), &store).unwrap_err();
        assert!(none.to_string().contains("s390x"), "{none}");
    }

    #[test]
    fn blobs_that_lie_or_lead_elsewhere_are_not_taken() {
        let check = |damage: &dyn Fn(&Path, &Digest)| {
            let dir = tempfile::tempdir().unwrap();
            let digests = layout(dir.path(), &["linux/amd64"]);
            let layer = Digest::of(b"linux/amd64");
            damage(&dir.path().join("blobs/sha256").join(layer.hex()), &digests[0]);
            let store = MemoryStore::default();
            let root = std::fs::File::open(dir.path()).unwrap();
            let found = entries(root.as_fd(), &store).unwrap();
            bring_one(root.as_fd(), &found[0].1, &"linux/amd64".parse().unwrap(), &store).unwrap_err();
            assert!(store.open(&layer).unwrap().is_none());
        };
        check(&|path, _| std::fs::write(path, b"linux/amd65").unwrap());
        check(&|path, _| std::fs::write(path, b"linux/amd64 and more").unwrap());
        check(&|path, _| std::fs::remove_file(path).unwrap());
        check(&|path, _| {
            std::fs::write(path.with_file_name("aside"), b"linux/amd64").unwrap();
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("aside", path).unwrap();
        });
    }
}
