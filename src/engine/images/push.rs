//! `push`: what the local store holds under a name, into a registry.
//!
//! In: an image, or an index of images, of the store, and where it goes. Out: its digest there. With `join` the name's
//! index keeps what it has, and gets these images too ([`super::super::imagetools`]). What was pushed where is noted (kind
//! `pushed`), for [`super::inspect`]. Deliberately absent: sending ([`crate::engine::sender`]); how layers become blobs
//! ([`super::whole`], [`crate::engine::export`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use executor::{StepSettings, Worker};
use oci::layer::Codec;
use oci::model::{Descriptor, Digest, Index, Platform, Reference, media_type};
use solver::graph::VertexId;
use solver::seam::{Event, Progress, VertexLog};
use store::{FoundImage, ImageRecord, Store};
use tokio::sync::mpsc::unbounded_channel;
use tokio_util::sync::CancellationToken;

use super::find;
use super::whole::Whole;
use crate::engine::export::compress;
use crate::engine::imagetools::{self, Joined};
use crate::engine::sender::{Absent, Destination, Sender};
use crate::engine::task::Task;
use crate::engine::{Failure, Settings, words};
use crate::options::annotation::Annotations;
use crate::options::output::ImageForm;

/// The kind of our notes: by the digest of a manifest here, names with digests as JSON: where it was pushed to.
pub(super) const NOTES: &str = "pushed";
/// Places that are remembered of one image.
const NOTED_MAX: usize = 32;

/// What is pushed.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Of layers that are no blobs yet.
    pub codec: Codec,
    /// Of all layers.
    pub anew: bool,
    /// Whether the name keeps what it means, and gets this too.
    pub join: bool,
}

/// Something that was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The name that it has there.
    pub name: Reference,
    /// Its manifest or index; with `join` the index that the name means now.
    pub document: Descriptor,
    /// The images: manifests as they are there, the ids, the platforms.
    pub images: Vec<PushedImage>,
    /// What joining came to.
    pub joined: Option<Joined>,
}

/// One image of it.
#[derive(Clone, Debug)]
pub struct PushedImage {
    /// Its manifest there.
    pub manifest: Descriptor,
    /// Digest of its config.
    pub config: Digest,
    /// For which machine it is.
    pub platform: Platform,
}

impl PushedImage {
    /// What an index says of it.
    fn entry(&self) -> Descriptor {
        Descriptor { platform: Some(self.platform.clone()), ..self.manifest.clone() }
    }
}

/// Pushes the images that are meant, one after the other.
///
/// # Errors
/// Before anything is sent, if one of them is not here or its name is of no registry.
pub async fn push(
    settings: &Settings,
    what: &[(String, Option<Reference>)],
    options: &PushOptions,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Vec<Pushed>, Failure> {
    settings.check_online("push")?;
    let store = settings.open_store(&progress)?;
    let client = settings.registry(&progress)?;
    let worker = settings.worker(&store, &client, BTreeMap::new(), StepSettings::default())?;
    let mut meant = Vec::new();
    for (text, destination) in what {
        let found = find(&store, text)?;
        let name = destination.clone().or_else(|| found.name.clone()).ok_or_else(|| {
            Failure::new(format!("`{text}` is an id, and says no registry"))
                .help(format!("say where it goes: `rbuild push {text} REGISTRY/NAME:TAG`"))
        })?;
        meant.push((found, name));
    }
    let mut pushed = Vec::new();
    for (found, name) in meant {
        let task = Task::start(&format!("[internal] push {}", name.familiar()), &progress);
        let sender = Sender { store: &store, progress: &progress, task: task.vertex };
        let to = Destination { client: client.clone(), name };
        let meant = meant_by(found, &to.name, &*progress)?;
        let pushing = Pushing { sender, worker: &worker, to: &to, options, cancel: &cancel };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(words::canceled()),
            outcome = pushing.push(meant) => outcome,
        };
        pushed.push(task.end(outcome)?);
    }
    Ok(pushed)
}

