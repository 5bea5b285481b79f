//! Content by digest: put bytes, get a digest; give a digest, get the bytes.
//!
//! The seam is [`ContentStore`]; the real one is the store's blobs directory, the toy is [`MemoryStore`]. Beside it
//! stand the readers that trust nothing: [`VerifiedReader`] checks digest and size of what streams through it,
//! [`read_bytes`] and [`read_json`] do so for small documents. All of it blocks. Deliberately absent: media types
//! (see [`crate::image`]), names, deletion.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Cursor, Read, Seek, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::json;
use crate::model::{Descriptor, Digest};

/// Bytes that stand still: read from anywhere in them.
pub trait BlobReader: Read + Seek + Send {
    /// How many bytes there are in all.
    fn size(&self) -> u64;
}

/// Puts and opens blobs by digest. Shared by all tasks; every call may block on a disk.
pub trait ContentStore: Send + Sync {
    /// The blob, or `None` if it is not here. Its bytes are those that once matched the digest; whoever must be sure
    /// that they still do reads through [`VerifiedReader`].
    fn open(&self, digest: &Digest) -> Result<Option<Box<dyn BlobReader>>, ContentError>;

    /// Whether this process hashed the blob as it wrote it, a moment ago: who reads it back reads what was hashed. Only
    /// what is ours anyway may be believed so; what comes from elsewhere is checked before use.
    fn is_fresh(&self, _digest: &Digest) -> bool {
        false
    }

    /// A new blob, made aside: nothing can be opened until it is committed.
    fn writer(&self) -> Result<Box<dyn BlobWriter>, ContentError>;
}

/// A blob being written; it is hashed on the way. Dropping it discards it.
pub trait BlobWriter: Write + Send {
    /// Makes the blob openable and returns its digest and size in bytes. With `expected`, a blob of another digest is
    /// an error that names both, and nothing is kept. Committing what is already there is fine.
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> Result<(Digest, u64), ContentError>;
}

