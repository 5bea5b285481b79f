//! OCI layouts in a tar: image-spec image-layout.md.

use std::collections::BTreeMap;
use std::io::Write;

use super::blobs::{Blobs, write_file};
use super::error::ExportError;
use super::{IMAGE_NAME, INDEX_FILE, LAYOUT_FILE, REF_NAME};
use crate::content::ContentStore;
use crate::layer::tar::TarWriter;
use crate::model::{Descriptor, Digest, Index, Reference, media_type};

/// What the file `oci-layout` says.
pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Writes images with all their blobs. Each may have several names, or none; the tag of each stands in `index.json` as
/// `org.opencontainers.image.ref.name`, the whole name as `io.containerd.image.name`.
pub fn write_tar(
    out: &mut dyn Write,
    store: &dyn ContentStore,
    images: &[(Vec<Reference>, Descriptor)],
) -> Result<(), ExportError> {
    write_tar_for(out, store, images, &|_| true)
}

/// The same for a reader that has blobs already: those that are not wanted are left out.
pub fn write_tar_for(
    out: &mut dyn Write,
    store: &dyn ContentStore,
    images: &[(Vec<Reference>, Descriptor)],
    is_wanted: &dyn Fn(&Digest) -> bool,
) -> Result<(), ExportError> {
    let mut blobs = Blobs::default();
    for (_, descriptor) in images {
        blobs.add(store, descriptor)?;
    }
    let mut tar = TarWriter::new(out);
    write_head(&mut tar, images)?;
    blobs.write(store, is_wanted, &mut tar)?;
    tar.finish()?;
    Ok(())
}

/// The two files at the beginning.
pub(super) fn write_head<W: Write>(
    tar: &mut TarWriter<W>,
    images: &[(Vec<Reference>, Descriptor)],
) -> Result<(), ExportError> {
    write_file(tar, LAYOUT_FILE, LAYOUT)?;
    let bytes = serde_json::to_vec(&index_of(images)).expect("an index holds nothing that JSON cannot say");
    write_file(tar, INDEX_FILE, &bytes)
}

/// The `index.json` of these images.
pub(super) fn index_of(images: &[(Vec<Reference>, Descriptor)]) -> Index {
    Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        manifests: images.iter().flat_map(|(names, descriptor)| named(names, descriptor)).collect(),
        annotations: BTreeMap::new(),
        extra: BTreeMap::new(),
    }
}

/// One entry per name, or one without any.
fn named(names: &[Reference], descriptor: &Descriptor) -> Vec<Descriptor> {
    let mut plain = descriptor.clone();
    plain.annotations.remove(REF_NAME);
    plain.annotations.remove(IMAGE_NAME);
    if names.is_empty() {
        return vec![plain];
    }
    let with_name = |name: &Reference| {
        let mut entry = plain.clone();
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        entry.annotations.extend(name.tag().map(|tag| (REF_NAME.to_owned(), tag.to_owned())));
        entry
    };
    names.iter().map(with_name).collect()
}
