//! An image, or an index of images, into a registry.
//!
//! A manifest, its blobs' descriptors and a store to read them from come in; the manifest's digest goes out. For each
//! blob: is it there? can it be mounted from a neighbouring repository? else it is sent ([`super::upload`]). Blobs go
//! side by side, as many as the registry's connections allow; the manifest goes after them and an index after its
//! manifests, so a tag never names what is incomplete, and a push that died sends only what is missing.
//! distribution-spec, "Push". Deliberately absent: deletion of sessions that came to nothing (registries expire them).

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use futures_util::stream::{FuturesUnordered, TryStreamExt as _};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};

use super::Shared;
use super::auth::{Access, Site};
use super::error::RegistryError;
use super::retry::Attempts;
use super::transport::{Answer, Outgoing, Payload};
use super::upload::{Session, Unsent, same_digest};
use crate::content::ContentStore;
use crate::model::{Descriptor, Digest, Reference};

/// Neighbours that are asked for one blob: each costs a request.
const NEIGHBOURS_MAX: usize = 4;

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
    /// Names under which it may already be in a registry: where a base layer came from. Those that are other
    /// repositories of the registry pushed to are offered for a mount, the first four of them.
    pub mount_from: Vec<Reference>,
}

/// An index and its images, of several platforms for example.
#[derive(Clone, Debug)]
pub struct PushIndex {
    /// The index's descriptor; its media type becomes the `Content-Type`.
    pub index: Descriptor,
    /// The index's bytes, as the digest has them.
    pub index_bytes: Vec<u8>,
    /// The images that it names and that are to be there. A blob of several is sent once.
    pub images: Vec<PushImage>,
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
    Session(Session),
}

impl Shared {
    pub(super) async fn push(
        &self,
        image: &Reference,
        what: &PushImage,
        from: &dyn ContentStore,
        progress: &(dyn Fn(&Digest, u64) + Send + Sync),
    ) -> Result<Digest, RegistryError> {
        check(image, &what.manifest, &what.manifest_bytes)?;
        let (site, image) = &self.origin(image).await?;
        self.push_blobs(site, image, what.blobs.iter(), from, progress).await?;
        self.push_manifest(site, image, &manifest_name(image, what.manifest.digest), what).await?;
        progress(&what.manifest.digest, what.manifest.size);
        Ok(what.manifest.digest)
    }

    pub(super) async fn push_index(
        &self,
        name: &Reference,
        what: &PushIndex,
        from: &dyn ContentStore,
        progress: &(dyn Fn(&Digest, u64) + Send + Sync),
    ) -> Result<Digest, RegistryError> {
        check(name, &what.index, &what.index_bytes)?;
        let (site, name) = &self.origin(name).await?;
        for image in &what.images {
            check(&name.clone().with_digest(image.manifest.digest), &image.manifest, &image.manifest_bytes)?;
        }
        self.push_blobs(site, name, what.images.iter().flat_map(|image| &image.blobs), from, progress).await?;
        for image in &what.images {
            self.push_manifest(site, name, &image.manifest.digest.to_string(), image).await?;
            progress(&image.manifest.digest, image.manifest.size);
        }
        let index =
            PushImage { manifest: what.index.clone(), manifest_bytes: what.index_bytes.clone(), blobs: Vec::new() };
        self.push_manifest(site, name, &manifest_name(name, what.index.digest), &index).await?;
        progress(&what.index.digest, what.index.size);
        Ok(what.index.digest)
    }

