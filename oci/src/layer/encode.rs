//! A tree becomes a blob in one pass: tar, digest, compression, digest.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use sha2::{Digest as _, Sha256};

use super::codec::Codec;
use super::diff::{WriteOptions, write_layer_with};
use super::error::LayerError;
use crate::model::{DiffId, Digest};

/// A layer as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedLayer {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Length of the tar in bytes.
    pub tar_bytes: u64,
    /// Digest of what was written.
    pub digest: Digest,
    /// Length of what was written in bytes.
    pub size: u64,
    /// Members of the tar.
    pub entries: u64,
}

/// Writes a directory in overlayfs form to `out` as a compressed layer. The same tree and codec give the same bytes on
/// any machine with any number of processors.
pub fn encode(tree: BorrowedFd<'_>, codec: &Codec, out: impl Write) -> Result<EncodedLayer, LayerError> {
    let failed = |source| LayerError::Output { source };
    let mut tar = Hashing::new(codec.encoder(Hashing::new(out)).map_err(failed)?);
    let facts = write_layer_with(tree, WriteOptions::default(), &mut tar)?;
    let (encoder, diff_id, tar_bytes) = tar.finish();
    let (_, digest, size) = encoder.finish().map_err(failed)?.finish();
    Ok(EncodedLayer { diff_id: DiffId(diff_id), tar_bytes, digest, size, entries: facts.entries })
}

/// Lets bytes through and hashes and counts them.
pub struct Hashing<W> {
    out: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    /// Passes bytes on to `out`, or from it.
    pub fn new(out: W) -> Self {
        Self { out, hasher: Sha256::new(), bytes: 0 }
    }

    /// Gives `out` back, with the digest and the number of bytes that went through.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.out, Digest::from_bytes(self.hasher.finalize().into()), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<R: io::Read> io::Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.out.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}
