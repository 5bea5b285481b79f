//! Docker archives, as `docker save` writes them since version 25: an OCI layout with a `manifest.json` beside it, so
//! that `docker load`, podman and skopeo all find what they look for.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::blobs::{Blobs, path_of, write_file};
use super::error::ExportError;
use super::{MANIFEST_FILE, oci_layout};
use crate::content::ContentStore;
use crate::layer::tar::TarWriter;
use crate::model::{Descriptor, Reference};

/// One image in `manifest.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    /// Path of the config.
    pub config: String,
    /// Names with tags; `null` when there are none.
    pub repo_tags: Option<Vec<String>>,
    /// Paths of the layers, bottom first.
    pub layers: Vec<String>,
}

/// Writes images with all their blobs. Each may have several names, or none; names without a tag are left out of
/// `manifest.json`, for docker knows no others there. An index is an error.
pub fn write(
    out: &mut dyn Write,
    store: &dyn ContentStore,
    images: &[(Vec<Reference>, Descriptor)],
) -> Result<(), ExportError> {
    let mut blobs = Blobs::default();
    let mut items = Vec::with_capacity(images.len());
    for (names, descriptor) in images {
        let manifest = blobs.add(store, descriptor)?;
        let manifest = manifest.ok_or(ExportError::IndexInDockerArchive { digest: descriptor.digest })?;
        let tags: Vec<String> = names.iter().filter_map(tagged).collect();
        items.push(Item {
            config: path_of(&manifest.config.digest),
            repo_tags: (!tags.is_empty()).then_some(tags),
            layers: manifest.layers.iter().map(|layer| path_of(&layer.digest)).collect(),
        });
    }
    let mut tar = TarWriter::new(out);
    oci_layout::write_head(&mut tar, images)?;
    let bytes = serde_json::to_vec(&items).expect("a list of texts holds nothing that JSON cannot say");
    write_file(&mut tar, MANIFEST_FILE, &bytes)?;
    blobs.write(store, &|_| true, &mut tar)?;
    tar.finish()?;
    Ok(())
}

/// `app:1` of a name with a tag, without its digest.
fn tagged(name: &Reference) -> Option<String> {
    let tag = name.tag()?;
    let familiar = name.familiar();
    let repository = familiar.split('@').next().unwrap_or(&familiar);
    let repository = repository.strip_suffix(&format!(":{tag}")).unwrap_or(repository);
    Some(format!("{repository}:{tag}"))
}
