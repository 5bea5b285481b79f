//! Two images beside each other, from the top down: index, manifests, configs, layers, entries, bytes.
//!
//! In: two images whose blobs are in stores, and the steps that made their layers, as far as they are known. Out: what
//! differs. What has the same digest is not looked into; of layers that differ two tars are read, and once more for the
//! bytes of the few files that are told of. Layers are paired by the history of the images: step by step from the end, so
//! that another base moves nothing. Deliberately absent: where the images come from ([`super::machine`]), words for
//! people ([`crate::cmd`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read};

use oci::content::open_verified;
use oci::image::{Document, Image, read_document, verify_layer};
use oci::layer::decompress_layer;
use oci::layer::tar::TarError;
use oci::model::{Descriptor, DiffId, media_type};
use serde_json::Value;
use store::Store;
use tokio_util::sync::CancellationToken;

use super::difference::{Differences, EntryDifference, ImageDifference, LayerDifference, Step};
use super::{document, entries, hints, platform_of, sample};
use crate::engine::{Failure, words};

/// Of one layer; nobody reads more.
const ENTRIES_MAX: usize = 20;

/// An image or an index in a store.
pub struct Side<'a> {
    /// Where its blobs are.
    pub store: &'a Store,
    /// Its manifest or index.
    pub root: Descriptor,
}

/// What is known beside the images.
pub struct Known<'a> {
    /// By platform: the steps of the build, oldest first; `false` for those that make no layer of their own.
    pub steps: &'a BTreeMap<String, Vec<Step>>,
    /// Whether times of the build's own were given.
    pub with_epoch: bool,
    /// The user may stop it.
    pub cancel: &'a CancellationToken,
}

/// What differs; nothing if both are one.
///
/// # Errors
/// When one of them cannot be read.
pub fn compare(first: &Side<'_>, second: &Side<'_>, known: &Known<'_>) -> Result<Differences, Failure> {
    let mut found = Differences::default();
    if first.root.digest == second.root.digest {
        return Ok(found);
    }
    let (one, two) = (first.open(&first.root)?, second.open(&second.root)?);
    match (&one.document, &two.document) {
        (Document::Manifest(_), Document::Manifest(_)) => {
            image(first, &first.root, second, &second.root, known, &mut found)?;
        }
        _ => {
            let is_list = |path: &str| path == "manifests";
            found.documents.extend(document::compare(&one.value, &two.value, &is_list));
            let (ones, twos) = (first.members(&one.document)?, second.members(&two.document)?);
            let names: BTreeSet<&String> = ones.keys().chain(twos.keys()).collect();
            for name in names {
                match (ones.get(name), twos.get(name)) {
                    (Some(one), Some(two)) if one.digest == two.digest => {}
                    (Some(one), Some(two)) => image(first, one, second, two, known, &mut found)?,
                    (one, two) => {
                        let shown = |member: Option<&Descriptor>| member.map(|member| member.digest.to_string());
                        let path = format!("manifests ({name})");
                        let (first, second) = (shown(one), shown(two));
                        // More than was built is no fault of what was; an image that is not there is none of the other's.
                        if second.is_none() {
                            let missing = ImageDifference { platform: name.clone(), ..ImageDifference::default() };
                            found.images.push(missing);
                        }
                        found.documents.push(super::Field { path, first, second, hints: Vec::new() });
                    }
                }
            }
        }
    }
    Ok(found)
}

/// A manifest or index, and the value that it is.
struct Opened {
    document: Document,
    value: Value,
}

impl Side<'_> {
    fn open(&self, descriptor: &Descriptor) -> Result<Opened, Failure> {
        let (document, bytes) =
            read_document(self.store.blobs(), descriptor).map_err(|error| Failure::from_error(&error))?;
        let value = serde_json::from_slice(&bytes).expect("it has just been read as JSON");
        Ok(Opened { document, value })
    }

    fn image(&self, descriptor: &Descriptor) -> Result<Image, Failure> {
        Image::open(self.store.blobs(), descriptor).map_err(|error| Failure::from_error(&error))
    }

    /// The images of an index, by platform; several of one platform are told apart by their places. An image that stands
    /// alone is for the platform that it says.
    fn members(&self, document: &Document) -> Result<BTreeMap<String, Descriptor>, Failure> {
        let mut members = BTreeMap::new();
        match document {
            Document::Manifest(_) => {
                let platform = platform_of(&self.image(&self.root)?);
                members.insert(platform.to_string(), self.root.clone());
            }
            Document::Index(index) => {
                for member in &index.manifests {
                    let name = member.platform.as_ref().map_or_else(|| "no platform".to_owned(), ToString::to_string);
                    let mut shown = name.clone();
                    let mut count = 1;
                    while members.contains_key(&shown) {
                        count += 1;
                        shown = format!("{name}, {count}");
                    }
                    members.insert(shown, member.clone());
                }
            }
        }
        Ok(members)
    }

    /// The tar of a layer; whoever stops it reads no further.
    fn tar<'a>(&self, layer: &Descriptor, cancel: &'a CancellationToken) -> Result<impl Read + use<'a>, Failure> {
        let blob = open_verified(self.store.blobs(), layer).map_err(|error| words::content(&error))?;
        let tar = decompress_layer(&layer.media_type, layer.size, BufReader::with_capacity(128 << 10, blob));
        let tar = tar.map_err(|error| unreadable(layer, &error.to_string()))?;
        Ok(Stoppable { tar, cancel })
    }
}

