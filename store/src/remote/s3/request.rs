//! One request to a bucket, and its tries.
//!
//! In: a method, an address that is signed anew for every try, a body that can be sent again. Out: an [`Answered`] of a
//! status that means success, nothing for what is not there, or a [`Trouble`]. Tried again: what the network broke and
//! the statuses that pass, 503 (`SlowDown`) among them, with growing pauses. A server that stands still is not: nobody
//! waits for a cache for minutes. Redirects are errors. Deliberately absent: what is asked for.

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oci::http::reqwest::header::{CONTENT_LENGTH, RANGE};
use oci::http::reqwest::{self, Method, Url};
use oci::http::{Tries, Wait, harmless, is_certificate, retry_after};
use tokio::time::Instant;

use super::{RemoteError, Shared};

/// An error's document is short.
pub(super) const WORDS_MAX_BYTES: u64 = 64 << 10;
/// Bytes of a body that are handed on at a time.
const PIECE_BYTES: usize = 256 << 10;
/// How often an upload is looked at.
const TICK: Duration = Duration::from_millis(100);

/// A request.
pub(super) struct Request<'a> {
    pub method: Method,
    /// Signed now.
    pub url: &'a (dyn Fn() -> Url + Sync),
    pub headers: &'a [(&'static str, &'a str)],
    pub body: Option<Arc<[u8]>>,
    /// The first byte that is wanted.
    pub start: u64,
}

/// An answer of success, its body still to be read.
#[derive(Debug)]
pub(super) struct Answered {
    response: reqwest::Response,
    idle: Duration,
}

/// What is done to the place, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Read,
    Write,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Trouble {
    Setup(reqwest::Error),
    Transport { connecting: bool, source: Box<dyn StdError + Send + Sync> },
    Certificate(Box<dyn StdError + Send + Sync>),
    Idle(Duration),
    Status { status: u16, code: Option<String>, words: Option<String>, retry_after: Option<Duration> },
    TooLarge,
    Protocol(String),
}

impl<'a> Request<'a> {
    /// Without body and headers.
    pub fn new(method: Method, url: &'a (dyn Fn() -> Url + Sync)) -> Self {
        Self { method, url, headers: &[], body: None, start: 0 }
    }
}

impl Shared {
    /// Sends a request until it is answered for good; `None` for what is not there.
    pub(super) async fn ask(&self, request: &Request<'_>) -> Result<Option<Answered>, Trouble> {
        let mut tries = Tries::new(&*self.pace);
        loop {
            let trouble = match self.once(request).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            tracing::debug!(method = %request.method, ?trouble, "a request to a bucket failed");
            if !tries.again(trouble.wait()).await {
                return Err(trouble);
            }
        }
    }

    /// The same, once.
    pub(super) async fn once(&self, request: &Request<'_>) -> Result<Option<Answered>, Trouble> {
        let response = self.exchange(request).await?;
        let status = response.status().as_u16();
        if response.status().is_success() {
            return Ok(Some(Answered { response, idle: self.idle }));
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = header("retry-after").and_then(|value| retry_after(value, self.pace.now()));
        let region = header("x-amz-bucket-region").map(harmless);
        let body = Answered { response, idle: self.idle }.body(WORDS_MAX_BYTES).await.unwrap_or_else(|trouble| {
            tracing::debug!(?trouble, "the words of an error are lost");
            Vec::new()
        });
        let text = String::from_utf8_lossy(&body);
        let code = element(&text, "Code");
        if status == 404 && code.as_deref() != Some("NoSuchBucket") {
            return Ok(None);
        }
        let mut words = element(&text, "Message").or_else(|| super::first_line(&body));
        if let (301 | 307 | 400, Some(region)) = (status, region) {
            words = Some(format!("the bucket is in the region `{region}`"));
        }
        Err(Trouble::Status { status, code, words, retry_after })
    }

    async fn exchange(&self, request: &Request<'_>) -> Result<reqwest::Response, Trouble> {
        let url = (request.url)();
        let client = self.clients.of(&url).map_err(|error| Trouble::Setup(error.without_url()))?;
        let mut builder = client.request(request.method.clone(), url);
        for (name, value) in request.headers {
            builder = builder.header(*name, *value);
        }
        if request.start > 0 {
            builder = builder.header(RANGE, format!("bytes={}-", request.start));
        }
        let sent = Arc::new(AtomicU64::new(0));
        if let Some(body) = &request.body {
            builder = builder.header(CONTENT_LENGTH, body.len()).body(pieces(body.clone(), sent.clone()));
        } else if matches!(request.method, Method::PUT | Method::POST) {
            builder = builder.header(CONTENT_LENGTH, 0);
        }
        self.watched(builder.send(), &sent).await
    }

    /// Waits for the head of an answer as long as the body moves.
    async fn watched(
        &self,
        sending: impl Future<Output = Result<reqwest::Response, reqwest::Error>>,
        sent: &AtomicU64,
    ) -> Result<reqwest::Response, Trouble> {
        let mut sending = std::pin::pin!(sending);
        let (mut before, mut moved) = (0, Instant::now());
        loop {
            tokio::select! {
                biased;
                done = &mut sending => return done.map_err(broken),
                () = tokio::time::sleep(TICK.min(self.idle)) => {}
            }
            let now = sent.load(Ordering::Relaxed);
            if now != before {
                (before, moved) = (now, Instant::now());
            } else if moved.elapsed() >= self.idle {
                return Err(Trouble::Idle(self.idle));
            }
        }
    }
}

impl Answered {
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header as text; `None` if it is absent or no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + Send + 'static>, Trouble> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(broken),
            Err(_) => Err(Trouble::Idle(self.idle)),
        }
    }

    /// All of the body, which has at most so many bytes.
    pub async fn body(mut self, most: u64) -> Result<Vec<u8>, Trouble> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.chunk().await? {
            if (bytes.len() + piece.as_ref().len()) as u64 > most {
                return Err(Trouble::TooLarge);
            }
            bytes.extend_from_slice(piece.as_ref());
        }
        Ok(bytes)
    }
}

