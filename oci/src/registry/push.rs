//! A blob into a registry.
//!
//! A blob's descriptor and a store to read it from come in. Is it there? can it be mounted from a neighbouring repository?
//! else it is sent ([`super::upload`]). As many go side by side as the registry's connections allow. A push that died
//! sends only what is missing. distribution-spec, "Push". Deliberately absent: manifests ([`super::put`]); the order of
//! things, which is its caller's: blobs, manifests, then what names them; deletion of sessions that came to nothing
//! (registries expire them).

use reqwest::Method;
use reqwest::header::HeaderMap;

use super::auth::{Access, Site};
use super::error::RegistryError;
use super::retry::Attempts;
use super::transport::{Answer, Outgoing, Payload};
use super::upload::{Session, Unsent};
use super::{Client, Shared};
use crate::content::ContentStore;
use crate::model::{Descriptor, Digest, Reference};

/// Neighbours that are asked for one blob: each costs a request.
const NEIGHBOURS_MAX: usize = 4;

/// A blob that is pushed.
#[derive(Clone, Debug)]
pub struct PushBlob {
    /// Digest and size.
    pub descriptor: Descriptor,
    /// Names under which it may already be in a registry: where a base layer came from. Those that are other
    /// repositories of the registry pushed to are offered for a mount, the first four of them.
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
    Session(Session),
}

impl Client {
    /// Takes one blob to the repository, unless it is there or can be mounted from a neighbour. `progress` is told how
    /// many bytes are there so far.
    ///
    /// # Errors
    /// [`RegistryError::Missing`] if it must be sent and `from` does not have it.
    pub async fn push_blob(
        &self,
        name: &Reference,
        blob: &PushBlob,
        from: &dyn ContentStore,
        progress: &(dyn Fn(&Digest, u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let (site, image) = &self.shared.origin(name).await?;
        self.shared.push_blob(&Upload { site, image, blob, from, progress }).await
    }
}

impl Shared {
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

    /// An answer that is an error.
    pub(super) async fn refusal(&self, mut answer: Answer) -> RegistryError {
        let (words, retry_after) = answer.words(self.pace.now()).await;
        let (request, status) = (answer.request.clone(), answer.status().as_u16());
        RegistryError::Status { request, status, words, retry_after, attempts: 1 }
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
