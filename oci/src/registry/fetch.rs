//! Blobs out of a registry, into a store.
//!
//! Bytes stream from the wire to a blocking thread that writes and hashes them; memory stays bounded by a few pieces.
//! A cut transfer goes on with `Range` where it stopped; a registry that ignores the range is read from the start and
//! the known part skipped. Size is checked on the way, the digest at the commit, and what does not match is gone.
//! distribution-spec, "Pulling blobs". Deliberately absent: `urls` of descriptors: foreign layers come from the
//! registry or not at all.

use reqwest::header::{HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::auth::{Access, Site};
use super::error::{RegistryError, RequestName};
use super::retry::Attempts;
use super::route::Place;
use super::transport::{Answer, Outgoing, Payload};
use crate::content::{BlobWriter, ContentError, ContentStore};
use crate::hosts::Act;
use crate::model::{Descriptor, Digest, Reference};

/// Pieces between the wire and the disk.
const PIECES_AHEAD: usize = 16;
/// Progress that makes a cut transfer worth going on with from zero tries: a server that sends a byte at a time and
/// hangs up does not keep a build for ever.
const PROGRESS_MIN_BYTES: u64 = 1 << 20;

impl Shared {
    pub(super) async fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        into: &dyn ContentStore,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let digest = descriptor.digest;
        let content = |act| move |source| RegistryError::Content { act, digest, source };
        if into.open(&digest).map_err(content("read"))?.is_some_and(|blob| blob.size() == descriptor.size) {
            progress(descriptor.size);
            return Ok(());
        }
        let mut route = self.route(reference, Act::Pull)?;
        loop {
            match self.fetch_from(route.place(), descriptor, into, progress).await {
                Ok(()) => {
                    route.arrived();
                    return Ok(());
                }
                Err(error) => route.pass(error)?,
            }
        }
    }

    /// The blob from one place.
    async fn fetch_from(
        &self,
        place: &Place,
        descriptor: &Descriptor,
        into: &dyn ContentStore,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let (digest, reference) = (descriptor.digest, &place.image);
        let content = |act| move |source| RegistryError::Content { act, digest, source };
        let site = self.site(place).await?;
        let mut first = true;
        loop {
            let writer = into.writer().map_err(content("store"))?;
            let (result, resumed) = self.download(&site, reference, descriptor, writer, progress).await;
            match result {
                // The parts may be of different origin, all of them honest: a mirror that was behind, for example.
                Err(RegistryError::DigestMismatch { .. }) if resumed && first => {
                    tracing::info!(%digest, "a resumed transfer gave other bytes; once more from the start");
                    first = false;
                }
                result => return result,
            }
        }
    }

    /// One blob through one writer. Tells whether it was put together from several answers.
    async fn download(
        &self,
        site: &Site,
        reference: &Reference,
        descriptor: &Descriptor,
        writer: Box<dyn BlobWriter>,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> (Result<(), RegistryError>, bool) {
        let mut sink = Sink::new(writer, descriptor.digest);
        let mut attempts = Attempts::new(&*self.pace).with_alternative(site.is_mirror);
        let (mut resumed, mut ranges) = (false, true);
        let request = loop {
            let before = sink.written;
            resumed |= before > 0;
            match self.stream(site, reference, descriptor, &mut sink, ranges, progress).await {
                Ok(request) => break request,
                Err(RegistryError::Protocol { .. } | RegistryError::Status { status: 416, .. })
                    if before > 0 && ranges && sink.written == before =>
                {
                    tracing::info!(digest = %descriptor.digest, "the registry has no use for ranges; once more from the start");
                    ranges = false;
                }
                Err(error) => {
                    if sink.written - before >= PROGRESS_MIN_BYTES {
                        attempts.progressed();
                    }
                    if let Err(error) = attempts.pause(error).await {
                        return (Err(error), resumed);
                    }
                }
            }
        };
        (sink.commit(Some(request)).await, resumed)
    }

    /// One answer into the sink, from where it stands to the blob's end. Without `ranges` the known part is skipped.
    async fn stream(
        &self,
        site: &Site,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut Sink,
        ranges: bool,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<RequestName, RegistryError> {
        let (size, start) = (descriptor.size, sink.written);
        let mut answer = self.open(site, reference, descriptor, if ranges { start } else { 0 }).await?;
        let mut skip = match answer.status() {
            StatusCode::PARTIAL_CONTENT if start > 0 && ranges => {
                let range = answer.header("content-range").unwrap_or_default();
                if !is_range_from(range, start, size) {
                    return Err(answer.protocol("its `Content-Range` is not the one asked for"));
                }
                0
            }
            // The range was ignored, or none was asked for.
            StatusCode::OK => start,
            other => return Err(answer.protocol(format!("{} means nothing here", other.as_u16()))),
        };
        let wrong_size = |answer: &Answer, found| RegistryError::SizeMismatch {
            request: answer.request.clone(),
            digest: descriptor.digest,
            expected: size,
            found,
        };
        // Bytes of the blob that this answer leaves out.
        let absent = start - skip;
        if let Some(length) = answer.content_length().filter(|length| length.checked_add(absent) != Some(size)) {
            return Err(wrong_size(&answer, length.checked_add(absent)));
        }
        loop {
            let piece = match answer.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                // What broke after the last byte is of no interest; the digest will tell.
                Err(error) if sink.written == size => {
                    tracing::debug!(%error, "the end of an answer is lost");
                    break;
                }
                Err(error) => return Err(error),
            };
            let length = piece.as_ref().len() as u64;
            let skipped = skip.min(length);
            skip -= skipped;
            if sink.written + (length - skipped) > size {
                return Err(wrong_size(&answer, None));
            }
            if length > skipped {
                if !sink.write(piece, skipped as usize).await {
                    return Err(sink.failure(None).await);
                }
                progress(sink.written);
            }
        }
        if sink.written < size {
            // A body that ends early without a broken connection: treated as one.
            let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            let request = answer.request.clone();
            return Err(RegistryError::Transport { request, attempts: 1, connecting: false, source: source.into() });
        }
        Ok(answer.request.clone())
    }

    /// The answer to a request for a blob from `start` on.
    async fn open(
        &self,
        site: &Site,
        reference: &Reference,
        descriptor: &Descriptor,
        start: u64,
    ) -> Result<Answer, RegistryError> {
        let repository = reference.repository();
        let mut headers = HeaderMap::new();
        if start > 0 {
            let range = format!("bytes={start}-");
            headers.insert(RANGE, HeaderValue::try_from(range).expect("digits can stand in a header"));
        }
        let outgoing = Outgoing {
            method: Method::GET,
            url: site.url(&format!("{repository}/blobs/{}", descriptor.digest))?,
            headers,
            payload: Payload::Empty,
        };
        let mut answer = self.ask(site, &Access::pull(repository), &outgoing).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let (words, retry_after) = answer.words(self.pace.now()).await;
        let request = answer.request.clone();
        Err(match status.as_u16() {
            404 => RegistryError::BlobNotFound {
                digest: descriptor.digest,
                image: Box::new(reference.clone()),
                request,
                words,
            },
            status => RegistryError::Status { request, status, words, retry_after, attempts: 1 },
        })
    }

    /// A small blob in memory, verified.
    pub(super) async fn fetch_small(
        &self,
        site: &Site,
        reference: &Reference,
        descriptor: &Descriptor,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut attempts = Attempts::new(&*self.pace).with_alternative(site.is_mirror);
        loop {
            let once = async {
                let mut answer = self.open(site, reference, descriptor, 0).await?;
                let request = answer.request.clone();
                if descriptor.size > limit_bytes {
                    return Err(RegistryError::TooLarge { request, limit_bytes });
                }
                let bytes = answer.body(limit_bytes).await?;
                check(&bytes, descriptor, &request)?;
                Ok(bytes)
            };
            match once.await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }
}

/// Whether bytes are those of a descriptor.
pub(super) fn check(bytes: &[u8], descriptor: &Descriptor, request: &RequestName) -> Result<(), RegistryError> {
    let (expected, found) = (descriptor.digest, Digest::of(bytes));
    if bytes.len() as u64 != descriptor.size {
        return Err(RegistryError::SizeMismatch {
            request: request.clone(),
            digest: expected,
            expected: descriptor.size,
            found: Some(bytes.len() as u64),
        });
    }
    if found != expected {
        return Err(RegistryError::DigestMismatch { request: request.clone(), expected, found });
    }
    Ok(())
}

/// Puts a small document into a store, off the runtime's threads.
pub(super) async fn put(into: &dyn ContentStore, digest: Digest, bytes: &[u8]) -> Result<(), RegistryError> {
    let writer = into.writer().map_err(|source| RegistryError::Content { act: "store", digest, source })?;
    let mut sink = Sink::new(writer, digest);
    if !sink.write(bytes.to_vec(), 0).await {
        return Err(sink.failure(None).await);
    }
    sink.commit(None).await
}

/// `bytes 5-9/10` for a range from 5 of 10 bytes. RFC 9110, section 14.4.
fn is_range_from(value: &str, start: u64, size: u64) -> bool {
    let parse = || {
        let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total_fits = total == "*" || total.parse() == Ok(size);
        Some(first.parse() == Ok(start) && last.parse::<u64>().ok()?.checked_add(1)? == size && total_fits)
    };
    parse().unwrap_or(false)
}

/// A blob writer on a thread that may block. Dropped before its commit, it leaves nothing.
struct Sink {
    pieces: mpsc::Sender<Piece>,
    /// Taken by whoever hears it.
    outcome: Option<oneshot::Receiver<Result<(), Failure>>>,
    written: u64,
    digest: Digest,
}

enum Piece {
    /// Bytes, and how many of the first are left out.
    Bytes(Box<dyn AsRef<[u8]> + Send>, usize),
    Commit,
}

enum Failure {
    Write(std::io::Error),
    Commit(ContentError),
}

impl Sink {
    fn new(mut writer: Box<dyn BlobWriter>, digest: Digest) -> Self {
        let (pieces, mut received) = mpsc::channel(PIECES_AHEAD);
        let (report, outcome) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let mut run = || {
                while let Some(piece) = received.blocking_recv() {
                    match piece {
                        Piece::Bytes(bytes, skipped) => {
                            writer.write_all(&(*bytes).as_ref()[skipped..]).map_err(Failure::Write)?;
                        }
                        Piece::Commit => return Ok(true),
                    }
                }
                Ok(false)
            };
            let result = match run() {
                Ok(true) => writer.commit(Some(&digest)).map(|_| ()).map_err(Failure::Commit),
                Ok(false) => {
                    drop(writer);
                    Ok(())
                }
                Err(failure) => Err(failure),
            };
            // Nobody listens any more when the transfer was given up.
            drop(report.send(result));
        });
        Self { pieces, outcome: Some(outcome), written: 0, digest }
    }

    /// Hands bytes over, all but the first `skipped`; `false` when the writer has failed.
    async fn write(&mut self, bytes: impl AsRef<[u8]> + Send + 'static, skipped: usize) -> bool {
        let count = bytes.as_ref().len() - skipped;
        let taken = self.pieces.send(Piece::Bytes(Box::new(bytes), skipped)).await.is_ok();
        self.written += if taken { count as u64 } else { 0 };
        taken
    }

    async fn commit(mut self, request: Option<RequestName>) -> Result<(), RegistryError> {
        if self.pieces.send(Piece::Commit).await.is_err() {
            return Err(self.failure(request).await);
        }
        match self.outcome().await {
            Some(Ok(())) => Ok(()),
            Some(Err(failure)) => Err(self.error(failure, request)),
            None => Err(self.vanished()),
        }
    }

    /// Why the writer failed.
    async fn failure(&mut self, request: Option<RequestName>) -> RegistryError {
        match self.outcome().await {
            Some(Err(failure)) => self.error(failure, request),
            _ => self.vanished(),
        }
    }

    async fn outcome(&mut self) -> Option<Result<(), Failure>> {
        self.outcome.take()?.await.ok()
    }

    fn error(&self, failure: Failure, request: Option<RequestName>) -> RegistryError {
        match (failure, request) {
            (Failure::Write(source), _) => RegistryError::Write { digest: self.digest, source },
            (Failure::Commit(ContentError::WrongDigest { expected, actual }), Some(request)) => {
                RegistryError::DigestMismatch { request, expected, found: actual }
            }
            (Failure::Commit(source), _) => RegistryError::Content { act: "store", digest: self.digest, source },
        }
    }

    fn vanished(&self) -> RegistryError {
        RegistryError::Write { digest: self.digest, source: std::io::Error::other("the thread that wrote it is gone") }
    }
}

#[cfg(test)]
mod tests {
    use super::is_range_from;

    #[test]
    fn only_the_range_asked_for_is_taken() {
        let cases = [
            ("bytes 5-9/10", true),
            ("bytes 5-9/*", true),
            ("bytes 4-9/10", false),
            ("bytes 5-8/10", false),
            ("bytes 5-9/11", false),
            ("bytes 5-18446744073709551615/10", false),
            ("bytes */10", false),
            ("", false),
        ];
        for (value, want) in cases {
            assert_eq!(is_range_from(value, 5, 10), want, "{value}");
        }
    }
}
