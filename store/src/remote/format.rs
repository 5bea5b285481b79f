//! The format of a cache: one OCI image manifest whose config lists records, and whose layers are their blobs.
//!
//! ```text
//!   manifest   application/vnd.oci.image.manifest.v1+json
//!     config ► application/vnd.rbuild.cache.config.v1+json     a [Document]
//!     layers ► the blobs that the document names, each once     or OCI's empty blob, where there is none
//!
//!   { "version": 1,
//!     "layers":  [ { "parent": 0, "diff_id": "sha256:…", "blob": {descriptor}, "created": "…", … }, … ],
//!     "records": [ { "key": "<64 hex>", "kind": "definition", "operation": "<64 hex>", "results": [7] }, … ],
//!     "mounts":  [ { "id": "…", "seed": "…", "created": "…", "blob": {descriptor} }, … ] }
//! ```
//! A layer names its parent by its place in the list, and stands behind it: so there is no circle, whoever wrote it. A
//! layer without a `diff_id` is empty; `mounts` are cache mounts, as tars, and left out where there are none. `pulled` ones are layers of an image. Nothing
//! of this machine is in it: no names of records, no paths, no places, no clock but the times of layers. The same build
//! gives the same bytes. An *inline* document stands in the config of an image, at [`INLINE_KEY`]; its layers leave out
//! the blobs, which the image's manifest names.
//!
//! In: another's bytes, or what this store knows. Out: the same in memory. Every record stands for itself: one that is
//! damaged is left out with a line that says why, and so is all that stands on a damaged layer. Deliberately absent:
//! whether blobs are what they say (checked as they are brought and unpacked).

use jiff::Timestamp;
use oci::layer::decompress::is_layer;
use oci::model::{Descriptor, DiffId, Digest};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use solver::key::{ContentDigest, Key};
use solver::seam::KeyKind;

use crate::{Made, MountKey};

/// Media type of a [`Document`].
pub const CONFIG_TYPE: &str = "application/vnd.rbuild.cache.config.v1+json";
/// Where an inline document stands in an image's config.
pub const INLINE_KEY: &str = "vnd.rbuild.cache.v1";
/// The only version there is.
const VERSION: u32 = 1;
/// Registries take manifests of 4 MiB; 15,000 layers fit.
pub const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// A build of thousands of steps has a list of one or two.
pub const DOCUMENT_MAX_BYTES: u64 = 8 << 20;
/// More layers than any build has.
const LAYERS_MAX: usize = 20_000;
/// Likewise.
const RECORDS_MAX: usize = 50_000;
/// Likewise.
const MOUNTS_MAX: usize = 1_000;
/// Longer than any id that somebody would write.
const MOUNT_ID_MAX_BYTES: usize = 4 << 10;
/// What can be stacked at all.
const DEPTH_MAX: usize = 4_000;
/// Operations have one or two outputs.
const RESULTS_MAX: usize = 64;
/// Disks end before that.
const BLOB_MAX_BYTES: u64 = 1 << 40;
/// So many refusals are told word by word.
const REFUSALS_TOLD: usize = 3;

/// A cache, all of it well-formed: parents stand before children, results are in the list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cache {
    /// Layers, parents first.
    pub layers: Vec<CachedLayer>,
    /// What led to them.
    pub records: Vec<CachedRecord>,
    /// Cache mounts.
    pub mounts: Vec<CachedMount>,
}

/// A cache mount.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedMount {
    /// Which.
    pub key: MountKey,
    /// When it was first used.
    pub created: Timestamp,
    /// Its files.
    pub blob: Descriptor,
}

/// A layer of a cache.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedLayer {
    /// Index of the layer it stands on.
    pub parent: Option<usize>,
    /// What its tar is and where its bytes are; `None`: it changes nothing.
    pub tar: Option<CachedTar>,
    /// How it was made.
    pub made: Made,
}

/// The bytes of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedTar {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// The blob.
    pub blob: Descriptor,
    /// Digest of what it holds, see [`crate::Store::set_content`].
    pub content: Option<ContentDigest>,
    /// Whether it is a layer of an image, and not a step's.
    pub pulled: bool,
}

/// What a key led to.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedRecord {
    /// The key.
    pub key: Key,
    /// What it was made of.
    pub kind: KeyKind,
    /// The operation alone.
    pub operation: Key,
    /// Indexes of layers, one per output.
    pub results: Vec<usize>,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    layers: Vec<LayerEntry<'a>>,
    records: Vec<RecordEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<MountEntry>,
}

#[derive(Deserialize)]
struct Document<'a> {
    version: u32,
    #[serde(borrow)]
    layers: Vec<&'a RawValue>,
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    mounts: Vec<&'a RawValue>,
}

#[derive(Serialize, Deserialize)]
struct MountEntry {
    id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    seed: String,
    created: String,
    blob: Descriptor,
}

#[derive(Serialize, Deserialize)]
struct LayerEntry<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    diff_id: Option<DiffId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blob: Option<std::borrow::Cow<'a, Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pulled: bool,
    created: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    from_context: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    on_base: bool,
}