/// The names of a repository that the store knows, for `--all-tags`.
///
/// # Errors
/// If there are none.
pub async fn tags_of(
    settings: &Settings,
    repository: &Reference,
    progress: Arc<dyn Progress>,
) -> Result<Vec<Reference>, Failure> {
    let store = settings.open_store(&progress)?;
    let same = |name: &Reference| {
        (name.registry(), name.repository()) == (repository.registry(), repository.repository())
            && name.tag().is_some()
            && name.digest().is_none()
    };
    let all = store.images().map_err(|error| words::store(&error))?;
    let names: Vec<Reference> = all.into_iter().map(|(name, _)| name).filter(same).collect();
    if names.is_empty() {
        let repository = repository.familiar();
        let repository = repository.split(['@']).next().unwrap_or_default();
        return Err(Failure::new(format!("no image of the local store has a name in `{repository}`"))
            .help("`rbuild images` lists what is there; `rbuild tag` gives names"));
    }
    Ok(names)
}

/// What a name means, as it is to go out.
struct Meant {
    images: Vec<ImageRecord>,
    /// The index that names them and nothing else that is an image, if the name means one, and its exact text.
    index: Option<(Index, String)>,
    /// The digest of what the name means here.
    local: Digest,
}

/// Of an index, what is here of it goes out: all, and then as the index that it is, or the rest as an index of its own.
fn meant_by(found: FoundImage, name: &Reference, progress: &dyn Progress) -> Result<Meant, Failure> {
    let Some(stored) = found.index else {
        let local = found.image.manifest.digest;
        return Ok(Meant { images: vec![found.image], index: None, local });
    };
    let local = stored.digest();
    let index = stored.index().map_err(|error| words::store(&error))?;
    let is_here = |entry: &&Descriptor| stored.members.iter().any(|one| one.manifest.digest == entry.digest);
    let here: Vec<Descriptor> = index.manifests.iter().filter(is_here).cloned().collect();
    let members =
        here.iter().filter_map(|entry| stored.members.iter().find(|one| one.manifest.digest == entry.digest).cloned());
    let images: Vec<ImageRecord> = members.collect();
    let lacks = index.manifests.len() - here.len();
    if lacks > 0 {
        let text = format!(
            "of the {} entries of the index {}, {} are here: only they are pushed; `rbuild pull --all-platforms` brings \
             all images, `rbuild imagetools create` takes an index from registry to registry",
            index.manifests.len(),
            name.familiar(),
            here.len()
        );
        progress.event(Event::Notice { vertex: VertexId::of_name("push"), text });
    }
    let index = match (lacks, images.len()) {
        (0, _) => Some((index, stored.document)),
        (_, 0 | 1) => None,
        _ => Some((Index { manifests: here, ..index }, String::new())),
    };
    // What stands in an index within it is not looked for.
    let images = if images.is_empty() { vec![found.image] } else { images };
    Ok(Meant { images, index, local })
}

/// One name gets what is meant.
struct Pushing<'a> {
    sender: Sender<'a>,
    worker: &'a Worker,
    to: &'a Destination,
    options: &'a PushOptions,
    cancel: &'a CancellationToken,
}

/// An image whose blobs are all there.
struct Sent {
    image: PushedImage,
    bytes: Vec<u8>,
    /// Its manifest here.
    local: Digest,
}

