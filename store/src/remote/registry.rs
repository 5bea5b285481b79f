//! A cache in a registry: `host/app:cache`.
//!
//! The manifest stands under the name, the blobs in its repository; those that a neighbour of it has are mounted from
//! there. Deliberately absent: the protocol ([`oci::registry`]).

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci::content::ContentError;
use oci::model::{Descriptor, Digest, Reference, media_type};
use oci::registry::{Client, Condition, PushBlob, RegistryError};

use super::{Answer, PATIENCE, Remote, RemoteError};
use crate::{Blobs, Store};

/// Questions at a time; the client bounds connections itself.
const QUESTIONS: usize = 8;

/// A name in a registry.
#[derive(Clone)]
pub struct RegistryCache {
    client: Client,
    name: Reference,
    /// Knows where blobs came from, and learns where they are.
    store: Store,
    patience: Duration,
}

impl RegistryCache {
    /// The cache of that name.
    pub fn new(client: Client, name: Reference, store: Store) -> Self {
        Self { client, name, store, patience: PATIENCE }
    }

    /// The same, for which somebody waits so long.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    fn error(&self, act: &'static str) -> impl FnOnce(RegistryError) -> RemoteError {
        let place = self.place();
        move |source| match source {
            RegistryError::BlobNotFound { digest, .. } => RemoteError::NoBlob { place, digest },
            RegistryError::Missing { descriptor } => ContentError::Missing { digest: descriptor.digest }.into(),
            source => RemoteError::Unreachable { act, place, source: Box::new(source) },
        }
    }
}

impl Remote for RegistryCache {
    fn place(&self) -> String {
        self.name.familiar()
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn manifest(&self, most: u64) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move { self.client.manifest(&self.name, most).await.map_err(self.error("read")) })
    }

    fn fetch<'a>(&'a self, blob: &'a Descriptor, into: &'a Blobs, heard: &'a (dyn Fn(u64) + Sync)) -> Answer<'a, ()> {
        Box::pin(async move {
            let progress = |bytes: u64| heard(bytes);
            self.client.fetch_blob(&self.name, blob, into, &progress).await.map_err(self.error("read"))
        })
    }

    fn has<'a>(&'a self, blobs: &'a [Descriptor]) -> Answer<'a, Vec<bool>> {
        let questions = blobs.iter().map(move |blob| async move {
            self.client.has_blob(&self.name, &blob.digest).await.map_err(self.error("read"))
        });
        Box::pin(stream::iter(questions).buffered(QUESTIONS).try_collect())
    }

    fn send<'a>(&'a self, blob: &'a Descriptor, from: &'a Blobs) -> Answer<'a, ()> {
        Box::pin(async move {
            let mount_from = self.store.blob_sources(&blob.digest)?;
            let push = PushBlob { descriptor: blob.clone(), mount_from };
            self.client.push_blob(&self.name, &push, from, &|_, _| {}).await.map_err(self.error("write to"))?;
            self.store.add_blob_source(&blob.digest, &self.name)?;
            Ok(())
        })
    }

    fn set_manifest<'a>(&'a self, bytes: &'a [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            let manifest = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(bytes), bytes.len() as u64);
            let put = self.client.put_document(&self.name, &manifest, bytes, &Condition::Always).await;
            put.map(drop).map_err(self.error("write to"))
        })
    }
}
