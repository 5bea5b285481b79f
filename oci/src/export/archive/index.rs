//! Follows the `index.json` of an OCI layout, wherever the layout is.

use std::collections::HashSet;

use super::Loaded;
use crate::content::{ContentError, ContentStore, put_bytes};
use crate::export::error::ExportError;
use crate::export::{IMAGE_NAME, INDEX_FILE, LAYOUT_FILE, REF_NAME};
use crate::image::{Document, Image, read_document};
use crate::json;
use crate::model::{Descriptor, Digest, Index, Manifest, Reference, ReferenceError, media_type};

/// Indexes in indexes.
const NESTING_MAX: usize = 4;
/// What attestations are made of.
const IN_TOTO: &str = "application/vnd.in-toto+json";

pub(in crate::export) fn check_layout(bytes: &[u8]) -> Result<(), ExportError> {
    let layout: serde_json::Value =
        json::parse(bytes).map_err(|error| ExportError::malformed(LAYOUT_FILE, error.to_string()))?;
    match layout.get("imageLayoutVersion").and_then(serde_json::Value::as_str) {
        Some(version) if version.starts_with("1.") => Ok(()),
        other => {
            let version = other.unwrap_or("none").escape_debug().to_string();
            Err(ExportError::malformed(LAYOUT_FILE, format!("its version is `{version}`, not 1.0.0")))
        }
    }
}

/// Follows `index.json`. `bring` gets a blob into the store and tells whether there is one.
pub(super) fn read_index(
    bytes: &[u8],
    into: &dyn ContentStore,
    bring: &mut dyn FnMut(&Descriptor) -> Result<bool, ExportError>,
) -> Result<Vec<Loaded>, ExportError> {
    // It is an index like any other, so it is read like one.
    let (digest, size) = put_bytes(into, bytes)?;
    let (document, _) = read_document(into, &Descriptor::new(media_type::OCI_INDEX, digest, size))?;
    let Document::Index(Index { manifests, .. }) = document else {
        return Err(ExportError::malformed(INDEX_FILE, "it is no index"));
    };
    let mut loaded: Vec<Loaded> = Vec::new();
    for entry in &manifests {
        let names = name_of(entry)?;
        if let Some(known) = loaded.iter_mut().find(|known| known.manifest.digest == entry.digest) {
            known.names.extend(names);
            continue;
        }
        match bring_all(entry, into, bring, &mut HashSet::new(), NESTING_MAX)? {
            Brought::Image => {}
            Brought::Other => {
                tracing::debug!(digest = %entry.digest, "an entry of the archive is no image");
                continue;
            }
            Brought::Nothing => return Err(ContentError::Missing { digest: entry.digest }.into()),
        }
        let plain = Descriptor::new(entry.media_type.clone(), entry.digest, entry.size);
        loaded.push(Loaded { names: names.into_iter().collect(), manifest: plain });
    }
    Ok(loaded)
}

/// What a descriptor led to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Brought {
    /// At least one image.
    Image,
    /// Something else: an attestation, an artifact.
    Other,
    /// Nothing is there.
    Nothing,
}

/// Brings a manifest with its blobs, or an index with those of its manifests that are there.
fn bring_all(
    descriptor: &Descriptor,
    into: &dyn ContentStore,
    bring: &mut dyn FnMut(&Descriptor) -> Result<bool, ExportError>,
    seen: &mut HashSet<Digest>,
    nesting_left: usize,
) -> Result<Brought, ExportError> {
    if !bring(descriptor)? {
        return Ok(Brought::Nothing);
    }
    let index = match read_document(into, descriptor)?.0 {
        Document::Manifest(manifest) => return bring_manifest(descriptor, &manifest, into, bring),
        Document::Index(index) => index,
    };
    let Some(nesting_left) = nesting_left.checked_sub(1) else {
        return Err(ExportError::malformed(INDEX_FILE, "its indexes are nested too deep"));
    };
    let mut brought = Brought::Nothing;
    for entry in index.manifests.iter().filter(|entry| seen.insert(entry.digest)).collect::<Vec<_>>() {
        match bring_all(entry, into, bring, seen, nesting_left)? {
            Brought::Image => brought = Brought::Image,
            Brought::Other if brought == Brought::Nothing => brought = Brought::Other,
            Brought::Other | Brought::Nothing => {}
        }
    }
    Ok(brought)
}

pub(super) fn bring_manifest(
    descriptor: &Descriptor,
    manifest: &Manifest,
    into: &dyn ContentStore,
    bring: &mut dyn FnMut(&Descriptor) -> Result<bool, ExportError>,
) -> Result<Brought, ExportError> {
    for blob in [&manifest.config].into_iter().chain(&manifest.layers) {
        if !bring(blob)? {
            return Err(ContentError::Missing { digest: blob.digest }.into());
        }
        // The size in the manifest must be right too, here where it can be said which blob it is about.
        let actual = into.open(&blob.digest)?.map_or(0, |reader| reader.size());
        if actual != blob.size {
            return Err(ContentError::WrongSize { digest: blob.digest, expected: blob.size, actual }.into());
        }
    }
    let config = manifest.config.media_type.as_str();
    // An attestation has an image's config and layers that are none.
    let is_image = matches!(config, media_type::OCI_CONFIG | media_type::DOCKER_CONFIG)
        && !manifest.layers.iter().any(|layer| layer.media_type == IN_TOTO);
    if !is_image {
        return Ok(Brought::Other);
    }
    Image::open(into, descriptor)?;
    Ok(Brought::Image)
}

/// The name of an entry of `index.json`. containerd writes a whole one; others put either a tag, which says nothing
/// without a repository, or a whole name into the specification's annotation.
fn name_of(entry: &Descriptor) -> Result<Option<Reference>, ExportError> {
    let annotation = |key: &str| entry.annotations.get(key).map(String::as_str);
    if let Some(name) = annotation(IMAGE_NAME) {
        let parsed = name.parse().map(Some);
        return parsed.map_err(|error: ReferenceError| ExportError::malformed(INDEX_FILE, error.to_string()));
    }
    // Any text is allowed here, so one that is no name is none.
    Ok(annotation(REF_NAME).filter(|name| name.contains(['/', ':'])).and_then(|name| name.parse().ok()))
}
