//! Bytes to disk: a blob is written and summed by a thread that may block.
//!
//! In: pieces of a body. Out: a blob of the store, if its checksum is the one asked for. A sink that is dropped before
//! its end leaves nothing.

use std::io::Write as _;

use oci::content::{ContentError, ContentStore as _};
use oci::model::Digest;
use store::Store;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::checksum::Summing;
use super::{Checksum, HttpError};

/// Pieces between the wire and the disk.
const PIECES_AHEAD: usize = 16;

enum Piece {
    Bytes(Box<dyn AsRef<[u8]> + Send>),
    /// That was all.
    End,
}

/// A blob being written.
pub(super) struct Sink {
    pieces: mpsc::Sender<Piece>,
    /// `None` when it ended without [`Piece::End`].
    outcome: JoinHandle<Result<Option<(Digest, u64)>, HttpError>>,
    pub written: u64,
}

impl Sink {
    pub fn new(store: &Store, url: &str, checksum: Option<&Checksum>) -> Self {
        let (pieces, received) = mpsc::channel(PIECES_AHEAD);
        let (store, url, checksum) = (store.clone(), url.to_owned(), checksum.cloned());
        let outcome = tokio::task::spawn_blocking(move || write(&store, &url, checksum.as_ref(), received));
        Self { pieces, outcome, written: 0 }
    }

    /// Hands bytes over; `false` when the writer has failed, which [`Sink::finish`] explains.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]> + Send + 'static) -> bool {
        let count = bytes.as_ref().len() as u64;
        let taken = self.pieces.send(Piece::Bytes(Box::new(bytes))).await.is_ok();
        self.written += if taken { count } else { 0 };
        taken
    }

    /// Whether the writer has given up.
    pub fn has_failed(&self) -> bool {
        self.pieces.is_closed()
    }

    /// Checks and keeps what was written.
    pub async fn finish(self) -> Result<(Digest, u64), HttpError> {
        // A writer that has failed takes nothing any more, and its failure comes below.
        drop(self.pieces.send(Piece::End).await);
        match self.outcome.await {
            Ok(Ok(Some(done))) => Ok(done),
            Ok(Err(error)) => Err(error),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is going down.
            Ok(Ok(None)) | Err(_) => Err(HttpError::Canceled),
        }
    }
}

fn write(
    store: &Store,
    url: &str,
    checksum: Option<&Checksum>,
    mut received: mpsc::Receiver<Piece>,
) -> Result<Option<(Digest, u64)>, HttpError> {
    let mut writer = store.blobs().writer()?;
    let mut sum = Summing::new(checksum);
    loop {
        match received.blocking_recv() {
            Some(Piece::Bytes(bytes)) => {
                let bytes = (*bytes).as_ref();
                sum.update(bytes);
                writer.write_all(bytes).map_err(|source| HttpError::Write { url: url.to_owned(), source })?;
            }
            Some(Piece::End) => break,
            None => return Ok(None),
        }
    }
    let mismatch = |found: String, expected: &Checksum| HttpError::Mismatch {
        url: url.to_owned(),
        expected: expected.to_string(),
        found,
    };
    if let (Some(found), Some(expected)) = (sum.finish(), checksum)
        && found != *expected
    {
        return Err(mismatch(found.to_string(), expected));
    }
    let digest = match checksum {
        Some(Checksum::Sha256(digest)) => Some(digest),
        _ => None,
    };
    match (writer.commit(digest), checksum) {
        (Err(ContentError::WrongDigest { actual, .. }), Some(expected)) => Err(mismatch(actual.to_string(), expected)),
        (result, _) => Ok(Some(result?)),
    }
}
