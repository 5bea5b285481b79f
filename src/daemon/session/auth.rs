//! Credentials of registries, from the client: `Auth.Credentials`.
//!
//! The daemon's own are never used for a client's build. A client that has none for a registry is nobody there.

use std::sync::Arc;

use api::filesync::CredentialsRequest;
use api::filesync::auth_client::AuthClient;
use oci::registry::credentials::{Answer, AskCredentials};
use oci::registry::{Credential, Secret};

use super::Session;

const METHOD: &str = "/moby.filesync.v1.Auth/Credentials";

/// Who asks one session.
#[derive(Debug)]
pub struct SessionCredentials(pub Arc<Session>);

impl AskCredentials for SessionCredentials {
    fn ask<'a>(&'a self, registry: &'a str) -> Answer<'a> {
        Box::pin(async move {
            if !self.0.has(METHOD) {
                return Ok(None);
            }
            // Clients know Docker Hub by the host that serves it.
            let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry }.to_owned();
            let mut client = AuthClient::new(self.0.channel());
            let answer = client.credentials(CredentialsRequest { host }).await;
            let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
            Ok(match (answer.username.is_empty(), answer.secret.is_empty()) {
                (_, true) => None,
                (true, false) => Some(Credential::IdentityToken(Secret::new(answer.secret))),
                (false, false) => {
                    Some(Credential::Password { username: answer.username, password: Secret::new(answer.secret) })
                }
            })
        })
    }
}
