//! Who may come over a network: mutual TLS, of files that an administrator made.
//!
//! In: the files of an authority, of a certificate and of its key, in PEM form. Out: [`Identity`], by which the daemon shows
//! who it is, and tells clients from others: whoever has no certificate that the authority signed is refused in the
//! handshake. TLS 1.2 and 1.3, by the one provider that all of rbuild has. Deliberately absent: TLS without certificates
//! of clients, and whom of those that the authority vouches for to let in: all of them. Next: [`super::connection`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::engine::Failure;

/// All that gRPC is spoken over; clients insist that it is said. RFC 9113, 3.2.
const PROTOCOL: &[u8] = b"h2";

/// What to do where one is missing.
pub const HELP: &str = "give all three: `--tlscacert CA.pem --tlscert CERT.pem --tlskey KEY.pem`; clients then have to \
                        show a certificate that the CA signed";

/// Where the parts of an identity are, in PEM form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The authority that signs certificates of clients.
    pub ca: Option<PathBuf>,
    /// The daemon's certificate, with what is between it and an authority behind it.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Who the daemon is, and whom it lets in.
#[derive(Clone)]
pub struct Identity(Arc<ServerConfig>);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Reads it; `None` where no file is named.
    ///
    /// # Errors
    /// When some are named and others not, when one cannot be read, or when they do not belong together.
    pub fn read(files: &Files) -> Result<Option<Self>, Failure> {
        let (ca, cert, key) = match files {
            Files { ca: None, cert: None, key: None } => return Ok(None),
            Files { ca: Some(ca), cert: Some(cert), key: Some(key) } => (ca, cert, key),
            Files { ca, cert, key } => {
                let missing = [("tlscacert", ca), ("tlscert", cert), ("tlskey", key)];
                let missing: Vec<_> =
                    missing.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| *name).collect();
                return Err(
                    Failure::new(format!("TLS is not served without `--{}`", missing.join("` and `--"))).help(HELP)
                );
            }
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| unusable(ca, &error.to_string()))?;
        }
        let chain = certificates(cert)?;
        let read = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let clients = clients.build().map_err(|error| unusable(ca, &error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::from_error(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, read)
            .map_err(|error| {
                unusable(cert, &error.to_string()).help(format!("it has to be the certificate of `{}`", key.display()))
            })?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Some(Self(Arc::new(config))))
    }

    /// Who shakes hands with clients.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.0.clone().into()
    }
}

/// All certificates of a file, of which there is one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let list = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match list.map_err(|error| unusable(path, &error.to_string()))? {
        none if none.is_empty() => Err(unusable(path, "there is no certificate in it")),
        list => Ok(list),
    }
}

fn unusable(path: &Path, reason: &str) -> Failure {
    Failure::new(format!("`{}` cannot be used for TLS", path.display())).note(reason.to_owned())
}

/// The files of the tests of registries: an authority, and `localhost`'s certificate of its.
#[cfg(test)]
pub fn example() -> Files {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("oci/tests/support/tls");
    let file = |name| Some(dir.join(name));
    Files { ca: file("authority.pem"), cert: file("localhost.pem"), key: file("localhost-key.pem") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_whole_or_refused_with_what_is_wrong() {
        let whole = example();
        assert!(Identity::read(&whole).is_ok_and(|identity| identity.is_some()));
        assert!(Identity::read(&Files::default()).is_ok_and(|identity| identity.is_none()));
        let check = |files: Files, expected: &str| {
            let failure = Identity::read(&files).expect_err(expected);
            let problem = &failure.problems[0];
            let text = format!("{} {} {:?}", problem.message, problem.notes.join(" "), problem.help);
            assert!(text.contains(expected), "{expected}: {text}");
        };
        check(Files { ca: None, ..whole.clone() }, "without `--tlscacert`");
        check(Files { ca: None, key: None, ..whole.clone() }, "`--tlscacert` and `--tlskey`");
        check(Files { ca: Some("/none".into()), ..whole.clone() }, "/none");
        check(Files { ca: whole.key.clone(), ..whole.clone() }, "there is no certificate in it");
        check(Files { key: whole.cert.clone(), ..whole.clone() }, "localhost.pem");
        check(Files { cert: whole.ca.clone(), ..whole.clone() }, "the certificate of");
    }
}
