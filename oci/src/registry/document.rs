//! Manifests and indexes as they stand in a registry: their exact bytes, and what these say.
//!
//! In: a name, or an entry of an index. Out: a [`Document`], checked against its digest and readable in one way only.
//! Nothing is left out of an index here, for who reads one may write it again. distribution-spec, "Pulling manifests".
//! Deliberately absent: what is done with them; images for one platform ([`super::resolve`]); writing ([`super::put`]).

use reqwest::header::ETAG;
use reqwest::{Method, StatusCode};

use super::auth::Access;
use super::error::RegistryError;
use super::resolve::{Kind, MANIFEST_MAX_BYTES, malformed, read};
use super::retry::Attempts;
use super::route::Place;
use super::transport::Answer;
use super::{Client, Shared};
use crate::hosts::Act;
use crate::model::{Descriptor, Digest, Index, Manifest, Reference};

/// Entries of an index that are read: each may cost a request. Images for all platforms that there are, with an
/// attestation for each, are a tenth of it.
pub const INDEX_ENTRIES_MAX: usize = 1000;

/// A manifest or an index as it came, verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Points to it; its media type is never empty.
    pub descriptor: Descriptor,
    /// Its bytes, as the digest has them.
    pub bytes: Vec<u8>,
    /// What they say.
    pub content: Content,
    /// What the registry calls this state of the name, for a [`super::Condition`].
    pub etag: Option<String>,
}

/// What a document says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// One image, or another thing of that form.
    Manifest(Box<Manifest>),
    /// Several; every entry is there, with all that stands in it.
    Index(Index),
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Mirrors first, as for images.
    Mirrors,
    /// The registry itself.
    Registry,
    /// The registry itself, by who will push there.
    ToPush,
}

impl Client {
    /// The manifest or index of that name.
    ///
    /// # Errors
    /// [`RegistryError::ImageNotFound`] if there is none; [`RegistryError::Malformed`] for what could be read in two
    /// ways, and for an index of more than [`INDEX_ENTRIES_MAX`] entries.
    pub async fn document(&self, name: &Reference, asked: Asked) -> Result<Document, RegistryError> {
        self.through(name, asked, None).await
    }

    /// What an entry of an index points to, in the repository of `name`.
    ///
    /// # Errors
    /// As [`Client::document`], and for bytes that are not the entry's.
    pub async fn entry(&self, name: &Reference, entry: &Descriptor, asked: Asked) -> Result<Document, RegistryError> {
        self.through(&name.at_digest(entry.digest), asked, Some(entry)).await
    }

    async fn through(
        &self,
        name: &Reference,
        asked: Asked,
        entry: Option<&Descriptor>,
    ) -> Result<Document, RegistryError> {
        if let Some(entry) = entry.filter(|entry| entry.size > MANIFEST_MAX_BYTES) {
            let reason = format!("it is said to have {} bytes; {MANIFEST_MAX_BYTES} at most are read", entry.size);
            return Err(malformed("manifest", entry, reason));
        }
        let act = if asked == Asked::Mirrors { Act::Resolve } else { Act::Push };
        let mut route = self.shared.route(name, act)?;
        loop {
            match self.shared.document_at(route.place(), asked == Asked::ToPush, entry).await {
                Ok(document) => {
                    route.arrived();
                    return Ok(document);
                }
                Err(error) => route.pass(error)?,
            }
        }
    }
}

impl Shared {
    async fn document_at(
        &self,
        place: &Place,
        to_push: bool,
        entry: Option<&Descriptor>,
    ) -> Result<Document, RegistryError> {
        let site = self.site(place).await?;
        let image = &place.image;
        let name = match (image.digest(), image.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let outgoing = self.manifest_request(&site, image, Method::GET, &name)?;
        let repository = image.repository();
        let access = if to_push { Access::push(repository) } else { Access::pull(repository) };
        let mut attempts = Attempts::new(&*self.pace).with_alternative(site.is_mirror);
        loop {
            let once = async {
                let mut answer = self.ask(&site, &access, &outgoing).await?;
                match answer.status() {
                    StatusCode::NOT_FOUND => {
                        let (words, _) = answer.words(self.pace.now()).await;
                        let request = answer.request.clone();
                        Err(RegistryError::ImageNotFound { image: Box::new(image.clone()), request, words })
                    }
                    StatusCode::OK => {
                        let bytes = answer.body(MANIFEST_MAX_BYTES).await?;
                        received(&answer, bytes, image.digest(), entry)
                    }
                    _ => Err(self.refusal(answer).await),
                }
            };
            match once.await {
                Ok(document) => return Ok(document),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }
}

/// A document from the wire: what was asked for, and readable in one way only.
fn received(
    answer: &Answer,
    bytes: Vec<u8>,
    asked: Option<Digest>,
    entry: Option<&Descriptor>,
) -> Result<Document, RegistryError> {
    let found = Digest::of(&bytes);
    if let Some(expected) = asked.or_else(|| answer.content_digest()).filter(|expected| *expected != found) {
        return Err(RegistryError::DigestMismatch { request: answer.request.clone(), expected, found });
    }
    if let Some(entry) = entry {
        super::fetch::check(&bytes, entry, &answer.request)?;
    }
    let (descriptor, kind, value) = read(&bytes, found, entry.map(|entry| entry.media_type.as_str()))?;
    let stated = answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if Kind::of(stated).is_some() && stated != descriptor.media_type {
        let reason = format!("the registry calls it `{stated}`, it calls itself `{}`", descriptor.media_type);
        return Err(malformed("manifest", &descriptor, reason));
    }
    let what = if kind == Kind::Index { "index" } else { "manifest" };
    let wrong = |error: serde_json::Error| malformed(what, &descriptor, error.to_string());
    let content = match kind {
        Kind::Manifest => Content::Manifest(Box::new(serde_json::from_value(value).map_err(wrong)?)),
        Kind::Index => {
            let count = value.get("manifests").and_then(|entries| entries.as_array()).map_or(0, Vec::len);
            if count > INDEX_ENTRIES_MAX {
                let reason = format!("it has {count} entries; {INDEX_ENTRIES_MAX} at most are read");
                return Err(malformed(what, &descriptor, reason));
            }
            Content::Index(serde_json::from_value(value).map_err(wrong)?)
        }
    };
    let etag = answer.headers().get(ETAG).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok(Document { descriptor, bytes, content, etag })
}
