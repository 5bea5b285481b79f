//! The manifest around a document: an OCI image manifest.
//!
//! In: a [`Cache`]. Out: the bytes of manifest and config, and the blobs that the manifest names; and back, from whatever
//! a place holds: such a manifest, or that of an image with an inline document. image-spec manifest.md. Deliberately
//! absent: sending and fetching.

use std::collections::{BTreeMap, HashMap, HashSet};

use oci::model::{Descriptor, DiffId, Digest, ImageConfig, Index, Manifest, media_type};
use serde_json::Value;

use super::format::{CONFIG_TYPE, Cache, DOCUMENT_MAX_BYTES, INLINE_KEY, Refusals};

/// image-spec manifest.md, "Guidance for an Empty Descriptor": some registries want a layer at least.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";

/// So many entries of an index are told.
const NAMED_MAX: usize = 4;

/// A cache as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Bytes of the manifest.
    pub manifest: Vec<u8>,
    /// Small blobs that are made here, and their bytes.
    pub small: Vec<(Descriptor, Vec<u8>)>,
    /// The blobs of layers, each once, in the manifest's order.
    pub blobs: Vec<Descriptor>,
}

impl Document {
    /// Of a cache. The same cache gives the same bytes.
    pub fn of(cache: &Cache) -> Self {
        let bytes = cache.to_bytes();
        let config = Descriptor::new(CONFIG_TYPE, Digest::of(&bytes), bytes.len() as u64);
        let mut seen = HashSet::new();
        let tars = cache.layers.iter().filter_map(|layer| layer.tar.as_ref()).map(|tar| &tar.blob);
        let mounts = cache.mounts.iter().map(|mount| &mount.blob);
        let blobs: Vec<Descriptor> = tars.chain(mounts).filter(|blob| seen.insert(blob.digest)).cloned().collect();
        let mut small = vec![(config.clone(), bytes)];
        let mut layers = blobs.clone();
        if layers.is_empty() {
            let empty = Descriptor::new(EMPTY_TYPE, Digest::of(EMPTY), EMPTY.len() as u64);
            small.push((empty.clone(), EMPTY.to_vec()));
            layers.push(empty);
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            config,
            layers,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        };
        let manifest = serde_json::to_vec(&manifest).expect("plain data becomes JSON");
        Self { manifest, small, blobs }
    }
}

/// A manifest that somebody wrote, as far as it is read.
#[derive(Debug)]
pub(super) struct Found {
    pub config: Descriptor,
    layers: Vec<Descriptor>,
    inline: bool,
}

impl Found {
    /// What bytes from a place are; in words, why they are no cache.
    pub fn read(manifest: &[u8]) -> Result<Self, String> {
        if let Some(reason) = several(manifest) {
            return Err(reason);
        }
        let manifest: Manifest = oci::json::parse(manifest).map_err(|error| error.to_string())?;
        let inline = match manifest.config.media_type.as_str() {
            CONFIG_TYPE => false,
            media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => true,
            other => {
                return Err(format!("its config is of the unknown kind `{}`", plain(other)));
            }
        };
        if manifest.config.size > DOCUMENT_MAX_BYTES {
            return Err(format!("its config has {} bytes", manifest.config.size));
        }
        Ok(Self { config: manifest.config, layers: manifest.layers, inline })
    }

    /// The cache in the config's bytes; `None`: an image without one.
    pub fn cache(&self, config: &[u8]) -> Result<Option<(Cache, Refusals)>, String> {
        if !self.inline {
            return Cache::read(config).map(Some);
        }
        let config: ImageConfig = oci::json::parse(config).map_err(|error| error.to_string())?;
        let Some(inline) = config.extra.get(INLINE_KEY) else { return Ok(None) };
        let blobs: HashMap<DiffId, &Descriptor> = config.rootfs.diff_ids.iter().copied().zip(&self.layers).collect();
        let blob_of = |diff_id: &DiffId| blobs.get(diff_id).map(|&blob| blob.clone());
        let text = |value: &Value| serde_json::to_vec(value).expect("a JSON value is always JSON");
        Cache::read_with(&text(inline), &blob_of).map(Some)
    }
}

/// Why an index is no cache; `None`: it is none. It names manifests for several platforms, of which only a person knows
/// which one is meant.
fn several(bytes: &[u8]) -> Option<String> {
    let value: Value = oci::json::parse(bytes).ok()?;
    if value.get("config").is_some() {
        return None;
    }
    let index: Index = serde_json::from_value(value).ok()?;
    let named = index.manifests.iter().take(NAMED_MAX).map(|entry| match &entry.platform {
        Some(platform) => format!("{} for {}", entry.digest, plain(&platform.to_string())),
        None => entry.digest.to_string(),
    });
    let named: Vec<String> = named.collect();
    let more = if index.manifests.len() > NAMED_MAX { ", …" } else { "" };
    Some(match named.as_slice() {
        [] => "it is an index without entries".into(),
        _ => format!(
            "it is an index; name one of its entries by its digest (`NAME@sha256:…`): {}{more}",
            named.join(", ")
        ),
    })
}

/// Another's words, fit for a line.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
