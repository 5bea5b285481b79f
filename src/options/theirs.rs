//! What lies with whoever asked for a build and not on this machine: their files, and the places that results go to.
//!
//! In: nothing but names. Behind [`Files`], [`Layouts`], [`TheirCache`] and [`Outlets`] stands whoever can reach them: `src/daemon/`, over a session.
//! Deliberately absent: any protocol, and trust: what comes is somebody else's tree, in which nothing leads out.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use oci::model::{Descriptor, Digest};
use solver::seam::LogSink;
use store::Blobs;
use store::remote::Remote;
use tokio_util::sync::CancellationToken;

use crate::engine::Failure;

/// What is wanted of one of their directories.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Which directory, by the name that they gave it.
    pub name: &'a str,
    /// Only what matches one of these patterns of an ignore file, if there are any.
    pub including: &'a [String],
    /// Only these paths, with what links among them lead to, beside what is included; without either it is all.
    pub only: &'a [String],
    /// Without what these patterns of an ignore file match.
    pub without: &'a [String],
}

/// Their directories.
pub trait Files: Send + Sync {
    /// Under which name a directory may be kept from build to build: 64 hexadecimal digits that stand for whose it is and
    /// for all that is wanted of it. `None`: it is not to be kept.
    fn kept_as(&self, wanted: Wanted<'_>) -> Option<String>;

    /// Brings a directory into `into`, which is empty, or holds what came under the same name before: what has not
    /// changed stays. What was brought so far stays there when it fails.
    fn bring<'a>(
        &'a self,
        wanted: Wanted<'a>,
        into: BorrowedFd<'a>,
        log: &'a (dyn LogSink + 'a),
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// A stream of theirs, like their standard input, by the name that they gave it. Reading it blocks, and fails when
    /// `cancel` fires.
    ///
    /// # Errors
    /// When there is none.
    fn stream(&self, name: &str, cancel: CancellationToken) -> io::Result<Box<dyn Read + Send>>;
}

/// One of their directories, or of their streams.
#[derive(Clone)]
pub struct TheirDirectory {
    /// Its name there.
    pub name: String,
    /// Who brings it.
    pub files: Arc<dyn Files>,
}

impl fmt::Debug for TheirDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TheirDirectory").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartialEq for TheirDirectory {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.files, &other.files)
    }
}

impl Eq for TheirDirectory {}

/// Their OCI layouts, by the names that they gave them.
pub trait Layouts: Send + Sync {
    /// The bytes of a document, at most `most`, which are what the digest says.
    fn document<'a>(&'a self, name: &'a str, digest: &'a Digest, most: u64) -> BoxFuture<'a, Result<Vec<u8>, Failure>>;

    /// Brings a blob into the store, where it is checked by digest and size; one that is there already is fine.
    fn bring<'a>(&'a self, name: &'a str, blob: &'a Descriptor, into: &'a Blobs) -> BoxFuture<'a, Result<(), Failure>>;
}

/// Who has a layout.
#[derive(Clone)]
pub struct TheirLayouts(pub Arc<dyn Layouts>);

impl fmt::Debug for TheirLayouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TheirLayouts")
    }
}

impl PartialEq for TheirLayouts {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TheirLayouts {}

/// A cache of theirs.
#[derive(Clone)]
pub struct TheirCache(pub Arc<dyn Remote>);

impl fmt::Debug for TheirCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TheirCache").field(&self.0.place()).finish()
    }
}

impl PartialEq for TheirCache {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TheirCache {}

/// A stream to them: the end has to be said, as one that breaks off is no result.
pub trait Sink: Write + Send {
    /// All is written; returns when they have it.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Where results of one output go.
pub trait Outlets: Send + Sync {
    /// For the bytes of one file. May block.
    fn stream(&self) -> io::Result<Box<dyn Sink>>;

    /// Sends directories, each beneath a path (empty: as it is). Blocks until they have them.
    fn folders(&self, trees: &[(String, BorrowedFd<'_>)]) -> io::Result<()>;
}

/// An output's way to them.
#[derive(Clone)]
pub struct Outlet(pub Arc<dyn Outlets>);

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outlet")
    }
}

impl PartialEq for Outlet {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Outlet {}
