//! What is written, taken by a thread of its own, so that reading files and what is made of them take turns no more.
//!
//! In: bytes. Out: whatever the thread has made of them: their SHA-256 ([`Digesting`]), a file ([`super::packing`]). A few
//! pieces are under way at once, whatever comes.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use oci::model::{DiffId, Digest};
use sha2::{Digest as _, Sha256};

/// Large enough that passing it on costs nothing, small enough for the cache of a core.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait to be taken.
const WAITING_MAX: usize = 2;

/// What is done with every piece.
type Take<T> = Box<dyn FnMut(&mut T, &[u8]) -> io::Result<()> + Send>;

/// Gives bytes to a thread that has `T`; of less than a piece there is no thread.
pub(super) struct Pieces<T> {
    name: &'static str,
    piece: Vec<u8>,
    bytes: u64,
    /// Until the thread has it.
    idle: Option<(T, Take<T>)>,
    pieces: Option<SyncSender<Vec<u8>>>,
    /// Pieces that were taken, to be filled again.
    emptied: Option<Receiver<Vec<u8>>>,
    thread: Option<JoinHandle<io::Result<T>>>,
}

impl<T> Drop for Pieces<T> {
    /// Nothing of it is left when it is gone.
    fn drop(&mut self) {
        self.pieces = None;
        if self.thread.take().is_some_and(|thread| !matches!(thread.join(), Ok(Ok(_)))) {
            tracing::debug!("what a thread was given came to nothing, and nobody wanted it");
        }
    }
}

impl<T: Send + 'static> Pieces<T> {
    /// Nothing yet; `take` is given every piece. `name` is the thread's.
    pub fn new(
        name: &'static str,
        into: T,
        take: impl FnMut(&mut T, &[u8]) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let idle = Some((into, Box::new(take) as Take<T>));
        Self { name, piece: Vec::new(), bytes: 0, idle, pieces: None, emptied: None, thread: None }
    }

    /// Starts the thread, if that has not been done.
    fn start(&mut self) -> io::Result<()> {
        let Some((mut into, mut take)) = self.idle.take() else { return Ok(()) };
        let (pieces, received) = sync_channel::<Vec<u8>>(WAITING_MAX);
        let (give_back, emptied) = channel();
        let thread = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            for mut piece in received {
                take(&mut into, &piece)?;
                piece.clear();
                if give_back.send(piece).is_err() {
                    // Whoever writes has given up.
                    break;
                }
            }
            Ok(into)
        })?;
        (self.pieces, self.emptied, self.thread) = (Some(pieces), Some(emptied), Some(thread));
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        self.start()?;
        let next = self.emptied.as_ref().and_then(|emptied| emptied.try_recv().ok());
        let piece = std::mem::replace(&mut self.piece, next.unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES)));
        let sent = self.pieces.as_ref().is_some_and(|pieces| pieces.send(piece).is_ok());
        if sent { Ok(()) } else { Err(self.end().err().unwrap_or_else(ended_early)) }
    }

    fn end(&mut self) -> io::Result<T> {
        self.pieces = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Err(ended_early()),
        }
    }

    /// What has become of all bytes, and how many there were.
    pub fn finish(mut self) -> io::Result<(T, u64)> {
        if let Some((mut into, mut take)) = self.idle.take() {
            take(&mut into, &self.piece)?;
            return Ok((into, self.bytes));
        }
        self.send()?;
        Ok((self.end()?, self.bytes))
    }
}

fn ended_early() -> io::Error {
    io::Error::other("a thread that takes what is written ended early; this is a bug in rbuild")
}

impl<T: Send + 'static> Write for Pieces<T> {
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

/// Takes bytes for their digest.
pub(super) struct Digesting(Pieces<Sha256>);

impl Digesting {
    /// Nothing yet.
    pub fn new() -> Self {
        let take = |hash: &mut Sha256, piece: &[u8]| {
            hash.update(piece);
            Ok(())
        };
        Self(Pieces::new("digest", Sha256::new(), take))
    }

    /// The digest of all bytes, and how many there were.
    pub fn finish(self) -> io::Result<(DiffId, u64)> {
        let (hash, bytes) = self.0.finish()?;
        Ok((DiffId(Digest::from_bytes(hash.finalize().into())), bytes))
    }
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
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
                let mut digesting = Digesting::new();
                bytes.chunks(at_once).for_each(|chunk| digesting.write_all(chunk).unwrap());
                let (digest, count) = digesting.finish().unwrap();
                assert_eq!((digest.0, count), (Digest::of(&bytes), size as u64), "{size} by {at_once}");
            }
        }
    }

    #[test]
    fn why_the_thread_has_ended_is_told_to_whoever_writes() {
        let full = |_: &mut (), _: &[u8]| Err(io::Error::from(io::ErrorKind::StorageFull));
        let mut pieces = Pieces::new("full", (), full);
        let bytes = vec![0; 16 * PIECE_BYTES];
        let failed = pieces.write_all(&bytes).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
    }
}