fn image(
    first: &Side<'_>,
    one: &Descriptor,
    second: &Side<'_>,
    two: &Descriptor,
    known: &Known<'_>,
    found: &mut Differences,
) -> Result<(), Failure> {
    let is_index = |descriptor: &Descriptor| {
        matches!(descriptor.media_type.as_str(), media_type::OCI_INDEX | media_type::DOCKER_INDEX)
    };
    if is_index(one) || is_index(two) {
        return Err(Failure::new("an index in an index is not compared"));
    }
    let (a, b) = (first.open(one)?, second.open(two)?);
    let (ours, theirs) = (first.image(one)?, second.image(two)?);
    let platform = ours.config.architecture.clone();
    let platform = format!("{}/{platform}", ours.config.os);
    let is_same = ours.config_bytes == theirs.config_bytes;
    // What the config decides is told there.
    let below = |path: &str| path.starts_with("config.") || (!is_same && path.starts_with("layers"));
    let mut fields = document::compare(&a.value, &b.value, &below);
    if is_same && fields.iter().any(|field| field.path.starts_with("layers[")) {
        let compressed: BTreeSet<usize> = compressed_otherwise(&ours, &theirs).collect();
        for at in &compressed {
            // What their manifest names need not be what the config says that it is.
            let (layer, expected) = (&theirs.manifest.layers[*at], theirs.config.rootfs.diff_ids[*at]);
            verify_layer(second.store.blobs(), layer, expected).map_err(|error| Failure::from_error(&error))?;
        }
        fields.retain(|field| !field.path.starts_with("layers["));
        if !compressed.is_empty() {
            let count = |image: &Image| Some(kinds(image));
            let path = "layers".to_owned();
            let hints = vec!["the layers are the same, and compressed otherwise".to_owned()];
            fields.push(super::Field { path, first: count(&ours), second: count(&theirs), hints });
        }
    }
    found.documents.extend(fields);
    if is_same {
        return Ok(());
    }
    let value = |image: &Image| serde_json::from_slice::<Value>(&image.config_bytes).expect("it was read as JSON");
    let is_layers = |path: &str| path == "rootfs.diff_ids";
    let config = document::compare(&value(&ours), &value(&theirs), &is_layers);
    let mut layers = Vec::new();
    let none = Vec::new();
    let steps = known.steps.get(&platform).or_else(|| known.steps.values().next()).unwrap_or(&none);
    for pair in pairs(&ours, &theirs, steps) {
        if let Some(layer) = layer(first, second, &ours, &theirs, pair, known)? {
            layers.push(layer);
        }
    }
    found.images.push(ImageDifference { platform, config, layers });
    Ok(())
}

fn compressed_otherwise<'a>(ours: &'a Image, theirs: &'a Image) -> impl Iterator<Item = usize> + 'a {
    let pairs = ours.manifest.layers.iter().zip(&theirs.manifest.layers);
    pairs.enumerate().filter(|(_, (one, two))| one != two).map(|(at, _)| at)
}

/// How the layers of an image are written down.
fn kinds(image: &Image) -> String {
    let mut kinds: Vec<&str> = image.manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
    kinds.dedup();
    let bytes: u64 = image.manifest.layers.iter().map(|layer| layer.size).sum();
    format!("{bytes} bytes as {}", kinds.join(", "))
}

/// Two layers that stand in the same place.
struct Pair {
    /// Their numbers, from 0.
    first: Option<usize>,
    second: Option<usize>,
    /// What made them.
    step: Option<Step>,
    /// Both belong to what the build stands on.
    is_base: bool,
}

/// The layers of two images, those beside each other that the same step made.
fn pairs(ours: &Image, theirs: &Image, steps: &[Step]) -> Vec<Pair> {
    let (one, two) = (by_step(ours, steps.len()), by_step(theirs, steps.len()));
    let (Some((base, made)), Some((their_base, their_made))) = (one, two) else {
        let count = ours.manifest.layers.len().max(theirs.manifest.layers.len());
        let has = |image: &Image, at: usize| (at < image.manifest.layers.len()).then_some(at);
        return (0..count)
            .map(|at| Pair { first: has(ours, at), second: has(theirs, at), step: None, is_base: false })
            .collect();
    };
    let beneath = (0..base.max(their_base)).map(|at| Pair {
        first: (at < base).then_some(at),
        second: (at < their_base).then_some(at),
        step: None,
        is_base: true,
    });
    let built = steps.iter().zip(made.into_iter().zip(their_made));
    let built = built.map(|(step, (first, second))| Pair { first, second, step: Some(step.clone()), is_base: false });
    beneath.chain(built.filter(|pair| pair.first.is_some() || pair.second.is_some())).collect()
}

