//! HTTPS for the test registry: a certificate for `localhost` and the authority that signed it.
//!
//! The key in `tls/` protects nothing: it was made for these tests, and the authority's own key is gone.

#![allow(dead_code)]

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::server::Wrap;

/// The authority's certificate, in PEM form.
pub const AUTHORITY: &[u8] = include_bytes!("tls/authority.pem");

/// Makes connections TLS ones, for `localhost`, `127.0.0.1` and `::1`.
pub fn wrap() -> Wrap {
    let chain = CertificateDer::pem_slice_iter(include_bytes!("tls/localhost.pem"));
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("the test certificate is PEM");
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/localhost-key.pem")).expect("the test key is PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key is the certificate's");
    let config = Arc::new(config);
    Arc::new(move |socket| {
        let connection = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, socket)))
    })
}
