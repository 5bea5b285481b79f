//! An image into a registry.
//!
//! A manifest, its blobs' descriptors and a store to read them from come in; the manifest's digest goes out. For each
//! blob: is it there? can it be mounted from a neighbouring repository? else it is sent in one piece. Blobs go side by
//! side, as many as the registry's connections allow; the manifest goes last, so the tag never names an incomplete
//! image, and a push that died sends only what is missing. distribution-spec, "Push". Deliberately absent: chunked
//! uploads, deletion of sessions that came to nothing (registries expire them).

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use futures_util::stream::{FuturesUnordered, TryStreamExt as _};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};

use super::Shared;
use super::auth::{Access, Site};
use super::error::RegistryError;
use super::retry::Attempts;
use super::transport::{Answer, Outgoing, Payload};
use crate::content::{BlobReader, ContentError, ContentStore, VerifiedReader, open_verified};
use crate::model::{Descriptor, Digest, Reference};

/// What is pushed.
#[derive(Clone, Debug)]
pub struct PushImage {
    /// The manifest's descriptor; its media type becomes the `Content-Type`.
    pub manifest: Descriptor,
    /// The manifest's bytes, as the digest has them.
    pub manifest_bytes: Vec<u8>,
    /// Config and layers. A blob that stands twice is sent once.
    pub blobs: Vec<PushBlob>,
}

/// One blob of it.
#[derive(Clone, Debug)]
pub struct PushBlob {
    /// Digest and size.
    pub descriptor: Descriptor,
    /// Names under which it may already be in a registry: where a base layer came from. The first that is another
    /// repository of the registry pushed to is offered for a mount.
    pub mount_from: Vec<Reference>,
}

/// What one upload needs to know.
pub(super) struct Upload<'a> {
    pub(super) site: &'a Site,
    pub(super) image: &'a Reference,
    pub(super) blob: &'a PushBlob,
    pub(super) from: &'a dyn ContentStore,
    pub(super) progress: &'a (dyn Fn(&Digest, u64) + Send + Sync),
}

/// How the question for an upload was answered.
enum Opened {
    /// The blob is there.
    Mounted,
    /// Send it here.
    Session(Url),
}

impl Shared {
    pub(super) async fn push(
        &self,
        image: &Reference,
        what: &PushImage,
        from: &dyn ContentStore,
        progress: &(dyn Fn(&Digest, u64) + Send + Sync),
    ) -> Result<Digest, RegistryError> {
        check(image, what)?;
        let site = self.site(image.registry()).await?;
        let mut seen = BTreeSet::new();
        let uploads = what.blobs.iter().filter(|blob| seen.insert(blob.descriptor.digest)).map(|blob| {
            let upload = Upload { site: &site, image, blob, from, progress };
            let future: Pin<Box<dyn Future<Output = Result<(), RegistryError>> + Send + '_>> =
                Box::pin(async move { self.push_blob(&upload).await });
            future
        });
        // All start at once; the site's connections bound how many are on the wire.
        uploads.collect::<FuturesUnordered<_>>().try_collect::<()>().await?;
        self.push_manifest(&site, image, what).await?;
        progress(&what.manifest.digest, what.manifest.size);
        Ok(what.manifest.digest)
    }