/// Why content could not be put or had.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Nobody put it here.
    #[error("there is no blob `{digest}` here")]
    Missing {
        /// What was asked for.
        digest: Digest,
    },
    /// The bytes are not those that the digest promises.
    #[error("the bytes have the digest `{actual}`, but `{expected}` was promised")]
    WrongDigest {
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// There are more or fewer bytes than promised.
    #[error("blob `{digest}` has {actual} bytes, but {expected} were promised")]
    WrongSize {
        /// Which blob.
        digest: Digest,
        /// Bytes promised.
        expected: u64,
        /// Bytes there; when the reader stopped early, those that were read.
        actual: u64,
    },
    /// A document is too long to be read into memory.
    #[error("blob `{digest}` has {size} bytes; {limit} at most are read of such a document")]
    TooLarge {
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A document is no JSON, or not of the expected form.
    #[error("blob `{digest}` is not the JSON document it should be: {source}")]
    Json {
        /// Which blob.
        digest: Digest,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Reading or writing failed.
    #[error("cannot {act}: {source}")]
    Io {
        /// What was being done, and to what: "read blob `sha256:…`", "write `/…/tmp/x`".
        act: String,
        /// Why not.
        source: io::Error,
    },
}

impl ContentError {
    /// An io error together with the act that failed.
    pub fn io(act: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let act = act.into();
        move |source| match source.downcast::<ContentError>() {
            Ok(content) => content,
            Err(source) => Self::Io { act, source },
        }
    }
}

/// A content error can cross an [`io::Read`] and be found again on the other side (see [`ContentError::io`]).
impl From<ContentError> for io::Error {
    fn from(error: ContentError) -> Self {
        let kind = match &error {
            ContentError::Missing { .. } => io::ErrorKind::NotFound,
            ContentError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// Lets bytes through and, at their end, compares digest and size with what was promised. A byte too many is an error
/// as soon as it is seen. Only who reads to the end (a read that returns 0) has verified anything.
pub struct VerifiedReader<R> {
    inner: R,
    hasher: Sha256,
    read: u64,
    digest: Digest,
    size: Option<u64>,
    done: bool,
}

impl<R: Read> VerifiedReader<R> {
    /// Reads `inner`, which should have this digest and, when known, this size in bytes.
    pub fn new(inner: R, digest: Digest, size: Option<u64>) -> Self {
        Self { inner, hasher: Sha256::new(), read: 0, digest, size, done: false }
    }

    /// Reads what is left and so verifies all of it.
    pub fn finish(mut self) -> Result<(), ContentError> {
        io::copy(&mut self, &mut io::sink()).map_err(ContentError::io(format!("read blob `{}`", self.digest)))?;
        Ok(())
    }

    fn wrong_size(&self) -> ContentError {
        ContentError::WrongSize { digest: self.digest, expected: self.size.unwrap_or(self.read), actual: self.read }
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.done {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        if count == 0 {
            if self.size.is_some_and(|size| size != self.read) {
                return Err(self.wrong_size().into());
            }
            let actual = Digest::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
            if actual != self.digest {
                return Err(ContentError::WrongDigest { expected: self.digest, actual }.into());
            }
            self.done = true;
        } else if self.size.is_some_and(|size| self.read > size) {
            return Err(self.wrong_size().into());
        }
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// The blob of a descriptor as a verified stream. Fails at once if it is missing or has another size.
pub fn open_verified(
    store: &dyn ContentStore,
    descriptor: &Descriptor,
) -> Result<VerifiedReader<Box<dyn BlobReader>>, ContentError> {
    let digest = descriptor.digest;
    let blob = store.open(&digest)?.ok_or(ContentError::Missing { digest })?;
    if blob.size() != descriptor.size {
        return Err(ContentError::WrongSize { digest, expected: descriptor.size, actual: blob.size() });
    }
    Ok(VerifiedReader::new(blob, digest, Some(descriptor.size)))
}

/// The blob of a descriptor as a stream that is verified, unless it is fresh ([`ContentStore::is_fresh`]). Fails at once if
/// it is missing or has another size.
pub fn open_whole<'a>(
    store: &'a dyn ContentStore,
    descriptor: &Descriptor,
) -> Result<Box<dyn Read + Send + 'a>, ContentError> {
    let verified = open_verified(store, descriptor)?;
    let is_fresh = store.is_fresh(&descriptor.digest);
    Ok(if is_fresh { Box::new(verified.inner) } else { Box::new(verified) })
}

/// The bytes of a small document, verified. `max_bytes` bounds memory whatever the descriptor says.
pub fn read_bytes(store: &dyn ContentStore, descriptor: &Descriptor, max_bytes: u64) -> Result<Vec<u8>, ContentError> {
    let digest = descriptor.digest;
    if descriptor.size > max_bytes {
        return Err(ContentError::TooLarge { digest, size: descriptor.size, limit: max_bytes });
    }
    let mut bytes = Vec::new();
    let act = ContentError::io(format!("read blob `{digest}`"));
    open_verified(store, descriptor)?.read_to_end(&mut bytes).map_err(act)?;
    Ok(bytes)
}

/// A small JSON document, verified, and its bytes as they are. See [`json::parse`] for what is refused.
pub fn read_json<T: DeserializeOwned>(
    store: &dyn ContentStore,
    descriptor: &Descriptor,
    max_bytes: u64,
) -> Result<(T, Vec<u8>), ContentError> {
    let bytes = read_bytes(store, descriptor, max_bytes)?;
    let value = json::parse(&bytes).map_err(|source| ContentError::Json { digest: descriptor.digest, source })?;
    Ok((value, bytes))
}

/// Puts bytes that are in memory and returns their digest and size in bytes.
pub fn put_bytes(store: &dyn ContentStore, bytes: &[u8]) -> Result<(Digest, u64), ContentError> {
    let digest = Digest::of(bytes);
    let mut writer = store.writer()?;
    writer.write_all(bytes).map_err(ContentError::io(format!("write blob `{digest}`")))?;
    writer.commit(Some(&digest))
}

type Blobs = Arc<Mutex<HashMap<Digest, Arc<[u8]>>>>;

/// A store in memory, for tests. Clones share their blobs.
#[derive(Clone, Default)]
pub struct MemoryStore {
    blobs: Blobs,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.digests()).finish()
    }
}

impl MemoryStore {
    /// All digests, sorted.
    pub fn digests(&self) -> Vec<Digest> {
        let mut digests: Vec<Digest> = self.lock().keys().copied().collect();
        digests.sort();
        digests
    }

    /// Takes a blob away; tells whether it was there.
    pub fn remove(&self, digest: &Digest) -> bool {
        self.lock().remove(digest).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<[u8]>>> {
        // A panic elsewhere leaves the map whole: every change is one call.
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ContentStore for MemoryStore {
    fn open(&self, digest: &Digest) -> Result<Option<Box<dyn BlobReader>>, ContentError> {
        Ok(self.lock().get(digest).map(|bytes| Box::new(Cursor::new(bytes.clone())) as Box<dyn BlobReader>))
    }

    fn writer(&self) -> Result<Box<dyn BlobWriter>, ContentError> {
        Ok(Box::new(MemoryWriter { store: self.clone(), bytes: Vec::new() }))
    }
}

impl BlobReader for Cursor<Arc<[u8]>> {
    fn size(&self) -> u64 {
        self.get_ref().len() as u64
    }
}

struct MemoryWriter {
    store: MemoryStore,
    bytes: Vec<u8>,
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for MemoryWriter {
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> Result<(Digest, u64), ContentError> {
        let digest = Digest::of(&self.bytes);
        if let Some(&expected) = expected.filter(|expected| **expected != digest) {
            return Err(ContentError::WrongDigest { expected, actual: digest });
        }
        let size = self.bytes.len() as u64;
        self.store.lock().insert(digest, self.bytes.into());
        Ok((digest, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"{\"a\":1}";

    fn descriptor(digest: Digest, size: u64) -> Descriptor {
        Descriptor::new("application/json", digest, size)
    }

    #[test]
    fn nothing_is_visible_before_commit_and_nothing_stays_after_a_wrong_one() {
        let store = MemoryStore::default();
        let mut writer = store.writer().unwrap();
        writer.write_all(TEXT).unwrap();
        assert!(store.open(&Digest::of(TEXT)).unwrap().is_none());
        let other = Digest::of(b"other");
        let error = writer.commit(Some(&other)).unwrap_err().to_string();
        assert!(error.contains(&other.to_string()) && error.contains(&Digest::of(TEXT).to_string()), "{error}");
        assert_eq!(store.digests(), []);
        assert_eq!(put_bytes(&store, TEXT).unwrap(), (Digest::of(TEXT), 7));
        assert_eq!(store.open(&Digest::of(TEXT)).unwrap().unwrap().size(), 7);
    }

    fn check_verified(bytes: &[u8], digest: Digest, size: Option<u64>, refused_with: Option<&str>) {
        let result = VerifiedReader::new(bytes, digest, size).finish();
        match (result, refused_with) {
            (Ok(()), None) => {}
            (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{error}"),
            (got, want) => panic!("got {got:?}, wanted {want:?}"),
        }
    }

    #[test]
    fn every_byte_is_checked_against_digest_and_size() {
        let digest = Digest::of(TEXT);
        check_verified(TEXT, digest, Some(7), None);
        check_verified(TEXT, digest, None, None);
        check_verified(b"", Digest::of(b""), Some(0), None);
        check_verified(&TEXT[..6], digest, None, Some("was promised"));
        check_verified(&TEXT[..6], digest, Some(7), Some("has 6 bytes, but 7 were promised"));
        check_verified(b"{\"a\":1}x", digest, Some(7), Some("has 8 bytes, but 7"));
        check_verified(b"{\"a\":2}", digest, Some(7), Some("was promised"));
    }

    #[test]
    fn documents_are_limited_verified_and_unambiguous() {
        let store = MemoryStore::default();
        let (digest, size) = put_bytes(&store, TEXT).unwrap();
        let (value, bytes) = read_json::<serde_json::Value>(&store, &descriptor(digest, size), 7).unwrap();
        assert_eq!((value, bytes.as_slice()), (serde_json::json!({"a": 1}), TEXT));
        let refused = |descriptor: &Descriptor, limit: u64, words: &str| {
            let error = read_json::<serde_json::Value>(&store, descriptor, limit).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(&descriptor(digest, size), 6, "6 at most");
        refused(&descriptor(digest, size + 1), 100, "has 7 bytes, but 8");
        refused(&descriptor(Digest::of(b"absent"), 6), 100, "there is no blob");
        let (twice, size) = put_bytes(&store, b"{\"a\":1,\"a\":1}").unwrap();
        refused(&descriptor(twice, size), 100, "stands twice");
    }
}
