//! The bytes of one blob into an upload session.
//!
//! A session comes in; the blob is in the registry, or an error says whether a new session may do. A small blob goes in
//! one request. A large one goes in chunks, one after the other, as the specification has it: what a cut connection
//! costs is a part of one chunk, for the session is asked how much it has and the upload goes on from there. Not every
//! registry takes chunks, or as large ones: one that refuses them, or counts wrongly, gets large blobs whole from then
//! on; one that refuses a whole blob for its size gets small chunks. That is learned per registry and kept as long as
//! the client. The blob is hashed on the way, so what has rotted in the store is never finished.
//! distribution-spec, "Pushing blobs". Deliberately absent: how sessions are had ([`super::push`]).

use std::io::{self, Read, SeekFrom};
use std::sync::{Arc, Mutex};

use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Url};
use sha2::{Digest as _, Sha256};

use super::auth::{Access, Site};
use super::error::RegistryError;
use super::push::Upload;
use super::retry::Attempts;
use super::transport::{Answer, Outgoing, Payload};
use super::{Shared, locked};
use crate::content::{BlobReader, ContentError, open_verified};
use crate::model::Digest;

/// Large enough that the way there and back hardly counts, small enough to be sent again.
pub(super) const CHUNK_BYTES: u64 = 32 << 20;
/// What is tried of a registry that refuses a request for its size, the largest first.
const SMALL_CHUNKS_BYTES: [u64; 2] = [8 << 20, 1 << 20];
/// A cut chunk of which this much arrived makes what follows a new request: a connection that lasts a second at a time
/// still brings a blob there.
const PROGRESS_MIN_BYTES: u64 = 1 << 20;
/// Rehashed at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// What a registry has shown of how it takes large blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Habit {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It refuses chunks, or counts them wrongly.
    Whole,
    /// It refuses larger requests than so many bytes.
    Small(u64),
}

/// An upload that the registry has opened.
pub(super) struct Session {
    pub(super) location: Url,
    /// `OCI-Chunk-Min-Length`
    pub(super) chunk_min_bytes: u64,
}

/// A blob that did not get there.
pub(super) enum Unsent {
    /// The session is lost or of no use; a new one may do.
    Session(RegistryError),
    /// What is wrong is none of the session's.
    Request(RegistryError),
}

impl From<RegistryError> for Unsent {
    fn from(error: RegistryError) -> Self {
        Self::Request(error)
    }
}

/// How far an upload in chunks has come.
struct Progress {
    location: Url,
    /// What the registry has.
    offset: u64,
    /// The most that it had.
    reached: u64,
    /// The state after so many bytes.
    hashed: (u64, Sha256),
}

