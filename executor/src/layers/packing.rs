//! A layer that is a tar before it is a tree: written once, as a blob, and unpacked when something is to stand on it.
//!
//! In: the bytes of a layer's tar. Out: that tar as a blob of the store, whose digest is the layer's diff_id. Writing and
//! hashing are a thread's of its own. Dropped half-way, nothing is left. Deliberately absent: what is in the tar
//! ([`crate::ops::file`]), the layer's record.

use std::io::{self, Write};

use oci::content::{BlobWriter, ContentError, ContentStore as _};
use oci::model::{Descriptor, media_type};
use store::Store;

use super::digest::Pieces;

/// Takes the tar.
pub(crate) struct Packing(Pieces<Box<dyn BlobWriter>>);

/// The tar, whole and in the store.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    /// What it is in the store; its digest is the layer's diff_id.
    pub blob: Descriptor,
}

impl Packing {
    /// Nothing yet.
    pub fn start(store: &Store) -> Result<Self, ContentError> {
        let take = |writer: &mut Box<dyn BlobWriter>, piece: &[u8]| writer.write_all(piece);
        Ok(Self(Pieces::new("pack", store.blobs().writer()?, take)))
    }

    /// Puts it into the store.
    pub fn finish(self) -> Result<Packed, ContentError> {
        let (writer, _) = self.0.finish().map_err(ContentError::io("write a blob"))?;
        let (digest, bytes) = writer.commit(None)?;
        Ok(Packed { blob: Descriptor::new(media_type::OCI_LAYER, digest, bytes) })
    }
}

impl Write for Packing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
