//! A manifest and its config, read with every check there is.

use std::io::{self, BufReader, Read};

use super::CONFIG_MAX_BYTES;
use super::document::{Document, read_document};
use super::error::{ImageError, misfit};
use crate::content::{ContentStore, open_verified, read_json};
use crate::layer::tar::{EndMarker, Limits, TarError, TarReader};
use crate::layer::{Hashing, decompress_layer};
use crate::model::{Descriptor, DiffId, ImageConfig, Manifest, media_type};

/// An image for one platform, without its layers' contents. The bytes are those that the digests are of.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Points to the manifest.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// Its bytes.
    pub manifest_bytes: Vec<u8>,
    /// The config; one diff_id per layer of the manifest.
    pub config: ImageConfig,
    /// Its bytes.
    pub config_bytes: Vec<u8>,
}

impl Image {
    /// Opens the image whose manifest `descriptor` points to. Manifest and config must be in the store; layers need
    /// not be.
    pub fn open(store: &dyn ContentStore, descriptor: &Descriptor) -> Result<Self, ImageError> {
        let (manifest, manifest_bytes) = match read_document(store, descriptor)? {
            (Document::Manifest(manifest), bytes) => (*manifest, bytes),
            (Document::Index(_), _) => {
                let media_type = descriptor.media_type.clone();
                return Err(ImageError::NoImage { digest: descriptor.digest, media_type });
            }
        };
        let config_type = manifest.config.media_type.as_str();
        if !matches!(config_type, media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
            return Err(ImageError::NoImage { digest: descriptor.digest, media_type: config_type.to_owned() });
        }
        let (config, config_bytes) = read_json::<ImageConfig>(store, &manifest.config, CONFIG_MAX_BYTES)?;
        if let Some(reason) = misfit(&manifest.layers, config.rootfs.diff_ids.len()) {
            return Err(ImageError::malformed("manifest", descriptor.digest, reason));
        }
        Ok(Self { descriptor: descriptor.clone(), manifest, manifest_bytes, config, config_bytes })
    }

    /// Layers with their diff ids, bottom first.
    pub fn layers(&self) -> impl Iterator<Item = (&Descriptor, DiffId)> {
        self.manifest.layers.iter().zip(self.config.rootfs.diff_ids.iter().copied())
    }
}

/// Reads a whole layer: its blob must have its digest and size, and unpack to `expected`, which may have no more entries
/// than may be unpacked. A tar that is malformed is for whoever unpacks it to say.
pub fn verify_layer(store: &dyn ContentStore, layer: &Descriptor, expected: DiffId) -> Result<(), ImageError> {
    let failed = |source: io::Error| match source.downcast() {
        Ok(content) => ImageError::Content(content),
        Err(source) => ImageError::Layer { layer: layer.digest, source },
    };
    let blob = BufReader::with_capacity(128 * 1024, open_verified(store, layer)?);
    let mut tar = Hashing::new(decompress_layer(&layer.media_type, layer.size, blob).map_err(failed)?);
    look_through(&mut tar).map_err(failed)?;
    io::copy(&mut tar, &mut io::sink()).map_err(failed)?;
    let (_, digest, _) = tar.finish();
    let found = DiffId(digest);
    if found == expected {
        return Ok(());
    }
    Err(ImageError::WrongDiffId { layer: layer.digest, expected, found })
}

/// Reads the members of an archive as far as they can be read; too many of them are an error.
fn look_through(tar: &mut impl Read) -> io::Result<()> {
    let mut reader = TarReader::new(tar, Limits::default(), EndMarker::Optional);
    loop {
        match reader.next() {
            Ok(Some(_)) => {}
            Ok(None) | Err(TarError::Malformed { .. } | TarError::Truncated { .. }) => return Ok(()),
            Err(TarError::Io { source, .. }) => return Err(source),
            Err(bomb @ TarError::Limit { .. }) => return Err(io::Error::new(io::ErrorKind::InvalidData, bomb)),
        }
    }
}
