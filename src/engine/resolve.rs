//! Answers to what the frontend needs to know: which image a name means, and its config.
//!
//! The local store is asked first, the registry after it; with `--pull` the registry alone. What a registry answered
//! is kept in the store under its name, so the next build asks nobody. Only manifest and config come over here:
//! layers are fetched when a step or an export wants them. An image of a layout on this machine comes over whole.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use frontend::{Answers, Asked, ImageAnswer, ImageQuestion};
use jiff::Timestamp;
use oci::model::{Digest, ImageConfig, Platform, Reference};
use oci::registry::Client;
use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use store::{FoundImage, ImageRecord, Store};

use super::context::layout;
use super::task::in_background;
use super::{Failure, words};
use crate::options::context::Layout;

/// Where answers come from.
pub struct Resolver {
    /// The local store.
    pub store: Store,
    /// The registries.
    pub registry: Client,
    /// Whether the local store's answers are not good enough (`--pull`).
    pub pull: bool,
    /// Who watches.
    pub progress: Arc<dyn Progress>,
    /// The layouts of named contexts, by name.
    pub layouts: BTreeMap<String, Layout>,
}

impl Resolver {
    /// Without layouts.
    pub fn new(store: Store, registry: Client, pull: bool, progress: Arc<dyn Progress>) -> Self {
        Self { store, registry, pull, progress, layouts: BTreeMap::new() }
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

    /// Answers one question.
    pub async fn answer_one(&self, question: &ImageQuestion) -> Result<ImageAnswer, Failure> {
        let name = match &question.layout {
            Some(name) => format!("[context {name}] OCI load from client"),
            None => format!("[internal] load metadata for {}", question.reference),
        };
        let vertex = VertexId::of_name(&name);
        self.progress.event(Event::Declared { vertex, name, inputs: Vec::new() });
        self.progress.event(Event::Started(vertex));
        let answer = match (&question.layout, self.answer_locally(question)) {
            (Some(name), _) => self.answer_from_layout(name, &question.platform).await,
            (None, Ok(Some(answer))) => Ok(answer),
            (None, Ok(None)) => self.answer_from_registry(question).await,
            (None, Err(failure)) => Err(failure),
        };
        self.progress.event(match &answer {
            Ok(_) => Event::Done(vertex),
            Err(failure) => Event::Failed { vertex, error: failure.problems[0].message.clone() },
        });
        answer
    }

    /// What the local store knows; a pinned name is what it says wherever it comes from, so `--pull` adds nothing.
    fn answer_locally(&self, question: &ImageQuestion) -> Result<Option<ImageAnswer>, Failure> {
        if self.pull && question.reference.digest().is_none() { Ok(None) } else { known(&self.store, question) }
    }

    /// Brings the image of a layout into the store.
    async fn answer_from_layout(&self, name: &str, platform: &Platform) -> Result<ImageAnswer, Failure> {
        let unknown = || Failure::new(format!("there is no layout called `{name}` in this build"));
        let layout = self.layouts.get(name).ok_or_else(unknown)?.clone();
        let (name, platform) = (name.to_owned(), platform.clone());
        in_background(&self.store, move |store| {
            let manifest = layout::bring(store, &name, &layout, &platform)?;
            let image =
                oci::image::Image::open(store.blobs(), &manifest).map_err(|error| Failure::from_error(&error))?;
            Ok(ImageAnswer { digest: manifest.digest, config: image.config })
        })
        .await
    }

    async fn answer_from_registry(&self, question: &ImageQuestion) -> Result<ImageAnswer, Failure> {
        let resolved = self
            .registry
            .resolve(&question.reference, &question.platform, self.store.blobs())
            .await
            .map_err(|error| self.not_resolved(question, &error))?;
        let config: ImageConfig = serde_json::from_slice(&resolved.config_bytes).map_err(|error| {
            Failure::new(format!("the config of `{}` is not readable", question.reference)).note(error.to_string())
        })?;
        let record = ImageRecord {
            config: Digest::of(&resolved.config_bytes),
            top: None,
            platform: Platform::normalised(&config.os, &config.architecture, &config.variant),
            created: Timestamp::now(),
            size_bytes: layers_size_bytes(&resolved.manifest_bytes)?,
            manifest: resolved.manifest.clone(),
        };
        self.store.tag(&question.reference, &record).map_err(|error| words::store(&error))?;
        Ok(ImageAnswer { digest: resolved.manifest.digest, config })
    }

    fn not_resolved(&self, question: &ImageQuestion, error: &oci::registry::RegistryError) -> Failure {
        let mut failure = words::registry(error);
        failure.problems[0].message = format!("cannot resolve the image `{}`", question.reference.familiar());
        failure.problems[0].notes.insert(0, error.to_string());
        let known = |reference: &Reference| matches!(self.store.image(reference), Ok(Some(_)));
        if self.pull && known(&question.reference) {
            return failure.help("without `--pull` the image of that name in the local store would be used");
        }
        failure
    }
}

/// What a store knows of an image that is in no layout.
pub fn known(store: &Store, question: &ImageQuestion) -> Result<Option<ImageAnswer>, Failure> {
    let record = match question.reference.digest() {
        Some(digest) => store.image_by_digest(&digest),
        None => store.image(&question.reference),
    };
    let record = record.map_err(|error| words::store(&error))?;
    let Some(record) = record.filter(|record| record.platform.serves(&question.platform)) else { return Ok(None) };
    let config = config_of(store, &record.config)?;
    Ok(Some(ImageAnswer { digest: record.manifest.digest, config }))
}

/// The image of the local store that a person means by `text`: the one of that name, else the one whose id begins so
/// (where a name was read, `12ab34cd` has become `12ab34cd:latest`).
pub fn find_local(store: &Store, text: &str) -> Result<Option<FoundImage>, Failure> {
    for text in [Some(text), text.strip_suffix(":latest")].into_iter().flatten() {
        match store.find_image(text) {
            Ok(None) => {}
            Ok(found) => return Ok(found),
            Err(error @ store::StoreError::AmbiguousId { .. }) => {
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
