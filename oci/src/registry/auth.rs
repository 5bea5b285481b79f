//! Challenges answered: a request goes out with what its registry wants to see.
//!
//! A [`Site`] is a registry and what was learned about it: its scheme, the challenges it made, credentials, tokens.
//! A request goes out as the registry was last satisfied; a 401 is answered once, with a new token. A token is fetched
//! once however many requests wait for it, and belongs to its site alone, whatever other registries name as realm.
//! distribution's token and OAuth 2 specifications. Deliberately absent: tries after other failures, except for token
//! requests themselves.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::{OnceCell, Semaphore};

use super::challenge::{self, Challenge};
use super::credentials::{CLIENT, Credential, FetchedToken, Found, Secret, TokenWish, whose};
use super::error::{CredentialsUsed, RegistryError};
use super::origin::{self, same_origin};
use super::retry::Attempts;
use super::route::{self, Place};
use super::transport::{Answer, Home, Outgoing, Payload, name};
use super::{Shared, locked};
use crate::hosts::{Scheme, Trust};

/// A token has a few kilobytes.
const TOKEN_ANSWER_MAX_BYTES: u64 = 1 << 20;
/// distribution's token specification: a token without `expires_in` lives this long, and none lives shorter.
const TOKEN_LIFE_MIN: Duration = Duration::from_secs(60);
/// A token is renewed this long before its end, so that it does not end on the way.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);
/// Who asks, in OAuth 2.
const OAUTH_CLIENT_ID: &str = "rbuild";

/// A registry and what was learned about it.
pub(super) struct Site {
    /// As in image names.
    pub(super) registry: String,
    /// `https://registry-1.docker.io/v2/`
    pub(super) base: Url,
    /// What its host is trusted with.
    pub(super) trust: Arc<Trust>,
    /// Whether somebody else can be asked instead.
    pub(super) is_mirror: bool,
    /// The registry that it stands in for, if it wants to know.
    namespace: Option<String>,
    connections: Arc<Semaphore>,
    learned: Mutex<Learned>,
    /// By repository.
    found: Mutex<HashMap<String, Arc<OnceCell<Found>>>>,
    tokens: Mutex<HashMap<TokenKey, Arc<TokenSlot>>>,
}

type TokenSlot = tokio::sync::Mutex<Option<Token>>;

/// Challenges that were made.
#[derive(Default)]
struct Learned {
    exact: HashMap<Access, Challenge>,
    /// The last one. What is asked for the first time is asked as if the same challenge came: that spares a 401.
    last: Option<Challenge>,
}

/// What a request wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Access {
    pub(super) repository: String,
    pub(super) push: bool,
    /// A repository to mount blobs from.
    pub(super) mount_from: Option<String>,
}

impl Access {
    pub(super) fn pull(repository: &str) -> Self {
        Self { repository: repository.to_owned(), push: false, mount_from: None }
    }

    pub(super) fn push(repository: &str) -> Self {
        Self { repository: repository.to_owned(), push: true, mount_from: None }
    }

    /// Only being let in.
    pub(super) fn nothing() -> Self {
        Self::pull("")
    }

    /// distribution's token scope specification.
    fn scopes(&self) -> BTreeSet<String> {
        if self.repository.is_empty() {
            return BTreeSet::new();
        }
        let actions = if self.push { "pull,push" } else { "pull" };
        let mut scopes = BTreeSet::from([format!("repository:{}:{actions}", self.repository)]);
        scopes.extend(self.mount_from.iter().map(|from| format!("repository:{from}:pull")));
        scopes
    }
}

#[derive(PartialEq, Eq, Hash)]
struct TokenKey {
    realm: String,
    service: Option<String>,
    scopes: BTreeSet<String>,
    repository: String,
}

struct Token {
    header: HeaderValue,
    until: jiff::Timestamp,
}

/// What a request carries, and how it came to that.
pub(super) struct Proof {
    pub(super) header: Option<HeaderValue>,
    pub(super) used: CredentialsUsed,
}

