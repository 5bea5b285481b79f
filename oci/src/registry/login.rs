//! Whether a registry takes a name and a password.
//!
//! A registry comes in; a verdict goes out, after a real request: what it answers to `GET /v2/` without proof, then
//! with. The client's own credentials are those that are tried. distribution-spec, "Determining Support". Deliberately
//! absent: keeping them ([`super::credentials`]).

use reqwest::Method;
use reqwest::header::HeaderMap;

use super::auth::{Access, Site};
use super::error::{CredentialsUsed, RegistryError};
use super::retry::Attempts;
use super::transport::{Outgoing, Payload};
use super::{Client, challenge};
use crate::model::Reference;

/// What a registry says to credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// They are good.
    Accepted,
    /// It lets everybody in, and did not look at them.
    NotAsked,
}

impl Client {
    /// Asks `registry` (as in image names) whether it takes the credentials that this client has for it.
    ///
    /// # Errors
    /// When it does not, when they may not be sent there, or when it cannot be asked.
    pub async fn check_login(&self, registry: &str) -> Result<Login, RegistryError> {
        let no_registry = |_| RegistryError::Address { registry: registry.to_owned() };
        let image: Reference = format!("{registry}/any").parse().map_err(no_registry)?;
        let (site, _) = self.shared.origin(&image).await?;
        let mut attempts = Attempts::new(&*self.shared.pace);
        loop {
            match self.check_once(&site).await {
                Ok(login) => return Ok(login),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    async fn check_once(&self, site: &Site) -> Result<Login, RegistryError> {
        let shared = &self.shared;
        let outgoing =
            Outgoing { method: Method::GET, url: site.url("")?, headers: HeaderMap::new(), payload: Payload::Empty };
        let mut answer = shared.wire.send(site.home(), &outgoing, None, None).await?;
        match answer.status().as_u16() {
            200..=299 => return Ok(Login::NotAsked),
            401 => {}
            _ => return Err(shared.refusal(answer).await),
        }
        let challenge = challenge::best(answer.headers()).map_err(|reason| answer.protocol(reason))?;
        let challenge = challenge.ok_or_else(|| answer.protocol("it wants proof in no way that rbuild knows"))?;
        let (words, _) = answer.words(shared.pace.now()).await;
        let request = answer.request.clone();
        drop(answer);
        let refused = |request, words, used| RegistryError::Unauthorized {
            registry: site.registry.clone(),
            request,
            words,
            credentials: Box::new(used),
        };
        let proof = shared.prove(site, &Access::nothing(), &challenge, None).await?;
        // A token that anybody gets proves nothing.
        let (Some(header), CredentialsUsed::Sent { .. }) = (&proof.header, &proof.used) else {
            return Err(refused(request, words, proof.used));
        };
        let mut answer = shared.wire.send(site.home(), &outgoing, Some(header), None).await?;
        match answer.status().as_u16() {
            200..=299 => Ok(Login::Accepted),
            401 | 403 => {
                let (words, _) = answer.words(shared.pace.now()).await;
                Err(refused(answer.request.clone(), words, proof.used))
            }
            _ => Err(shared.refusal(answer).await),
        }
    }
}
