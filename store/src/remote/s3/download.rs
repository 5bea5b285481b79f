//! A blob out of a bucket into the store.
//!
//! In: a descriptor. Out: a blob of that digest and size, or nothing. A transfer that breaks off goes on where it
//! stopped; more bytes than the descriptor says are refused as soon as they come.

use std::io::Write as _;

use oci::content::{BlobWriter, ContentError, ContentStore as _};
use oci::http::Tries;
use oci::http::reqwest::Method;
use oci::model::Descriptor;

use super::request::{Act, Request, Trouble};
use super::{RemoteError, S3};
use crate::Blobs;

/// Written to disk at once.
const WRITE_BYTES: usize = 1 << 20;
/// Progress that makes a broken transfer worth going on with from zero tries.
const PROGRESS_MIN_BYTES: u64 = 1 << 20;

/// A transfer that is under way.
struct Partial {
    /// `None` only while a thread has it.
    writer: Option<Box<dyn BlobWriter>>,
    /// Bytes that it got.
    written: u64,
    waiting: Vec<u8>,
}

/// What hinders a transfer.
enum Hindrance {
    Trouble(Trouble),
    Error(RemoteError),
}

impl From<Trouble> for Hindrance {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<ContentError> for Hindrance {
    fn from(error: ContentError) -> Self {
        Self::Error(error.into())
    }
}

/// See [`super::Remote::fetch`].
pub(super) async fn fetch(
    place: &S3,
    blob: &Descriptor,
    into: &Blobs,
    heard: &(dyn Fn(u64) + Sync),
) -> Result<(), RemoteError> {
    if into.size(&blob.digest)? == Some(blob.size) {
        heard(blob.size);
        return Ok(());
    }
    let mut partial = Partial::new(into)?;
    let mut tries = Tries::new(&*place.shared.pace);
    loop {
        let before = partial.reached();
        let trouble = match stream(place, blob, into, &mut partial, heard).await {
            Ok(()) => break,
            Err(Hindrance::Error(error)) => return Err(error),
            Err(Hindrance::Trouble(trouble)) => trouble,
        };
        if partial.reached() >= before + PROGRESS_MIN_BYTES {
            tries.progressed();
        }
        tracing::debug!(digest = %blob.digest, ?trouble, "a transfer from a bucket failed");
        if !tries.again(trouble.wait()).await {
            return Err(place.failed(Act::Read, trouble));
        }
    }
    partial.flush().await?;
    let writer = partial.writer.take().expect("no thread has it");
    let digest = blob.digest;
    blocking(move || writer.commit(Some(&digest))).await?;
    Ok(())
}

/// One answer, from where the transfer stands.
async fn stream(
    place: &S3,
    blob: &Descriptor,
    into: &Blobs,
    partial: &mut Partial,
    heard: &(dyn Fn(u64) + Sync),
) -> Result<(), Hindrance> {
    let shared = &*place.shared;
    let key = place.key_of(blob);
    let url = || shared.signed(&shared.bucket.get_object(shared.credentials.as_ref(), &key));
    let start = partial.reached();
    let request = Request { start, ..Request::new(Method::GET, &url) };
    let missing = || RemoteError::NoBlob { place: place.place.clone(), digest: blob.digest };
    let mut answer = shared.once(&request).await?.ok_or_else(|| Hindrance::Error(missing()))?;
    let continues = answer.status() == 206
        && answer.header("content-range").is_some_and(|range| range.starts_with(&format!("bytes {start}-")));
    if start > 0 && !continues {
        *partial = Partial::new(into)?;
        if answer.status() != 200 {
            return Err(Trouble::Protocol("it gave another part of a blob than asked for".into()).into());
        }
    }
    let wrong_size = |actual| ContentError::WrongSize { digest: blob.digest, expected: blob.size, actual };
    let length = answer.header("content-length").and_then(|text| text.parse::<u64>().ok());
    if let Some(all) = length.and_then(|length| length.checked_add(partial.reached())).filter(|all| *all != blob.size) {
        return Err(wrong_size(all).into());
    }
    while let Some(piece) = answer.chunk().await? {
        let all = partial.reached() + piece.as_ref().len() as u64;
        if all > blob.size {
            return Err(wrong_size(all).into());
        }
        partial.waiting.extend_from_slice(piece.as_ref());
        if partial.waiting.len() >= WRITE_BYTES {
            partial.flush().await?;
        }
        heard(all);
    }
    if partial.reached() < blob.size {
        let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        return Err(Trouble::Transport { connecting: false, source: source.into() }.into());
    }
    Ok(())
}

impl Partial {
    fn new(into: &Blobs) -> Result<Self, ContentError> {
        Ok(Self { writer: Some(into.writer()?), written: 0, waiting: Vec::new() })
    }

    /// Bytes that came.
    fn reached(&self) -> u64 {
        self.written + self.waiting.len() as u64
    }

    /// Writes what waits, on a thread that may block.
    async fn flush(&mut self) -> Result<(), ContentError> {
        let mut writer = self.writer.take().expect("no thread has it");
        let bytes = std::mem::take(&mut self.waiting);
        self.written += bytes.len() as u64;
        let written = blocking(move || {
            writer.write_all(&bytes).map_err(ContentError::io("write a blob of a cache"))?;
            Ok(writer)
        });
        self.writer = Some(written.await?);
        Ok(())
    }
}

/// Runs what blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ContentError> + Send + 'static,
) -> Result<T, ContentError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(ContentError::io("work on a blob of a cache")(std::io::Error::other(error))),
    }
}