    pub(super) async fn push_blob(&self, upload: &Upload<'_>) -> Result<(), RegistryError> {
        let descriptor = &upload.blob.descriptor;
        let mut attempts = Attempts::new(&*self.pace);
        loop {
            match self.push_blob_once(upload).await {
                Ok(()) => {
                    (upload.progress)(&descriptor.digest, descriptor.size);
                    return Ok(());
                }
                // The registry lost the session, or counts otherwise: a new one may do.
                Err(RegistryError::Status { request, status: status @ (404 | 416), words, .. })
                    if &*request.method == "PUT" =>
                {
                    let status = RegistryError::Status { request, status, words, retry_after: None, attempts: 1 };
                    attempts.pause_as_transient(status).await?;
                }
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// Asks whether the blob is there, mounts it, or sends it.
    async fn push_blob_once(&self, upload: &Upload<'_>) -> Result<(), RegistryError> {
        let Upload { site, image, blob, .. } = upload;
        let (repository, digest) = (image.repository(), blob.descriptor.digest);
        let access = Access::push(repository);
        let head = Outgoing {
            method: Method::HEAD,
            url: site.url(&format!("{repository}/blobs/{digest}"))?,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
        };
        let answer = self.ask(site, &access, &head).await?;
        match answer.status().as_u16() {
            200 => return Ok(()),
            // Some registries do not know HEAD here; then the upload decides.
            404 | 405 => drop(answer),
            // Signed addresses of storage may be for GET alone.
            400..=499 if answer.from_elsewhere => drop(answer),
            _ => return Err(self.refusal(answer).await),
        }
        let mounted = match neighbour(image, &blob.mount_from) {
            Some(neighbour) => self.mount(upload, neighbour).await?,
            None => None,
        };
        let opened = match mounted {
            Some(opened) => opened,
            None => self.open_session(site, &access, &format!("{repository}/blobs/uploads/")).await?,
        };
        match opened {
            Opened::Mounted => Ok(()),
            Opened::Session(location) => self.send(upload, &access, location).await,
        }
    }

    /// distribution-spec, "Mounting a blob from another repository". `None` when the registry does not want to.
    async fn mount(&self, upload: &Upload<'_>, neighbour: &str) -> Result<Option<Opened>, RegistryError> {
        let (repository, digest) = (upload.image.repository(), upload.blob.descriptor.digest);
        let access = Access { mount_from: Some(neighbour.to_owned()), ..Access::push(repository) };
        let path = format!("{repository}/blobs/uploads/?mount={digest}&from={}", encoded(neighbour));
        match self.open_session(upload.site, &access, &path).await {
            Ok(opened) => Ok(Some(opened)),
            // Not being allowed to read the neighbour, or a registry without mounts, is no reason not to push.
            Err(
                error @ (RegistryError::Unauthorized { .. }
                | RegistryError::Denied { .. }
                | RegistryError::Status { status: 400 | 404 | 405, .. }),
            ) => {
                tracing::debug!(%digest, neighbour, %error, "not mounted");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn open_session(&self, site: &Site, access: &Access, path: &str) -> Result<Opened, RegistryError> {
        let outgoing =
            Outgoing { method: Method::POST, url: site.url(path)?, headers: HeaderMap::new(), payload: Payload::Empty };
        let answer = self.ask(site, access, &outgoing).await?;
        match answer.status().as_u16() {
            201 if access.mount_from.is_some() => Ok(Opened::Mounted),
            202 => {
                let location = answer.location()?;
                self.wire.rules.check_hop(&site.base, &location).map_err(|reason| RegistryError::Refused {
                    request: answer.request.clone(),
                    target: super::origin::display(&location),
                    reason: reason.to_owned(),
                })?;
                Ok(Opened::Session(location))
            }
            200..=299 => Err(answer.protocol(format!("{} means nothing here", answer.status().as_u16()))),
            _ => Err(self.refusal(answer).await),
        }
    }

    /// distribution-spec, "POST then PUT".
    async fn send(&self, upload: &Upload<'_>, access: &Access, mut location: Url) -> Result<(), RegistryError> {
        let Upload { site, blob: PushBlob { descriptor, .. }, from, progress, .. } = *upload;
        let digest = descriptor.digest;
        // Whatever query the registry gave stays as it is, byte for byte: it may be signed.
        let query = match location.query() {
            Some(query) if !query.is_empty() => format!("{query}&digest={digest}"),
            _ => format!("digest={digest}"),
        };
        location.set_query(Some(&query));
        let open = || -> Result<VerifiedReader<Box<dyn BlobReader>>, RegistryError> {
            open_verified(from, descriptor).map_err(|source| match source {
                ContentError::Missing { .. } => RegistryError::Missing { descriptor: Box::new(descriptor.clone()) },
                source => RegistryError::Content { act: "read", digest, source },
            })
        };
        let told = |sent| progress(&digest, sent);
        let outgoing = Outgoing {
            method: Method::PUT,
            url: location,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))]),
            payload: Payload::Blob { open: &open, digest, size: descriptor.size, progress: &told },
        };
        let answer = self.ask(site, access, &outgoing).await?;
        match answer.status().as_u16() {
            201 | 204 => same_digest(&answer, digest),
            200..=299 => Err(answer.protocol(format!("{} means nothing here", answer.status().as_u16()))),
            _ => Err(self.refusal(answer).await),
        }
    }

    /// distribution-spec, "Pushing Manifests".
    pub(super) async fn push_manifest(
        &self,
        site: &Site,
        image: &Reference,
        what: &PushImage,
    ) -> Result<(), RegistryError> {
        let digest = what.manifest.digest;
        let name = image.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let media_type = HeaderValue::try_from(&what.manifest.media_type).map_err(|_| RegistryError::Push {
            image: Box::new(image.clone()),
            reason: "its media type cannot stand in a header".to_owned(),
        })?;
        let outgoing = Outgoing {
            method: Method::PUT,
            url: site.url(&format!("{}/manifests/{name}", image.repository()))?,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, media_type)]),
            payload: Payload::Bytes(what.manifest_bytes.clone()),
        };
        let access = Access::push(image.repository());
        let mut attempts = Attempts::new(&*self.pace);
        loop {
            let once = async {
                let answer = self.ask(site, &access, &outgoing).await?;
                match answer.status().as_u16() {
                    200..=299 => same_digest(&answer, digest),
                    _ => Err(self.refusal(answer).await),
                }
            };
            match once.await {
                Ok(()) => return Ok(()),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// An answer that is an error.
    pub(super) async fn refusal(&self, mut answer: Answer) -> RegistryError {
        let (words, retry_after) = answer.words(self.pace.now()).await;
        let (request, status) = (answer.request.clone(), answer.status().as_u16());
        RegistryError::Status { request, status, words, retry_after, attempts: 1 }
    }
}

fn check(image: &Reference, what: &PushImage) -> Result<(), RegistryError> {
    let wrong = |reason: String| Err(RegistryError::Push { image: Box::new(image.clone()), reason });
    let (digest, size) = (Digest::of(&what.manifest_bytes), what.manifest_bytes.len() as u64);
    if digest != what.manifest.digest || size != what.manifest.size {
        return wrong(format!("its manifest has the digest `{digest}` and {size} bytes, not those of its descriptor"));
    }
    match image.digest() {
        Some(pinned) if pinned != digest => wrong(format!("the image has the digest `{digest}`")),
        _ => Ok(()),
    }
}

/// A registry that gives another digest than asked for has stored something else. One that gives none, or one of
/// another algorithm, says nothing.
fn same_digest(answer: &Answer, expected: Digest) -> Result<(), RegistryError> {
    match answer.content_digest() {
        Some(found) if found != expected => {
            Err(RegistryError::DigestMismatch { request: answer.request.clone(), expected, found })
        }
        _ => Ok(()),
    }
}

/// The first name that is another repository of the same registry.
fn neighbour<'a>(image: &Reference, names: &'a [Reference]) -> Option<&'a str> {
    let near = |name: &&Reference| name.registry() == image.registry() && name.repository() != image.repository();
    names.iter().find(near).map(Reference::repository)
}

/// A repository's name in a query. Its grammar leaves only the slash to be written otherwise.
fn encoded(repository: &str) -> String {
    repository.replace('/', "%2F")
}
