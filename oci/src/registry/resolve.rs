//! A name and a platform become one verified image.
//!
//! A [`Reference`] comes in; the manifest for the platform, its config, and the index it was chosen from go out, all of
//! them checked against their digests, readable in one way only, and in the store. A tag is first asked for its digest
//! (HEAD costs nothing against pull limits), and what the store has by digest is not fetched again. distribution-spec,
//! "Pulling manifests"; image-spec image-index.md. Deliberately absent: layers; names other than the registry's.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::Shared;
use super::auth::{Access, Site};
use super::error::RegistryError;
use super::fetch::put;
use super::retry::Attempts;
use super::route::Place;
use super::transport::{Answer, Outgoing, Payload};
use crate::content::{ContentError, ContentStore, read_bytes};
use crate::hosts::Act;
use crate::image::{NESTING_MAX, available, choose};
use crate::json;
use crate::model::{Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Reference, media_type};

/// distribution-spec asks registries to take manifests of at least 4 MiB; nobody makes larger ones.
pub(super) const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// Configs are as small as manifests.
const CONFIG_MAX_BYTES: u64 = 4 << 20;
/// How long a mirror may take to say what a name means.
const MIRROR_PATIENCE: Duration = Duration::from_secs(8);
/// What rbuild understands.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, \
                        application/vnd.docker.distribution.manifest.v2+json";

/// An image for one platform, found and verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The manifest for the platform. Its media type is never empty.
    pub manifest: Descriptor,
    /// The manifest's bytes.
    pub manifest_bytes: Vec<u8>,
    /// The config's bytes; they parse as an [`ImageConfig`] with one diff id per layer.
    pub config_bytes: Vec<u8>,
    /// The index that the manifest was chosen from, if the name means one.
    pub index: Option<Descriptor>,
}

/// A manifest or an index as it came, verified.
struct Document {
    descriptor: Descriptor,
    bytes: Vec<u8>,
    content: Content,
}

enum Content {
    Manifest(Box<Manifest>),
    Index(Index),
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    place: &'a Place,
    image: &'a Reference,
    into: &'a dyn ContentStore,
}

impl Shared {
    pub(super) async fn resolve(
        &self,
        image: &Reference,
        platform: &Platform,
        into: &dyn ContentStore,
    ) -> Result<Resolved, RegistryError> {
        let mut route = self.route(image, Act::Resolve)?;
        loop {
            let place = route.place();
            let asking = self.resolve_at(place, platform, into);
            let answer = match place.endpoint.is_mirror {
                false => asking.await,
                // The registry itself may be quick, and whoever waits has patience for one of them only.
                true => tokio::time::timeout(MIRROR_PATIENCE, asking).await.unwrap_or_else(|_| {
                    let registry = place.endpoint.registry.clone();
                    Err(RegistryError::Slow { registry, patience: MIRROR_PATIENCE })
                }),
            };
            match answer {
                Ok(resolved) => {
                    route.arrived();
                    return Ok(resolved);
                }
                Err(error) => route.pass(error)?,
            }
        }
    }

    /// What one place says.
    async fn resolve_at(
        &self,
        place: &Place,
        platform: &Platform,
        into: &dyn ContentStore,
    ) -> Result<Resolved, RegistryError> {
        let image = &place.image;
        let wanted = Wanted { place, image, into };
        let mut document = match image.digest() {
            Some(digest) => self.document(wanted, digest, None).await?,
            None => self.tagged(wanted).await?,
        };
        // An index has the say about platforms; where none has said anything, the config has.
        let (mut index, mut is_said, mut nesting_left) = (None, false, NESTING_MAX);
        while let Content::Index(entries) = &document.content {
            let Some(left) = nesting_left.checked_sub(1) else {
                return Err(malformed("index", &document.descriptor, "indexes are nested too deep"));
            };
            nesting_left = left;
            let chosen = choose(entries, platform).ok_or_else(|| no_platform(image, platform, available(entries)))?;
            is_said |= chosen.platform.is_some();
            let next = self.document(wanted, chosen.digest, Some(chosen)).await?;
            index = index.or(Some(std::mem::replace(&mut document, next).descriptor));
        }
        let Content::Manifest(manifest) = &document.content else {
            return Err(malformed("index", &document.descriptor, "it names an index where an image should be"));
        };
        let config_bytes = self.config(wanted, manifest).await?;
        let config = read_config(manifest, &config_bytes)?;
        let own = Platform::normalised(&config.os, &config.architecture, &config.variant);
        if !is_said && !config.os.is_empty() && !config.architecture.is_empty() && !own.serves(platform) {
            return Err(no_platform(image, platform, vec![own]));
        }
        Ok(Resolved { manifest: document.descriptor, manifest_bytes: document.bytes, config_bytes, index })
    }

