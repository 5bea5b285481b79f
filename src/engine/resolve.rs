//! Answers to what the frontend needs to know: which image a name means, and its config.
//!
//! A digest means the same everywhere, so what the store has of it is taken. A tag that was made, loaded or imported
//! here is this machine's word. A tag that a registry gave is the registry's: it is asked what it means now, with one
//! HEAD request when nothing has changed; out of reach, it is believed to mean what it meant last, with a warning. With
//! `--pull` the registry alone has the say about tags; with `--offline` nobody is asked. What a registry says of a name
//! is noted (kind `tag`). Only manifest and config come over here: layers are fetched when a step or an export wants
//! them. An image of a layout on this machine comes over whole.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use frontend::{Answers, Asked, ImageAnswer, ImageQuestion};
use jiff::Timestamp;
use oci::model::{Digest, ImageConfig, Platform, Reference};
use oci::registry::{Client, RegistryError, Resolved};
use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use store::{FoundImage, ImageRecord, Store, StoreError, StoredIndex};

use super::context::layout;
use super::policy::Policy;
use super::task::in_background;
use super::{Failure, words};
use crate::options::context::Layout;

/// How long a registry is waited for when it is known what it said last.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kind of our notes: by name, the digest of the manifest or index that the registry gave.
const NOTES: &str = "tag";

/// Who is asked what a tag means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// The store for what was made here, the registry for what is the registry's, and the store again when the registry
    /// is out of reach.
    Usual,
    /// The registry alone (`--pull`).
    Registry,
    /// The store alone (`--offline`).
    Nobody,
}

impl Ask {
    /// What the options say; that both are not said at once is the options' business.
    pub fn of(pull: bool, offline: bool) -> Self {
        match (pull, offline) {
            (_, true) => Self::Nobody,
            (true, false) => Self::Registry,
            (false, false) => Self::Usual,
        }
    }
}

/// Where answers come from.
pub struct Resolver {
    /// The local store.
    pub store: Store,
    /// The registries.
    pub registry: Client,
    /// Who is asked what a tag means.
    pub ask: Ask,
    /// How long a registry is waited for when it is known what it said last.
    pub patience: Duration,
    /// Who watches.
    pub progress: Arc<dyn Progress>,
    /// What images are allowed, and replaced.
    pub policy: Policy,
    /// The layouts of named contexts, by name.
    pub layouts: BTreeMap<String, Layout>,
    /// Whether failures say for which platform an image was wanted: there are several.
    pub says_platform: bool,
}

impl Resolver {
    /// Without layouts.
    pub fn new(store: Store, registry: Client, ask: Ask, progress: Arc<dyn Progress>) -> Self {
        Self {
            store,
            registry,
            ask,
            patience: PATIENCE,
            progress,
            policy: Policy::default(),
            layouts: BTreeMap::new(),
            says_platform: false,
        }
    }

    /// Answers each distinct question once, all at the same time.
    ///
    /// # Errors
    /// The first that could not be answered, in the order asked, with its place in the Dockerfile.
    pub async fn answer(&self, asked: &[Asked], answers: &mut Answers, place: &super::Text) -> Result<(), Failure> {
        let mut seen = HashSet::new();
        let fresh = asked.iter().filter(|asked| seen.insert(asked.question.clone()));
        let lookups = fresh.map(|asked| async {
            let answer = self.answer_one(&asked.question).await.map_err(|mut failure| {
                if let Some(problem) = failure.problems.first_mut() {
                    if self.says_platform {
                        problem.notes.push(format!("for the platform {}", asked.question.platform));
                    }
                    problem.snippet = asked.span.clone().map(|span| place.snippet(span, ""));
                    // A stage that was misspelled looks like an image that nobody has.
                    match &asked.question.layout {
                        None => problem.help = asked.help.clone().or(problem.help.take()),
                        Some(_) => problem.notes.extend(asked.help.clone()),
                    }
                }
                failure
            })?;
            Ok::<_, Failure>((asked.question.clone(), answer))
        });
        let answered: Vec<_> = futures_util::future::join_all(lookups).await;
        for answer in answered {
            let (question, answer) = answer?;
            answers.insert(question, answer);
        }
        Ok(())
    }

