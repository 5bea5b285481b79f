//! A whole file, whatever the network does.
//!
//! In: an address, and the validators of what is known of it. Out: a blob, or that nothing has changed. What may pass is
//! tried again, after a pause that the server may name. A body that breaks off goes on where it stopped, if the server
//! named the file by a strong `ETag` and gives the rest of that very file; else it is begun anew. RFC 9110, sections 13
//! and 14. Deliberately absent: one request, which is [`super::ask`]'s.

use oci::http::reqwest::header::{HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use oci::http::{Tries, Wait, retry_after};
use serde::{Deserialize, Serialize};
use solver::seam::LogSink;
use store::Store;

use super::address::{self, Address};
use super::ask::Answer;
use super::sink::Sink;
use super::{Checksum, HttpError, HttpFile, Web};

/// Progress that makes a broken transfer worth going on with from zero tries: a server that sends a byte at a time and
/// hangs up does not keep a build for ever.
const PROGRESS_MIN_BYTES: u64 = 1 << 20;

/// What a server calls a version of a file, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validators {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

/// What became of a download.
pub(super) enum Downloaded {
    /// The server says that what is known is still the file.
    NotModified,
    File(HttpFile, Validators),
}

/// A transfer that is under way.
struct Partial {
    sink: Sink,
    validators: Validators,
    file_name: String,
    /// All bytes, when the server says.
    length: Option<u64>,
}

/// What one answer brought.
enum Step {
    NotModified,
    Whole,
}

impl Web<'_> {
    pub(super) async fn download(
        &self,
        store: &Store,
        address: &Address,
        known: Option<&Validators>,
        checksum: Option<&Checksum>,
        log: &dyn LogSink,
    ) -> Result<Downloaded, HttpError> {
        let mut tries = Tries::new(&*self.pace);
        let mut partial: Option<Partial> = None;
        // How far it ever was: what is begun anew is no progress.
        let mut furthest = 0;
        loop {
            let step = self.step(store, address, known, checksum, &mut partial, log).await;
            let error = match step {
                Ok(Step::NotModified) => return Ok(Downloaded::NotModified),
                Ok(Step::Whole) => break,
                Err(error) => error,
            };
            let after = partial.as_ref().map_or(0, |partial| partial.sink.written);
            if after >= furthest + PROGRESS_MIN_BYTES {
                tries.progressed();
            }
            furthest = furthest.max(after);
            if partial.as_ref().is_some_and(|partial| partial.etag().is_none()) {
                partial = None;
            }
            tracing::debug!(%error, "a download failed");
            if !tries.again(wait_after(&error)).await {
                let failed = tries.failed();
                return Err(if failed > 1 { error.after_attempts(failed) } else { error });
            }
        }
        let partial = partial.expect("a whole body went into it");
        let last_modified = partial.validators.last_modified.as_deref().and_then(seconds);
        let (digest, size_bytes) = partial.sink.finish().await?;
        log.progress(&address.shown, size_bytes, Some(size_bytes), true);
        let file = HttpFile { digest, size_bytes, file_name: partial.file_name, last_modified };
        Ok(Downloaded::File(file, partial.validators))
    }

    /// One request, and its body into the sink.
    async fn step(
        &self,
        store: &Store,
        address: &Address,
        known: Option<&Validators>,
        checksum: Option<&Checksum>,
        partial: &mut Option<Partial>,
        log: &dyn LogSink,
    ) -> Result<Step, HttpError> {
        let headers = match &*partial {
            Some(partial) => partial.range(),
            None => known.map(Validators::condition).unwrap_or_default(),
        };
        let mut answer = self.ask(address, &headers).await?;
        let protocol = |reason: &str| HttpError::Protocol { url: address.shown.clone(), reason: reason.to_owned() };
        match answer.status() {
            304 if headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE) => {
                return Ok(Step::NotModified);
            }
            206 if partial.is_some() => {
                let range = answer.header("content-range").unwrap_or_default();
                if !partial.as_ref().is_some_and(|partial| partial.continues(range)) {
                    *partial = None;
                    return Err(broke_off(address, "the rest that came is not the rest that was asked for"));
                }
            }
            200 => *partial = Some(Partial::new(store, address, checksum, &answer)),
            // What we had of it is of no use any more.
            416 if partial.is_some() => {
                *partial = None;
                return Err(broke_off(address, "the server no longer has what was begun"));
            }
            status @ (204..=206 | 304) => return Err(protocol(&format!("{status} means nothing here"))),
            status => {
                let wait = answer.header("retry-after").and_then(|value| retry_after(value, self.pace.now()));
                let url = address.shown.clone();
                let words = answer.words().await;
                return Err(HttpError::Status { url, status, words, retry_after: wait, attempts: 1 });
            }
        }
        let into = partial.as_mut().expect("set above");
        let too_large = || HttpError::TooLarge { url: address.shown.clone(), limit_bytes: self.file_max_bytes };
        if into.length.is_some_and(|length| length > self.file_max_bytes) {
            return Err(too_large());
        }
        loop {
            let Some(piece) = answer.chunk().await? else { break };
            if into.sink.written + piece.as_ref().len() as u64 > self.file_max_bytes {
                return Err(too_large());
            }
            if !into.sink.write(piece).await {
                // The writer failed; it says why.
                break;
            }
            log.progress(&address.shown, into.sink.written, into.length, false);
        }
        if into.length.is_some_and(|length| length > into.sink.written) && !into.sink.has_failed() {
            return Err(broke_off(address, "it ended early"));
        }
        Ok(Step::Whole)
    }
}

