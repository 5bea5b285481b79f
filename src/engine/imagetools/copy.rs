//! What an index names, from repository to repository.
//!
//! In: a document and where it is. Out: all that it names, and itself by its digest, in another repository. Blobs are
//! mounted or streamed ([`oci::registry::Client::copy_blob`]), nothing touches the disk. Deliberately absent: tags.

use std::future::Future;
use std::pin::Pin;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci::model::{Descriptor, Digest, Reference};
use oci::registry::{Asked, Client, Condition, Content, Document};
use solver::graph::VertexId;
use solver::seam::{Event, Progress};

use crate::engine::{Failure, words};

/// Indexes may name indexes; deeper than this nobody goes.
const DEPTH_MAX: usize = 3;

/// Copies into one repository.
pub struct Copier<'a> {
    pub client: &'a Client,
    /// The repository.
    pub to: &'a Reference,
    pub progress: &'a dyn Progress,
    pub task: VertexId,
}

type Copying<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

impl Copier<'_> {
    /// Brings a document, with all that it names.
    pub async fn document(&self, from: &Reference, document: &Document) -> Result<(), Failure> {
        if self.is_here(from) { Ok(()) } else { self.whole(from, document, 0).await }
    }

    /// Brings what an entry of an index names.
    pub async fn entry(&self, from: &Reference, entry: &Descriptor) -> Result<(), Failure> {
        if self.is_here(from) { Ok(()) } else { self.beneath(from, entry, 0).await }
    }

    fn is_here(&self, from: &Reference) -> bool {
        (from.registry(), from.repository()) == (self.to.registry(), self.to.repository())
    }

    fn beneath<'a>(&'a self, from: &'a Reference, entry: &'a Descriptor, depth: usize) -> Copying<'a> {
        Box::pin(async move {
            let read = self.client.entry(from, entry, Asked::Mirrors).await;
            let document = read.map_err(|error| words::registry(&error))?;
            self.whole(from, &document, depth).await
        })
    }

    async fn whole(&self, from: &Reference, document: &Document, depth: usize) -> Result<(), Failure> {
        match &document.content {
            Content::Manifest(manifest) => {
                let blobs = manifest.layers.iter().chain([&manifest.config]);
                let blobs = blobs.filter(|blob| !oci::layer::decompress::is_foreign(&blob.media_type));
                // Config and layers may be one and the same blob: of an artifact, for example.
                let mut seen = std::collections::HashSet::new();
                let blobs: Vec<&Descriptor> = blobs.filter(|blob| seen.insert(blob.digest)).collect();
                let mut copies = Vec::with_capacity(blobs.len());
                for blob in blobs {
                    copies.push(self.blob(from, blob));
                }
                stream::iter(copies).buffer_unordered(self.client.copies_at_once()).try_collect::<()>().await?;
            }
            Content::Index(_) if depth == DEPTH_MAX => {
                return Err(Failure::new(format!("indexes are nested too deep in `{from}`"))
                    .note(format!("they are followed {DEPTH_MAX} deep")));
            }
            Content::Index(index) => {
                for entry in &index.manifests {
                    self.beneath(from, entry, depth + 1).await?;
                }
            }
        }
        let name = self.to.at_digest(document.descriptor.digest);
        let put = self.client.put_document(&name, &document.descriptor, &document.bytes, &Condition::Always).await;
        put.map_err(|error| words::registry(&error))?;
        Ok(())
    }

    async fn blob(&self, from: &Reference, blob: &Descriptor) -> Result<(), Failure> {
        let report = |digest: &Digest, done: u64| {
            self.progress.event(Event::Progress {
                vertex: self.task,
                name: format!("copying {digest}"),
                current_bytes: done,
                total_bytes: Some(blob.size),
                done: done == blob.size,
            });
        };
        let copied = self.client.copy_blob(from, self.to, blob, &report).await;
        copied.map_err(|error| words::registry(&error))
    }
}
