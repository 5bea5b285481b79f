//! HTTP as every part of rbuild speaks it: clients, tries, what may be shown.
//!
//! Addresses come in, ready-made clients go out: certificates of the system and of the user, proxies of the
//! environment, no redirect and no retry of their own. They are made when first needed: reading the system's
//! certificates costs more than a cached build may. A loopback host is never reached through a proxy. Deliberately
//! absent: requests; those of registries are in [`crate::registry`], those of plain downloads with who wants them.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

pub use reqwest;

pub use crate::registry::origin::{display, is_loopback, same_origin};
pub use crate::registry::retry::{Pace, RealPace, Tell, Tries, Wait, Watched, retry_after};
pub use crate::registry::words::{first_line, harmless};

use reqwest::Url;

/// Connecting is quick or hopeless.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How rbuild calls itself.
pub const USER_AGENT: &str = concat!("rbuild/", env!("CARGO_PKG_VERSION"));

/// The HTTP clients of one purpose; they share nothing but settings.
pub struct Clients {
    user_agent: String,
    certificates: Vec<reqwest::Certificate>,
    trusted: Trusted,
    /// By the index in [`Clients::of`].
    cells: [OnceLock<reqwest::Client>; 4],
}

/// What one host is trusted with, beyond what all are.
#[derive(Clone, Default)]
pub struct Trusted {
    /// Certificates of authorities.
    pub certificates: Vec<reqwest::Certificate>,
    /// How we show who we are.
    pub identity: Option<reqwest::Identity>,
    /// Whether its certificate is not looked at.
    pub unverified: bool,
}

impl Clients {
    /// Clients that trust these certificates (PEM bundles) beside the system's.
    ///
    /// # Errors
    /// For certificates that are none.
    pub fn new(user_agent: &str, ca_certificates: &[Vec<u8>]) -> Result<Self, reqwest::Error> {
        provide_tls();
        let bundles = ca_certificates.iter().map(|pem| reqwest::Certificate::from_pem_bundle(pem));
        let certificates = bundles.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let trusted = Trusted::default();
        Ok(Self { user_agent: user_agent.to_owned(), certificates, trusted, cells: Default::default() })
    }

    /// The same for one host that is trusted with more; to be asked for clients of that host alone.
    pub fn trusting(self, trusted: Trusted) -> Self {
        Self { trusted, cells: Default::default(), ..self }
    }

    /// The client for an address.
    pub fn of(&self, url: &Url) -> Result<&reqwest::Client, reqwest::Error> {
        let (tls, direct) = (url.scheme() == "https", is_loopback(url));
        let cell = &self.cells[usize::from(tls) * 2 + usize::from(direct)];
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .referer(false);
        if direct {
            builder = builder.no_proxy();
        }
        // A client for plain HTTP works on machines without any certificate.
        if tls {
            let certificates = self.certificates.iter().chain(&self.trusted.certificates).cloned();
            builder = builder.tls_certs_merge(certificates).tls_danger_accept_invalid_certs(self.trusted.unverified);
            if let Some(identity) = &self.trusted.identity {
                builder = builder.identity(identity.clone());
            }
        } else {
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build()?;
        Ok(cell.get_or_init(|| client))
    }
}

/// A client whose requests all go to the program that listens at a socket of this machine, whatever host they name.
///
/// # Errors
/// When there can be no client at all.
pub fn over_socket(path: &Path) -> Result<reqwest::Client, reqwest::Error> {
    provide_tls();
    let builder = reqwest::Client::builder().unix_socket(path).user_agent(USER_AGENT).no_proxy().referer(false);
    let builder = builder.redirect(reqwest::redirect::Policy::none()).retry(reqwest::retry::never());
    builder.tls_certs_only([]).build()
}

/// Clients want one, whether or not they speak TLS.
fn provide_tls() {
    // Somebody in this process may have chosen a provider already; then theirs serves.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is already installed");
    }
}

/// Whether the other end's certificate was the reason, anywhere in the chain of causes.
pub fn is_certificate(error: &reqwest::Error) -> bool {
    is_tls(error, |error| matches!(error, rustls::Error::InvalidCertificate(_)))
}

/// Whether the reason was that the other end saw no certificate of ours, or one that it does not know.
pub fn is_own_certificate(error: &reqwest::Error) -> bool {
    use rustls::AlertDescription as Alert;
    is_tls(error, |error| {
        let of_ours = [Alert::CertificateRequired, Alert::BadCertificate, Alert::CertificateUnknown, Alert::UnknownCA];
        matches!(error, rustls::Error::AlertReceived(alert) if of_ours.contains(alert))
    })
}

/// Whether a new connection ended before anything of the request was sent. Why, is known only to who asks again: the other
/// end may say what it has against us after we think that all is well (RFC 8446 section 4.4.2.4), and to be told of
/// it and to send are a race.
pub fn is_unsent(error: &reqwest::Error) -> bool {
    is_caused_by(error, hyper::Error::is_canceled)
}

fn is_tls(error: &reqwest::Error, is_it: impl Fn(&rustls::Error) -> bool) -> bool {
    is_caused_by(error, is_it)
}

fn is_caused_by<E: StdError + 'static>(error: &reqwest::Error, is_it: impl Fn(&E) -> bool) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<E>().is_some_and(&is_it) {
            return true;
        }
        // An io::Error hides what it wraps: its source is the source of what it wraps.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}
