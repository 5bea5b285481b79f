//! `inspect`: all that is known of an image.
//!
//! In: names or ids. Out: the facts, and the documents that they are from, byte for byte. Where an image is in registries
//! is known of names that a registry gave, and of what was pushed. Deliberately absent: how it is shown, which is the
//! hall's; what only a registry knows ([`super::super::imagetools`]).

use std::sync::Arc;

use oci::image::Image;
use oci::model::{Platform, Reference};
use solver::seam::Progress;
use store::ImageRecord;

use super::{find, one_for, push};
use crate::engine::resolve::is_registrys;
use crate::engine::{Failure, Settings};

/// An image, known through and through.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What the store knows.
    pub record: ImageRecord,
    /// Manifest and config, and their bytes.
    pub image: Image,
    /// What the name means, byte for byte: the manifest, or an index that has it.
    pub document: Vec<u8>,
    /// All its names.
    pub names: Vec<Reference>,
    /// Of an index, for which machines its images are here.
    pub platforms: Vec<Platform>,
    /// Where registries have it: `REPOSITORY@DIGEST`, sorted.
    pub elsewhere: Vec<String>,
}

/// Looks at images, in the order asked; of an index at the image for `platform`, or else for this machine.
///
/// # Errors
/// For the first that is not here.
pub async fn inspect(
    settings: &Settings,
    images: &[String],
    platform: Option<&Platform>,
    progress: Arc<dyn Progress>,
) -> Result<Vec<Inspected>, Failure> {
    let store = settings.open_store(&progress)?;
    let mut inspected = Vec::with_capacity(images.len());
    for text in images {
        let found = find(&store, text)?;
        let record = platform.map_or_else(|| Ok(found.image.clone()), |wanted| one_for(&found, text, wanted))?;
        let image = Image::open(store.blobs(), &record.manifest).map_err(|error| Failure::from_error(&error))?;
        let (document, digest) = match &found.index {
            Some(index) => (index.document.clone().into_bytes(), index.digest()),
            None => (image.manifest_bytes.clone(), record.manifest.digest),
        };
        let mut elsewhere = push::noted(&store, &digest)?;
        for name in &found.names {
            if is_registrys(&store, name, &record)? {
                elsewhere.push(name.at_digest(digest).to_string());
            }
        }
        elsewhere.sort();
        elsewhere.dedup();
        let platforms = found.index.iter().flat_map(|index| &index.members).map(|one| one.platform.clone()).collect();
        inspected.push(Inspected { record, image, document, names: found.names, platforms, elsewhere });
    }
    Ok(inspected)
}
