//! Credentials of registries, from the client: tokens that it fetches itself (`Auth.FetchToken`), so that its passwords stay
//! where they are, and `Auth.Credentials` where it fetches none or a registry wants a password.
//!
//! The daemon's own are never used for a client's build. A client that has none for a registry is nobody there. A token
//! serves the build that it was fetched for and no other, so nobody has to prove whose it is: the client's key
//! (`GetTokenAuthority`, `VerifyTokenAuthority`), by which other daemons tell whom they may lend a kept token, is not asked
//! for.

use std::sync::Arc;
use std::time::Duration;

use api::filesync::auth_client::AuthClient;
use api::filesync::{CredentialsRequest, FetchTokenRequest};
use oci::registry::credentials::{Answer, AskCredentials, FetchedToken, TokenWish};
use oci::registry::{Credential, Secret};
use tonic::Code;

use super::Session;

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const FETCH_TOKEN: &str = "/moby.filesync.v1.Auth/FetchToken";
/// Who wants the token, in OAuth 2.
const CLIENT_ID: &str = "buildkit-client";

/// Who asks one session.
#[derive(Debug)]
pub struct SessionCredentials(pub Arc<Session>);

/// Clients know Docker Hub by the host that serves it.
fn host(registry: &str) -> String {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }.to_owned()
}

impl AskCredentials for SessionCredentials {
    fn ask<'a>(&'a self, registry: &'a str) -> Answer<'a> {
        Box::pin(async move {
            if !self.0.has(CREDENTIALS) {
                return Ok(None);
            }
            let mut client = AuthClient::new(self.0.channel());
            let asked = client.credentials(CredentialsRequest { host: host(registry) });
            let answer = self.0.answer(asked).await.map_err(|status| status.message().to_owned())?;
            Ok(match (answer.username.is_empty(), answer.secret.is_empty()) {
                (_, true) => None,
                (true, false) => Some(Credential::IdentityToken(Secret::new(answer.secret))),
                (false, false) => {
                    Some(Credential::Password { username: answer.username, password: Secret::new(answer.secret) })
                }
            })
        })
    }

    fn fetch_token<'a>(&'a self, wish: TokenWish<'a>) -> Answer<'a, FetchedToken> {
        Box::pin(async move {
            if !self.0.has(FETCH_TOKEN) {
                return Ok(None);
            }
            let request = FetchTokenRequest {
                client_id: CLIENT_ID.to_owned(),
                host: host(wish.registry),
                realm: wish.realm.to_owned(),
                service: wish.service.unwrap_or_default().to_owned(),
                scopes: wish.scopes.to_vec(),
            };
            let mut client = AuthClient::new(self.0.channel());
            match self.0.answer(client.fetch_token(request)).await {
                Ok(answer) if answer.token.is_empty() => Ok(None),
                Ok(answer) => {
                    let life = Duration::from_secs(u64::try_from(answer.expires_in).unwrap_or(0));
                    Ok(Some(FetchedToken { token: Secret::new(answer.token), life }))
                }
                Err(status) if status.code() == Code::Unimplemented => Ok(None),
                Err(status) => Err(status.message().to_owned()),
            }
        })
    }
}
