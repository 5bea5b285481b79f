//! An image into registries: blobs as soon as they are ready, manifests when all else is done.
//!
//! In: names, and blobs as they are made. Out: every blob there, sent while the next is still being compressed; then, by
//! [`Exporter::push_manifests`], the name. So a name never means an incomplete image. Deliberately absent: requests
//! ([`oci::registry`]).

use std::collections::HashSet;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci::model::{Descriptor, Digest, Reference};
use oci::registry::{Client, PushBlob, RegistryError};
use solver::graph::VertexId;
use solver::seam::Event;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::form::{self, Written, is_forced};
use super::{Exporter, Look, Product, Unsent};
use crate::engine::assemble::Assembled;
use crate::engine::{Failure, words};
use crate::options::BuildOptions;
use crate::options::output::{ImageForm, Output, Push};

/// One name that an image is pushed to.
pub(super) struct Target {
    client: Client,
    /// The name, as it was given.
    pub name: Reference,
    push: Push,
    look: Look,
}

impl Target {
    /// Whether it is one of an output with this look.
    pub fn is_of(&self, look: &Look, push: Push) -> bool {
        self.look == *look && self.push == push
    }
}

impl Exporter<'_> {
    /// Where the images of this look are pushed.
    pub(super) fn targets(&self, options: &BuildOptions, look: &Look) -> Result<Vec<Target>, Failure> {
        let mut targets: Vec<Target> = Vec::new();
        for output in &options.outputs {
            let Output::Image(image) = output else { continue };
            let Some(push) = image.push.filter(|_| Look::of(&image.form) == *look) else { continue };
            for name in &image.form.names {
                if targets.iter().any(|known| known.name == *name && known.push == push) {
                    continue;
                }
                let client = match push.insecure {
                    false => self.registry.clone(),
                    true => {
                        let mut settings = self.settings.clone();
                        settings.registries.hosts = settings.registries.hosts.with_insecure(name.registry());
                        settings.registry(self.progress)?
                    }
                };
                targets.push(Target { client, name: name.clone(), push, look: look.clone() });
            }
        }
        Ok(targets)
    }

    /// Compresses the layers and sends each as soon as it is ready.
    pub(super) async fn write(
        &self,
        image: &Assembled,
        form: &ImageForm,
        targets: &[Target],
        task: VertexId,
    ) -> Result<Written, Unsent> {
        if image.layers.iter().any(|layer| is_forced(form, layer)) {
            self.bring(image, task).await?;
        }
        let (ready, blobs) = unbounded_channel();
        let ready = (!targets.is_empty()).then_some(ready);
        let compressing = async {
            let written = form::compress(self.store, self.worker, image, form, ready, self.cancel).await;
            written.map_err(Unsent::from)
        };
        let (written, ()) = tokio::try_join!(compressing, self.send(targets, blobs, image, task))?;
        Ok(written)
    }

    /// Sends blobs to all targets until no more come.
    async fn send(
        &self,
        targets: &[Target],
        mut blobs: UnboundedReceiver<Descriptor>,
        image: &Assembled,
        task: VertexId,
    ) -> Result<(), Unsent> {
        let mut sending = FuturesUnordered::new();
        let (mut seen, mut more) = (HashSet::new(), true);
        loop {
            tokio::select! {
                blob = blobs.recv(), if more => match blob {
                    // All start at once; a registry's connections bound how many are on the wire.
                    Some(blob) => if seen.insert(blob.digest) {
                        sending.extend(targets.iter().map(|target| self.push_blob(target, blob.clone(), image, task)));
                    },
                    None => more = false,
                },
                Some(sent) = sending.next(), if !sending.is_empty() => sent?,
                else => return Ok(()),
            }
        }
    }

    async fn push_blob(
        &self,
        target: &Target,
        descriptor: Descriptor,
        image: &Assembled,
        task: VertexId,
    ) -> Result<(), Unsent> {
        let mount_from = self.store.blob_sources(&descriptor.digest).map_err(|error| words::store(&error))?;
        let total_bytes = descriptor.size;
        let report = |digest: &Digest, sent_bytes: u64| self.report(task, digest, sent_bytes, total_bytes);
        let blob = PushBlob { descriptor, mount_from };
        let (client, name) = (&target.client, &target.name);
        let pushed = match client.push_blob(name, &blob, self.store.blobs(), &report).await {
            // Neither here nor there: layers of a cache elsewhere.
            Err(RegistryError::Missing { .. }) => {
                self.bring(image, task).await?;
                client.push_blob(name, &blob, self.store.blobs(), &report).await
            }
            pushed => pushed,
        };
        pushed.map_err(|error| words::registry(&error))?;
        let remembered = self.store.add_blob_source(&blob.descriptor.digest, name);
        remembered.map_err(|error| words::store(&error))?;
        Ok(())
    }

    fn report(&self, task: VertexId, digest: &Digest, sent_bytes: u64, total_bytes: u64) {
        self.progress.event(Event::Progress {
            vertex: task,
            name: format!("pushing {digest}"),
            current_bytes: sent_bytes,
            total_bytes: Some(total_bytes),
            done: total_bytes == sent_bytes,
        });
    }

    /// Gives the name its manifest, whose blobs are all there; an index after the manifests that it names, which get no
    /// name. Returns the name with the digest.
    pub(super) async fn push_manifests(
        &self,
        target: &Target,
        product: &Product,
        task: VertexId,
    ) -> Result<String, Failure> {
        let digest = &product.top().digest;
        let name = &target.name;
        if let Some(pinned) = name.digest().filter(|pinned| pinned != digest) {
            return Err(Failure::new(format!("cannot push to `{name}`: the image has the digest `{digest}`"))
                .note(format!("the name says `{pinned}`")));
        }
        let by_digest = |digest: &Digest| {
            let pinned = format!("{}/{}@{digest}", name.registry(), name.repository());
            pinned.parse::<Reference>().map_err(|error| Failure::new(format!("{error}")))
        };
        let to = if target.push.by_digest { by_digest(digest)? } else { name.clone() };
        match &product.index {
            None => self.push_document(target, &to, product.top(), &product.images[0].manifest_bytes, task).await?,
            Some(index) => {
                for image in &product.images {
                    let to = by_digest(&image.manifest.digest)?;
                    self.push_document(target, &to, &image.manifest, &image.manifest_bytes, task).await?;
                }
                self.push_document(target, &to, &index.descriptor, index.text.as_bytes(), task).await?;
            }
        }
        Ok(if to.digest().is_some() { to.to_string() } else { format!("{to}@{digest}") })
    }

    async fn push_document(
        &self,
        target: &Target,
        to: &Reference,
        document: &Descriptor,
        bytes: &[u8],
        task: VertexId,
    ) -> Result<(), Failure> {
        self.report(task, &document.digest, 0, document.size);
        let pushed = target.client.push_manifest(to, &document.media_type, bytes).await;
        pushed.map_err(|error| words::registry(&error))?;
        self.report(task, &document.digest, document.size, document.size);
        Ok(())
    }
}