#[derive(Serialize, Deserialize)]
struct RecordEntry {
    key: String,
    kind: KeyKind,
    operation: String,
    results: Vec<usize>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde wants a reference
fn is_false(value: &bool) -> bool {
    !value
}

/// What of a document was left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Lines, a few at most.
    pub told: Vec<String>,
    /// How many there were in all.
    pub count: usize,
}

impl Refusals {
    fn add(&mut self, line: impl FnOnce() -> String) {
        self.count += 1;
        if self.told.len() < REFUSALS_TOLD {
            self.told.push(line());
        }
    }

    /// One line for all of them; `None` if there are none.
    pub fn line(&self) -> Option<String> {
        let more = self.count - self.told.len();
        match (self.count, more) {
            (0, _) => None,
            (_, 0) => Some(self.told.join("; ")),
            _ => Some(format!("{}; and {more} more", self.told.join("; "))),
        }
    }
}

impl Cache {
    /// The document's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.written()).expect("plain data becomes JSON")
    }

    /// The same for the config of an image whose manifest names the blobs.
    pub fn to_inline(&self) -> serde_json::Value {
        let mut written = self.written();
        written.layers.iter_mut().for_each(|layer| layer.blob = None);
        // The image's manifest names no blobs but its layers'.
        written.mounts.clear();
        serde_json::to_value(written).expect("plain data becomes JSON")
    }

    fn written(&self) -> Written<'_> {
        let layers = self.layers.iter().map(LayerEntry::of).collect();
        let records = self.records.iter().map(|record| RecordEntry {
            key: record.key.to_string(),
            kind: record.kind,
            operation: record.operation.to_string(),
            results: record.results.clone(),
        });
        let mounts = self.mounts.iter().map(|mount| MountEntry {
            id: mount.key.id.clone(),
            seed: mount.key.seed.clone(),
            created: mount.created.to_string(),
            blob: mount.blob.clone(),
        });
        Written { version: VERSION, layers, records: records.collect(), mounts: mounts.collect() }
    }

    /// Reads a document that anybody may have written. What is damaged is left out, with a line in the second.
    ///
    /// # Errors
    /// In words, when it is none at all.
    pub fn read(bytes: &[u8]) -> Result<(Self, Refusals), String> {
        Self::read_with(bytes, &|_| None)
    }

    /// The same; blobs that the document leaves out are those that `blob_of` names.
    pub fn read_with(
        bytes: &[u8],
        blob_of: &dyn Fn(&DiffId) -> Option<Descriptor>,
    ) -> Result<(Self, Refusals), String> {
        if bytes.len() as u64 > DOCUMENT_MAX_BYTES {
            return Err(format!("its list of records has more than {DOCUMENT_MAX_BYTES} bytes"));
        }
        let document: Document<'_> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if document.version != VERSION {
            return Err(format!("it has the version {}, and {VERSION} is known", document.version));
        }
        for (what, count, most) in [
            ("layers", document.layers.len(), LAYERS_MAX),
            ("records", document.records.len(), RECORDS_MAX),
            ("cache mounts", document.mounts.len(), MOUNTS_MAX),
        ] {
            if count > most {
                return Err(format!("it lists {count} {what}, and {most} at most are read"));
            }
        }
        let mut refusals = Refusals::default();
        let (layers, places) = read_layers(&document.layers, blob_of, &mut refusals);
        let mut records: Vec<CachedRecord> = Vec::new();
        for (i, raw) in document.records.iter().enumerate() {
            match read_record(raw, &places) {
                Ok(record) => records.push(record),
                Err(reason) => refusals.add(|| format!("record {i}: {reason}")),
            }
        }
        let mut mounts = Vec::new();
        for (i, raw) in document.mounts.iter().enumerate() {
            match read_mount(raw) {
                Ok(mount) => mounts.push(mount),
                Err(reason) => refusals.add(|| format!("cache mount {i}: {reason}")),
            }
        }
        Ok((Self { layers, records, mounts }, refusals))
    }
}

impl<'a> LayerEntry<'a> {
    fn of(layer: &'a CachedLayer) -> Self {
        let CachedLayer { parent, tar, made } = layer;
        let pulled = tar.as_ref().is_some_and(|tar| tar.pulled);
        Self {
            parent: *parent,
            diff_id: tar.as_ref().map(|tar| tar.diff_id),
            blob: tar.as_ref().map(|tar| std::borrow::Cow::Borrowed(&tar.blob)),
            content: tar.as_ref().filter(|_| !pulled).and_then(|tar| tar.content).map(|content| content.to_string()),
            pulled,
            created: made.created.to_string(),
            started: (!pulled).then(|| made.started.to_string()),
            from_context: made.from_context,
            on_base: made.on_base,
        }
    }