impl Shared {
    /// An answer that opens or goes on with a session. `kept` is where it was so far.
    pub(super) fn session(&self, site: &Site, answer: &Answer, kept: Option<&Url>) -> Result<Session, RegistryError> {
        let location = match kept {
            Some(kept) if !answer.headers().contains_key(LOCATION) => kept.clone(),
            _ => answer.location()?,
        };
        self.wire.rules.check_hop(&site.base, &location).map_err(|reason| RegistryError::Refused {
            request: answer.request.clone(),
            target: super::origin::display(&location),
            reason: reason.to_owned(),
        })?;
        let chunk_min_bytes = answer.header("oci-chunk-min-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Session { location, chunk_min_bytes })
    }

    /// Sends the blob into a session and finishes it.
    pub(super) async fn send(&self, upload: &Upload<'_>, access: &Access, session: Session) -> Result<(), Unsent> {
        let size = upload.blob.descriptor.size;
        let habit = locked(&self.habits).get(&upload.site.registry).copied().unwrap_or_default();
        let chunk = match habit {
            Habit::Unknown if size > self.chunk_bytes.saturating_mul(2) => self.chunk_bytes,
            Habit::Small(chunk) if size > chunk => chunk,
            _ => return self.send_whole(upload, access, session.location).await,
        };
        self.send_chunks(upload, access, &session, chunk.max(session.chunk_min_bytes)).await
    }

    /// distribution-spec, "POST then PUT".
    async fn send_whole(&self, upload: &Upload<'_>, access: &Access, location: Url) -> Result<(), Unsent> {
        let Upload { site, blob, from, progress, .. } = *upload;
        let (digest, size) = (blob.descriptor.digest, blob.descriptor.size);
        let open = || {
            let reader = open_verified(from, &blob.descriptor).map_err(|source| unreadable(upload, source))?;
            Ok(Box::new(reader) as Box<dyn Read + Send>)
        };
        let told = |sent| progress(&digest, sent);
        let outgoing = Outgoing {
            method: Method::PUT,
            url: finishing(location, digest),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, octets())]),
            payload: Payload::Blob { open: &open, digest, size, progress: &told },
        };
        let answer = self.ask(site, access, &outgoing).await?;
        match answer.status().as_u16() {
            201 | 204 => Ok(same_digest(&answer, digest)?),
            200..=299 => Err(answer.protocol(format!("{} means nothing here", answer.status().as_u16())).into()),
            // The registry lost the session, or counts otherwise.
            404 | 416 => Err(Unsent::Session(self.refusal(answer).await)),
            413 => {
                let error = self.refusal(answer).await;
                Err(if self.sends_less(site, size, size) { Unsent::Session(error) } else { error.into() })
            }
            _ => Err(self.refusal(answer).await.into()),
        }
    }

    /// distribution-spec, "Pushing a blob in chunks".
    async fn send_chunks(
        &self,
        upload: &Upload<'_>,
        access: &Access,
        session: &Session,
        chunk: u64,
    ) -> Result<(), Unsent> {
        let Upload { site, blob, .. } = *upload;
        let size = blob.descriptor.size;
        let mut at = Progress { location: session.location.clone(), offset: 0, reached: 0, hashed: (0, Sha256::new()) };
        let mut attempts = Attempts::new(&*self.pace);
        while at.offset < size {
            let before = at.offset;
            let error = match self.send_chunk(upload, access, &mut at, chunk).await {
                Ok(()) => {
                    if at.offset > at.reached {
                        at.reached = at.offset;
                        attempts.progressed();
                    }
                    continue;
                }
                Err(error) => error,
            };
            let miscounts = match error {
                RegistryError::Status { status: 404, .. } => return Err(Unsent::Session(error)),
                RegistryError::Status { status: 413, .. } => {
                    let smaller = self.sends_less(site, size, chunk);
                    return Err(if smaller { Unsent::Session(error) } else { error.into() });
                }
                RegistryError::Status { status: 400 | 405 | 411 | 415 | 501, .. } | RegistryError::Protocol { .. } => {
                    return Err(if self.sends_whole(site) { Unsent::Session(error) } else { error.into() });
                }
                RegistryError::Status { request, status: 416, words, .. } => {
                    let (again, shown) = (request.clone(), words.clone());
                    let error = |request, words| RegistryError::Status {
                        request,
                        status: 416,
                        words,
                        retry_after: None,
                        attempts: 1,
                    };
                    attempts.pause_as_transient(error(again, shown)).await?;
                    Some(error(request, words))
                }
                error => {
                    attempts.pause(error).await?;
                    None
                }
            };
            match (self.ask_offset(upload, access, &mut at).await, miscounts) {
                (Ok(Some(offset)), Some(error)) if offset == before => {
                    // It has what we think it has, and does not want this chunk.
                    let another = self.sends_whole(site) || self.sends_less(site, size, chunk);
                    return Err(if another { Unsent::Session(error) } else { error.into() });
                }
                (Ok(Some(offset)), _) => {
                    tracing::info!(digest = %blob.descriptor.digest, offset, "an upload goes on");
                    at.offset = offset;
                    if offset >= at.reached.saturating_add(PROGRESS_MIN_BYTES) {
                        at.reached = offset;
                        attempts.progressed();
                    }
                }
                (Ok(None), error) => {
                    let lost = RegistryError::Protocol {
                        request: super::transport::name(&Method::GET, &at.location),
                        reason: "the registry does not say how much of the upload it has".to_owned(),
                    };
                    return Err(Unsent::Session(error.unwrap_or(lost)));
                }
                (Err(error), _) => attempts.pause(error).await?,
            }
        }
        self.finish(upload, access, at).await
    }

    /// One chunk from where the upload stands.
    async fn send_chunk(
        &self,
        upload: &Upload<'_>,
        access: &Access,
        at: &mut Progress,
        chunk: u64,
    ) -> Result<(), RegistryError> {
        let Upload { site, blob, progress, .. } = *upload;
        let (digest, size) = (blob.descriptor.digest, blob.descriptor.size);
        let (start, end) = (at.offset, size.min(at.offset.saturating_add(chunk)));
        self.hash_up_to(upload, at, start).await?;
        let hashed = at.hashed.1.clone();
        let after: Arc<Mutex<Option<Sha256>>> = Arc::default();
        let open = || {
            let blob = open_blob(upload)?;
            let reader =
                Chunk { blob, seek: Some(start), left: end - start, hash: hashed.clone(), after: after.clone() };
            Ok(Box::new(reader) as Box<dyn Read + Send>)
        };
        let told = |sent| progress(&digest, start + sent);
        let range = format!("{start}-{}", end - 1);
        let range = HeaderValue::try_from(range).expect("digits can stand in a header");
        let outgoing = Outgoing {
            method: Method::PATCH,
            url: at.location.clone(),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, octets()), (CONTENT_RANGE, range)]),
            payload: Payload::Blob { open: &open, digest, size: end - start, progress: &told },
        };
        let answer = self.ask(site, access, &outgoing).await?;
        if !answer.status().is_success() {
            return Err(self.refusal(answer).await);
        }
        let taken = match answer.header("range") {
            Some(range) => bytes_of_range(range).filter(|taken| (start + 1..=end).contains(taken)),
            None => Some(end),
        };
        let taken = taken.ok_or_else(|| {
            answer.protocol(format!("its `Range` is not that of {} to {end} bytes of the upload", start + 1))
        })?;
        at.location = self.session(site, &answer, Some(&at.location))?.location;
        at.offset = taken;
        if let Some(hash) = locked(&after).take().filter(|_| taken == end) {
            at.hashed = (end, hash);
        }
        Ok(())
    }

    /// How much of the upload the registry has; `None` if it does not say. distribution-spec, "Pushing a blob in
    /// chunks", on the way back.
    async fn ask_offset(
        &self,
        upload: &Upload<'_>,
        access: &Access,
        at: &mut Progress,
    ) -> Result<Option<u64>, RegistryError> {
        let Upload { site, blob, .. } = *upload;
        let outgoing = Outgoing {
            method: Method::GET,
            url: at.location.clone(),
            headers: HeaderMap::new(),
            payload: Payload::Empty,
        };
        let answer = self.ask(site, access, &outgoing).await?;
        match answer.status().as_u16() {
            200..=299 => {
                let offset = match answer.header("range") {
                    // What registries say of nothing; of one byte, too, which is then sent again.
                    Some("0-0" | "bytes=0-0") => Some(0),
                    range => range.and_then(bytes_of_range).filter(|offset| *offset <= blob.descriptor.size),
                };
                at.location = self.session(site, &answer, Some(&at.location))?.location;
                Ok(offset)
            }
            408 | 429 | 500..=599 => Err(self.refusal(answer).await),
            _ => Ok(None),
        }
    }

    /// Everything is there: closes the session.
    async fn finish(&self, upload: &Upload<'_>, access: &Access, mut at: Progress) -> Result<(), Unsent> {
        let Upload { site, blob, .. } = *upload;
        let digest = blob.descriptor.digest;
        self.hash_up_to(upload, &mut at, blob.descriptor.size).await?;
        let actual = Digest::from_bytes(at.hashed.1.finalize().into());
        if actual != digest {
            let source = ContentError::WrongDigest { expected: digest, actual }.into();
            return Err(RegistryError::Read { digest, source }.into());
        }
        let outgoing = Outgoing {
            method: Method::PUT,
            url: finishing(at.location, digest),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, octets())]),
            payload: Payload::Empty,
        };
        let mut attempts = Attempts::new(&*self.pace);
        loop {
            let once = async {
                let answer = self.ask(site, access, &outgoing).await?;
                match answer.status().as_u16() {
                    201 | 204 => same_digest(&answer, digest),
                    200..=299 => Err(answer.protocol(format!("{} means nothing here", answer.status().as_u16()))),
                    _ => Err(self.refusal(answer).await),
                }
            };
            match once.await {
                Ok(()) => return Ok(()),
                Err(error @ RegistryError::Status { status: 404 | 416, .. }) => return Err(Unsent::Session(error)),
                // Chunks that were taken and lost show only now.
                Err(error @ RegistryError::Status { status: 400, .. }) if self.sends_whole(site) => {
                    return Err(Unsent::Session(error));
                }
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// Brings the hash to that of the first `to` bytes.
    async fn hash_up_to(&self, upload: &Upload<'_>, at: &mut Progress, to: u64) -> Result<(), RegistryError> {
        let (from, state) = &at.hashed;
        if *from == to {
            return Ok(());
        }
        let (from, state) = if *from < to { (*from, state.clone()) } else { (0, Sha256::new()) };
        let digest = upload.blob.descriptor.digest;
        let mut chunk =
            Chunk { blob: open_blob(upload)?, seek: Some(from), left: to - from, hash: state, after: Arc::default() };
        let rehashed = tokio::task::spawn_blocking(move || -> io::Result<Sha256> {
            let mut buffer = vec![0; BUFFER_BYTES];
            while chunk.read(&mut buffer)? > 0 {}
            Ok(chunk.hash)
        });
        let rehashed = match rehashed.await {
            Ok(rehashed) => rehashed,
            Err(error) => Err(io::Error::other(error)),
        };
        at.hashed = (to, rehashed.map_err(|source| RegistryError::Read { digest, source })?);
        Ok(())
    }

    /// Large blobs go whole to this registry from now on; `false` if that is no news, or is known to be refused.
    fn sends_whole(&self, site: &Site) -> bool {
        let mut habits = locked(&self.habits);
        let habit = habits.entry(site.registry.clone()).or_default();
        let news = *habit == Habit::Unknown;
        if news {
            tracing::info!(registry = site.registry, "large blobs are sent whole: chunks are refused");
            *habit = Habit::Whole;
        }
        // Another upload may have learned it meanwhile; then there is still something to try.
        *habit == Habit::Whole
    }

    /// A request with `sent` bytes was too large: smaller ones from now on. `false` if there are none to try.
    fn sends_less(&self, site: &Site, size: u64, sent: u64) -> bool {
        let mut habits = locked(&self.habits);
        let habit = habits.entry(site.registry.clone()).or_default();
        let smaller = SMALL_CHUNKS_BYTES.into_iter().find(|small| *small < sent && *small < size);
        match (smaller, *habit) {
            (None, _) => false,
            // Chunks are refused and so is the whole.
            (Some(_), Habit::Whole) => false,
            (Some(smaller), _) => {
                tracing::info!(registry = site.registry, smaller, "the registry limits requests");
                *habit = Habit::Small(smaller);
                true
            }
        }
    }
}

/// Bytes of a blob from somewhere in it, hashed on the way.
struct Chunk {
    blob: Box<dyn BlobReader>,
    /// Where to go before the first byte.
    seek: Option<u64>,
    left: u64,
    hash: Sha256,
    /// Gets the state after the last byte.
    after: Arc<Mutex<Option<Sha256>>>,
}

impl Read for Chunk {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(start) = self.seek.take() {
            self.blob.seek(SeekFrom::Start(start))?;
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.blob.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.hash.update(&buffer[..count]);
        self.left -= count as u64;
        if self.left == 0 {
            *locked(&self.after) = Some(self.hash.clone());
        }
        Ok(count)
    }
}

fn open_blob(upload: &Upload<'_>) -> Result<Box<dyn BlobReader>, RegistryError> {
    let descriptor = &upload.blob.descriptor;
    let digest = descriptor.digest;
    let blob = upload.from.open(&digest).and_then(|blob| blob.ok_or(ContentError::Missing { digest }));
    let blob = blob.map_err(|source| unreadable(upload, source))?;
    if blob.size() != descriptor.size {
        let source = ContentError::WrongSize { digest, expected: descriptor.size, actual: blob.size() };
        return Err(unreadable(upload, source));
    }
    Ok(blob)
}

fn unreadable(upload: &Upload<'_>, source: ContentError) -> RegistryError {
    let descriptor = &upload.blob.descriptor;
    match source {
        ContentError::Missing { .. } => RegistryError::Missing { descriptor: Box::new(descriptor.clone()) },
        source => RegistryError::Content { act: "read", digest: descriptor.digest, source },
    }
}

/// Whatever query the registry gave stays as it is, byte for byte: it may be signed.
fn finishing(mut location: Url, digest: Digest) -> Url {
    let query = match location.query() {
        Some(query) if !query.is_empty() => format!("{query}&digest={digest}"),
        _ => format!("digest={digest}"),
    };
    location.set_query(Some(&query));
    location
}

fn octets() -> HeaderValue {
    HeaderValue::from_static("application/octet-stream")
}

/// How many bytes are there, by `0-99`; some registries write `bytes=0-99`.
fn bytes_of_range(range: &str) -> Option<u64> {
    let range = range.trim();
    let last = range.strip_prefix("bytes=").unwrap_or(range).strip_prefix("0-")?;
    last.parse::<u64>().ok()?.checked_add(1)
}

/// A registry that gives another digest than asked for has stored something else. One that gives none, or one of
/// another algorithm, says nothing.
pub(super) fn same_digest(answer: &Answer, expected: Digest) -> Result<(), RegistryError> {
    match answer.content_digest() {
        Some(found) if found != expected => {
            Err(RegistryError::DigestMismatch { request: answer.request.clone(), expected, found })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_uploads_are_counted_from_zero() {
        let cases = [
            ("0-99", Some(100)),
            (" 0-0 ", Some(1)),
            ("bytes=0-99", Some(100)),
            ("1-99", None),
            ("0-", None),
            ("0--1", None),
            ("0-18446744073709551615", None),
            ("99", None),
            ("", None),
        ];
        for (range, want) in cases {
            assert_eq!(bytes_of_range(range), want, "{range}");
        }
    }

    #[test]
    fn signed_queries_stay_as_they_are() {
        let digest = Digest::of(b"x");
        let cases = [
            ("https://r/v2/u?sig=a%2Bb%3D&x", format!("https://r/v2/u?sig=a%2Bb%3D&x&digest={digest}")),
            ("https://r/v2/u?", format!("https://r/v2/u?digest={digest}")),
            ("https://r/v2/u", format!("https://r/v2/u?digest={digest}")),
        ];
        for (location, want) in cases {
            assert_eq!(finishing(Url::parse(location).unwrap(), digest).as_str(), want);
        }
    }
}
