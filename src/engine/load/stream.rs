//! An archive on its way: a thread writes it, and whoever sends it takes its pieces.
//!
//! So it is never whole, neither in memory nor on a disk. When nobody takes pieces any more, the thread ends with the
//! next one. Deliberately absent: what is in it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use crate::engine::Failure;

/// Few calls, little memory.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces written ahead of whoever sends them.
const PIECES_AHEAD: usize = 4;

/// A thread that could not write has ended by the time that its last piece is there.
const GRACE: Duration = Duration::from_secs(1);

/// An archive that is being written.
pub struct Archive {
    pieces: Receiver<io::Result<Vec<u8>>>,
    writing: Writing,
    /// What of it was taken.
    pub sent: Arc<Sent>,
}

/// How far the sending of an archive is.
#[derive(Debug, Default)]
pub struct Sent {
    bytes: AtomicU64,
    whole: AtomicBool,
}

impl Sent {
    /// Bytes that were taken.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether that is all of it.
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }
}

/// What becomes of the writing.
pub struct Writing {
    written: JoinHandle<Result<(), Failure>>,
    /// Nobody took the rest.
    unwanted: Arc<AtomicBool>,
}

impl Archive {
    /// What `write` writes.
    pub fn of(write: impl FnOnce(&mut dyn Write) -> Result<(), Failure> + Send + 'static) -> Self {
        let (sender, pieces) = channel(PIECES_AHEAD);
        let unwanted = Arc::new(AtomicBool::new(false));
        let told = unwanted.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut out = Pieces { sender, piece: Vec::with_capacity(PIECE_BYTES), unwanted: told };
            let written = write(&mut out).and_then(|()| {
                out.flush().map_err(|error| Failure::new("an image cannot be sent").note(error.to_string()))
            });
            if written.is_err() && out.sender.blocking_send(Err(io::ErrorKind::Other.into())).is_err() {
                tracing::debug!("nobody hears that an archive ends early");
            }
            written
        });
        Self { pieces, writing: Writing { written, unwanted }, sent: Arc::default() }
    }

    /// Its pieces, and what tells afterwards whether all was written; an archive that could not be written ends with an
    /// error, which that tells.
    pub fn split(self) -> (impl Stream<Item = io::Result<Vec<u8>>> + Send + 'static, Writing) {
        let Self { pieces, writing, sent } = self;
        let stream = futures_util::stream::unfold((pieces, sent), async |(mut pieces, sent)| {
            let piece = pieces.recv().await;
            match &piece {
                Some(Ok(bytes)) => drop(sent.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed)),
                Some(Err(_)) => {}
                None => sent.whole.store(true, Ordering::Relaxed),
            }
            Some((piece?, (pieces, sent)))
        });
        (stream, writing)
    }
}

impl Writing {
    /// Why the archive could not be written, if that is so and not only because nobody wanted the rest. To be asked when
    /// its sending has ended; a rest that still waits for a connection to be closed is no failure.
    pub async fn failure(self) -> Option<Failure> {
        let written = tokio::time::timeout(GRACE, self.written).await.ok()?;
        match written {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => (!self.unwanted.load(Ordering::Relaxed)).then_some(failure),
            Err(error) => Some(Failure::from_error(&error)),
        }
    }
}

struct Pieces {
    sender: Sender<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    unwanted: Arc<AtomicBool>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.piece.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.piece.extend_from_slice(taken);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.sender.blocking_send(Ok(piece)).map_err(|_| {
            self.unwanted.store(true, Ordering::Relaxed);
            io::ErrorKind::BrokenPipe.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn pieces_are_the_archive_and_are_counted() {
        let archive = Archive::of(|out| {
            (0..1000).try_for_each(|_| out.write_all(&[7; 1000])).map_err(|error| Failure::new(error.to_string()))
        });
        let sent = archive.sent.clone();
        let (pieces, writing) = archive.split();
        let mut pieces = pin!(pieces);
        let mut bytes = 0;
        while let Some(piece) = pieces.next().await {
            bytes += piece.expect("it is whole").len();
        }
        assert_eq!((bytes, sent.bytes(), sent.is_whole()), (1_000_000, 1_000_000, true));
        assert!(writing.failure().await.is_none());
    }

    #[tokio::test]
    async fn archive_that_cannot_be_written_never_ends_well() {
        let archive = Archive::of(|out| {
            out.write_all(b"some").map_err(|error| Failure::new(error.to_string()))?;
            Err(Failure::new("a layer is gone"))
        });
        let sent = archive.sent.clone();
        let (pieces, writing) = archive.split();
        let last = pin!(pieces).next().await;
        assert!(last.expect("not its end").is_err() && !sent.is_whole());
        let failure = writing.failure().await.expect("it failed");
        assert_eq!(failure.problems[0].message, "a layer is gone");
    }

    #[tokio::test]
    async fn who_wants_no_more_ends_the_writing() {
        let archive = Archive::of(|out| {
            loop {
                out.write_all(&[0; 4096]).map_err(|error| Failure::new(error.to_string()))?;
            }
        });
        let (pieces, writing) = archive.split();
        drop(pieces);
        assert!(writing.failure().await.is_none(), "that is no fault of its own");
    }
}
