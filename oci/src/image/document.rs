//! A manifest or an index, read so that nobody could read it as the other: CVE-2021-41190.

use serde_json::Value;

use super::MANIFEST_MAX_BYTES;
use super::error::ImageError;
use crate::content::{ContentStore, read_bytes};
use crate::json;
use crate::model::{Descriptor, Index, Manifest, media_type};

/// What a descriptor points to.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Images for several platforms. Entries that rbuild cannot use (unknown media types, digests of other algorithms)
    /// are left out, as the specification asks: image-index.md, "manifests".
    Index(Index),
}

/// Reads the manifest or index that `descriptor` points to, and returns its bytes too. Its digest, size and media type
/// must be the descriptor's.
pub fn read_document(store: &dyn ContentStore, descriptor: &Descriptor) -> Result<(Document, Vec<u8>), ImageError> {
    let index = match descriptor.media_type.as_str() {
        media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => false,
        media_type::OCI_INDEX | media_type::DOCKER_INDEX => true,
        other => return Err(ImageError::NoImage { digest: descriptor.digest, media_type: other.to_owned() }),
    };
    let what = if index { "index" } else { "manifest" };
    let malformed = |reason: String| ImageError::malformed(what, descriptor.digest, reason);
    let bytes = read_bytes(store, descriptor, MANIFEST_MAX_BYTES)?;
    let mut value: Value = json::parse(&bytes).map_err(|error| malformed(error.to_string()))?;
    let has = |key: &str| value.get(key).is_some();
    if has("manifests") && (has("layers") || has("config")) {
        return Err(malformed("it has both `manifests` and `layers` or `config`".into()));
    }
    match value.get("mediaType") {
        None | Some(Value::Null) => {}
        Some(Value::String(own)) if *own == descriptor.media_type => {}
        Some(own) => {
            let own = own.as_str().map_or_else(|| own.to_string(), |own| own.escape_debug().to_string());
            return Err(malformed(format!("it is called `{}`, but calls itself `{own}`", descriptor.media_type)));
        }
    }
    if value.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
        return Err(malformed("its `schemaVersion` is not 2".into()));
    }
    let document = if index {
        keep_usable(&mut value);
        serde_json::from_value(value).map(Document::Index)
    } else {
        serde_json::from_value(value).map(|manifest| Document::Manifest(Box::new(manifest)))
    };
    Ok((document.map_err(|error| malformed(error.to_string()))?, bytes))
}

fn keep_usable(index: &mut Value) {
    let Some(Value::Array(entries)) = index.get_mut("manifests") else { return };
    entries.retain(|entry| {
        let media_type = entry.get("mediaType").and_then(Value::as_str);
        let known =
            [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST, media_type::OCI_INDEX, media_type::DOCKER_INDEX];
        let sha256 = entry.get("digest").and_then(Value::as_str).is_none_or(|digest| digest.starts_with("sha256:"));
        media_type.is_some_and(|media_type| known.contains(&media_type)) && sha256
    });
}
