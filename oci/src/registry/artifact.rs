//! Questions about what is no image: caches, for example.
//!
//! In: a name or a digest. Out: a manifest, checked against the digest that was asked for and nothing else (what it means
//! is the caller's business); whether a blob is there. distribution-spec, "Pulling manifests". Deliberately absent:
//! writing ([`super::push`], [`super::put`]).

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};

use super::auth::Access;
use super::error::RegistryError;
use super::retry::Attempts;
use super::transport::{Outgoing, Payload};
use super::{Client, resolve};
use crate::model::{Digest, Reference};

impl Client {
    /// The manifest or index of that name, of any kind, at most `max_bytes` long; `None`: the registry has none.
    pub async fn manifest(&self, name: &Reference, max_bytes: u64) -> Result<Option<Vec<u8>>, RegistryError> {
        let shared = &self.shared;
        let (site, name) = &shared.origin(name).await?;
        let wanted = match (name.digest(), name.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let outgoing = Outgoing {
            method: Method::GET,
            url: site.url(&format!("{}/manifests/{wanted}", name.repository()))?,
            headers: HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(resolve::ACCEPTED))]),
            payload: Payload::Empty,
        };
        let access = Access::pull(name.repository());
        let mut attempts = Attempts::new(&*shared.pace);
        loop {
            let once = async {
                let mut answer = shared.ask(site, &access, &outgoing).await?;
                match answer.status() {
                    StatusCode::NOT_FOUND => {
                        answer.drain().await;
                        Ok(None)
                    }
                    StatusCode::OK => {
                        let bytes = answer.body(max_bytes).await?;
                        let found = Digest::of(&bytes);
                        match name.digest().filter(|expected| *expected != found) {
                            Some(expected) => {
                                Err(RegistryError::DigestMismatch { request: answer.request.clone(), expected, found })
                            }
                            None => Ok(Some(bytes)),
                        }
                    }
                    _ => Err(shared.refusal(answer).await),
                }
            };
            match once.await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// Whether the repository has a blob.
    pub async fn has_blob(&self, name: &Reference, digest: &Digest) -> Result<bool, RegistryError> {
        let shared = &self.shared;
        let (site, name) = &shared.origin(name).await?;
        let outgoing = Outgoing {
            method: Method::HEAD,
            url: site.url(&format!("{}/blobs/{digest}", name.repository()))?,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
        };
        let access = Access::pull(name.repository());
        let mut attempts = Attempts::new(&*shared.pace);
        loop {
            let once = async {
                let answer = shared.ask(site, &access, &outgoing).await?;
                match answer.status().as_u16() {
                    200 => Ok(true),
                    // Some registries do not know HEAD here, some storage is signed for GET alone: to be sent then.
                    404 | 405 => Ok(false),
                    400..=499 if answer.from_elsewhere => Ok(false),
                    _ => Err(shared.refusal(answer).await),
                }
            };
            match once.await {
                Ok(is_there) => return Ok(is_there),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }
}