    /// What a tag means now.
    async fn tagged(&self, wanted: Wanted<'_>) -> Result<Document, RegistryError> {
        let site = self.site(wanted.place).await?;
        // `Reference` gives every name without a digest a tag.
        let tag = wanted.image.tag().unwrap_or("latest");
        let head = self.manifest_request(&site, wanted.image, Method::HEAD, tag)?;
        let access = Access::pull(wanted.image.repository());
        let mut attempts = Attempts::new(&*self.pace).with_alternative(site.is_mirror);
        let digest = loop {
            match self.ask(&site, &access, &head).await {
                // Anything but a clear answer: GET will tell, in words.
                Ok(answer) if answer.status() != StatusCode::OK => break None,
                Ok(answer) => break answer.content_digest(),
                // The answer to HEAD has no words either.
                Err(RegistryError::Unauthorized { words: None, .. } | RegistryError::Denied { words: None, .. }) => {
                    break None;
                }
                Err(error) => attempts.pause(error).await?,
            }
        };
        match digest {
            Some(digest) => self.document(wanted, digest, None).await,
            None => self.fetch_document(&site, wanted, tag, None, None).await,
        }
    }

    /// A manifest or index by digest: from the store, or else from the registry.
    async fn document(
        &self,
        wanted: Wanted<'_>,
        digest: Digest,
        entry: Option<&Descriptor>,
    ) -> Result<Document, RegistryError> {
        if let Some(document) = stored(wanted.into, digest, entry)? {
            return Ok(document);
        }
        let site = self.site(wanted.place).await?;
        self.fetch_document(&site, wanted, &digest.to_string(), Some(digest), entry).await
    }

    /// A manifest or index from the registry, by tag or digest; stored.
    async fn fetch_document(
        &self,
        site: &Site,
        wanted: Wanted<'_>,
        name: &str,
        digest: Option<Digest>,
        entry: Option<&Descriptor>,
    ) -> Result<Document, RegistryError> {
        let outgoing = self.manifest_request(site, wanted.image, Method::GET, name)?;
        let access = Access::pull(wanted.image.repository());
        let mut attempts = Attempts::new(&*self.pace).with_alternative(site.is_mirror);
        let document = loop {
            let once = async {
                let mut answer = self.ask(site, &access, &outgoing).await?;
                if answer.status() == StatusCode::NOT_FOUND {
                    let (words, _) = answer.words(self.pace.now()).await;
                    let request = answer.request.clone();
                    return Err(RegistryError::ImageNotFound { image: Box::new(wanted.image.clone()), request, words });
                }
                if answer.status() != StatusCode::OK {
                    return Err(self.refusal(answer).await);
                }
                let bytes = answer.body(MANIFEST_MAX_BYTES).await?;
                received(&answer, bytes, digest, entry, wanted.image)
            };
            match once.await {
                Ok(document) => break document,
                Err(error) => attempts.pause(error).await?,
            }
        };
        put(wanted.into, document.descriptor.digest, &document.bytes).await?;
        Ok(document)
    }

