//! One request and its redirects.
//!
//! In: an address and headers. Out: an answer of any status, its body still to be read. Redirects never lead from HTTPS
//! to HTTP; the address's credentials are for its own origin, and from the first step beyond nobody gets them any more.
//! Deliberately absent: tries, what the answer means.

use oci::http::reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use oci::http::reqwest::{self, Url};
use oci::http::{is_certificate, same_origin};

use super::address::Address;
use super::{HttpError, Web};
use crate::source::address::masked;

/// As many as browsers and other builders follow, roughly.
const REDIRECTS_MAX: usize = 10;
/// What is read of an error's body for its first line.
const WORDS_MAX_BYTES: usize = 64 << 10;

/// An answer.
pub(super) struct Answer {
    response: reqwest::Response,
    /// Address that was asked for, for messages.
    shown: String,
    idle: std::time::Duration,
}

impl Web<'_> {
    /// Asks for the file, following redirects.
    pub(super) async fn ask(&self, address: &Address, headers: &HeaderMap) -> Result<Answer, HttpError> {
        let mut url = address.url.clone();
        let mut left = false;
        for _ in 0..=REDIRECTS_MAX {
            let client = self.clients.of(&url).map_err(|source| HttpError::Setup { source })?;
            let mut request = client.get(url.clone()).headers(headers.clone());
            if let Some((user, password)) = address.credentials.as_ref().filter(|_| !left) {
                request = request.basic_auth(user, Some(password));
            } else if let Some(value) = address.authorization.as_ref().filter(|_| !left) {
                request = request.header(AUTHORIZATION, value);
            }
            let response = match tokio::time::timeout(self.idle_timeout, request.send()).await {
                Ok(sent) => sent.map_err(|error| broken(&address.shown, error))?,
                Err(_) => return Err(self.idle(address)),
            };
            let Some(next) = redirect(address, &url, &response)? else {
                return Ok(Answer { response, shown: address.shown.clone(), idle: self.idle_timeout });
            };
            tracing::debug!(url = address.shown, to = masked(next.as_str()), "redirected");
            left |= !same_origin(&next, &address.url);
            url = next;
        }
        Err(HttpError::Redirect {
            url: address.shown.clone(),
            target: masked(url.as_str()),
            reason: format!("that is redirect number {}", REDIRECTS_MAX + 1),
        })
    }

    fn idle(&self, address: &Address) -> HttpError {
        HttpError::Idle { url: address.shown.clone(), idle: self.idle_timeout, attempts: 1 }
    }
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header as text; `None` if it is absent or no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + Send + 'static + use<>>, HttpError> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(broken(&self.shown, error)),
            Err(_) => Err(HttpError::Idle { url: self.shown.clone(), idle: self.idle, attempts: 1 }),
        }
    }

    /// The first line of an error's body.
    pub async fn words(mut self) -> Option<String> {
        let mut body = Vec::new();
        while body.len() < WORDS_MAX_BYTES {
            match self.chunk().await {
                Ok(Some(piece)) => body.extend_from_slice(piece.as_ref()),
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "the server's words are lost");
                    break;
                }
            }
        }
        oci::http::first_line(&body)
    }
}

/// Where an answer sends the request, if it does. RFC 9110, section 15.4.
fn redirect(address: &Address, url: &Url, response: &reqwest::Response) -> Result<Option<Url>, HttpError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let protocol = |reason: &str| HttpError::Protocol { url: address.shown.clone(), reason: reason.to_owned() };
    let value = response.headers().get(LOCATION).ok_or_else(|| protocol("a redirect without `Location`"))?;
    let text = value.to_str().map_err(|_| protocol("its `Location` is not text"))?;
    let next = url.join(text).map_err(|_| protocol("its `Location` is no address"))?;
    let refused = |reason: &str| HttpError::Redirect {
        url: address.shown.clone(),
        target: masked(next.as_str()),
        reason: reason.to_owned(),
    };
    match next.scheme() {
        "https" => {}
        "http" if url.scheme() == "https" => return Err(refused("that leads from HTTPS to plain HTTP")),
        "http" => {}
        _ => return Err(refused("only https and http are spoken")),
    }
    if !next.username().is_empty() || next.password().is_some() {
        return Err(refused("that address carries a user name or password"));
    }
    Ok(Some(next))
}

/// Queries hold tokens, so no URL stays in an error.
fn broken(shown: &str, error: reqwest::Error) -> HttpError {
    let error = error.without_url();
    let url = shown.to_owned();
    if is_certificate(&error) {
        return HttpError::Certificate { url, source: error.into() };
    }
    HttpError::Transport { url, connecting: error.is_connect(), attempts: 1, source: error.into() }
}
