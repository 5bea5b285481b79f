//! What is told of an image beside it: how it was made.
//!
//! In: a build and its plans ([`Told`]), an image in the form in which it goes out. Out: an attestation manifest with an
//! in-toto statement, which stands in the image's index behind it, as buildx and registries read it
//! ([`manifest`]). What the statement says is [`provenance`]'s. Deliberately absent: signatures; the local store, whose
//! images have other manifests than those that go out.

mod manifest;
mod provenance;

use jiff::Timestamp;
use oci::model::{Descriptor, Reference};
use store::Store;
use tokio::sync::mpsc::unbounded_channel;

use super::assemble::Assembled;
use super::context::Text;
use super::export::{Unsent, Written};
use super::plans::Plans;
use super::sender::{Absent, Destination, Sender};
use super::words;
use crate::options::BuildOptions;
use crate::options::attest::Provenance;
use crate::options::output::ImageForm;

/// What is known of a build when its images go out.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    /// What was asked.
    pub options: &'a BuildOptions,
    /// What of it is told.
    pub asked: &'a Provenance,
    /// The build's file.
    pub dockerfile: &'a Text,
    /// What was planned.
    pub plans: &'a Plans,
    /// On which platform.
    pub machine: &'a oci::model::Platform,
    /// When it began.
    pub began: Timestamp,
}

impl Told<'_> {
    /// Tells of the images of one form: puts what is told into the store, and sends it where the images go. Comes out
    /// with a manifest per image, to stand in the index.
    pub async fn tell(
        &self,
        images: &[Assembled],
        written: &[Written],
        form: &ImageForm,
        (sender, to): (&Sender<'_>, &[&Destination]),
    ) -> Result<Vec<Written>, Unsent> {
        let mut told = Vec::with_capacity(images.len());
        for (image, made) in images.iter().zip(written) {
            let statement = self.statement(image, &made.manifest, &form.names);
            let (manifest, blobs) = manifest::of(&made.manifest, &statement, form.dialect);
            keep(sender.store, [&statement, &blobs.config_bytes, &manifest.manifest_bytes])?;
            let (ready, sent) = unbounded_channel();
            for blob in [blobs.statement, blobs.config] {
                ready.send(blob).expect("the other end is in the next line");
            }
            drop(ready);
            // They are here.
            sender.blobs(to, sent, Absent::Streamed).await?;
            told.push(manifest);
        }
        Ok(told)
    }

    /// The statement, as bytes that are a function of what is told.
    fn statement(&self, image: &Assembled, manifest: &Descriptor, names: &[Reference]) -> Vec<u8> {
        let statement = provenance::statement(self, &image.platform, manifest, names);
        serde_json::to_vec(&statement).expect("a JSON value is always JSON")
    }
}

fn keep<'b>(store: &Store, documents: impl IntoIterator<Item = &'b Vec<u8>>) -> Result<(), super::Failure> {
    for bytes in documents {
        oci::content::put_bytes(store.blobs(), bytes).map_err(|error| words::content(&error))?;
    }
    Ok(())
}