    pub(super) fn manifest_request<'a>(
        &self,
        site: &Site,
        image: &Reference,
        method: Method,
        name: &str,
    ) -> Result<Outgoing<'a>, RegistryError> {
        Ok(Outgoing {
            method,
            url: site.url(&format!("{}/manifests/{name}", image.repository()))?,
            headers: HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(ACCEPTED))]),
            payload: Payload::Empty,
        })
    }

    /// The config of a manifest: from the store, or else from the registry and then stored.
    async fn config(&self, wanted: Wanted<'_>, manifest: &Manifest) -> Result<Vec<u8>, RegistryError> {
        let descriptor = &manifest.config;
        let digest = descriptor.digest;
        if !matches!(descriptor.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
            let kind = super::words::harmless(&descriptor.media_type);
            let reason = format!("its config is `{kind}`");
            return Err(RegistryError::NotAnImage { image: Box::new(wanted.image.clone()), reason });
        }
        if let Some(bytes) = from_store(wanted.into, descriptor, CONFIG_MAX_BYTES)? {
            return Ok(bytes);
        }
        let site = self.site(wanted.place).await?;
        let bytes = self.fetch_small(&site, wanted.image, descriptor, CONFIG_MAX_BYTES).await?;
        put(wanted.into, digest, &bytes).await?;
        Ok(bytes)
    }
}

/// A document that the store has. What it has in a broken form is fetched again.
fn stored(
    store: &dyn ContentStore,
    digest: Digest,
    entry: Option<&Descriptor>,
) -> Result<Option<Document>, RegistryError> {
    let blob = store.open(&digest).map_err(|source| RegistryError::Content { act: "read", digest, source })?;
    let Some(blob) = blob else { return Ok(None) };
    let descriptor = Descriptor::new("", digest, blob.size());
    drop(blob);
    let Some(bytes) = from_store(store, &descriptor, MANIFEST_MAX_BYTES)? else { return Ok(None) };
    parse(bytes, digest, entry.map(|entry| entry.media_type.as_str())).map(Some)
}

/// A small blob that the store has whole.
fn from_store(store: &dyn ContentStore, descriptor: &Descriptor, max: u64) -> Result<Option<Vec<u8>>, RegistryError> {
    let digest = descriptor.digest;
    match read_bytes(store, descriptor, max) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ContentError::Missing { .. }) => Ok(None),
        Err(error @ (ContentError::WrongDigest { .. } | ContentError::WrongSize { .. })) => {
            tracing::warn!(%digest, %error, "the store's copy is damaged; it is fetched again");
            Ok(None)
        }
        Err(source) => Err(RegistryError::Content { act: "read", digest, source }),
    }
}

/// A document from the wire: the digest asked for, the one the registry gives and that of the bytes must agree.
fn received(
    answer: &Answer,
    bytes: Vec<u8>,
    asked: Option<Digest>,
    entry: Option<&Descriptor>,
    image: &Reference,
) -> Result<Document, RegistryError> {
    let found = Digest::of(&bytes);
    if let Some(expected) = asked.or_else(|| answer.content_digest()).filter(|expected| *expected != found) {
        return Err(RegistryError::DigestMismatch { request: answer.request.clone(), expected, found });
    }
    if let Some(entry) = entry {
        super::fetch::check(&bytes, entry, &answer.request)?;
    }
    let content_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    if content_type.starts_with("application/vnd.docker.distribution.manifest.v1") {
        let reason = "its manifest has schema 1, which nobody has written since 2017".to_owned();
        return Err(RegistryError::NotAnImage { image: Box::new(image.clone()), reason });
    }
    // Registries behind file servers say `application/json` or worse; only a manifest's own type is a statement.
    let stated = Kind::of(content_type).map(|_| content_type);
    let document = parse(bytes, found, entry.map(|entry| entry.media_type.as_str()))?;
    match stated {
        Some(stated) if stated != document.descriptor.media_type => Err(malformed(
            "manifest",
            &document.descriptor,
            format!("the registry calls it `{stated}`, it calls itself `{}`", document.descriptor.media_type),
        )),
        _ => Ok(document),
    }
}

/// Which of the two a document is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Manifest,
    Index,
}

impl Kind {
    pub(super) fn of(media_type: &str) -> Option<Self> {
        match media_type {
            media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => Some(Self::Manifest),
            media_type::OCI_INDEX | media_type::DOCKER_INDEX => Some(Self::Index),
            _ => None,
        }
    }
}