impl Site {
    /// The URL of something beneath the API's root.
    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let mut url = self.base.join(path).map_err(|_| RegistryError::Address { registry: self.registry.clone() })?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// Whose settings of TLS count for requests that begin here.
    pub(super) fn home(&self) -> Home<'_> {
        Home { base: &self.base, trust: &self.trust }
    }

    /// The challenge that a request will meet, as far as is known.
    fn learned(&self, access: &Access) -> Option<Challenge> {
        let learned = locked(&self.learned);
        learned.exact.get(access).cloned().or_else(|| {
            learned.last.clone().map(|last| match last {
                Challenge::Basic => Challenge::Basic,
                Challenge::Bearer { realm, service, .. } => {
                    Challenge::Bearer { realm, service, scopes: access.scopes().into_iter().collect() }
                }
            })
        })
    }

    /// Where the token for a challenge is kept; `None` where it wants none.
    fn token_slot(&self, challenge: &Challenge, access: &Access) -> Option<Arc<TokenSlot>> {
        let Challenge::Bearer { realm, service, scopes } = challenge else { return None };
        let key = TokenKey {
            realm: realm.to_string(),
            service: service.clone(),
            scopes: scopes.iter().cloned().collect(),
            // Credentials may differ between repositories.
            repository: access.repository.clone(),
        };
        Some(locked(&self.tokens).entry(key).or_default().clone())
    }

    fn learn(&self, access: &Access, challenge: Challenge) {
        let mut learned = locked(&self.learned);
        learned.last = Some(challenge.clone());
        learned.exact.insert(access.clone(), challenge);
    }
}

impl Shared {
    /// The site of a place. The first caller finds out which scheme it speaks, the others wait.
    pub(super) async fn site(&self, place: &Place) -> Result<Arc<Site>, RegistryError> {
        let endpoint = &place.endpoint;
        let registry = &endpoint.registry;
        if self.wire.offline {
            return Err(RegistryError::Offline { registry: registry.clone() });
        }
        place.asked.store(true, Ordering::Relaxed);
        let cell = locked(&self.sites).entry(route::key(endpoint)).or_default().clone();
        let site = cell.get_or_try_init(|| async {
            let api = endpoint.api.as_deref().unwrap_or("/v2/");
            let base = |scheme| {
                origin::base(registry, scheme, api).ok_or_else(|| RegistryError::Address { registry: registry.clone() })
            };
            let (mut url, plain) = (base("https")?, base("http")?);
            let home = Home { base: &url, trust: &endpoint.trust };
            let is_plain = match endpoint.scheme {
                // What was written is meant.
                Some(Scheme::Http) => true,
                Some(Scheme::Https) => false,
                None if endpoint.trust.http == Some(true) => true,
                None if endpoint.trust.permits_plain() || self.wire.rules.permits_plain(&plain) => {
                    !self.wire.speaks_tls(home).await?
                }
                None => false,
            };
            if is_plain {
                self.wire.rules.hosts.permit_plain(origin::authority(&plain));
                url = plain;
            }
            Ok(Arc::new(Site {
                registry: registry.clone(),
                base: url,
                trust: endpoint.trust.clone(),
                is_mirror: endpoint.is_mirror,
                namespace: endpoint.namespace.clone(),
                connections: Arc::new(Semaphore::new(self.connections_per_host)),
                learned: Mutex::default(),
                found: Mutex::default(),
                tokens: Mutex::default(),
            }))
        });
        site.await.cloned()
    }