    /// Answers one question; about another image, if the policy says so.
    pub async fn answer_one(&self, question: &ImageQuestion) -> Result<ImageAnswer, Failure> {
        let instead = match question.layout {
            None => self.policy.image(&question.reference)?,
            Some(_) => None,
        };
        let Some(reference) = instead else { return self.answer_as_asked(question).await };
        let other = ImageQuestion { reference: reference.clone(), ..question.clone() };
        Ok(ImageAnswer { name: Some(reference), ..self.answer_as_asked(&other).await? })
    }

    async fn answer_as_asked(&self, question: &ImageQuestion) -> Result<ImageAnswer, Failure> {
        let name = match &question.layout {
            Some(name) => format!("[context {name}] OCI load from client"),
            None => format!("[internal] load metadata for {}", question.reference),
        };
        let vertex = VertexId::of_name(&name);
        self.progress.event(Event::Declared { vertex, name, inputs: Vec::new() });
        self.progress.event(Event::Started(vertex));
        let answer = match &question.layout {
            Some(name) => self.answer_from_layout(name, &question.platform).await,
            None => self.answer_by_name(question, vertex).await,
        };
        self.progress.event(match &answer {
            Ok(_) => Event::Done(vertex),
            Err(failure) => Event::Failed { vertex, error: failure.problems[0].message.clone() },
        });
        answer
    }

    async fn answer_by_name(&self, question: &ImageQuestion, vertex: VertexId) -> Result<ImageAnswer, Failure> {
        let pinned = question.reference.digest().is_some();
        let Some(record) = find(&self.store, question)? else {
            let own = if self.ask == Ask::Registry { None } else { own_index(&self.store, &question.reference)? };
            if let Some(index) = own {
                return Err(nothing_for(question, &index));
            }
            return match self.ask {
                // What a digest means may be in the store without a record; the client looks there first.
                Ask::Nobody if !pinned => Err(self.not_here(question)),
                _ => self.answer_from_registry(question).await,
            };
        };
        let known = answer_of(&self.store, &record)?;
        let settled = match self.ask {
            Ask::Nobody => true,
            Ask::Registry => pinned,
            Ask::Usual => pinned || !is_registrys(&self.store, &question.reference, &record)?,
        };
        match self.ask {
            _ if settled => Ok(known),
            Ask::Registry => self.answer_from_registry(question).await,
            _ => self.answer_anew(question, known, vertex).await,
        }
    }

    /// What the registry says now of a tag that it gave before; what it said then, if it is out of reach.
    async fn answer_anew(
        &self,
        question: &ImageQuestion,
        known: ImageAnswer,
        vertex: VertexId,
    ) -> Result<ImageAnswer, Failure> {
        let asking = self.registry.resolve(&question.reference, &question.platform, self.store.blobs());
        let why = match tokio::time::timeout(self.patience, asking).await {
            Ok(Ok(resolved)) => return self.keep(question, &resolved),
            Ok(Err(error)) if error.is_out_of_reach() => error.to_string(),
            Ok(Err(error)) => return Err(self.not_resolved(question, &error)),
            Err(_) => {
                format!("`{}` did not answer in {} s", question.reference.registry(), self.patience.as_secs_f32())
            }
        };
        let name = question.reference.familiar();
        let text = format!("{why}; `{name}` is taken to be what it was last: {}", known.digest);
        self.progress.event(Event::Notice { vertex, text });
        Ok(known)
    }

    fn not_here(&self, question: &ImageQuestion) -> Failure {
        let name = question.reference.familiar();
        Failure::new(format!("the image `{name}` is not in the local store, and no connection may be made"))
            .help("build once without `--offline`, or bring the image here with `rbuild load` or `rbuild import`")
    }

    /// Brings the image of a layout into the store.
    async fn answer_from_layout(&self, name: &str, platform: &Platform) -> Result<ImageAnswer, Failure> {
        let unknown = || Failure::new(format!("there is no layout called `{name}` in this build"));
        let layout = self.layouts.get(name).ok_or_else(unknown)?.clone();
        let (name, platform) = (name.to_owned(), platform.clone());
        let brought = match &layout.theirs {
            None => None,
            Some(theirs) => Some(layout::bring_theirs(&self.store, theirs, &layout, &platform).await?),
        };
        in_background(&self.store, move |store| {
            let manifest = match brought {
                Some(manifest) => manifest,
                None => layout::bring(store, &name, &layout, &platform)?,
            };
            let image =
                oci::image::Image::open(store.blobs(), &manifest).map_err(|error| Failure::from_error(&error))?;
            Ok(ImageAnswer { name: None, digest: manifest.digest, config: image.config })
        })
        .await
    }