/// Reads a manifest or index for an image; see [`read`].
fn parse(bytes: Vec<u8>, digest: Digest, named: Option<&str>) -> Result<Document, RegistryError> {
    let (descriptor, shape, value) = read(&bytes, digest, named)?;
    let content = match shape {
        Kind::Manifest => serde_json::from_value(value).map(|manifest| Content::Manifest(Box::new(manifest))),
        Kind::Index => serde_json::from_value(lenient(value)).map(Content::Index),
    };
    let content = content.map_err(|error| malformed("manifest", &descriptor, error.to_string()))?;
    Ok(Document { descriptor, bytes, content })
}

/// Reads a manifest or index that can be read in one way only: CVE-2021-41190. `named` is the media type under which
/// an index, or a registry, names it.
pub(super) fn read(
    bytes: &[u8],
    digest: Digest,
    named: Option<&str>,
) -> Result<(Descriptor, Kind, Value), RegistryError> {
    let mut descriptor = Descriptor::new("", digest, bytes.len() as u64);
    let value: Value = json::parse(bytes).map_err(|error| malformed("manifest", &descriptor, error.to_string()))?;
    let has = |key: &str| value.get(key).is_some();
    let shape = match (has("manifests"), has("layers") || has("config")) {
        (true, false) => Kind::Index,
        (false, true) => Kind::Manifest,
        (true, true) => {
            return Err(malformed("manifest", &descriptor, "it has both `manifests` and `layers` or `config`"));
        }
        (false, false) => return Err(malformed("manifest", &descriptor, "it has neither `manifests` nor `layers`")),
    };
    if value.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
        return Err(malformed("manifest", &descriptor, "its `schemaVersion` is not 2"));
    }
    let own = match value.get("mediaType") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) => return Err(malformed("manifest", &descriptor, "its `mediaType` is not text")),
    };
    let default = if shape == Kind::Index { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
    let media_type = own.or(named.filter(|named| !named.is_empty())).unwrap_or(default);
    if Kind::of(media_type) != Some(shape) {
        let reason = format!("its contents do not fit its media type `{}`", super::words::harmless(media_type));
        return Err(malformed("manifest", &descriptor, reason));
    }
    if let Some(named) = named.filter(|named| *named != media_type) {
        let named = super::words::harmless(named);
        return Err(malformed(
            "manifest",
            &descriptor,
            format!("the index calls it `{named}`, it calls itself `{media_type}`"),
        ));
    }
    descriptor.media_type = media_type.to_owned();
    Ok((descriptor, shape, value))
}

/// An index without the entries that rbuild could not use anyway. image-spec image-index.md: unknown media types "MUST
/// NOT" be an error, and then neither are their digests of unknown algorithms.
fn lenient(mut index: Value) -> Value {
    if let Some(Value::Array(entries)) = index.get_mut("manifests") {
        entries.retain(|entry| {
            let media_type = entry.get("mediaType").and_then(Value::as_str);
            media_type.and_then(Kind::of).is_some()
        });
    }
    index
}

fn read_config(manifest: &Manifest, bytes: &[u8]) -> Result<ImageConfig, RegistryError> {
    let wrong = |reason: String| malformed("config", &manifest.config, reason);
    let config: ImageConfig = json::parse(bytes).map_err(|error| wrong(error.to_string()))?;
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(wrong(format!("it has {diff_ids} diff ids for {layers} layers")));
    }
    Ok(config)
}

pub(super) fn malformed(what: &'static str, descriptor: &Descriptor, reason: impl Into<String>) -> RegistryError {
    let reason = super::words::harmless(&reason.into());
    RegistryError::Malformed { what, digest: descriptor.digest, reason }
}

fn no_platform(image: &Reference, wanted: &Platform, available: Vec<Platform>) -> RegistryError {
    RegistryError::NoPlatform { image: Box::new(image.clone()), wanted: Box::new(wanted.clone()), available }
}
