//! `tag`: further names for an image, or for an index of images.

use std::sync::Arc;

use oci::model::{Digest, Reference};
use solver::seam::Progress;
use store::StoredIndex;

use super::find;
use crate::engine::{Failure, Settings, words};

/// A name that was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Tagged {
    /// The name.
    pub name: Reference,
    /// The image's id; of an index, that of the image for this machine.
    pub id: Digest,
    /// The digest of its manifest here, or of the index that the name means.
    pub digest: Digest,
}

/// Gives what `source` means all these names; what had them before loses them.
///
/// # Errors
/// When there is no such image; then no name is given.
pub async fn tag(
    settings: &Settings,
    source: &str,
    names: &[Reference],
    progress: Arc<dyn Progress>,
) -> Result<Vec<Tagged>, Failure> {
    let store = settings.open_store(&progress)?;
    let found = find(&store, source)?;
    let digest = found.index.as_ref().map_or(found.image.manifest.digest, StoredIndex::digest);
    let mut tagged = Vec::with_capacity(names.len());
    for name in names {
        let named = match &found.index {
            Some(index) => store.tag_index(name, &index.document, &index.members),
            None => store.tag(name, &found.image),
        };
        named.map_err(|error| words::store(&error))?;
        tagged.push(Tagged { name: name.clone(), id: found.image.config, digest });
    }
    store.sync().map_err(|error| words::store(&error))?;
    Ok(tagged)
}
