//! The manifest of what is told of an image.
//!
//! In: the image's descriptor, a statement. Out: a manifest with the statement as its one layer, and the descriptor that
//! stands in the index: of the platform `unknown/unknown`, with annotations that say which image it is about. In OCI
//! types it is an artifact with the image as its subject, image-spec manifest.md, "Guidelines for Artifact Usage"; in
//! Docker's it is an image that nobody runs. BuildKit docs/attestations/attestation-storage.md.

use std::collections::BTreeMap;

use oci::layer::Dialect;
use oci::model::{Descriptor, Digest, Manifest, Platform, media_type};
use serde_json::{Value, json};

use super::provenance::PREDICATE;
use crate::engine::export::Written;

/// Media type of a statement. in-toto attestation spec, "Envelope".
const STATEMENT: &str = "application/vnd.in-toto+json";
/// What kind of artifact the manifest is.
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// Config of an artifact. image-spec manifest.md, "Guidance for an Empty Descriptor".
const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");

/// What the manifest points to.
pub struct Blobs {
    pub statement: Descriptor,
    pub config: Descriptor,
    pub config_bytes: Vec<u8>,
}

/// Makes it.
pub fn of(image: &Descriptor, statement: &[u8], dialect: Dialect) -> (Written, Blobs) {
    let mut told = Descriptor::new(STATEMENT, Digest::of(statement), statement.len() as u64);
    told.annotations.insert("in-toto.io/predicate-type".into(), PREDICATE.into());
    let (kind, config_kind, config_bytes, extra) = match dialect {
        Dialect::Oci => {
            let subject = Descriptor::new(image.media_type.clone(), image.digest, image.size);
            let extra = [("artifactType", json!(ARTIFACT)), ("subject", json!(subject))];
            (media_type::OCI_MANIFEST, EMPTY.0, EMPTY.1.to_vec(), extra.to_vec())
        }
        Dialect::Docker => {
            let config = json!({
                "architecture": "unknown", "os": "unknown", "config": {},
                "rootfs": { "type": "layers", "diff_ids": [told.digest] },
            });
            (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG, config.to_string().into_bytes(), Vec::new())
        }
    };
    let config = Descriptor::new(config_kind, Digest::of(&config_bytes), config_bytes.len() as u64);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(kind.to_owned()),
        config: config.clone(),
        layers: vec![told.clone()],
        annotations: BTreeMap::new(),
        extra: extra.into_iter().map(|(key, value): (&str, Value)| (key.to_owned(), value)).collect(),
    };
    let manifest_bytes = serde_json::to_vec(&manifest).expect("a manifest holds nothing that JSON cannot say");
    let mut descriptor = Descriptor::new(kind, Digest::of(&manifest_bytes), manifest_bytes.len() as u64);
    descriptor.platform =
        Some(Platform { os: "unknown".into(), architecture: "unknown".into(), ..Platform::default() });
    descriptor.annotations = BTreeMap::from([
        ("vnd.docker.reference.type".into(), "attestation-manifest".into()),
        ("vnd.docker.reference.digest".into(), image.digest.to_string()),
    ]);
    let written = Written { manifest: descriptor, manifest_bytes, config: config.digest };
    (written, Blobs { statement: told, config, config_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manifest and the index's entry for an image.
    fn check(dialect: Dialect) -> (Value, Value) {
        let image = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"image"), 5);
        let (written, blobs) = of(&image, b"{}", dialect);
        assert_eq!(written.manifest.digest, Digest::of(&written.manifest_bytes));
        assert_eq!(blobs.config.digest, Digest::of(&blobs.config_bytes));
        assert_eq!(blobs.statement.digest, Digest::of(b"{}"));
        let entry = serde_json::to_value(&written.manifest).expect("it is JSON");
        (serde_json::from_slice(&written.manifest_bytes).expect("it is JSON"), entry)
    }

    #[test]
    fn the_index_says_of_which_image_it_tells_and_that_nobody_can_run_it() {
        for dialect in [Dialect::Oci, Dialect::Docker] {
            let (manifest, entry) = check(dialect);
            assert_eq!(entry["platform"], json!({ "os": "unknown", "architecture": "unknown" }));
            let about = Digest::of(b"image").to_string();
            assert_eq!(
                entry["annotations"],
                json!({ "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": about })
            );
            assert_eq!(manifest["layers"][0]["mediaType"], STATEMENT);
            assert_eq!(manifest["layers"][0]["annotations"]["in-toto.io/predicate-type"], PREDICATE);
        }
    }

    #[test]
    fn with_oci_types_it_is_an_artifact_whose_subject_is_the_image() {
        let (manifest, _) = check(Dialect::Oci);
        assert_eq!(manifest["artifactType"], ARTIFACT);
        assert_eq!(manifest["subject"]["digest"], Digest::of(b"image").to_string());
        assert_eq!(manifest["config"]["mediaType"], EMPTY.0);
        let (manifest, _) = check(Dialect::Docker);
        assert_eq!(manifest.get("subject"), None, "Docker's types know none");
        assert_eq!(manifest["config"]["mediaType"], media_type::DOCKER_CONFIG);
    }
}
