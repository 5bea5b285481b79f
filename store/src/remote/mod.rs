//! Caches that other machines read: one manifest and the blobs that it names, kept in a place of the user's choice.
//!
//! In: what this store knows of a build. Out: the same in a place that others reach; and back, record by record, on a
//! machine that never ran it. A place is a [`Remote`]: it keeps bytes and knows nothing of their meaning. What comes
//! from one is another's: it is bounded when it is read, and every blob is checked against its digest as it is brought.
//! Read on in [`format`]; then [`export`] what goes out, [`import`] what comes in, [`patience`] how long a place may take,
//! and the places themselves: [`registry`], [`local`], [`s3`].
//! Deliberately absent: which records go out and which are asked for (the engine's), the words of the command line.

pub mod format;

mod buildkit;
mod document;
mod error;
mod export;
mod import;
mod local;
mod patience;
mod registry;
pub mod s3;

#[cfg(test)]
pub(crate) mod memory;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use oci::model::Descriptor;

pub use document::Document;
pub use error::RemoteError;
pub use export::{Selection, Sent, send};
pub use import::{Book, read};
pub use local::LocalCache;
pub use patience::{PATIENCE, fetch_steadily, within};
pub use registry::RegistryCache;

use crate::Blobs;

/// What a [`Remote`] answers, later; dropping it is giving up.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, RemoteError>> + Send + 'a>>;

/// A place where one cache manifest (per name) and blobs by digest are kept. Shared by the tasks of a build. Idleness
/// is bounded by the place itself, the whole of an exchange by whoever asks.
pub trait Remote: Send + Sync {
    /// For messages: `registry.example/app:cache`, `./cache`, `s3://bucket/prefix`; never credentials.
    fn place(&self) -> String;

    /// How long it may take for an answer, or for a transfer to move on.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// The bytes of the manifest of that name, at most `most` bytes; `None`: there is none.
    ///
    /// # Errors
    /// [`RemoteError::TooLarge`] as soon as there are more.
    fn manifest(&self, most: u64) -> Answer<'_, Option<Vec<u8>>>;

    /// Brings a blob into `into`, where it is checked by digest and size; one that is there already is fine. `heard` is
    /// told the bytes so far.
    ///
    /// # Errors
    /// [`RemoteError::NoBlob`] if the place does not have it (any more).
    fn fetch<'a>(&'a self, blob: &'a Descriptor, into: &'a Blobs, heard: &'a (dyn Fn(u64) + Sync)) -> Answer<'a, ()>;

    /// Which of these blobs are there already, in their order.
    fn has<'a>(&'a self, blobs: &'a [Descriptor]) -> Answer<'a, Vec<bool>>;

    /// Sends a blob that is in `from`. One that is there already is fine.
    fn send<'a>(&'a self, blob: &'a Descriptor, from: &'a Blobs) -> Answer<'a, ()>;

    /// Replaces the manifest; all that it names is there.
    fn set_manifest<'a>(&'a self, bytes: &'a [u8]) -> Answer<'a, ()>;
}

/// Who brings blobs that this store lacks, from wherever they are known to be.
pub trait Supplier: Send + Sync {
    /// Brings one into `into`, where it is checked by digest and size; one that is there already is fine. `heard` is told
    /// the bytes so far.
    fn supply<'a>(&'a self, blob: &'a Descriptor, into: &'a Blobs, heard: &'a (dyn Fn(u64) + Sync)) -> Answer<'a, ()>;
}