    /// Sends a request with what the registry wants to see. One 401 is answered. The answer may have any status; the
    /// registry's own 401 and 403 are errors that say what was tried.
    pub(super) async fn ask(
        &self,
        site: &Site,
        access: &Access,
        outgoing: &Outgoing<'_>,
    ) -> Result<Answer, RegistryError> {
        let home = same_origin(&outgoing.url, &site.base);
        let mut proof = match site.learned(access).filter(|_| home) {
            Some(challenge) => self.prove(site, access, &challenge, None).await?,
            None => Proof { header: None, used: CredentialsUsed::NoneFound { searched: vec![], notes: vec![] } },
        };
        let mut answered = false;
        loop {
            // The semaphore is never closed.
            let permit = site.connections.clone().acquire_owned().await.ok();
            let mut answer = self.wire.send(site.home(), outgoing, proof.header.as_ref(), permit).await?;
            let status = answer.status();
            if answer.from_elsewhere {
                // Storage has its own reasons, and credentials are not among them.
                return Ok(answer);
            }
            if status == StatusCode::UNAUTHORIZED && home && !answered {
                answered = true;
                let challenge = challenge::best(answer.headers()).map_err(|reason| answer.protocol(reason))?;
                if let Some(challenge) = challenge {
                    let (words, _) = answer.words(self.pace.now()).await;
                    let request = answer.request.clone();
                    // The connection is given back: the token server may be the same host.
                    drop(answer);
                    let challenge = widened(challenge, access);
                    let stale = proof.header.take();
                    proof = self.prove(site, access, &challenge, stale.as_ref()).await?;
                    site.learn(access, challenge);
                    if proof.header.is_some() {
                        continue;
                    }
                    let (registry, credentials) = (site.registry.clone(), Box::new(proof.used));
                    return Err(RegistryError::Unauthorized { registry, request, words, credentials });
                }
            }
            if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
                let (words, _) = answer.words(self.pace.now()).await;
                let (request, credentials) = (answer.request.clone(), Box::new(proof.used));
                return Err(if status == StatusCode::FORBIDDEN {
                    RegistryError::Denied { request, words, credentials }
                } else {
                    RegistryError::Unauthorized { registry: site.registry.clone(), request, words, credentials }
                });
            }
            return Ok(answer);
        }
    }

    /// What to show for a challenge. `stale` was shown and refused.
    pub(super) async fn prove(
        &self,
        site: &Site,
        access: &Access,
        challenge: &Challenge,
        stale: Option<&HeaderValue>,
    ) -> Result<Proof, RegistryError> {
        if let Some(header) = self.their_token(site, access, challenge, stale).await {
            return Ok(Proof {
                header: Some(header).filter(|header| Some(header) != stale),
                used: CredentialsUsed::Fetched,
            });
        }
        let found = self.found(site, &access.repository).await?;
        let is_implied = found.is_implied;
        let mut used = CredentialsUsed::NoneFound { searched: found.searched, notes: found.notes };
        let mut credential = None;
        if let Some((candidate, origin)) = found.credential {
            let whose = whose(&candidate, &origin);
            let verdict = match (challenge, &candidate) {
                (_, Credential::RegistryToken(token)) if bearer(token).is_none() => {
                    Err("it has characters that no header may hold".to_owned())
                }
                (_, Credential::RegistryToken(_)) => origin::travels_safely(&site.base),
                (Challenge::Basic, Credential::Password { .. }) => origin::travels_safely(&site.base),
                (Challenge::Basic, Credential::IdentityToken(_)) => {
                    Err("the registry takes a name and a password, not an identity token".to_owned())
                }
                (Challenge::Bearer { realm, .. }, _) => {
                    self.wire.rules.realm_gets_credentials(&site.registry, &site.base, realm)
                }
            };
            used = match verdict {
                Ok(()) => {
                    credential = Some(candidate);
                    CredentialsUsed::Sent { whose }
                }
                Err(reason) => {
                    tracing::warn!(registry = site.registry, "{whose} are not sent: {reason}");
                    CredentialsUsed::Withheld { whose, reason }
                }
            };
        }
        let header = match (challenge, credential) {
            (_, Some(Credential::RegistryToken(token))) => bearer(&token),
            (Challenge::Basic, Some(Credential::Password { username, password })) => Some(basic(&username, &password)),
            (Challenge::Basic, _) => None,
            (Challenge::Bearer { .. }, credential) => {
                let given = self.token(site, access, challenge, credential.as_ref(), &used, stale).await;
                Some(match (given, &used) {
                    // What a CI system gives its jobs for one thing must not keep them from what everybody may have.
                    (Err(RegistryError::Unauthorized { .. }), CredentialsUsed::Sent { whose })
                        if is_implied && !access.push =>
                    {
                        tracing::warn!(registry = site.registry, "{whose} are refused; asking as anybody");
                        let reason = "the token server refused them before".to_owned();
                        used = CredentialsUsed::Withheld { whose: whose.clone(), reason };
                        self.token(site, access, challenge, None, &used, stale).await?
                    }
                    (given, _) => given?,
                })
            }
        };
        // What was just refused is not shown again.
        let header = header.filter(|header| Some(header) != stale);
        Ok(Proof { header, used })
    }

    /// The credentials for a repository; looked for once.
    async fn found(&self, site: &Site, repository: &str) -> Result<Found, RegistryError> {
        let cell = locked(&site.found).entry(repository.to_owned()).or_default().clone();
        let found = cell.get_or_try_init(|| self.credentials.find(&site.registry, repository)).await;
        found.cloned().map_err(|source| RegistryError::Credentials { registry: site.registry.clone(), source })
    }

    /// A token that whoever the build is done for fetches: then it keeps its credentials to itself. Only a realm that would
    /// get credentials is named to it.
    async fn their_token(
        &self,
        site: &Site,
        access: &Access,
        challenge: &Challenge,
        stale: Option<&HeaderValue>,
    ) -> Option<HeaderValue> {
        let asker = self.credentials.asker()?;
        let Challenge::Bearer { realm, service, scopes } = challenge else { return None };
        let rules = &self.wire.rules;
        let is_theirs = rules.check_hop(&site.base, realm).is_ok()
            && rules.realm_gets_credentials(&site.registry, &site.base, realm).is_ok();
        if !is_theirs {
            return None;
        }
        let slot = site.token_slot(challenge, access)?;
        let mut kept = slot.lock().await;
        if let Some(header) = self.fresh(&kept, stale) {
            return Some(header);
        }
        *kept = None;
        let wish = TokenWish { registry: &site.registry, realm: realm.as_str(), service: service.as_deref(), scopes };
        let FetchedToken { token, life } = match asker.fetch_token(wish).await {
            Ok(fetched) => fetched?,
            Err(words) => {
                tracing::warn!(registry = site.registry, "{CLIENT} fetched no token: {words}");
                return None;
            }
        };
        let header = bearer(&token);
        if header.is_none() {
            tracing::warn!(registry = site.registry, "{CLIENT} fetched a token that cannot stand in a header");
        }
        *kept = header.clone().map(|header| Token { header, until: self.until(life) });
        header
    }

    /// A kept token, unless it was refused or is old.
    fn fresh(&self, kept: &Option<Token>, stale: Option<&HeaderValue>) -> Option<HeaderValue> {
        let token = kept.as_ref()?;
        (Some(&token.header) != stale && self.pace.now() < token.until).then(|| token.header.clone())
    }

    /// Until when a new token is shown. A life beyond the calendar is as good as for ever.
    fn until(&self, life: Duration) -> jiff::Timestamp {
        let life = life.max(TOKEN_LIFE_MIN);
        self.pace.now().checked_add(life - TOKEN_MARGIN).unwrap_or(jiff::Timestamp::MAX)
    }

    /// A token that answers a challenge: a kept one that is fresh, or a new one that all who wait share.
    async fn token(
        &self,
        site: &Site,
        access: &Access,
        challenge: &Challenge,
        credential: Option<&Credential>,
        used: &CredentialsUsed,
        stale: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let Challenge::Bearer { realm, service, scopes } = challenge else {
            unreachable!("only Bearer challenges are answered with tokens");
        };
        let slot = site.token_slot(challenge, access).expect("only Bearer challenges come here");
        let mut kept = slot.lock().await;
        if let Some(header) = self.fresh(&kept, stale) {
            return Ok(header);
        }
        *kept = None;
        let mut attempts = Attempts::new(&*self.pace);
        let token = loop {
            match self.fetch_token(site, realm, service.as_deref(), scopes, credential, used).await {
                Ok(token) => break token,
                Err(error) => attempts.pause(error).await?,
            }
        };
        let header = token.header.clone();
        *kept = Some(token);
        Ok(header)
    }

    /// What a token server is trusted with. The authorities that vouch for a registry vouch for its own token server too:
    /// a private one is rarely in one place only. That a certificate is not looked at goes for one host and port.
    fn trust_of_realm(&self, site: &Site, realm: &Url) -> Trust {
        if origin::authority(realm) == origin::authority(&site.base) {
            return Trust::clone(&site.trust);
        }
        let mut trust = self.wire.rules.hosts.get().trust_of(&origin::authority(realm));
        if self.wire.rules.realm_gets_credentials(&site.registry, &site.base, realm).is_ok() {
            trust.add(&Trust { authorities: site.trust.authorities.clone(), ..Trust::default() });
        }
        trust
    }

    async fn fetch_token(
        &self,
        site: &Site,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
        credential: Option<&Credential>,
        used: &CredentialsUsed,
    ) -> Result<Token, RegistryError> {
        self.wire.rules.check_hop(&site.base, realm).map_err(|reason| RegistryError::Refused {
            request: name(&Method::GET, &site.base),
            target: origin::display(realm),
            reason: format!("as its token server: {reason}"),
        })?;
        let trust = self.trust_of_realm(site, realm);
        let home = Home { base: realm, trust: &trust };
        let (outgoing, authorization) = match credential {
            Some(Credential::IdentityToken(token)) => (exchange_request(realm, service, scopes, token), None),
            Some(Credential::Password { username, password }) => {
                (token_request(realm, service, scopes, Some(username)), Some(basic(username, password)))
            }
            _ => (token_request(realm, service, scopes, None), None),
        };
        let mut answer = self.wire.send(home, &outgoing, authorization.as_ref(), None).await?;
        if let (404 | 405, Some(Credential::IdentityToken(token))) = (answer.status().as_u16(), credential) {
            // A token server from before OAuth 2 takes it for a password, as containerd has it.
            answer.drain().await;
            let outgoing = token_request(realm, service, scopes, None);
            answer = self.wire.send(home, &outgoing, Some(&basic("", token)), None).await?;
        }
        let status = answer.status();
        if status != StatusCode::OK {
            let (words, retry_after) = answer.words(self.pace.now()).await;
            let request = answer.request.clone();
            return Err(match status.as_u16() {
                // Some token servers answer wrong credentials with 400.
                400 | 401 | 403 => RegistryError::Unauthorized {
                    registry: site.registry.clone(),
                    request,
                    words,
                    credentials: Box::new(used.clone()),
                },
                status => RegistryError::Status { request, status, words, retry_after, attempts: 1 },
            });
        }
        let body = answer.body(TOKEN_ANSWER_MAX_BYTES).await?;
        // Its error would quote the token.
        let parsed = serde_json::from_slice::<TokenAnswer>(&body);
        let parsed = parsed.map_err(|_| answer.protocol("the token server's answer is not a token"))?;
        let text = [parsed.token, parsed.access_token].into_iter().flatten().find(|token| !token.is_empty());
        let text = text.ok_or_else(|| answer.protocol("the token server's answer holds no token"))?;
        let header = bearer(&Secret::new(text)).ok_or_else(|| answer.protocol("the token cannot stand in a header"))?;
        let life = parsed.expires_in.map_or(Duration::ZERO, Duration::from_secs);
        Ok(Token { header, until: self.until(life) })
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// A challenge together with what rbuild knows it will need. Some registries name the scope of one request only, some
/// rename repositories.
fn widened(challenge: Challenge, access: &Access) -> Challenge {
    match challenge {
        Challenge::Basic => Challenge::Basic,
        Challenge::Bearer { realm, service, scopes } => {
            let mut wanted = access.scopes();
            // `repository:a:pull` is in `repository:a:pull,push`, and the order of actions means nothing.
            wanted.extend(scopes.into_iter().filter(|scope| !covered(scope, access)));
            Challenge::Bearer { realm, service, scopes: wanted.into_iter().collect() }
        }
    }
}

fn covered(scope: &str, access: &Access) -> bool {
    let Some(rest) = scope.strip_prefix("repository:") else { return false };
    let Some((repository, actions)) = rest.rsplit_once(':') else { return false };
    let known = |action: &str| action == "pull" || (access.push && repository == access.repository && action == "push");
    (repository == access.repository || access.mount_from.as_deref() == Some(repository))
        && actions.split(',').all(known)
}

/// distribution's token specification, "Requesting a Token".
fn token_request<'a>(realm: &Url, service: Option<&str>, scopes: &[String], account: Option<&str>) -> Outgoing<'a> {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        for (name, value) in [("service", service), ("account", account)] {
            query.extend_pairs(value.map(|value| (name, value)));
        }
        query.extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
    }
    Outgoing { method: Method::GET, url, headers: HeaderMap::new(), payload: Payload::Empty }
}

/// distribution's OAuth 2 specification, "Refreshing a token".
fn exchange_request<'a>(realm: &Url, service: Option<&str>, scopes: &[String], token: &Secret) -> Outgoing<'a> {
    let mut form = realm.clone();
    form.set_query(None);
    form.query_pairs_mut()
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", OAUTH_CLIENT_ID)
        .extend_pairs(service.map(|service| ("service", service)))
        .append_pair("scope", &scopes.join(" "))
        .append_pair("refresh_token", token.expose());
    let body = form.query().unwrap_or_default().to_owned();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    Outgoing { method: Method::POST, url: realm.clone(), headers, payload: Payload::SecretForm(body) }
}

fn basic(username: &str, password: &Secret) -> HeaderValue {
    let text = format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.expose())));
    let mut header = HeaderValue::try_from(text).expect("base64 can stand in a header");
    header.set_sensitive(true);
    header
}

fn bearer(token: &Secret) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(format!("Bearer {}", token.expose())).ok()?;
    header.set_sensitive(true);
    Some(header)
}