    fn read(self, parent: Option<&(usize, usize, bool)>) -> Result<CachedLayer, String> {
        let time = |text: &str| text.parse::<Timestamp>().map_err(|_| format!("`{}` is no time", shortened(text)));
        let created = time(&self.created)?;
        let tar = match (self.diff_id, self.blob) {
            (None, None) if !self.pulled => None,
            (Some(diff_id), Some(blob)) => {
                let blob = read_blob(blob.into_owned())?;
                if self.pulled && parent.is_some_and(|(.., pulled)| !pulled) {
                    return Err("it is a layer of an image and stands on a step".into());
                }
                let content = self
                    .content
                    .as_deref()
                    .map(|text| parse_key(text).map(|key| ContentDigest(key.0)).ok_or("its content digest is none"));
                Some(CachedTar { diff_id, blob, content: content.transpose()?, pulled: self.pulled })
            }
            _ => return Err("it has a digest without a blob, or a blob without a digest".into()),
        };
        let started = self.started.as_deref().map_or(Ok(created), time)?;
        let made = Made { created, started, from_context: self.from_context, on_base: self.on_base };
        Ok(CachedLayer { parent: parent.map(|(place, ..)| *place), tar, made })
    }
}

/// The layers that are sound, and for every entry of the list where its layer is now, how many stand beneath it, and
/// whether it is an image's.
type Places = Vec<Option<(usize, usize, bool)>>;

fn read_layers(
    raw: &[&RawValue],
    blob_of: &dyn Fn(&DiffId) -> Option<Descriptor>,
    refusals: &mut Refusals,
) -> (Vec<CachedLayer>, Places) {
    let mut layers = Vec::new();
    let mut places: Places = Vec::with_capacity(raw.len());
    for (i, raw) in raw.iter().enumerate() {
        match read_layer(raw, blob_of, &places) {
            Ok((layer, depth)) => {
                places.push(Some((layers.len(), depth, layer.tar.as_ref().is_some_and(|tar| tar.pulled))));
                layers.push(layer);
            }
            Err(reason) => {
                places.push(None);
                refusals.add(|| format!("layer {i}: {reason}"));
            }
        }
    }
    (layers, places)
}

fn read_layer(
    raw: &RawValue,
    blob_of: &dyn Fn(&DiffId) -> Option<Descriptor>,
    places: &Places,
) -> Result<(CachedLayer, usize), String> {
    let mut entry: LayerEntry<'_> = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
    if let (Some(diff_id), None) = (&entry.diff_id, &entry.blob) {
        entry.blob = blob_of(diff_id).map(std::borrow::Cow::Owned);
    }
    let parent = entry.parent.map(|parent| match places.get(parent) {
        Some(Some(place)) => Ok(place),
        Some(None) => Err(format!("what it stands on, layer {parent}, was refused")),
        None => Err(format!("it stands on layer {parent}, which does not come before it")),
    });
    let parent = parent.transpose()?;
    let depth = parent.map_or(0, |(_, depth, _)| depth + 1);
    if depth > DEPTH_MAX {
        return Err(format!("it stands on more than {DEPTH_MAX} others"));
    }
    Ok((entry.read(parent)?, depth))
}

fn read_record(raw: &RawValue, places: &Places) -> Result<CachedRecord, String> {
    let entry: RecordEntry = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
    let key = |text: &str| parse_key(text).ok_or_else(|| format!("`{}` is no key", shortened(text)));
    if entry.results.is_empty() || entry.results.len() > RESULTS_MAX {
        return Err(format!("it has {} results", entry.results.len()));
    }
    let results = entry.results.iter().map(|result| match places.get(*result) {
        Some(Some((place, ..))) => Ok(*place),
        Some(None) => Err(format!("its result, layer {result}, was refused")),
        None => Err(format!("there is no layer {result}")),
    });
    Ok(CachedRecord {
        key: key(&entry.key)?,
        kind: entry.kind,
        operation: key(&entry.operation)?,
        results: results.collect::<Result<_, _>>()?,
    })
}

fn read_mount(raw: &RawValue) -> Result<CachedMount, String> {
    let MountEntry { id, seed, created, blob } = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
    if id.len().max(seed.len()) > MOUNT_ID_MAX_BYTES {
        return Err(format!("its id has {} bytes", id.len().max(seed.len())));
    }
    let created = created.parse::<Timestamp>().map_err(|_| format!("`{}` is no time", shortened(&created)))?;
    Ok(CachedMount { key: MountKey { id, seed }, created, blob: read_blob(blob)? })
}

/// A descriptor of a tar, without annotations and whatever else stood there.
fn read_blob(blob: Descriptor) -> Result<Descriptor, String> {
    if !is_layer(&blob.media_type) {
        return Err(format!("its blob is of the unknown kind `{}`", shortened(&blob.media_type)));
    }
    if blob.size > BLOB_MAX_BYTES {
        return Err(format!("its blob has {} bytes", blob.size));
    }
    Ok(Descriptor::new(blob.media_type, blob.digest, blob.size))
}

/// 64 hexadecimal digits, in small letters.
fn parse_key(hex: &str) -> Option<Key> {
    format!("sha256:{hex}").parse::<Digest>().ok().map(|digest| Key(*digest.as_bytes()))
}

/// Another's words, short and without what a terminal would obey.
fn shortened(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests;
