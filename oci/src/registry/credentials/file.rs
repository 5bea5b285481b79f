//! Files of credentials: Docker's `config.json`, podman's `auth.json`, the old `.dockercfg`.
//!
//! ```json
//! { "auths": { "ghcr.io": { "auth": "base64 of name:password" } },
//!   "credHelpers": { "gcr.io": "gcloud" }, "credsStore": "secretservice" }
//! ```
//! Keys are hosts, or URLs as old clients wrote them, or (podman) hosts with the beginning of a repository; the longest
//! that fits wins. `.dockercfg` is the inside of `auths`. Deliberately absent: running the helpers that a file names.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use super::{Credential, CredentialError, Secret, place};

/// The key under which Docker Hub's credentials are kept, in files and by helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A file that may hold credentials.
#[derive(Clone, Debug)]
pub(super) struct AuthFile {
    pub(super) path: PathBuf,
    /// Whether it must exist.
    pub(super) required: bool,
    /// Whether it is the inside of `auths` (`.dockercfg`).
    pub(super) bare: bool,
    /// Whether it is docker's `config.json`.
    pub(super) is_dockers: bool,
}

/// What stands in it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Contents {
    #[serde(default, deserialize_with = "null_is_empty")]
    auths: BTreeMap<String, Entry>,
    #[serde(default, deserialize_with = "null_is_empty")]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<Secret>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    identitytoken: Option<Secret>,
    #[serde(default)]
    registrytoken: Option<Secret>,
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

fn null_is_empty<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl AuthFile {
    /// What stands in the file; `None` if there is none and none is needed.
    pub(super) async fn read(&self) -> Result<Option<Contents>, CredentialError> {
        let bytes = match tokio::fs::read(&self.path).await {
            Ok(bytes) => bytes,
            Err(error) if !self.required && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(source) => return Err(CredentialError::Read { path: self.path.clone(), source }),
        };
        // `touch auth.json` is how people make an empty one.
        if bytes.trim_ascii().is_empty() {
            return Ok(Some(Contents::default()));
        }
        let parsed = Contents::parse(&bytes, self.bare);
        parsed.map(Some).map_err(|reason| CredentialError::Malformed { path: self.path.clone(), reason })
    }
}

impl Contents {
    /// Reads the text of a file. The error says where, never what.
    pub(super) fn parse(bytes: &[u8], bare: bool) -> Result<Self, String> {
        let parsed = if bare {
            serde_json::from_slice(bytes).map(|auths| Self { auths, ..Self::default() })
        } else {
            serde_json::from_slice(bytes)
        };
        parsed.map_err(|error| place(&error))
    }

    /// Every helper that is named.
    pub(super) fn helpers(&self) -> std::collections::BTreeSet<&str> {
        let named = self.cred_helpers.values().chain(&self.creds_store).map(String::as_str);
        named.filter(|name| !name.is_empty()).collect()
    }

    /// Whether there is an entry, or a helper of its own, for a registry.
    pub(super) fn speaks_of(&self, registry: &str, is_meant: impl Fn(&str) -> bool) -> bool {
        let named = |key: &String| host_names(registry).contains(&normalised(key));
        self.auths.keys().any(|key| is_meant(key)) || self.cred_helpers.keys().any(named)
    }

    /// The helper to ask for a registry.
    pub(super) fn helper(&self, registry: &str) -> Option<&str> {
        let named = self.cred_helpers.iter().find(|(key, _)| host_names(registry).contains(&normalised(key)));
        named.map(|(_, name)| name).or(self.creds_store.as_ref()).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// The entry that fits a repository best.
    pub(super) fn entry(
        &self,
        origin: &Path,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        for candidate in candidates(registry, repository) {
            for (key, entry) in self.auths.iter().filter(|(key, _)| normalised(key) == candidate) {
                let bad = |reason| CredentialError::Malformed {
                    path: origin.to_owned(),
                    reason: format!("the entry `{}` {reason}", super::super::words::harmless(key)),
                };
                if let Some(credential) = entry.credential().map_err(bad)? {
                    return Ok(Some(credential));
                }
            }
        }
        Ok(None)
    }
}

impl Entry {
    /// An entry without anything in it is a placeholder for what a helper keeps.
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        let filled = |secret: &Option<Secret>| secret.clone().filter(|secret| !secret.expose().is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        if let Some(token) = filled(&self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(token)));
        }
        let (username, password) = match filled(&self.auth) {
            Some(auth) => {
                let text = auth.expose().trim().trim_end_matches('=');
                let bytes = STANDARD_NO_PAD
                    .decode(text)
                    .or_else(|_| STANDARD.decode(auth.expose().trim()))
                    .map_err(|_| "has an `auth` that is not base64")?;
                let text = String::from_utf8(bytes).map_err(|_| "has an `auth` that is not UTF-8")?;
                // Docker pads some passwords with zero bytes.
                let (name, password) =
                    text.trim_end_matches('\0').split_once(':').ok_or("has an `auth` without a colon")?;
                (name.to_owned(), Secret::new(password))
            }
            None => match (&self.username, filled(&self.password)) {
                (Some(username), Some(password)) => (username.clone(), password),
                _ => return Ok(None),
            },
        };
        if username == super::helper::TOKEN_USER {
            return Ok(Some(Credential::IdentityToken(password)));
        }
        Ok((!username.is_empty()).then_some(Credential::Password { username, password }))
    }
}

/// The key that helpers know a registry by.
pub(super) fn helper_key(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB_KEY } else { registry }
}

/// The names of a registry's host.
pub(super) fn host_names(registry: &str) -> Vec<String> {
    let names: &[&str] = match registry {
        "docker.io" => &["index.docker.io", "docker.io", "registry-1.docker.io", "registry.hub.docker.com"],
        other => &[other],
    };
    names.iter().map(|name| name.to_ascii_lowercase()).collect()
}

/// Keys that fit a repository, the longest first.
fn candidates(registry: &str, repository: &str) -> Vec<String> {
    let mut below = vec![repository];
    while let Some((shorter, _)) = below.last().and_then(|path| path.rsplit_once('/')) {
        below.push(shorter);
    }
    let hosts = host_names(registry);
    let long = below.iter().flat_map(|path| hosts.iter().map(move |host| format!("{host}/{path}")));
    long.chain(hosts.iter().cloned()).collect()
}

/// A key without scheme, API version and trailing slash: `https://index.docker.io/v1/` is `index.docker.io`.
pub(super) fn normalised(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let bare = bare.trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = host.to_ascii_lowercase();
    if matches!(path, "" | "v1" | "v2") { host } else { format!("{host}/{path}") }
}