/// How many layers the base has, and the layer of each of the `steps` last entries of the history. `None` if that
/// history does not say.
fn by_step(image: &Image, steps: usize) -> Option<(usize, Vec<Option<usize>>)> {
    let history = &image.config.history;
    let base = history.len().checked_sub(steps)?;
    let full = |entries: &[oci::model::History]| entries.iter().filter(|entry| !entry.empty_layer).count();
    let layers = image.manifest.layers.len();
    // Bases from elsewhere may have no history.
    let made = full(&history[base..]);
    let mut next = layers.checked_sub(made)?;
    let base_layers = next;
    let made = history[base..].iter().map(|entry| {
        (!entry.empty_layer).then(|| {
            next += 1;
            next - 1
        })
    });
    Some((base_layers, made.collect()))
}

fn layer(
    first: &Side<'_>,
    second: &Side<'_>,
    ours: &Image,
    theirs: &Image,
    pair: Pair,
    known: &Known<'_>,
) -> Result<Option<LayerDifference>, Failure> {
    let of = |image: &Image, at: usize| -> (Descriptor, DiffId) {
        (image.manifest.layers[at].clone(), image.config.rootfs.diff_ids[at])
    };
    let (one, two) = (pair.first.map(|at| of(ours, at)), pair.second.map(|at| of(theirs, at)));
    if let (Some((_, one)), Some((_, two))) = (&one, &two)
        && one == two
    {
        return Ok(None);
    }
    let number = pair.first.or(pair.second).unwrap_or(0) + 1;
    let mut told = LayerDifference { number, step: pair.step, ..LayerDifference::default() };
    let (Some((one, _)), Some((two, _))) = (one, two) else {
        let which = if pair.first.is_some() { "first" } else { "second" };
        told.note = Some(match pair.is_base {
            true => {
                format!("belongs to the base, and only to that of the {which} image: `FROM` means another image there")
            }
            false => format!("only the {which} image has it: the step changed nothing in the other"),
        });
        return Ok(Some(told));
    };
    if pair.is_base {
        let words =
            "belongs to the base: `FROM` means another image there; pin it by its digest (`FROM name@sha256:…`)";
        told.note = Some(words.into());
        return Ok(Some(told));
    }
    let read = |side: &Side<'_>, layer: &Descriptor| {
        entries::read(side.tar(layer, known.cancel)?).map_err(|error| broken(known, layer, &error))
    };
    let (a, b) = (read(first, &one)?, read(second, &two)?);
    if a.cut || b.cut {
        told.note = Some("it holds more entries than are compared one by one".into());
        return Ok(Some(told));
    }
    let (mut differing, more) = entries::compare(&a, &b, ENTRIES_MAX);
    drop((a, b));
    explain_bytes(first, &one, second, &two, &mut differing, known)?;
    for (_, entry) in &mut differing {
        let reasons =
            entry.changes.iter().filter_map(|change| hints::of_change(&entry.path, &change.what, known.with_epoch));
        let reasons: Vec<String> = reasons.filter(|reason| !entry.hints.contains(reason)).collect();
        entry.hints.extend(reasons);
    }
    if differing.is_empty() {
        told.note = Some("its entries are the same, and written in another form of tar".into());
    }
    told.entries = differing.into_iter().map(|(_, entry)| entry).collect();
    told.more = more;
    Ok(Some(told))
}

/// Looks where the bytes of files part that are told of.
fn explain_bytes(
    first: &Side<'_>,
    one: &Descriptor,
    second: &Side<'_>,
    two: &Descriptor,
    differing: &mut [(Vec<u8>, EntryDifference)],
    known: &Known<'_>,
) -> Result<(), Failure> {
    let is_bytes = |entry: &EntryDifference| entry.changes.iter().any(|change| change.what == "bytes");
    let wanted: BTreeSet<Vec<u8>> =
        differing.iter().filter(|(_, entry)| is_bytes(entry)).map(|(path, _)| path.clone()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let read = |side: &Side<'_>, layer: &Descriptor| {
        sample::read(side.tar(layer, known.cancel)?, &wanted).map_err(|error| broken(known, layer, &error))
    };
    let (a, b) = (read(first, one)?, read(second, two)?);
    for (path, entry) in differing {
        let (Some(one), Some(two)) = (a.get(path), b.get(path)) else { continue };
        if let Some((offset, at, hints)) = sample::part(&entry.path, one, two) {
            (entry.offset, entry.at, entry.hints) = (Some(offset), at, hints);
        }
    }
    Ok(())
}

fn broken(known: &Known<'_>, layer: &Descriptor, error: &TarError) -> Failure {
    if known.cancel.is_cancelled() { words::canceled() } else { unreadable(layer, &error.to_string()) }
}

fn unreadable(layer: &Descriptor, why: &str) -> Failure {
    Failure::new(format!("the layer `{}` cannot be read", layer.digest)).note(why.to_owned())
}

/// A tar that ends when the user has had enough.
struct Stoppable<'a, R> {
    tar: R,
    cancel: &'a CancellationToken,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() { Err(io::Error::other("canceled")) } else { self.tar.read(buffer) }
    }
}