impl Pushing<'_> {
    async fn push(&self, meant: Meant) -> Result<Pushed, Failure> {
        let Self { sender, to, options, .. } = self;
        let mut sent = Vec::with_capacity(meant.images.len());
        for record in &meant.images {
            sent.push(self.image(record).await?);
        }
        let mut joined = None;
        let documents = || sent.iter().map(|sent| (&sent.image.manifest, &sent.bytes[..]));
        let entries: Vec<Descriptor> = sent.iter().map(|sent| sent.image.entry()).collect();
        let document = match meant.index {
            _ if options.join => {
                sender.members(to, documents()).await?;
                let entries = meant.index.map_or(entries.clone(), |(index, _)| renewed(index, &entries).manifests);
                let now = imagetools::join(&to.client, &to.name, entries, sender.progress, sender.task).await?;
                let document = now.index.clone();
                joined = Some(now);
                document
            }
            None => {
                let (manifest, bytes) = documents().next().expect("there is always an image");
                sender.name(to, manifest, bytes).await?;
                manifest.clone()
            }
            Some((index, text)) => {
                sender.members(to, documents()).await?;
                let kind = index.media_type.clone().unwrap_or_else(|| media_type::OCI_INDEX.to_owned());
                let same = index.manifests.iter().zip(&entries).all(|(own, new)| own.digest == new.digest);
                let bytes = match same && !text.is_empty() {
                    true => text.into_bytes(),
                    false => serde_json::to_vec(&renewed(index, &entries)).expect("an index becomes JSON"),
                };
                let document = Descriptor::new(kind, Digest::of(&bytes), bytes.len() as u64);
                sender.name(to, &document, &bytes).await?;
                document
            }
        };
        for Sent { image, local, .. } in &sent {
            self.note(local, &image.manifest.digest)?;
        }
        if !sent.iter().any(|sent| sent.local == meant.local) {
            self.note(&meant.local, &document.digest)?;
        }
        let images = sent.into_iter().map(|sent| sent.image).collect();
        Ok(Pushed { name: to.name.clone(), document, images, joined })
    }

    /// Takes all blobs of an image there.
    async fn image(&self, record: &ImageRecord) -> Result<Sent, Failure> {
        let Self { sender, worker, to, options, cancel } = self;
        let local = record.manifest.digest;
        let log = VertexLog { vertex: sender.task, progress: &**sender.progress };
        let anew = options.anew.then_some(&to.name);
        let whole = Whole::of(sender.store, worker, record, anew, &log).await?;
        let config = whole.config()?;
        let platform = Platform::normalised(&config.os, &config.architecture, &config.variant);
        let (ready, blobs) = unbounded_channel();
        let sending = sender.blobs(std::slice::from_ref(to), blobs, Absent::Streamed);
        let (manifest, bytes, config) = match whole {
            Whole::AsItIs(image) => {
                for blob in image.manifest.layers.iter().chain([&image.manifest.config]) {
                    // Not distributed: where it is, only its descriptor says.
                    if !oci::layer::decompress::is_foreign(&blob.media_type) {
                        drop(ready.send(blob.clone()));
                    }
                }
                drop(ready);
                sending.await?;
                (image.descriptor.clone(), image.manifest_bytes.clone(), image.manifest.config.digest)
            }
            Whole::Layers { image, annotations } => {
                let annotations = Annotations::of_manifest(annotations);
                let form = ImageForm { codec: options.codec, force: options.anew, annotations, ..ImageForm::default() };
                let made = compress(sender.store, worker, &image, &form, Some(ready), cancel);
                let (written, ()) = tokio::try_join!(made, async { sending.await.map_err(Failure::from) })?;
                (written.manifest, written.manifest_bytes, written.config)
            }
        };
        Ok(Sent { image: PushedImage { manifest, config, platform }, bytes, local })
    }

    /// Remembers where the image is now.
    fn note(&self, local: &Digest, there: &Digest) -> Result<(), Failure> {
        let (store, name) = (self.sender.store, self.to.name.at_digest(*there).to_string());
        let mut known = noted(store, local)?;
        if known.contains(&name) {
            return Ok(());
        }
        known.insert(0, name);
        known.truncate(NOTED_MAX);
        let text = serde_json::to_string(&known).expect("texts are JSON");
        store.set_note(NOTES, &local.to_string(), &text).map_err(|error| words::store(&error))
    }
}

/// Where an image was pushed to, the last first.
pub(super) fn noted(store: &Store, manifest: &Digest) -> Result<Vec<String>, Failure> {
    let note = store.note(NOTES, &manifest.to_string()).map_err(|error| words::store(&error))?;
    Ok(note.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// The index over the images as they are there, which stand in the order of its own.
fn renewed(mut index: Index, entries: &[Descriptor]) -> Index {
    for (entry, new) in index.manifests.iter_mut().zip(entries) {
        let platform = entry.platform.take().or_else(|| new.platform.clone());
        let annotations = std::mem::take(&mut entry.annotations);
        *entry = Descriptor { platform, annotations, ..new.clone() };
    }
    index
}
