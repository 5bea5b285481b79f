//! The digest of what is written, made by a thread of its own, so that reading files and hashing them take turns no more.
//!
//! In: bytes. Out: their SHA-256 and number. A few pieces are under way at once, whatever comes.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use oci::model::{DiffId, Digest};
use sha2::{Digest as _, Sha256};

/// Large enough that passing it on costs nothing, small enough for the cache of a core.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait to be hashed.
const WAITING_MAX: usize = 2;

/// Takes bytes for their digest.
pub(super) struct Digesting {
    piece: Vec<u8>,
    bytes: u64,
    pieces: Option<SyncSender<Vec<u8>>>,
    /// Pieces that were hashed, to be filled again.
    emptied: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<Digest>>,
}

impl Digesting {
    /// Nothing yet.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start() -> io::Result<Self> {
        let (pieces, received) = sync_channel::<Vec<u8>>(WAITING_MAX);
        let (give_back, emptied) = channel();
        let thread = std::thread::Builder::new().name("digest".into()).spawn(move || {
            let mut hash = Sha256::new();
            for mut piece in received {
                hash.update(&piece);
                piece.clear();
                if give_back.send(piece).is_err() {
                    // Whoever writes has given up.
                    break;
                }
            }
            Digest::from_bytes(hash.finalize().into())
        })?;
        let piece = Vec::with_capacity(PIECE_BYTES);
        Ok(Self { piece, bytes: 0, pieces: Some(pieces), emptied, thread: Some(thread) })
    }

    fn send(&mut self) -> io::Result<()> {
        let next = self.emptied.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE_BYTES));
        let piece = std::mem::replace(&mut self.piece, next);
        let sent = self.pieces.as_ref().is_some_and(|pieces| pieces.send(piece).is_ok());
        if sent { Ok(()) } else { Err(ended_early()) }
    }

    /// The digest of all bytes, and how many there were.
    pub fn finish(mut self) -> io::Result<(DiffId, u64)> {
        self.send()?;
        self.pieces = None;
        let joined = self.thread.take().map(JoinHandle::join);
        match joined {
            Some(Ok(digest)) => Ok((DiffId(digest), self.bytes)),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Err(ended_early()),
        }
    }
}

fn ended_early() -> io::Error {
    io::Error::other("a thread that digests ended early; this is a bug in rbuild")
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        self.bytes += taken as u64;
        if self.piece.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_digest_of_all_bytes_however_they_come() {
        for size in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 9 * PIECE_BYTES + 77] {
            let bytes: Vec<u8> = (0..size).map(|at| (at * 31 / 7) as u8).collect();
            for at_once in [1 << 20, 100_001, 4096] {
                let mut digesting = Digesting::start().unwrap();
                bytes.chunks(at_once).for_each(|chunk| digesting.write_all(chunk).unwrap());
                let (digest, count) = digesting.finish().unwrap();
                assert_eq!((digest.0, count), (Digest::of(&bytes), size as u64), "{size} by {at_once}");
            }
        }
    }
}