    async fn answer_from_registry(&self, question: &ImageQuestion) -> Result<ImageAnswer, Failure> {
        let resolved = self
            .registry
            .resolve(&question.reference, &question.platform, self.store.blobs())
            .await
            .map_err(|error| self.not_resolved(question, &error))?;
        self.keep(question, &resolved)
    }

    fn keep(&self, question: &ImageQuestion, resolved: &Resolved) -> Result<ImageAnswer, Failure> {
        let (_, config) = keep(&self.store, &question.reference, resolved)?;
        Ok(ImageAnswer { name: None, digest: resolved.manifest.digest, config })
    }

    fn not_resolved(&self, question: &ImageQuestion, error: &RegistryError) -> Failure {
        if let RegistryError::Offline { .. } = error {
            return self.not_here(question);
        }
        let mut failure = words::registry(error);
        failure.problems[0].message = format!("cannot resolve the image `{}`", question.reference.familiar());
        failure.problems[0].notes.insert(0, error.to_string());
        if let Ok(Some(record)) = self.store.image(&question.reference) {
            let ours = matches!(is_registrys(&self.store, &question.reference, &record), Ok(false));
            let pull = self.ask == Ask::Registry && (ours || error.is_out_of_reach());
            let how = if pull { "without `--pull`" } else { "with `--offline`" };
            return failure.help(format!("{how} the image of that name in the local store would be used"));
        }
        failure
    }
}

/// Keeps what a registry said under the name that it was asked for.
pub fn keep(store: &Store, name: &Reference, resolved: &Resolved) -> Result<(ImageRecord, ImageConfig), Failure> {
    let (record, config) = record_of(name, resolved)?;
    remember(store, name, resolved, record.clone())?;
    Ok((record, config))
}

/// Gives the name what the registry said, and notes that it was the registry. Of an index, the images of other
/// platforms that came before stay known.
fn remember(store: &Store, name: &Reference, resolved: &Resolved, record: ImageRecord) -> Result<(), Failure> {
    let failed = |error: StoreError| words::store(&error);
    let said = resolved.index.as_ref().map_or(record.manifest.digest, |index| index.digest).to_string();
    // The note first: a name without one is this machine's own.
    if store.note(NOTES, &name.to_string()).map_err(failed)?.as_ref() != Some(&said) {
        store.set_note(NOTES, &name.to_string(), &said).map_err(failed)?;
    }
    let Some(index) = &resolved.index else { return store.tag(name, &record).map_err(failed) };
    let bytes = super::read_blob(store, &index.digest)?;
    let document = String::from_utf8(bytes)
        .map_err(|_| Failure::new(format!("the index of `{}` is not UTF-8", name.familiar())))?;
    let known = store.index_of(name).map_err(failed)?.filter(|known| known.document == document);
    let mut members = known.map(|known| known.members).unwrap_or_default();
    match members.iter_mut().find(|member| member.manifest.digest == record.manifest.digest) {
        Some(member) => *member = record,
        None => members.push(record),
    }
    store.tag_index(name, &document, &members).map_err(failed)
}

/// What the store will know of an image that a registry gave.
fn record_of(name: &Reference, resolved: &Resolved) -> Result<(ImageRecord, ImageConfig), Failure> {
    let config: ImageConfig = serde_json::from_slice(&resolved.config_bytes)
        .map_err(|error| Failure::new(format!("the config of `{name}` is not readable")).note(error.to_string()))?;
    let record = ImageRecord {
        config: Digest::of(&resolved.config_bytes),
        top: None,
        platform: Platform::normalised(&config.os, &config.architecture, &config.variant),
        created: Timestamp::now(),
        size_bytes: layers_size_bytes(&resolved.manifest_bytes)?,
        manifest: resolved.manifest.clone(),
    };
    Ok((record, config))
}

/// The index that this machine gave a name, if it did.
fn own_index(store: &Store, name: &Reference) -> Result<Option<StoredIndex>, Failure> {
    let failed = |error: StoreError| words::store(&error);
    let (Some(record), Some(index)) = (store.image(name).map_err(failed)?, store.index_of(name).map_err(failed)?)
    else {
        return Ok(None);
    };
    Ok(if is_registrys(store, name, &record)? { None } else { Some(index) })
}

