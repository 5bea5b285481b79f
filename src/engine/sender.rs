//! What is made or kept here, into registries: the one way, for builds and for `push`.
//!
//! In: names, and blobs as they become ready. Out: every blob there, sent while the next is still being compressed
//! ([`Sender::blobs`]); then manifests by their digests ([`Sender::members`]), and last of all the name
//! ([`Sender::name`]). So a name never means what is incomplete, whatever breaks. Deliberately absent: requests
//! ([`oci::registry`]); what goes from registry to registry and is never here ([`super::imagetools`]).

use std::collections::HashSet;
use std::sync::Arc;

use executor::Worker;
use executor::layers::SCRATCH;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci::model::{Descriptor, Digest, Reference};
use oci::registry::{Client, Condition, PushBlob, RegistryError};
use solver::graph::VertexId;
use solver::seam::{Event, Progress, ResultId, VertexLog};
use store::Store;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::assemble::Assembled;
use super::export::{Unsent, unsent};
use super::{Failure, words};

/// Sends to registries.
pub struct Sender<'a> {
    /// Where blobs are, and what is known of where else.
    pub store: &'a Store,
    /// Who watches.
    pub progress: &'a Arc<dyn Progress>,
    /// What is shown meanwhile.
    pub task: VertexId,
}

/// A name in a registry, and how that is met.
pub struct Destination {
    /// Its registry's client.
    pub client: Client,
    /// The name.
    pub name: Reference,
}

/// How a blob is had that must be sent and is not here.
#[derive(Clone, Copy)]
pub enum Absent<'a> {
    /// Streamed, from a repository that is known to have it.
    Streamed,
    /// Brought into the store with all layers of its image, from caches for example.
    Brought {
        /// The image.
        image: &'a Assembled,
        /// Brings.
        worker: &'a Worker,
        /// The user may stop it.
        cancel: &'a CancellationToken,
    },
}

impl Sender<'_> {
    /// Sends blobs to all destinations until no more come, each once.
    ///
    /// # Errors
    /// [`Unsent::Lost`] if a layer that is to be brought is nowhere.
    pub async fn blobs(
        &self,
        to: &[&Destination],
        mut blobs: UnboundedReceiver<Descriptor>,
        absent: Absent<'_>,
    ) -> Result<(), Unsent> {
        let mut sending = FuturesUnordered::new();
        let (mut seen, mut more) = (HashSet::new(), true);
        loop {
            tokio::select! {
                blob = blobs.recv(), if more => match blob {
                    // All start at once; a registry's connections bound how many are on the wire.
                    Some(blob) => if seen.insert(blob.digest) {
                        sending.extend(to.iter().map(|to| self.blob(to, blob.clone(), absent)));
                    },
                    None => more = false,
                },
                Some(sent) = sending.next(), if !sending.is_empty() => sent?,
                else => return Ok(()),
            }
        }
    }

    async fn blob(&self, to: &Destination, descriptor: Descriptor, absent: Absent<'_>) -> Result<(), Unsent> {
        let mount_from = self.store.blob_sources(&descriptor.digest).map_err(|error| words::store(&error))?;
        let total_bytes = descriptor.size;
        let report = |digest: &Digest, sent_bytes: u64| self.report(digest, sent_bytes, total_bytes);
        let blob = PushBlob { descriptor, mount_from };
        let Destination { client, name } = to;
        let mut pushed = client.push_blob(name, &blob, self.store.blobs(), &report).await;
        if let Err(RegistryError::Missing { .. }) = &pushed {
            match absent {
                Absent::Streamed => {
                    for source in &blob.mount_from {
                        pushed = client.copy_blob(source, name, &blob.descriptor, &report).await;
                        match &pushed {
                            Ok(()) => break,
                            Err(error) => tracing::info!(%error, %source, "a blob is not had there"),
                        }
                    }
                }
                Absent::Brought { image, worker, cancel } => {
                    self.bring(image, worker, cancel).await?;
                    pushed = client.push_blob(name, &blob, self.store.blobs(), &report).await;
                }
            }
        }
        pushed.map_err(|error| words::registry(&error))?;
        let remembered = self.store.add_blob_source(&blob.descriptor.digest, name);
        remembered.map_err(|error| words::store(&error))?;
        Ok(())
    }

    /// Brings the layers of an image that are not here.
    pub async fn bring(&self, image: &Assembled, worker: &Worker, cancel: &CancellationToken) -> Result<(), Unsent> {
        let log = VertexLog { vertex: self.task, progress: &**self.progress };
        let top = image.layers.last().map_or_else(|| ResultId(SCRATCH.to_owned()), |layer| layer.id.clone());
        worker.ensure_blobs(&top, &log, cancel).await.map_err(|error| unsent(&error))
    }

    /// Puts manifests, whose blobs are all there, into the repository by their digests alone.
    pub async fn members<'d>(
        &self,
        to: &Destination,
        manifests: impl Iterator<Item = (&'d Descriptor, &'d [u8])>,
    ) -> Result<(), Failure> {
        for (manifest, bytes) in manifests {
            self.put(to, &to.name.at_digest(manifest.digest), manifest, bytes).await?;
        }
        Ok(())
    }

    /// Gives the name a document whose parts are all there.
    ///
    /// # Errors
    /// If the name has the digest of something else.
    pub async fn name(&self, to: &Destination, document: &Descriptor, bytes: &[u8]) -> Result<(), Failure> {
        if let Some(pinned) = to.name.digest().filter(|pinned| *pinned != document.digest) {
            let (name, digest) = (&to.name, document.digest);
            return Err(Failure::new(format!("cannot push to `{name}`: what is pushed has the digest `{digest}`"))
                .note(format!("the name says `{pinned}`"))
                .help("leave out what follows `@`, or name a tag"));
        }
        self.put(to, &to.name, document, bytes).await
    }

    async fn put(
        &self,
        to: &Destination,
        name: &Reference,
        document: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        self.report(&document.digest, 0, document.size);
        let put = to.client.put_document(name, document, bytes, &Condition::Always).await;
        put.map_err(|error| words::registry(&error))?;
        self.report(&document.digest, document.size, document.size);
        Ok(())
    }

    fn report(&self, digest: &Digest, sent_bytes: u64, total_bytes: u64) {
        self.progress.event(Event::Progress {
            vertex: self.task,
            name: format!("pushing {digest}"),
            current_bytes: sent_bytes,
            total_bytes: Some(total_bytes),
            done: total_bytes == sent_bytes,
        });
    }
}
