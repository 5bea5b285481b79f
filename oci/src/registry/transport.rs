//! One request over the wire: redirects followed, idleness ended, bodies bounded.
//!
//! An [`Outgoing`] comes in, an [`Answer`] of any status goes out. Deliberately absent: how clients are made
//! ([`crate::http`]), who gets an `Authorization` header ([`super::auth`]), tries ([`super::retry`]).

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::error::{RegistryError, RequestName};
use super::origin::{self, REDIRECTS_MAX, Rules, same_origin};
use super::route::HostTable;
use super::words::{harmless, words_of};
use super::{Settings, locked, retry};
use crate::hosts::Trust;
use crate::http::{Clients, Trusted, is_certificate};
use crate::model::Digest;

/// One registry error page fits; a hostile server might send gigabytes.
const ERROR_BODY_MAX_BYTES: u64 = 64 << 10;
/// How often an upload's progress is looked at.
const TICK: Duration = Duration::from_millis(100);
/// A registry may copy a whole layer to object storage before it acknowledges an upload, so its answer may take this
/// many idle timeouts.
const UPLOAD_ANSWER_FACTOR: u32 = 5;
/// Bytes read from the store at a time.
const UPLOAD_CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the network.
const UPLOAD_CHUNKS_AHEAD: usize = 4;
/// Hosts that may speak plain HTTP are near; one that swallows a TLS greeting in silence is taken to speak it.
const TLS_TRIAL: Duration = Duration::from_secs(5);

/// The HTTP clients and the rules of where they may go.
pub(super) struct Wire {
    pub(super) rules: Rules,
    /// Whether no connection may be made; looked at before a site is found out about, which comes before any request.
    pub(super) offline: bool,
    idle_timeout: Duration,
    user_agent: String,
    certificates: Vec<Vec<u8>>,
    clients: Clients,
    /// For hosts that are trusted with something of their own.
    special: Mutex<HashMap<Trust, Arc<Clients>>>,
}

/// The origin that a request begins at, whose settings of TLS count there and nowhere else.
#[derive(Clone, Copy)]
pub(super) struct Home<'a> {
    pub(super) base: &'a Url,
    pub(super) trust: &'a Trust,
}

/// A request. Its body can be made again, for a redirect or another try.
pub(super) struct Outgoing<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload<'a>,
}