fn nothing_for(question: &ImageQuestion, index: &StoredIndex) -> Failure {
    let (name, wanted) = (question.reference.familiar(), &question.platform);
    // Where the index itself says nothing, one within does.
    let mut there = index.index().map_or_else(|_| Vec::new(), |index| oci::image::available(&index));
    there.extend(index.members.iter().map(|member| member.platform.clone()));
    there.sort();
    there.dedup();
    let there: Vec<String> = there.iter().map(Platform::to_string).collect();
    Failure::new(format!("the image `{name}` of the local store has nothing for `{wanted}`"))
        .note(format!("it is for {}", there.join(", ")))
        .help("`--pull` asks the registry for it")
}

/// What a store knows of an image that is in no layout.
pub fn known(store: &Store, question: &ImageQuestion) -> Result<Option<ImageAnswer>, Failure> {
    find(store, question)?.map(|record| answer_of(store, &record)).transpose()
}

/// The store's record of what is asked for.
fn find(store: &Store, question: &ImageQuestion) -> Result<Option<ImageRecord>, Failure> {
    let name = &question.reference;
    let failed = |error: StoreError| words::store(&error);
    if let Some(digest) = name.digest()
        && let Some(record) = store.image_by_digest(&digest).map_err(failed)?
    {
        return Ok(Some(record).filter(|record| record.platform.serves(&question.platform)));
    }
    let record = store.image_for(name, &question.platform).map_err(failed)?;
    match (record, name.digest()) {
        // The digest of an index: what was chosen from it is known by the pinned name, if a registry gave it. An archive
        // may say such a name of anything.
        (Some(found), Some(digest)) if !is_registrys(store, name, &found)? => {
            let index = store.index_of(name).map_err(failed)?;
            Ok(index.filter(|index| index.digest() == digest).map(|_| found))
        }
        // An index that was made or loaded here under another name.
        (None, Some(digest)) => match store.index_names(&digest).map_err(failed)?.first() {
            Some(other) => store.image_for(other, &question.platform).map_err(failed),
            None => Ok(None),
        },
        (record, _) => Ok(record),
    }
}

fn answer_of(store: &Store, record: &ImageRecord) -> Result<ImageAnswer, Failure> {
    Ok(ImageAnswer { name: None, digest: record.manifest.digest, config: config_of(store, &record.config)? })
}

/// Notes that what a name means, a manifest or an index, was a registry's word.
pub fn note_tag(store: &Store, name: &Reference, said: &Digest) -> Result<(), Failure> {
    store.set_note(NOTES, &name.to_string(), &said.to_string()).map_err(|error| words::store(&error))
}

/// Whether the image has its name because a registry said so. Without a note it is this machine's own.
pub fn is_registrys(store: &Store, name: &Reference, record: &ImageRecord) -> Result<bool, Failure> {
    let failed = |error: StoreError| words::store(&error);
    let Some(said) = store.note(NOTES, &name.to_string()).map_err(failed)? else { return Ok(false) };
    if said == record.manifest.digest.to_string() {
        return Ok(true);
    }
    let index = store.index_of(name).map_err(failed)?;
    Ok(index.is_some_and(|index| index.digest().to_string() == said))
}

/// The image of the local store that a person means by `text`: the one of that name, else the one whose id begins so
/// (where a name was read, `12ab34cd` has become `12ab34cd:latest`).
pub fn find_local(store: &Store, text: &str) -> Result<Option<FoundImage>, Failure> {
    for text in [Some(text), text.strip_suffix(":latest")].into_iter().flatten() {
        match store.find_image(text) {
            Ok(None) => {}
            Ok(found) => return Ok(found),
            Err(error @ StoreError::AmbiguousId { .. }) => {
                return Err(words::store(&error).help("give more digits of the id, or a name"));
            }
            Err(error) => return Err(words::store(&error)),
        }
    }
    Ok(None)
}

/// Reads an image config from the store.
pub fn config_of(store: &Store, digest: &Digest) -> Result<ImageConfig, Failure> {
    let bytes = super::read_blob(store, digest)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(format!("the image config {digest} is not readable")).note(error.to_string()))
}

/// What the layers of a manifest weigh as they are stored.
fn layers_size_bytes(manifest: &[u8]) -> Result<u64, Failure> {
    let manifest: oci::model::Manifest = serde_json::from_slice(manifest)
        .map_err(|error| Failure::new("the manifest is not readable").note(error.to_string()))?;
    Ok(manifest.layers.iter().map(|layer| layer.size).sum())
}

#[cfg(test)]
mod tests;