impl Trouble {
    /// Whether, and after how long, another try is worth it.
    pub fn wait(&self) -> Option<Wait> {
        match self {
            Self::Transport { connecting: true, .. } => Some(Wait::connecting()),
            Self::Transport { .. } => Some(Wait::transient(None)),
            Self::Status { status, retry_after, .. } => Wait::status(*status, *retry_after),
            _ => None,
        }
    }

    /// What the document of an error says that came under 200.
    pub fn said(text: &str) -> Self {
        let (code, words) = (element(text, "Code"), element(text, "Message"));
        Self::Status { status: 200, code, words, retry_after: None }
    }

    /// In the words of caches.
    pub fn into_error(self, act: Act, place: &str, signed: bool) -> RemoteError {
        let place = place.to_owned();
        let (doing, done) = match act {
            Act::Read => ("read", "read"),
            Act::Write => ("write to", "written to"),
        };
        let refused = |reason: String| RemoteError::Refused { act: done, place: place.clone(), reason };
        match self {
            Self::Setup(source) => RemoteError::Unreachable { act: doing, place, source: source.into() },
            Self::Transport { source, .. } | Self::Certificate(source) => {
                RemoteError::Unreachable { act: doing, place, source }
            }
            Self::Idle(idle) => RemoteError::Slow { act: done, place, patience: idle },
            Self::TooLarge => refused("it answered with more than makes sense".to_owned()),
            Self::Protocol(reason) => refused(reason),
            Self::Status { status, code, words, .. } => {
                let mut reason = status.to_string();
                for part in [code, words].into_iter().flatten() {
                    reason.push_str(&format!(" {part}"));
                }
                if matches!(status, 401 | 403) && !signed {
                    reason.push_str(
                        "; there are no credentials: give `access_key_id` and `secret_access_key`, or AWS_ACCESS_KEY_ID \
                         and AWS_SECRET_ACCESS_KEY, or a profile",
                    );
                }
                refused(reason)
            }
        }
    }
}

/// Addresses hold signatures, so none stays in an error.
fn broken(error: reqwest::Error) -> Trouble {
    let error = error.without_url();
    if is_certificate(&error) {
        return Trouble::Certificate(error.into());
    }
    Trouble::Transport { connecting: error.is_connect(), source: error.into() }
}

/// A body that counts what of it was handed on.
fn pieces(body: Arc<[u8]>, sent: Arc<AtomicU64>) -> reqwest::Body {
    let stream = futures_util::stream::unfold(0, move |at: usize| {
        let end = body.len().min(at + PIECE_BYTES);
        let piece = (at < end).then(|| body[at..end].to_vec());
        sent.store(end as u64, Ordering::Relaxed);
        std::future::ready(piece.map(|piece| (Ok::<_, std::io::Error>(piece), end)))
    });
    reqwest::Body::wrap_stream(stream)
}

/// The text of an element in the document of an error, which is a flat list of them.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once("</")?;
    let value = harmless(value.trim());
    (!value.is_empty()).then_some(value)
}
