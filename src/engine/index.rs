//! The index of a build's images: one entry per platform, in the order of their mention.
//!
//! In: what points to each image's manifest, and for which platform it is. Out: the index as bytes, which are a function
//! of that. image-spec image-index.md. Deliberately absent: where it is kept or sent.

use std::collections::BTreeMap;

use oci::layer::Dialect;
use oci::model::{Descriptor, Digest, Index, Platform, media_type};

use crate::options::annotation::{Annotations, Level};

/// An index, not yet stored.
#[derive(Clone, Debug)]
pub struct AssembledIndex {
    /// Points to it.
    pub descriptor: Descriptor,
    /// The document.
    pub text: String,
}

/// Puts images together; what is `told` of them stands behind them as it is.
pub fn assemble(
    entries: &[(Platform, Descriptor)],
    told: &[Descriptor],
    annotations: &Annotations,
    dialect: Dialect,
) -> AssembledIndex {
    let kind = match dialect {
        Dialect::Oci => media_type::OCI_INDEX,
        Dialect::Docker => media_type::DOCKER_INDEX,
    };
    let manifests = entries.iter().map(|(platform, manifest)| {
        let plain = Descriptor::new(manifest.media_type.clone(), manifest.digest, manifest.size);
        let annotations = annotations.of(Level::ManifestDescriptor, platform);
        Descriptor { annotations, platform: Some(platform.clone()), ..plain }
    });
    let index = Index {
        media_type: Some(kind.to_owned()),
        annotations: annotations.of_all(Level::Index),
        extra: BTreeMap::new(),
        ..Index::new(manifests.chain(told.iter().cloned()).collect())
    };
    let text = serde_json::to_string(&index).expect("an index holds nothing that JSON cannot say");
    let descriptor = Descriptor::new(kind, Digest::of(text.as_bytes()), text.len() as u64);
    AssembledIndex { descriptor, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::annotation::annotations;

    #[test]
    fn an_index_has_its_platforms_in_order_and_annotations_in_their_places() {
        let image = |text: &str| Descriptor::new(media_type::OCI_MANIFEST, Digest::of(text.as_bytes()), 7);
        let entry = |platform: &str| (platform.parse().expect("a platform"), image(platform));
        let said = [
            "index:i=1",
            "manifest-descriptor:d=1",
            "manifest-descriptor[linux/arm64]:d=2",
            "m=1",
            "index-descriptor:x=1",
        ];
        let said = annotations(&said.map(str::to_owned)).expect("annotations");
        let index = assemble(&[entry("linux/arm64"), entry("linux/amd64")], &[], &said, Dialect::Oci);
        let digests = [Digest::of(b"linux/arm64"), Digest::of(b"linux/amd64")];
        let expected = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":7,"annotations":{{"d":"2"}},"platform":{{"os":"linux","architecture":"arm64"}}}},{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":7,"annotations":{{"d":"1"}},"platform":{{"os":"linux","architecture":"amd64"}}}}],"annotations":{{"i":"1"}}}}"#,
            digests[0], digests[1]
        );
        assert_eq!(index.text, expected);
        assert_eq!(index.descriptor.digest, Digest::of(expected.as_bytes()));
        let docker = assemble(&[entry("linux/arm64")], &[], &Annotations::default(), Dialect::Docker);
        assert_eq!(docker.descriptor.media_type, media_type::DOCKER_INDEX);
    }
}
