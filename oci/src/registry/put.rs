//! Manifests and indexes get their names: the last act of everything that is sent.
//!
//! In: a document whose parts are all there, and a name. Out: the name means it, on a condition where the registry heeds
//! any: most do not, and [`Client::put_by_digest`] finds out without harm. distribution-spec, "Pushing Manifests"; RFC
//! 9110, section 13. Deliberately absent: who sees to it that all parts are there; reading ([`super::document`]).

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, StatusCode, Url};

use super::auth::{Access, Site};
use super::error::RegistryError;
use super::retry::Attempts;
use super::transport::{Outgoing, Payload};
use super::upload::same_digest;
use super::{Client, Shared};
use crate::model::{Descriptor, Digest, Reference};

/// When a name gets a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Whatever it means now.
    Always,
    /// If its state is still this [`super::Document::etag`].
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

/// A document on its way.
struct Outbound<'a> {
    site: &'a Site,
    image: &'a Reference,
    /// A tag, or its digest.
    place: String,
    document: &'a Descriptor,
    bytes: &'a [u8],
}

impl Client {
    /// Gives the name a document whose parts are all there, if the condition holds: under its tag, or else under its
    /// digest. A registry that heeds no conditions does it in any case: see [`Client::put_by_digest`].
    ///
    /// # Errors
    /// [`RegistryError::Push`], before anything is sent, if the bytes are not those of the descriptor or the name has
    /// another digest.
    pub async fn put_document(
        &self,
        name: &Reference,
        document: &Descriptor,
        bytes: &[u8],
        condition: &Condition,
    ) -> Result<Put, RegistryError> {
        if name.digest().is_some_and(|pinned| pinned != document.digest) {
            let reason = format!("the image has the digest `{}`", document.digest);
            return Err(RegistryError::Push { image: Box::new(name.clone()), reason });
        }
        let (site, image) = &self.shared.origin(name).await?;
        let header = match condition {
            Condition::Always => None,
            Condition::Still(etag) => Some((IF_MATCH, etag.clone())),
            Condition::Absent => Some((IF_NONE_MATCH, "*".to_owned())),
        };
        let place = image.tag().map_or_else(|| document.digest.to_string(), str::to_owned);
        self.shared.put(&Outbound { site, image, place, document, bytes }, header).await
    }

    /// Puts a document there under its digest alone, and tells whether the registry heeds conditions: it is asked to do
    /// it only if a state is there that cannot be. One that does it all the same has done what was wanted.
    pub async fn put_by_digest(
        &self,
        name: &Reference,
        document: &Descriptor,
        bytes: &[u8],
    ) -> Result<bool, RegistryError> {
        let (site, image) = &self.shared.origin(name).await?;
        let outbound = Outbound { site, image, place: document.digest.to_string(), document, bytes };
        let impossible = (IF_MATCH, format!("\"{}\"", Digest::from_bytes([0; 32])));
        match self.shared.put(&outbound, Some(impossible)).await {
            Ok(Put::Done) => return Ok(false),
            Ok(Put::Overtaken) => {}
            Err(error) if is_refusal(&error) => tracing::debug!(%error, "a condition is refused"),
            Err(error) => return Err(error),
        }
        self.shared.put(&outbound, None).await?;
        Ok(true)
    }
}

impl Shared {
    async fn put(
        &self,
        outbound: &Outbound<'_>,
        condition: Option<(HeaderName, String)>,
    ) -> Result<Put, RegistryError> {
        let Outbound { site, image, place, document, bytes } = outbound;
        let wrong = |reason: String| RegistryError::Push { image: Box::new((*image).clone()), reason };
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        if digest != document.digest || size != document.size {
            return Err(wrong(format!(
                "its manifest has the digest `{digest}` and {size} bytes, not those of its descriptor"
            )));
        }
        let value = |text: &str, what: &str| {
            HeaderValue::try_from(text).map_err(|_| wrong(format!("{what} cannot stand in a header")))
        };
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, value(&document.media_type, "its media type")?)]);
        let is_conditional = condition.is_some();
        if let Some((header, state)) = condition {
            headers.insert(header, value(&state, "the state of its name")?);
        }
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
                    200..=299 => same_digest(&answer, digest).map(|()| Put::Done),
                    412 if is_conditional => {
                        answer.drain().await;
                        Ok(Put::Overtaken)
                    }
                    _ => Err(self.refusal(answer).await),
                }
            };
            match once.await {
                Ok(put) => return Ok(put),
                Err(error) if is_refusal(&error) && self.is_named(site, &access, &outgoing.url, digest).await => {
                    tracing::info!(%error, "the name means this already");
                    return Ok(Put::Done);
                }
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// Whether a manifest is there already under its name: registries whose tags cannot change refuse even what changes
    /// nothing.
    async fn is_named(&self, site: &Site, access: &Access, url: &Url, digest: Digest) -> bool {
        let head = Outgoing {
            method: Method::HEAD,
            url: url.clone(),
            headers: HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(super::resolve::ACCEPTED))]),
            payload: Payload::Empty,
        };
        match self.ask(site, access, &head).await {
            Ok(answer) => answer.status() == StatusCode::OK && answer.content_digest() == Some(digest),
            Err(error) => {
                tracing::debug!(%error, "what the name means is not known");
                false
            }
        }
    }
}

/// Whether a registry does not want a name changed, or something else that it could say so.
fn is_refusal(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Denied { .. } | RegistryError::Status { status: 400 | 409 | 412, .. })
}