impl Partial {
    fn new(store: &Store, address: &Address, checksum: Option<&Checksum>, answer: &Answer) -> Self {
        Self {
            sink: Sink::new(store, &address.shown, checksum),
            validators: Validators {
                etag: answer.header("etag").map(str::to_owned),
                last_modified: answer.header("last-modified").map(str::to_owned),
            },
            file_name: address::name(answer.headers(), &address.url),
            length: answer.header("content-length").and_then(|text| text.parse().ok()),
        }
    }

    /// The strong name of this version.
    fn etag(&self) -> Option<&str> {
        self.validators.etag.as_deref().filter(|etag| etag.starts_with('"'))
    }

    /// Asks for what is missing, of this version only.
    fn range(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(etag) = self.etag().and_then(|etag| HeaderValue::try_from(etag).ok()) {
            let range = format!("bytes={}-", self.sink.written);
            headers.insert(RANGE, HeaderValue::try_from(range).expect("digits can stand in a header"));
            headers.insert(IF_RANGE, etag);
        }
        headers
    }

    /// Whether `bytes 5-9/10` is what is missing.
    fn continues(&self, range: &str) -> bool {
        let parse = || {
            let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            let end = last.parse::<u64>().ok()?.checked_add(1)?;
            let fits = self.length.is_none_or(|length| length == end && (total == "*" || total.parse() == Ok(length)));
            Some(first.parse() == Ok(self.sink.written) && fits)
        };
        parse().unwrap_or(false)
    }
}

impl Validators {
    /// Asks for the file only if it is another version. RFC 9110, section 13.1: with an `ETag` the time means nothing.
    fn condition(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = |text: &Option<String>| text.as_deref().and_then(|text| HeaderValue::try_from(text).ok());
        if let Some(etag) = value(&self.etag) {
            headers.insert(IF_NONE_MATCH, etag);
        } else if let Some(time) = value(&self.last_modified) {
            headers.insert(IF_MODIFIED_SINCE, time);
        }
        headers
    }
}

fn wait_after(error: &HttpError) -> Option<Wait> {
    match error {
        HttpError::Transport { connecting: true, .. } => Some(Wait::connecting()),
        HttpError::Transport { .. } | HttpError::Idle { .. } => Some(Wait::transient(None)),
        HttpError::Status { status, retry_after, .. } => Wait::status(*status, *retry_after),
        _ => None,
    }
}

fn broke_off(address: &Address, reason: &'static str) -> HttpError {
    HttpError::Transport { url: address.shown.clone(), connecting: false, attempts: 1, source: reason.into() }
}

/// An HTTP date. RFC 9110, section 5.6.7.
fn seconds(date: &str) -> Option<i64> {
    Some(jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second())
}