/// What a request carries.
pub(super) enum Payload<'a> {
    Empty,
    Bytes(Vec<u8>),
    /// A form with a secret in it: follows no redirect.
    SecretForm(String),
    /// A blob, or a part of one.
    Blob {
        open: &'a (dyn Fn() -> Result<Box<dyn Read + Send>, RegistryError> + Send + Sync),
        digest: Digest,
        /// Bytes that `open` gives.
        size: u64,
        progress: &'a (dyn Fn(u64) + Send + Sync),
    },
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    response: reqwest::Response,
    pub(super) request: RequestName,
    idle: Duration,
    /// Whether it comes from another origin than the one first asked.
    pub(super) from_elsewhere: bool,
    /// One of the registry's connections; given back when the answer is dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Wire {
    pub(super) fn new(settings: &Settings) -> Result<Self, RegistryError> {
        let clients = Clients::new(&settings.user_agent, &settings.ca_certificates);
        Ok(Self {
            rules: Rules {
                hosts: Arc::new(HostTable::new(settings.hosts.clone())),
                insecure: settings.insecure.clone(),
                token_servers: settings.token_servers.clone(),
            },
            offline: settings.offline,
            idle_timeout: settings.idle_timeout,
            user_agent: settings.user_agent.clone(),
            certificates: settings.ca_certificates.clone(),
            clients: clients.map_err(|source| RegistryError::Setup { source })?,
            special: Mutex::default(),
        })
    }

    /// The client for an address, with what its host is trusted with: settings of one host never count for another.
    fn client(&self, home: Home<'_>, url: &Url) -> Result<reqwest::Client, RegistryError> {
        let setup = |source| RegistryError::Setup { source };
        if url.scheme() != "https" {
            return self.clients.of(url).cloned().map_err(setup);
        }
        let elsewhere;
        let trust = if origin::authority(url) == origin::authority(home.base) {
            home.trust
        } else {
            elsewhere = self.rules.hosts.get().trust_of(&origin::authority(url));
            &elsewhere
        };
        if trust.is_usual_tls() {
            return self.clients.of(url).cloned().map_err(setup);
        }
        let mut special = locked(&self.special);
        let clients = match special.get(trust) {
            Some(clients) => clients.clone(),
            None => {
                let trusted = trusted(trust, &origin::authority(url))?;
                let clients = Clients::new(&self.user_agent, &self.certificates).map_err(setup)?.trusting(trusted);
                special.entry(trust.clone()).or_insert(Arc::new(clients)).clone()
            }
        };
        clients.of(url).cloned().map_err(setup)
    }

    /// Whether a host that may be spoken to over plain HTTP speaks HTTPS. A host that shows a bad certificate does.
    ///
    /// # Errors
    /// When what is set for the host's TLS is of no use: that is no reason to do without.
    pub(super) async fn speaks_tls(&self, home: Home<'_>) -> Result<bool, RegistryError> {
        let base = home.base;
        let request = match self.client(home, base) {
            Ok(client) => client.get(base.clone()),
            Err(RegistryError::Setup { source }) => {
                tracing::debug!(error = %source, "HTTPS is not tried");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        Ok(match tokio::time::timeout(TLS_TRIAL.min(self.idle_timeout), request.send()).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::debug!(host = origin::authority(base), %error, "HTTPS was tried");
                is_certificate(&error)
            }
            Err(_) => false,
        })
    }

    /// Sends a request and follows its redirects. `authorization` is for the origin of `outgoing.url` alone: it is
    /// dropped at the first step beyond, for good.
    pub(super) async fn send(
        &self,
        home: Home<'_>,
        outgoing: &Outgoing<'_>,
        authorization: Option<&HeaderValue>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Answer, RegistryError> {
        let mut url = outgoing.url.clone();
        let mut from_elsewhere = false;
        for _ in 0..=REDIRECTS_MAX {
            let request = name(&outgoing.method, &url);
            let authorization = authorization.filter(|_| !from_elsewhere);
            let response = self.exchange(home, outgoing, &url, authorization, &request).await?;
            let answer = |response, request| Answer {
                response,
                request,
                idle: self.idle_timeout,
                from_elsewhere,
                _permit: None,
            };
            let Some(next) = self.redirect(outgoing, &url, &response, &request)? else {
                return Ok(Answer { _permit: permit, ..answer(response, request) });
            };
            tracing::debug!(%request, to = origin::display(&next), "redirected");
            answer(response, request).drain().await;
            from_elsewhere |= !same_origin(&next, &outgoing.url);
            url = next;
        }
        Err(RegistryError::Refused {
            request: name(&outgoing.method, &outgoing.url),
            target: origin::display(&url),
            reason: format!("that is redirect number {}", REDIRECTS_MAX + 1),
        })
    }

    /// Where an answer sends the request, if it does. RFC 9110, section 15.4.
    fn redirect(
        &self,
        outgoing: &Outgoing<'_>,
        url: &Url,
        response: &reqwest::Response,
        request: &RequestName,
    ) -> Result<Option<Url>, RegistryError> {
        let status = response.status();
        let repeats = match (status.as_u16(), &outgoing.payload) {
            (301 | 302 | 303 | 307 | 308, Payload::SecretForm(_)) => false,
            // 301 and 302 may turn a POST or PUT into a GET, so only the other two mean the same request.
            (301..=303, _) => matches!(outgoing.method, Method::GET | Method::HEAD),
            (307 | 308, _) => true,
            _ => return Ok(None),
        };
        let location = location(response.headers(), url).map_err(|reason| protocol(request, reason))?;
        let refused = |reason: &str| RegistryError::Refused {
            request: request.clone(),
            target: origin::display(&location),
            reason: reason.to_owned(),
        };
        if !repeats {
            return Err(refused(&format!("a redirect with {} is not followed for this request", status.as_u16())));
        }
        self.rules.check_hop(url, &location).map_err(refused)?;
        Ok(Some(location))
    }

    async fn exchange(
        &self,
        home: Home<'_>,
        outgoing: &Outgoing<'_>,
        url: &Url,
        authorization: Option<&HeaderValue>,
        request: &RequestName,
    ) -> Result<reqwest::Response, RegistryError> {
        let mut builder =
            self.client(home, url)?.request(outgoing.method.clone(), url.clone()).headers(outgoing.headers.clone());
        if let Some(authorization) = authorization {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        let upload = Upload::default();
        let mut size = 0;
        let mut progress: Option<&(dyn Fn(u64) + Send + Sync)> = None;
        match &outgoing.payload {
            // A POST without a body says so, or some servers answer 411.
            Payload::Empty if matches!(outgoing.method, Method::POST | Method::PUT) => {
                builder = builder.header(CONTENT_LENGTH, 0);
            }
            Payload::Empty => {}
            Payload::Bytes(bytes) => builder = builder.body(bytes.clone()),
            Payload::SecretForm(form) => builder = builder.body(form.clone()),
            Payload::Blob { open, size: bytes, progress: told, .. } => {
                builder = builder.header(CONTENT_LENGTH, *bytes).body(upload.body(open()?));
                (size, progress) = (*bytes, Some(*told));
            }
        }
        tracing::debug!(%request, authorised = authorization.is_some(), "asking");
        let sent = self.watched(builder.send(), &upload, size, progress).await;
        if let (Some(source), Payload::Blob { digest, .. }) = (upload.failure(), &outgoing.payload) {
            return Err(RegistryError::Read { digest: *digest, source });
        }
        match sent {
            Some(Ok(response)) => Ok(response),
            Some(Err(error)) => Err(broken(request, error)),
            None => Err(RegistryError::Idle { request: request.clone(), idle: self.idle_timeout, attempts: 1 }),
        }
    }

    /// Waits for the head of an answer as long as the upload moves. `None` when it stood still.
    async fn watched<T>(
        &self,
        sending: impl Future<Output = T>,
        upload: &Upload,
        size: u64,
        progress: Option<&(dyn Fn(u64) + Send + Sync)>,
    ) -> Option<T> {
        let mut sending = std::pin::pin!(sending);
        let (mut sent, mut moved) = (0, Instant::now());
        loop {
            let patience = if size > 0 && sent >= size { UPLOAD_ANSWER_FACTOR } else { 1 } * self.idle_timeout;
            let look = if size == 0 { patience } else { TICK.min(patience) };
            tokio::select! {
                biased;
                done = &mut sending => return Some(done),
                () = tokio::time::sleep(look) => {}
            }
            let now = upload.sent.load(Ordering::Relaxed);
            if now != sent {
                (sent, moved) = (now, Instant::now());
                if let Some(progress) = progress {
                    progress(sent);
                }
            } else if moved.elapsed() >= patience {
                return None;
            }
        }
    }
}

/// Reads the files that settings name for a host. They are few and short, and read once.
fn trusted(trust: &Trust, host: &str) -> Result<Trusted, RegistryError> {
    let read = |what, path: &Path| {
        std::fs::read(path).map_err(|source| RegistryError::HostFile {
            what,
            path: path.to_owned(),
            host: host.to_owned(),
            source: source.into(),
        })
    };
    let wrong = |what, path: &Path, source: reqwest::Error| RegistryError::HostFile {
        what,
        path: path.to_owned(),
        host: host.to_owned(),
        source: source.into(),
    };
    let mut trusted = Trusted { unverified: trust.insecure == Some(true), ..Trusted::default() };
    for path in &trust.authorities {
        const WHAT: &str = "certificate of an authority";
        let found = reqwest::Certificate::from_pem_bundle(&read(WHAT, path)?);
        let found = found.map_err(|source| wrong(WHAT, path, source))?;
        if found.is_empty() {
            return Err(RegistryError::HostFile {
                what: WHAT,
                path: path.clone(),
                host: host.to_owned(),
                source: "it holds no certificate in PEM form".into(),
            });
        }
        trusted.certificates.extend(found);
    }
    if let Some(identity) = &trust.identity {
        const WHAT: &str = "certificate or key of the client";
        let mut pem = read(WHAT, &identity.key)?;
        if identity.certificate != identity.key {
            pem.push(b'\n');
            pem.extend(read(WHAT, &identity.certificate)?);
        }
        let found = reqwest::Identity::from_pem(&pem).map_err(|source| wrong(WHAT, &identity.certificate, source))?;
        trusted.identity = Some(found);
    }
    Ok(trusted)
}

/// What the two ends of an upload share.
#[derive(Default)]
struct Upload {
    sent: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Upload {
    /// A body that a blocking thread reads. It ends with the request: the thread notices when nobody listens.
    fn body(&self, mut blob: Box<dyn Read + Send>) -> reqwest::Body {
        let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Vec<u8>>>(UPLOAD_CHUNKS_AHEAD);
        let failure = self.failure.clone();
        tokio::task::spawn_blocking(move || {
            loop {
                let mut chunk = Vec::with_capacity(UPLOAD_CHUNK_BYTES);
                let read = blob.by_ref().take(UPLOAD_CHUNK_BYTES as u64).read_to_end(&mut chunk);
                let item = match read {
                    Ok(0) => break,
                    Ok(_) => Ok(chunk),
                    Err(error) => {
                        let told = io::Error::from(error.kind());
                        *locked(&failure) = Some(error);
                        Err(told)
                    }
                };
                let last = item.is_err();
                if sender.blocking_send(item).is_err() || last {
                    break;
                }
            }
        });
        let sent = self.sent.clone();
        let stream = futures_util::stream::unfold((receiver, sent), async |(mut receiver, sent)| {
            let item = receiver.recv().await?;
            if let Ok(chunk) = &item {
                sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
            Some((item, (receiver, sent)))
        });
        reqwest::Body::wrap_stream(stream)
    }

    fn failure(&self) -> Option<io::Error> {
        locked(&self.failure).take()
    }
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header as text; `None` if it is absent or no text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The digest that the registry gives its answer; `None` also for algorithms that rbuild does not use.
    pub(super) fn content_digest(&self) -> Option<Digest> {
        self.header("docker-content-digest").and_then(|text| text.parse().ok())
    }

    /// Where the answer points to.
    pub(super) fn location(&self) -> Result<Url, RegistryError> {
        location(self.headers(), self.response.url()).map_err(|reason| protocol(&self.request, reason))
    }

    /// Bytes the body is said to have.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.header("content-length").and_then(|text| text.parse().ok())
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + Send + 'static>, RegistryError> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(broken(&self.request, error)),
            Err(_) => Err(RegistryError::Idle { request: self.request.clone(), idle: self.idle, attempts: 1 }),
        }
    }

    /// The whole body, if it is no larger than `limit_bytes`.
    pub(super) async fn body(&mut self, limit_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            body.extend_from_slice(chunk.as_ref());
            if body.len() as u64 > limit_bytes {
                return Err(RegistryError::TooLarge { request: self.request.clone(), limit_bytes });
            }
        }
        Ok(body)
    }

    /// Reads what is left of a short answer, so that the connection can be used again.
    pub(super) async fn drain(mut self) {
        if let Err(error) = self.body(ERROR_BODY_MAX_BYTES).await {
            tracing::debug!(%error, "the rest of an answer is not read");
        }
    }

    /// The registry's words in an answer that is an error, and how long it asks to wait.
    pub(super) async fn words(&mut self, now: jiff::Timestamp) -> (Option<String>, Option<Duration>) {
        let wait = self.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = wait.and_then(|value| retry::retry_after(value, now));
        let words = match self.body(ERROR_BODY_MAX_BYTES).await {
            Ok(body) => words_of(&body),
            Err(error) => {
                tracing::debug!(%error, "the registry's words are lost");
                None
            }
        };
        (words, wait)
    }

    /// An error about this answer.
    pub(super) fn protocol(&self, reason: impl Into<String>) -> RegistryError {
        protocol(&self.request, reason)
    }
}

pub(super) fn name(method: &Method, url: &Url) -> RequestName {
    RequestName {
        method: method.as_str().into(),
        host: origin::authority(url).into(),
        path: harmless(url.path()).into(),
    }
}

fn protocol(request: &RequestName, reason: impl Into<String>) -> RegistryError {
    RegistryError::Protocol { request: request.clone(), reason: reason.into() }
}

/// `Location`, relative or absolute.
fn location(headers: &HeaderMap, base: &Url) -> Result<Url, &'static str> {
    let value = headers.get(LOCATION).ok_or("it has no `Location`")?;
    let text = value.to_str().map_err(|_| "its `Location` is not text")?;
    base.join(text).map_err(|_| "its `Location` is no URL")
}

/// Queries hold signatures, so no URL stays in an error.
fn broken(request: &RequestName, error: reqwest::Error) -> RegistryError {
    let error = error.without_url();
    if is_certificate(&error) {
        return RegistryError::Certificate { request: request.clone(), source: error.into() };
    }
    let connecting = error.is_connect();
    RegistryError::Transport { request: request.clone(), attempts: 1, connecting, source: error.into() }
}
