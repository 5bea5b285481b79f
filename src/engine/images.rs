//! The images of the local store: list, name, look at, forget, import, save, load, push, pull.
//!
//! In come settings and names, out come facts for the hall to print. Deliberately absent: giving the space of a
//! forgotten image back ([`super::space`]); its layers and blobs stay as long as the cache may use them.

mod import;
pub(super) mod input;
mod inspect;
mod load;
mod pull;
mod push;
mod save;
mod send;
mod tag;
#[cfg(test)]
mod tests;
mod whole;

pub use import::import;
pub use inspect::{Inspected, inspect};
pub use load::{LoadedImage, load};
pub use pull::{Pulled, Wanted, pull};
pub use push::{PushOptions, Pushed, push, tags_of};
pub use save::{Saved, save};
pub use send::send;
pub use tag::{Tagged, tag};

pub(super) use load::read;
pub(super) use save::with_blobs;

use std::sync::Arc;

use jiff::Timestamp;
use oci::model::{Digest, Platform, Reference};
use solver::seam::Progress;
use store::{FoundImage, ImageRecord, Store, StoredIndex};

use super::resolve::find_local;
use super::{Failure, Settings, words};

/// One line of the list: a name, or an image that has none.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Its name.
    pub name: Option<Reference>,
    /// The image id: digest of the config; of a name that means several images, the digest of their index.
    pub id: Digest,
    /// When it got its name; without one, when it was made or pulled.
    pub created: Timestamp,
    /// Size of its layers in bytes; of all images that it means.
    pub size_bytes: u64,
    /// For which machines it is, in the order of the index.
    pub platforms: Vec<Platform>,
}

/// All images: those with names by name, then those without, the latest first.
pub async fn list(settings: &Settings, progress: Arc<dyn Progress>) -> Result<Vec<Listed>, Failure> {
    let store = settings.open_store(&progress)?;
    let named = store.images().map_err(|error| words::store(&error))?;
    let nameless = store.nameless_images().map_err(|error| words::store(&error))?;
    let mut all = Vec::with_capacity(named.len() + nameless.len());
    for (name, image) in named {
        let index = store.index_of(&name).map_err(|error| words::store(&error))?;
        // A base of which only one image was ever wanted is that image.
        let several = index.filter(|index| index.members.len() > 1);
        let id = several.as_ref().map_or(image.config, StoredIndex::digest);
        let members = several.map_or_else(|| vec![image.clone()], |index| index.members);
        all.push(listed(Some(name), id, &image, &members));
    }
    all.extend(nameless.iter().map(|image| listed(None, image.config, image, std::slice::from_ref(image))));
    Ok(all)
}

fn listed(name: Option<Reference>, id: Digest, image: &ImageRecord, members: &[ImageRecord]) -> Listed {
    let size_bytes = members.iter().map(|member| member.size_bytes).sum();
    let platforms = members.iter().map(|member| member.platform.clone()).collect();
    Listed { name, id, created: image.created, size_bytes, platforms }
}

/// What was taken away.
#[derive(Clone, Debug, PartialEq)]
pub enum Removed {
    /// A name.
    Name(Reference),
    /// An image, by its id: it has no name left.
    Image(Digest),
}

/// Takes names away and forgets images that have none left. An id stands for an image with at most one name; which of
/// several is meant, only a name says. Returns what was done.
///
/// # Errors
/// Before anything is removed, if one of `images` does not say which image is meant.
pub async fn remove(
    settings: &Settings,
    images: &[String],
    progress: Arc<dyn Progress>,
) -> Result<Vec<Removed>, Failure> {
    let store = settings.open_store(&progress)?;
    let mut meant: Vec<(FoundImage, Option<Reference>)> = Vec::new();
    for text in images {
        let found = find(&store, text)?;
        let name = match (&found.name, &found.names[..]) {
            (Some(name), _) => Some(name.clone()),
            (None, []) => None,
            (None, [name]) => Some(name.clone()),
            (None, names) => {
                let names: Vec<String> = names.iter().map(Reference::familiar).collect();
                return Err(Failure::new(format!("the image `{text}` has several names"))
                    .note(names.join(", "))
                    .help(format!("remove them by name: `rbuild rmi {}`", names.join(" "))));
            }
        };
        if !meant.iter().any(|(other, same)| other.image.manifest == found.image.manifest && *same == name) {
            meant.push((found, name));
        }
    }
    let mut done = Vec::new();
    for (found, name) in meant {
        if let Some(name) = &name
            && store.untag(name).map_err(|error| words::store(&error))?
        {
            done.push(Removed::Name(name.clone()));
        }
        let images = found.index.map_or_else(|| vec![found.image], |index| index.members);
        for image in images {
            let manifest = &image.manifest.digest;
            if store.image_names(manifest).map_err(|error| words::store(&error))?.is_empty() {
                store.remove_image(manifest).map_err(|error| words::store(&error))?;
                done.push(Removed::Image(image.config));
            }
        }
    }
    Ok(done)
}

/// The image that `text` means.
fn find(store: &Store, text: &str) -> Result<FoundImage, Failure> {
    find_local(store, text)?.ok_or_else(|| {
        Failure::new(format!("there is no image `{text}` in the local store"))
            .help("`rbuild images` lists what is there")
    })
}

/// Of what `text` means, the image for a platform.
fn one_for(found: &FoundImage, text: &str, wanted: &Platform) -> Result<ImageRecord, Failure> {
    let members = found.index.as_ref().map_or(std::slice::from_ref(&found.image), |index| &index.members);
    members.iter().find(|member| member.platform.serves(wanted)).cloned().ok_or_else(|| {
        let known: Vec<String> = members.iter().map(|member| format!("`{}`", member.platform)).collect();
        Failure::new(format!("`{text}` is not here for `{wanted}`"))
            .note(format!("it is here for {}", known.join(", ")))
    })
}
