//! Blobs from one repository to another, past the store: mounted where both are in one registry, else streamed through.
//!
//! In: two names and a descriptor. Out: the blob in the second repository. What is read at one end ([`super::fetch`],
//! with its mirrors, tries and ranges) goes through a [`Pipe`] of a few pieces to the other ([`super::upload`], with its
//! chunks), which hashes it and finishes nothing that is not its digest's. An upload that goes back reads from the start
//! again; one that goes on in the next chunk reads on. Deliberately absent: manifests.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::error::RegistryError;
use super::push::{PushBlob, Upload};
use super::{Client, locked};
use crate::content::{BlobReader, BlobWriter, ContentError, ContentStore};
use crate::model::{Descriptor, Digest, Reference};

/// Pieces, of some kibibytes each, between the two ends.
const PIECES_AHEAD: usize = 16;

impl Client {
    /// Takes a blob of the repository of `from` to that of `to`, unless it is there. `progress` is told how many bytes
    /// are there so far; what needed no sending is reported whole at once.
    ///
    /// No more than half of the registry's connections may do this at once: where a mount is refused, each takes two.
    pub async fn copy_blob(
        &self,
        from: &Reference,
        to: &Reference,
        descriptor: &Descriptor,
        progress: &(dyn Fn(&Digest, u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        if (from.registry(), from.repository()) == (to.registry(), to.repository()) {
            progress(&descriptor.digest, descriptor.size);
            return Ok(());
        }
        let (site, image) = &self.shared.origin(to).await?;
        let pipe = Pipe {
            client: self.clone(),
            from: from.clone(),
            descriptor: descriptor.clone(),
            stream: Arc::default(),
            why: Arc::default(),
        };
        let blob = PushBlob { descriptor: descriptor.clone(), mount_from: vec![from.clone()] };
        let upload = Upload { site, image, blob: &blob, from: &pipe, progress };
        let sent = self.shared.push_blob(&upload).await;
        // What broke at the reading end says more than that the upload stopped.
        let why = locked(&pipe.why).take();
        match (sent, why) {
            (Err(_), Some(why)) => Err(why),
            (sent, _) => sent,
        }
    }

    /// How many of [`Client::copy_blob`] may go side by side.
    pub fn copies_at_once(&self) -> usize {
        (self.shared.connections_per_host / 2).max(1)
    }
}

/// One blob of a registry, looked at as a store that holds nothing else.
struct Pipe {
    client: Client,
    from: Reference,
    descriptor: Descriptor,
    /// What is being read, between two reads: the next is perhaps another reader's, which may begin before the last one
    /// is dropped.
    stream: Arc<Mutex<Option<Stream>>>,
    /// Why reading ended early.
    why: Arc<Mutex<Option<RegistryError>>>,
}

/// Bytes on their way.
struct Stream {
    pieces: mpsc::Receiver<Vec<u8>>,
    /// The rest of a piece.
    rest: io::Cursor<Vec<u8>>,
    /// Where in the blob the next byte is.
    at: u64,
}

impl ContentStore for Pipe {
    fn open(&self, digest: &Digest) -> Result<Option<Box<dyn BlobReader>>, ContentError> {
        if *digest != self.descriptor.digest {
            return Ok(None);
        }
        let reader = Reader {
            client: self.client.clone(),
            from: self.from.clone(),
            descriptor: self.descriptor.clone(),
            slot: self.stream.clone(),
            at: 0,
            why: self.why.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        Ok(Some(Box::new(reader)))
    }

    fn writer(&self) -> Result<Box<dyn BlobWriter>, ContentError> {
        Err(ContentError::Missing { digest: self.descriptor.digest })
    }
}

struct Reader {
    client: Client,
    from: Reference,
    descriptor: Descriptor,
    slot: Arc<Mutex<Option<Stream>>>,
    at: u64,
    why: Arc<Mutex<Option<RegistryError>>>,
    runtime: tokio::runtime::Handle,
}

impl Reader {
    /// The stream from where this reader stands: the last one's if it stands there too, else a new one.
    fn take_stream(&self) -> Stream {
        let kept = locked(&self.slot).take();
        kept.filter(|stream| stream.at == self.at).unwrap_or_else(|| self.start())
    }

    fn start(&self) -> Stream {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let source = Source { pieces: sender, skip: Arc::new(Mutex::new(self.at)) };
        let (client, from, descriptor) = (self.client.clone(), self.from.clone(), self.descriptor.clone());
        let why = self.why.clone();
        self.runtime.spawn(async move {
            if let Err(error) = client.shared.fetch_blob(&from, &descriptor, &source, &|_| {}).await {
                // A reader that had enough hangs up: that is no reason to tell.
                match source.pieces.is_closed() {
                    true => tracing::debug!(%error, "nobody reads the blob any more"),
                    false => drop(locked(&why).replace(error)),
                }
            }
        });
        Stream { pieces, rest: io::Cursor::default(), at: self.at }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.at >= self.descriptor.size {
            // Only when the other end has hashed all of it is it known to be whole.
            let stream = locked(&self.slot).take();
            if let Some(mut stream) = stream {
                while stream.pieces.blocking_recv().is_some() {}
            }
            return if locked(&self.why).is_some() { Err(io::ErrorKind::InvalidData.into()) } else { Ok(0) };
        }
        let mut stream = self.take_stream();
        loop {
            let count = stream.rest.read(buffer)?;
            if count > 0 {
                stream.at += count as u64;
                self.at = stream.at;
                *locked(&self.slot) = Some(stream);
                return Ok(count);
            }
            match stream.pieces.blocking_recv() {
                Some(piece) => stream.rest = io::Cursor::new(piece),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.descriptor.size.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.descriptor.size
    }
}

/// The reading end: a store whose blobs go into the pipe. A second writer, of another mirror or after bytes that were
/// wrong, leaves out what has gone through; both ends hash all of it.
struct Source {
    pieces: mpsc::Sender<Vec<u8>>,
    /// How many bytes from the start are left out.
    skip: Arc<Mutex<u64>>,
}

impl ContentStore for Source {
    fn open(&self, _: &Digest) -> Result<Option<Box<dyn BlobReader>>, ContentError> {
        Ok(None)
    }

    fn writer(&self) -> Result<Box<dyn BlobWriter>, ContentError> {
        let (pieces, skip) = (self.pieces.clone(), self.skip.clone());
        Ok(Box::new(PipeWriter { pieces, skip, at: 0, hash: Sha256::new() }))
    }
}

struct PipeWriter {
    pieces: mpsc::Sender<Vec<u8>>,
    skip: Arc<Mutex<u64>>,
    at: u64,
    hash: Sha256,
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let start = self.at;
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        let known = locked(&self.skip).saturating_sub(start).min(bytes.len() as u64);
        let fresh = &bytes[usize::try_from(known).unwrap_or(bytes.len())..];
        if !fresh.is_empty() {
            self.pieces.blocking_send(fresh.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            *locked(&self.skip) = self.at;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for PipeWriter {
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> Result<(Digest, u64), ContentError> {
        let actual = Digest::from_bytes(self.hash.finalize().into());
        match expected.filter(|expected| **expected != actual) {
            Some(&expected) => Err(ContentError::WrongDigest { expected, actual }),
            None => Ok((actual, self.at)),
        }
    }
}
