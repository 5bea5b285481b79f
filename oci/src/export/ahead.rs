//! Copies a large blob while another thread reads it: reading and hashing take as long as what is done with the bytes.
//!
//! In: a reader, which may check what it reads. Out: its bytes, in order, in what is written to; whatever the reader says
//! against them in the end is said here. A few pieces are in memory, and used again. Deliberately absent: what is copied.

use std::io::{self, Read, Write};
use std::sync::mpsc::{channel, sync_channel};

/// Read at a time. What is no longer is copied by the caller's thread alone.
const PIECE_BYTES: usize = 512 << 10;
/// Pieces that are read and not written yet.
const PIECES_AHEAD: usize = 3;

/// Copies all of `from`, which has `size` bytes, into `to`.
pub(super) fn copy(mut from: impl Read + Send, size: u64, to: &mut impl Write) -> io::Result<()> {
    if size <= PIECE_BYTES as u64 {
        return io::copy(&mut from, to).map(drop);
    }
    let (sender, pieces) = sync_channel::<io::Result<Vec<u8>>>(PIECES_AHEAD);
    let (give_back, spare) = channel::<Vec<u8>>();
    std::thread::scope(|scope| {
        let reading = move || {
            loop {
                let mut piece = spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE_BYTES));
                piece.clear();
                let read = from.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece);
                let ended = !matches!(read, Ok(1..));
                // Nobody takes it after an error of his own, which he tells.
                if sender.send(read.map(|_| piece)).is_err() || ended {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("rbuild-read".into()).spawn_scoped(scope, reading)?;
        for piece in pieces {
            let piece = piece?;
            to.write_all(&piece)?;
            if give_back.send(piece).is_err() {
                tracing::trace!("everything was read");
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{ContentError, VerifiedReader};
    use crate::model::Digest;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn all_bytes_come_in_order_and_checked() {
        for count in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 9 * PIECE_BYTES, 9 * PIECE_BYTES + 77] {
            let (bytes, mut out) = (bytes(count), Vec::new());
            let verified = VerifiedReader::new(&bytes[..], Digest::of(&bytes), Some(count as u64));
            copy(verified, count as u64, &mut out).unwrap();
            assert!(out == bytes, "{count}");
            for (what, digest, size) in
                [("digest", Digest::of(b"other"), count), ("more", Digest::of(&bytes), count + 1)]
            {
                let wrong = VerifiedReader::new(&bytes[..], digest, Some(size as u64));
                let error = copy(wrong, count as u64, &mut io::sink()).unwrap_err();
                assert!(error.downcast::<ContentError>().is_ok(), "{count}: {what}");
            }
        }
    }

    #[test]
    fn an_error_of_either_side_ends_both() {
        struct Breaks(usize);
        impl Read for Breaks {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(buffer.len()).ok_or(io::ErrorKind::ConnectionReset)?;
                buffer.fill(7);
                Ok(buffer.len())
            }
        }
        impl Write for Breaks {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = copy(Breaks(5 * PIECE_BYTES), u64::MAX, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = copy(io::repeat(1), u64::MAX, &mut Breaks(20 * PIECE_BYTES)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
