//! A build's images into registries: where they go, and in which form.
//!
//! In: the outputs that push. Out: [`Target`]s, which get blobs as they are made and their names when all else is done;
//! both by [`crate::engine::sender`]. Deliberately absent: requests.

use solver::graph::VertexId;
use tokio::sync::mpsc::unbounded_channel;

use super::form::{self, Written, is_forced};
use super::{Exporter, Look, Product, Unsent};
use crate::engine::Failure;
use crate::engine::assemble::Assembled;
use crate::engine::sender::{Absent, Destination, Sender};
use crate::options::BuildOptions;
use crate::options::output::{ImageForm, Output, Push};

/// One name that an image is pushed to.
pub(super) struct Target {
    /// The name, as it was given.
    pub to: Destination,
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
    fn sender(&self, task: VertexId) -> Sender<'_> {
        Sender { store: self.store, progress: self.progress, task }
    }

    /// Where the images of this look are pushed.
    pub(super) fn targets(&self, options: &BuildOptions, look: &Look) -> Result<Vec<Target>, Failure> {
        let mut targets: Vec<Target> = Vec::new();
        for output in &options.outputs {
            let Output::Image(image) = output else { continue };
            let Some(push) = image.push.filter(|_| Look::of(&image.form) == *look) else { continue };
            for name in &image.form.names {
                if targets.iter().any(|known| known.to.name == *name && known.push == push) {
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
                targets.push(Target { to: Destination { client, name: name.clone() }, push, look: look.clone() });
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
        let sender = self.sender(task);
        if image.layers.iter().any(|layer| is_forced(form, layer)) {
            sender.bring(image, self.worker, self.cancel).await?;
        }
        let (ready, blobs) = unbounded_channel();
        let ready = (!targets.is_empty()).then_some(ready);
        let compressing = async {
            let written = form::compress(self.store, self.worker, image, form, ready, self.cancel).await;
            written.map_err(Unsent::from)
        };
        let to: Vec<&Destination> = targets.iter().map(|target| &target.to).collect();
        let absent = Absent::Brought { image, worker: self.worker, cancel: self.cancel };
        let (written, ()) = tokio::try_join!(compressing, sender.blobs(&to, blobs, absent))?;
        Ok(written)
    }

    /// What is told of the images, which goes where they go.
    pub(super) async fn tell(
        &self,
        images: &[Assembled],
        written: &[Written],
        form: &ImageForm,
        targets: &[Target],
        task: VertexId,
    ) -> Result<Vec<Written>, Unsent> {
        let Some(told) = self.told else { return Ok(Vec::new()) };
        let to: Vec<&Destination> = targets.iter().map(|target| &target.to).collect();
        told.tell(images, written, form, (&self.sender(task), &to)).await
    }

    /// Gives the name its manifest, whose blobs are all there; an index after the manifests that it names, which get no
    /// name. Returns the name with the digest.
    pub(super) async fn push_manifests(
        &self,
        target: &Target,
        product: &Product,
        task: VertexId,
    ) -> Result<String, Failure> {
        let sender = self.sender(task);
        let top = product.top();
        let Destination { client, name } = &target.to;
        let is_without = target.push.by_digest && name.digest().is_none();
        let name = if is_without { name.at_digest(top.digest) } else { name.clone() };
        let to = Destination { client: client.clone(), name };
        match &product.index {
            None => sender.name(&to, top, &product.images[0].manifest_bytes).await?,
            Some(index) => {
                let manifests = product
                    .images
                    .iter()
                    .chain(&product.told)
                    .map(|image| (&image.manifest, &image.manifest_bytes[..]));
                sender.members(&to, manifests).await?;
                sender.name(&to, top, index.text.as_bytes()).await?;
            }
        }
        let name = to.name;
        Ok(if name.digest().is_some() { name.to_string() } else { format!("{name}@{}", top.digest) })
    }
}
