//! Manifests and indexes as they stand in a registry: their exact bytes, what these say, and the names they are under.
//!
//! In: a name, or an entry of an index. Out: a [`Document`], checked against its digest and readable in one way only.
//! Nothing is left out of an index here, for who reads one may write it again. The other way, [`Client::put_document`]
//! gives a name a document, on a condition where the registry heeds any: most do not, and
//! [`Client::put_by_digest`] finds out without harm. distribution-spec, "Pulling manifests", "Pushing Manifests";
//! RFC 9110, section 13. Deliberately absent: what is done with them; images for one platform ([`super::resolve`]).

use reqwest::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, StatusCode};

use super::auth::{Access, Site};
use super::error::RegistryError;
use super::push::{PushImage, is_refusal, manifest_name};
use super::resolve::{Kind, MANIFEST_MAX_BYTES, malformed, read};
use super::retry::Attempts;
use super::route::Place;
use super::transport::{Answer, Outgoing, Payload};
use super::upload::same_digest;
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
    /// What the registry calls this state of the name, for a [`Condition`].
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

/// When a name gets a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Whatever it means now.
    Always,
    /// If its state is still this [`Document::etag`].
    Still(String),
    /// If it means nothing.
    Absent,
}

/// What became of a document that was to have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The name means it.
    Done,
    /// The name means something else by now, and nothing was changed.
    Overtaken,
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

    /// Gives the name a document whose parts are all there, if the condition holds. A registry that heeds no conditions
    /// does it in any case: see [`Client::put_by_digest`].
    pub async fn put_document(
        &self,
        name: &Reference,
        document: &Descriptor,
        bytes: &[u8],
        condition: &Condition,
    ) -> Result<Put, RegistryError> {
        let (site, name) = &self.shared.origin(name).await?;
        let header = match condition {
            Condition::Always => None,
            Condition::Still(etag) => Some((IF_MATCH, etag.clone())),
            Condition::Absent => Some((IF_NONE_MATCH, "*".to_owned())),
        };
        let place = manifest_name(name, document.digest);
        self.shared.put(site, name, &place, document, bytes, header).await
    }

    /// Puts a document there under its digest alone, and tells whether the registry heeds conditions: it is asked to do
    /// it only if a state is there that cannot be. One that does it all the same has done what was wanted.
    pub async fn put_by_digest(
        &self,
        name: &Reference,
        document: &Descriptor,
        bytes: &[u8],
    ) -> Result<bool, RegistryError> {
        let (site, name) = &self.shared.origin(name).await?;
        let place = document.digest.to_string();
        let impossible = (IF_MATCH, format!("\"{}\"", Digest::from_bytes([0; 32])));
        match self.shared.put(site, name, &place, document, bytes, Some(impossible)).await {
            Ok(Put::Done) => return Ok(false),
            Ok(Put::Overtaken) => {}
            Err(error) if is_refusal(&error) => tracing::debug!(%error, "a condition is refused"),
            Err(error) => return Err(error),
        }
        let what = PushImage { manifest: document.clone(), manifest_bytes: bytes.to_vec(), blobs: Vec::new() };
        self.shared.push_manifest(site, name, &place, &what).await?;
        Ok(true)
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

    async fn put(
        &self,
        site: &Site,
        image: &Reference,
        place: &str,
        document: &Descriptor,
        bytes: &[u8],
        condition: Option<(reqwest::header::HeaderName, String)>,
    ) -> Result<Put, RegistryError> {
        let Some((header, value)) = condition else {
            let what = PushImage { manifest: document.clone(), manifest_bytes: bytes.to_vec(), blobs: Vec::new() };
            self.push_manifest(site, image, place, &what).await?;
            return Ok(Put::Done);
        };
        let text = |text: &str| {
            HeaderValue::try_from(text).map_err(|_| RegistryError::Push {
                image: Box::new(image.clone()),
                reason: "its media type, or the state of its name, cannot stand in a header".to_owned(),
            })
        };
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, text(&document.media_type)?), (header, text(&value)?)]);
        let outgoing = Outgoing {
            method: Method::PUT,
            url: site.url(&format!("{}/manifests/{place}", image.repository()))?,
            headers,
            payload: Payload::Bytes(bytes.to_vec()),
        };
        let access = Access::push(image.repository());
        let mut attempts = Attempts::new(&*self.pace);
        loop {
            let once = async {
                let answer = self.ask(site, &access, &outgoing).await?;
                match answer.status().as_u16() {
                    200..=299 => same_digest(&answer, document.digest).map(|()| Put::Done),
                    412 => {
                        answer.drain().await;
                        Ok(Put::Overtaken)
                    }
                    _ => Err(self.refusal(answer).await),
                }
            };
            match once.await {
                Ok(put) => return Ok(put),
                Err(error)
                    if is_refusal(&error) && self.is_named(site, &access, &outgoing.url, document.digest).await =>
                {
                    return Ok(Put::Done);
                }
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
