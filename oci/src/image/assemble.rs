//! A config and layers become a manifest.

use std::collections::BTreeMap;

use super::error::{ImageError, misfit};
use crate::json;
use crate::layer::Dialect;
use crate::model::{Descriptor, Digest, ImageConfig, Manifest, media_type};

/// A manifest that was just made.
#[derive(Clone, Debug, PartialEq)]
pub struct Assembled {
    /// Points to the manifest.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// Its bytes, those that the digest is of.
    pub manifest_bytes: Vec<u8>,
}

/// Makes the manifest of an image. The same arguments give the same bytes: fields stand in the specification's order,
/// annotations by name. Media types of `layers` must be of the same `dialect`; see
/// [`crate::layer::Compression::layer_media_type`]. The config must have one diff_id per layer. image-spec manifest.md.
pub fn assemble(
    config_bytes: &[u8],
    layers: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
    dialect: Dialect,
) -> Result<Assembled, ImageError> {
    let (manifest_type, config_type) = match dialect {
        Dialect::Oci => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
        Dialect::Docker => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
    };
    let config_digest = Digest::of(config_bytes);
    let config: ImageConfig =
        json::parse(config_bytes).map_err(|error| ImageError::malformed("config", config_digest, error.to_string()))?;
    if let Some(reason) = misfit(&layers, config.rootfs.diff_ids.len()) {
        return Err(ImageError::malformed("config", config_digest, reason));
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(manifest_type.to_owned()),
        config: Descriptor::new(config_type, config_digest, config_bytes.len() as u64),
        layers,
        annotations,
        extra: BTreeMap::new(),
    };
    let manifest_bytes = serde_json::to_vec(&manifest).expect("a manifest holds nothing that JSON cannot say");
    let descriptor = Descriptor::new(manifest_type, Digest::of(&manifest_bytes), manifest_bytes.len() as u64);
    Ok(Assembled { descriptor, manifest, manifest_bytes })
}
