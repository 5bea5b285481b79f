//! Blobs that are still on their way, read while they are written.
//!
//! Whoever fetches writes into the store through [`Watched`]; whoever unpacks reads the same file behind it
//! ([`Arriving::reader`]), waiting where it ends for now. So neither waits for the other but for bytes, and a transfer
//! that begins anew only ends the reading. Nothing that was read counts before the blob is committed, which is when its
//! digest was right: [`Arriving::settled`]. Deliberately absent: fetching, unpacking.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use oci::content::{BlobReader, BlobWriter, ContentError, ContentStore};
use oci::model::Digest;
use store::Blobs;

/// Blobs on their way, by digest. Clones are of the same.
#[derive(Clone, Default)]
pub struct Arrivals {
    blobs: HashMap<Digest, Arc<Arriving>>,
}

impl Arrivals {
    /// Expects these.
    pub fn expect(digests: impl IntoIterator<Item = Digest>) -> Self {
        Self { blobs: digests.into_iter().map(|digest| (digest, Arc::default())).collect() }
    }

    /// The one with that digest, if it is expected.
    pub fn get(&self, digest: &Digest) -> Option<&Arc<Arriving>> {
        self.blobs.get(digest)
    }

    /// No more will come.
    pub fn give_up(&self) {
        self.blobs.values().for_each(|blob| blob.end(End::GivenUp));
    }
}

/// When it goes, nothing more will come: who reads must not wait for a transfer that nobody drives any more.
pub struct GivenUp(pub Arrivals);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// One blob on its way.
#[derive(Default)]
pub struct Arriving {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    /// Which writer it is; a transfer that begins anew has another one.
    writer: u64,
    file: Option<Arc<File>>,
    written: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is in the store.
    Here,
    GivenUp,
}

impl Arriving {
    /// It is in the store, however it came there.
    pub fn arrived(&self) {
        self.end(End::Here);
    }

    /// Waits until it is in the store; `false` when it will not come.
    pub fn settled(&self) -> bool {
        let state = self.moved.wait_while(self.lock(), |state| state.end.is_none());
        state.unwrap_or_else(PoisonError::into_inner).end == Some(End::Here)
    }

    /// Reads it from the start; `None` when it is in the store already, or will not come.
    pub fn reader(self: &Arc<Self>) -> Option<Follower> {
        let begun = |state: &mut State| state.file.is_none() && state.end.is_none();
        let state = self.moved.wait_while(self.lock(), begun).unwrap_or_else(PoisonError::into_inner);
        let file = state.file.clone().filter(|_| state.end != Some(End::GivenUp))?;
        Some(Follower { blob: self.clone(), writer: state.writer, file, offset: 0 })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves it whole: every change is a few assignments.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.moved.notify_all();
    }

    fn end(&self, end: End) {
        self.change(|state| state.end = state.end.or(Some(end)));
    }
}

/// Reads behind a writer.
pub struct Follower {
    blob: Arc<Arriving>,
    writer: u64,
    file: Arc<File>,
    offset: u64,
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let offset = self.offset;
        let waits = |state: &mut State| state.writer == self.writer && state.written <= offset && state.end.is_none();
        let state = self.blob.moved.wait_while(self.blob.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        if state.writer != self.writer || state.end == Some(End::GivenUp) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the blob does not arrive as it began"));
        }
        let there = usize::try_from(state.written - offset).unwrap_or(usize::MAX);
        drop(state);
        let most = there.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// The store's blobs, one of which is read while it is written.
pub struct Watched<'a> {
    /// Where it goes.
    pub blobs: &'a Blobs,
    /// Who is told.
    pub arriving: Arc<Arriving>,
}

impl ContentStore for Watched<'_> {
    fn open(&self, digest: &Digest) -> Result<Option<Box<dyn BlobReader>>, ContentError> {
        self.blobs.open(digest)
    }

    fn writer(&self) -> Result<Box<dyn BlobWriter>, ContentError> {
        let (writer, file) = self.blobs.writer_to_follow()?;
        self.arriving.change(|state| {
            state.writer += 1;
            (state.file, state.written) = (Some(Arc::new(file)), 0);
        });
        Ok(Box::new(Telling { writer, arriving: self.arriving.clone() }))
    }
}

struct Telling {
    writer: Box<dyn BlobWriter>,
    arriving: Arc<Arriving>,
}

impl Write for Telling {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.arriving.change(|state| state.written += count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl BlobWriter for Telling {
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> Result<(Digest, u64), ContentError> {
        let committed = self.writer.commit(expected)?;
        self.arriving.arrived();
        Ok(committed)
    }
}

#[cfg(test)]
mod tests {
    use store::Store;

    use super::*;

    fn write(watched: &Watched<'_>, pieces: &[&[u8]]) -> Box<dyn BlobWriter> {
        let mut writer = watched.writer().unwrap();
        pieces.iter().for_each(|piece| writer.write_all(piece).unwrap());
        writer
    }

    #[test]
    fn a_blob_is_read_while_it_comes_and_ends_when_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let arrivals = Arrivals::expect([Digest::of(b"abcdef")]);
        let arriving = arrivals.get(&Digest::of(b"abcdef")).unwrap().clone();
        let watched = Watched { blobs: store.blobs(), arriving: arriving.clone() };
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut text = String::new();
                arriving.reader().unwrap().read_to_string(&mut text).map(|_| text)
            });
            let mut writer = write(&watched, &[b"abc"]);
            writer.write_all(b"def").unwrap();
            assert!(!reading.is_finished(), "it may be more");
            writer.commit(Some(&Digest::of(b"abcdef"))).unwrap();
            assert_eq!(reading.join().unwrap().unwrap(), "abcdef");
        });
        assert!(arriving.settled());
    }

    #[test]
    fn a_transfer_that_begins_anew_or_ends_is_no_blob() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let digest = Digest::of(b"right");
        let arrivals = Arrivals::expect([digest]);
        let arriving = arrivals.get(&digest).unwrap().clone();
        let watched = Watched { blobs: store.blobs(), arriving: arriving.clone() };
        let first = write(&watched, &[b"wrong"]);
        let mut reader = arriving.reader().unwrap();
        assert!(first.commit(Some(&digest)).is_err());
        let second = write(&watched, &[b"ri"]);
        let mut buffer = [0; 9];
        assert!(reader.read(&mut buffer).is_err(), "what it read was another's");
        let mut reader = arriving.reader().unwrap();
        assert_eq!(reader.read(&mut buffer).unwrap(), 2);
        drop(second);
        arrivals.give_up();
        assert!(reader.read(&mut buffer).is_err());
        assert!(!arriving.settled());
        assert!(arriving.reader().is_none());
    }
}
