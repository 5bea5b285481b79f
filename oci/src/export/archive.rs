//! Reads images from archives: OCI layouts (directory or tar) and docker archives, old and new, compressed or not.
//!
//! A tar is read once, front to back, whatever the order of its files: small ones that may be lists are held, every
//! other goes into the store as it streams by, under the digest it turns out to have. A file named after a digest must
//! have it. Then the lists are followed, and everything they name must be there. Names in the archive are keys here and
//! never become paths on a disk.
//!
//! What an archive holds beside its images stays in the store as blobs that nothing refers to.

mod contents;
mod index;
mod pick;

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use self::contents::read_tar;
use self::index::read_index;
use super::blobs::path_of;
use super::error::ExportError;
use super::{INDEX_FILE, LAYOUT_FILE};
use crate::content::{ContentError, ContentStore, VerifiedReader};
use crate::image::MANIFEST_MAX_BYTES;
use crate::model::{Descriptor, Reference};

pub(super) use self::index::check_layout;
pub use self::pick::{bring_one, entries};

/// Where images come from.
pub enum Input<'a> {
    /// A tar, compressed or not.
    Tar(Box<dyn Read + 'a>),
    /// An OCI layout.
    Directory(BorrowedFd<'a>),
}

/// An image, or an index of several, that is in the store now.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Its names in the archive.
    pub names: Vec<Reference>,
    /// Its manifest or index. Of an index, some platforms' images may be missing, but not all.
    pub manifest: Descriptor,
}

/// Puts all images of an archive into a store. Every byte is checked against its digest; after an error some blobs may
/// be in the store, all of them what their digests say.
pub fn read(input: Input<'_>, into: &dyn ContentStore) -> Result<Vec<Loaded>, ExportError> {
    let loaded = match input {
        Input::Tar(stream) => read_tar(stream, into)?,
        Input::Directory(root) => read_directory(root, into)?,
    };
    if loaded.is_empty() {
        return Err(ExportError::malformed(INDEX_FILE, "it lists no image that rbuild knows"));
    }
    Ok(loaded)
}

fn read_directory(root: BorrowedFd<'_>, into: &dyn ContentStore) -> Result<Vec<Loaded>, ExportError> {
    let layout = small(root, LAYOUT_FILE)?;
    check_layout(&layout)?;
    let index = small(root, INDEX_FILE)?;
    read_index(&index, into, &mut |descriptor| copy_blob(root, descriptor, into))
}

/// Reads a file that every layout has; [`ExportError::Unknown`] without it.
pub(super) fn small(root: BorrowedFd<'_>, path: &'static str) -> Result<Vec<u8>, ExportError> {
    let Some((file, _)) = open_beneath(root, path)? else { return Err(ExportError::Unknown) };
    let mut bytes = Vec::new();
    let read = file.take(MANIFEST_MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| ExportError::Io { act: "read", path: path.into(), source })?;
    if bytes.len() as u64 > MANIFEST_MAX_BYTES {
        return Err(ExportError::malformed(path, "it is longer than 4 MiB"));
    }
    Ok(bytes)
}

/// Brings one blob from a layout into the store, unless it is there. `false` if the layout has none.
fn copy_blob(root: BorrowedFd<'_>, descriptor: &Descriptor, into: &dyn ContentStore) -> Result<bool, ExportError> {
    if into.open(&descriptor.digest)?.is_some() {
        return Ok(true);
    }
    let path = path_of(&descriptor.digest);
    let Some((file, _)) = open_beneath(root, &path)? else { return Ok(false) };
    let mut blob = VerifiedReader::new(file, descriptor.digest, Some(descriptor.size));
    let mut writer = into.writer()?;
    io::copy(&mut blob, &mut writer).map_err(ContentError::io(format!("copy `{path}`")))?;
    writer.commit(Some(&descriptor.digest))?;
    Ok(true)
}

/// Opens a regular file of the layout. Links are not followed, and a pipe in its place does not block.
fn open_beneath(root: BorrowedFd<'_>, path: &str) -> Result<Option<(std::fs::File, u64)>, ExportError> {
    let failed = |source: io::Error| ExportError::Io { act: "open", path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => std::fs::File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    let facts = file.metadata().map_err(failed)?;
    if !facts.is_file() {
        return Err(ExportError::malformed(path, "it is no regular file"));
    }
    Ok(Some((file, facts.len())))
}
