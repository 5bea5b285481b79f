//! What differs between two images, as plain data: for people ([`crate::cmd`] prints it) and for programs (JSON).
//!
//! All texts are made of foreign names and bytes; whoever prints them escapes them. Lists are cut, and say by how much.

use serde::Serialize;

/// What differs between two images.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Differences {
    /// In an index and in manifests, but for the digests of what stands below.
    pub documents: Vec<Field>,
    /// One per platform whose images differ.
    pub images: Vec<ImageDifference>,
}

/// What differs between two images for one platform.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ImageDifference {
    /// For which machine.
    pub platform: String,
    /// In the config, but for the digests of layers.
    pub config: Vec<Field>,
    /// Layers that differ, bottom first.
    pub layers: Vec<LayerDifference>,
}

/// A value in a document.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    /// Where it stands: `config.Labels.built`.
    pub path: String,
    /// What it is in the first; `None` if it is not there.
    pub first: Option<String>,
    /// What it is in the second.
    pub second: Option<String>,
    /// Why that usually is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// A layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LayerDifference {
    /// Which of the image's layers, from 1; that of the first image, unless only the second has it.
    pub number: usize,
    /// What made it.
    pub step: Option<Step>,
    /// What can be said of it as a whole: that only one has it, that it is the base's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Entries that differ, by path.
    pub entries: Vec<EntryDifference>,
    /// Entries that differ and are not listed.
    pub more: usize,
}

/// What made a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// In the words of the image's history.
    pub created_by: String,
    /// The file that says so.
    pub file: Option<String>,
    /// Its line, from 1.
    pub line: Option<usize>,
}

/// A file of a layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EntryDifference {
    /// Its path, without a slash in front.
    pub path: String,
    /// What is different about it.
    pub changes: Vec<Change>,
    /// The first byte that differs, from 0. Far into a large file: the beginning of the mebibyte that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Excerpt>,
    /// Why that usually is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// One property of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which: `file`, `type`, `bytes`, `target`, `mode`, `owner`, `time`, `xattr NAME`, `order`.
    pub what: String,
    /// In the first; `None` if it is not there.
    pub first: Option<String>,
    /// In the second.
    pub second: Option<String>,
}

/// What stands where two files begin to differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Excerpt {
    /// Line of a text, from 1; bytes have none.
    pub line: Option<usize>,
    /// In the first.
    pub first: String,
    /// In the second.
    pub second: String,
}

impl Differences {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.images.is_empty()
    }

    /// Whether only documents around the images differ: how layers are compressed, annotations.
    pub fn is_outside_images(&self) -> bool {
        self.images.is_empty()
    }
}
