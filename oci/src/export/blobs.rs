//! The blobs of images, each once, and how they stand in an archive.

use std::collections::BTreeMap;
use std::io::Write;

use super::ahead;
use super::error::ExportError;
use crate::content::{ContentError, ContentStore, open_whole};
use crate::image::{Document, read_document};
use crate::layer::tar::{Entry, Kind, TarWriter, Time};
use crate::model::{Descriptor, Digest, Manifest};

/// Indexes in indexes.
const NESTING_MAX: usize = 4;

/// Everything that an image consists of, by digest.
#[derive(Default)]
pub(super) struct Blobs {
    found: BTreeMap<Digest, Descriptor>,
}

impl Blobs {
    /// Adds what `descriptor` points to, and everything from there. Returns the manifest if it is one.
    pub fn add(&mut self, store: &dyn ContentStore, descriptor: &Descriptor) -> Result<Option<Manifest>, ExportError> {
        self.add_nested(store, descriptor, NESTING_MAX)
    }

    fn add_nested(
        &mut self,
        store: &dyn ContentStore,
        descriptor: &Descriptor,
        nesting_left: usize,
    ) -> Result<Option<Manifest>, ExportError> {
        let Some(nesting_left) = nesting_left.checked_sub(1) else {
            return Err(ExportError::malformed(path_of(&descriptor.digest), "indexes are nested too deep"));
        };
        let known = self.found.insert(descriptor.digest, descriptor.clone()).is_some();
        match read_document(store, descriptor)?.0 {
            Document::Manifest(manifest) => {
                for blob in [&manifest.config].into_iter().chain(&manifest.layers) {
                    self.found.insert(blob.digest, blob.clone());
                }
                Ok(Some(*manifest))
            }
            Document::Index(index) => {
                // What is known is not followed twice.
                for entry in index.manifests.iter().filter(|_| !known) {
                    self.add_nested(store, entry, nesting_left)?;
                }
                Ok(None)
            }
        }
    }

    /// All of them, by digest.
    pub fn iter(&self) -> impl Iterator<Item = &Descriptor> {
        self.found.values()
    }

    /// Writes those that are wanted beneath `blobs/`, by digest, each checked as it is copied, unless that was just done.
    pub fn write<W: Write>(
        &self,
        store: &dyn ContentStore,
        is_wanted: &dyn Fn(&Digest) -> bool,
        tar: &mut TarWriter<W>,
    ) -> Result<(), ExportError> {
        for path in ["blobs", "blobs/sha256"] {
            tar.begin(&entry(path, Kind::Directory))?;
        }
        for (digest, descriptor) in self.found.iter().filter(|(digest, _)| is_wanted(digest)) {
            let path = path_of(digest);
            let blob = open_whole(store, descriptor)?;
            tar.begin(&entry(&path, Kind::File { size: descriptor.size, sparse: None }))?;
            ahead::copy(blob, descriptor.size, tar).map_err(|source| match source.downcast::<ContentError>() {
                Ok(content) => ExportError::Content(content),
                Err(source) => ExportError::Io { act: "copy", path: path.clone(), source },
            })?;
        }
        Ok(())
    }
}

/// Where a blob stands. image-spec image-layout.md, "Blobs".
pub(super) fn path_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A small file that is made here.
pub(super) fn write_file<W: Write>(tar: &mut TarWriter<W>, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
    tar.begin(&entry(path, Kind::File { size: bytes.len() as u64, sparse: None }))?;
    tar.write_all(bytes).map_err(|source| ExportError::Io { act: "write", path: path.to_owned(), source })
}

/// Owner and time say nothing here and are always the same.
pub(super) fn entry(path: &str, kind: Kind) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: Time::default(), xattrs: Vec::new() }
}