    /// Each blob once, all side by side.
    async fn push_blobs<'a>(
        &self,
        site: &Site,
        image: &Reference,
        blobs: impl Iterator<Item = &'a PushBlob> + Send,
        from: &dyn ContentStore,
        progress: &(dyn Fn(&Digest, u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let mut seen = BTreeSet::new();
        let uploads = blobs.filter(|blob| seen.insert(blob.descriptor.digest)).map(|blob| {
            let upload = Upload { site, image, blob, from, progress };
            let future: Pin<Box<dyn Future<Output = Result<(), RegistryError>> + Send + '_>> =
                Box::pin(async move { self.push_blob(&upload).await });
            future
        });
        // All start at once; the site's connections bound how many are on the wire.
        uploads.collect::<FuturesUnordered<_>>().try_collect::<()>().await
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
                Err(Unsent::Session(error)) => attempts.pause_as_transient(error).await?,
                Err(Unsent::Request(error)) => attempts.pause(error).await?,
            }
        }
    }

    /// Asks whether the blob is there, mounts it, or sends it.
    async fn push_blob_once(&self, upload: &Upload<'_>) -> Result<(), Unsent> {
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
            _ => return Err(self.refusal(answer).await.into()),
        }
        let mut session = None;
        for neighbour in neighbours(image, &blob.mount_from) {
            match self.mount(upload, neighbour).await? {
                Some(Opened::Mounted) => return Ok(()),
                // It could not be mounted, and this is where to send it; the next neighbour may still have it.
                Some(Opened::Session(opened)) => session = Some(opened),
                None => {}
            }
        }
        let session = match session {
            Some(session) => session,
            None => match self.open_session(site, &access, &format!("{repository}/blobs/uploads/")).await? {
                Opened::Mounted => return Ok(()),
                Opened::Session(session) => session,
            },
        };
        self.send(upload, &access, session).await
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
            202 => Ok(Opened::Session(self.session(site, &answer, None)?)),
            200..=299 => Err(answer.protocol(format!("{} means nothing here", answer.status().as_u16()))),
            _ => Err(self.refusal(answer).await),
        }
    }

    /// Puts a manifest there under a tag or its digest. distribution-spec, "Pushing Manifests".
    pub(super) async fn push_manifest(
        &self,
        site: &Site,
        image: &Reference,
        name: &str,
        what: &PushImage,
    ) -> Result<(), RegistryError> {
        let digest = what.manifest.digest;
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
                Err(error) if is_refusal(&error) && self.is_named(site, &access, &outgoing.url, digest).await => {
                    tracing::info!(%error, "the name means this already");
                    return Ok(());
                }
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// Whether a manifest is there already under its name: registries whose tags cannot change refuse even what changes
    /// nothing.
    pub(super) async fn is_named(&self, site: &Site, access: &Access, url: &Url, digest: Digest) -> bool {
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

    /// An answer that is an error.
    pub(super) async fn refusal(&self, mut answer: Answer) -> RegistryError {
        let (words, retry_after) = answer.words(self.pace.now()).await;
        let (request, status) = (answer.request.clone(), answer.status().as_u16());
        RegistryError::Status { request, status, words, retry_after, attempts: 1 }
    }
}

/// Whether a registry does not want a name changed, or something else that it could say so.
pub(super) fn is_refusal(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Denied { .. } | RegistryError::Status { status: 400 | 409 | 412, .. })
}

/// Where a manifest is put: under the tag, or else under its digest.
pub(super) fn manifest_name(image: &Reference, digest: Digest) -> String {
    image.tag().map_or_else(|| digest.to_string(), str::to_owned)
}

fn check(image: &Reference, manifest: &Descriptor, bytes: &[u8]) -> Result<(), RegistryError> {
    let wrong = |reason: String| Err(RegistryError::Push { image: Box::new(image.clone()), reason });
    let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
    if digest != manifest.digest || size != manifest.size {
        return wrong(format!("its manifest has the digest `{digest}` and {size} bytes, not those of its descriptor"));
    }
    match image.digest() {
        Some(pinned) if pinned != digest => wrong(format!("the image has the digest `{digest}`")),
        _ => Ok(()),
    }
}

/// The other repositories of the same registry among the names, each once.
fn neighbours<'a>(image: &Reference, names: &'a [Reference]) -> Vec<&'a str> {
    let near = |name: &&Reference| name.registry() == image.registry() && name.repository() != image.repository();
    let mut found: Vec<&str> = Vec::new();
    for name in names.iter().filter(near).map(Reference::repository) {
        if !found.contains(&name) && found.len() < NEIGHBOURS_MAX {
            found.push(name);
        }
    }
    found
}

/// A repository's name in a query. Its grammar leaves only the slash to be written otherwise.
fn encoded(repository: &str) -> String {
    repository.replace('/', "%2F")
}
