//! What an engine gets that keeps blobs: an image, or an index with all its images.
//!
//! In: what a name means, with every blob in the store. Out: its images, its layers, each once, and how big they are.
//! Deliberately absent: indexes in indexes, which nothing here makes or keeps whole.

use std::collections::{BTreeMap, BTreeSet};

use oci::image::{Document, Image, read_document};
use oci::model::{Descriptor, Digest, Platform, Reference};
use store::Store;

use super::Failure;
use super::stream::Archive;

/// An image or an index, known through and through.
pub struct Blobs {
    /// What its names mean.
    pub top: Descriptor,
    /// Its images; of an index in its order.
    images: Vec<Image>,
    /// Whether it is an index.
    pub is_index: bool,
}

impl Blobs {
    /// Reads manifests and configs.
    pub fn open(store: &Store, top: &Descriptor) -> Result<Self, Failure> {
        let failed = |error: oci::image::ImageError| Failure::from_error(&error);
        let document = read_document(store.blobs(), top).map_err(failed)?.0;
        let (entries, is_index) = match document {
            Document::Manifest(_) => (vec![top.clone()], false),
            Document::Index(index) => (index.manifests, true),
        };
        let images = entries.iter().map(|entry| Image::open(store.blobs(), entry).map_err(failed));
        Ok(Self { top: top.clone(), images: images.collect::<Result<_, _>>()?, is_index })
    }

    /// The layers of all images, each once, with their sizes.
    pub fn layers(&self) -> BTreeMap<Digest, u64> {
        let layers = self.images.iter().flat_map(|image| &image.manifest.layers);
        layers.map(|layer| (layer.digest, layer.size)).collect()
    }

    /// Everything that it consists of.
    pub fn all(&self) -> BTreeSet<Digest> {
        let of_image = |image: &Image| [image.descriptor.digest, image.manifest.config.digest];
        let documents = self.images.iter().flat_map(of_image).chain([self.top.digest]);
        documents.chain(self.layers().into_keys()).collect()
    }

    /// What the user knows it by: the image id; of an index, its digest.
    pub fn id(&self) -> Digest {
        match &self.images[..] {
            [image] if !self.is_index => image.manifest.config.digest,
            _ => self.top.digest,
        }
    }

    /// Whether an image of it runs on this machine without an emulator.
    pub fn runs_here(&self) -> bool {
        let native = Platform::native();
        let is_native =
            |image: &Image| (&image.config.os, &image.config.architecture) == (&native.os, &native.architecture);
        self.images.iter().any(is_native)
    }

    /// An OCI layout with these names, without the layers that are known.
    pub fn archive(&self, store: &Store, names: &[Reference], known: &BTreeSet<Digest>) -> Archive {
        let (store, images, known) = (store.clone(), vec![(names.to_vec(), self.top.clone())], known.clone());
        Archive::of(move |out| {
            let is_wanted = |digest: &Digest| !known.contains(digest);
            oci::export::oci_layout::write_tar_for(out, store.blobs(), &images, &is_wanted)
                .map_err(|error| Failure::from_error(&error))
        })
    }
}
