//! Credentials that are kept and forgotten: what `rbuild login` and `logout` change.
//!
//! A login goes into one file. Which, in this order:
//!
//! 1. the file that was named (`--authfile`, `REGISTRY_AUTH_FILE`);
//! 2. the first of the usual files that speaks of the registry already: what is written later in the order would
//!    stand in its shadow;
//! 3. the first of them that is there;
//! 4. `config.json` of docker, which every tool reads and no reboot removes.
//!
//! If that file names a helper for the registry, the helper keeps the secret and the file an empty entry. A logout
//! removes what every file, and every helper that they name, has for the registry. Deliberately absent: asking the
//! registry whether the credentials are any good ([`super::super::login`]).

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::document;
use super::file::{AuthFile, Contents, helper_key, host_names, normalised};
use super::helper::Helpers;
use super::{CredentialError, Credentials, Secret};

/// What credentials are for: a registry, or the beginning of its repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginKey {
    registry: String,
    /// Empty for all of the registry.
    namespace: String,
}

impl LoginKey {
    /// `docker.io`, `r.example:5000`, `r.example/team`; a scheme and a slash at the end mean nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let normal = normalised(text);
        let (host, namespace) = normal.split_once('/').unwrap_or((&normal, ""));
        let registry = if host_names("docker.io").contains(&host.to_owned()) { "docker.io" } else { host };
        let is_host = crate::hosts::Location::parse(&normal).is_ok_and(|found| found.host == host);
        is_host.then(|| Self { registry: registry.to_owned(), namespace: namespace.to_owned() })
    }

    /// The registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// As files have it.
    fn key(&self) -> String {
        match self.namespace.as_str() {
            "" => helper_key(&self.registry).to_owned(),
            namespace => format!("{}/{namespace}", self.registry),
        }
    }

    /// Whether a key of a file means this.
    fn means(&self, key: &str) -> bool {
        let key = normalised(key);
        let (host, namespace) = key.split_once('/').unwrap_or((&key, ""));
        host_names(&self.registry).iter().any(|name| name == host) && namespace == self.namespace
    }
}

impl std::fmt::Display for LoginKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.registry)?;
        if self.namespace.is_empty() { Ok(()) } else { write!(f, "/{}", self.namespace) }
    }
}

impl Credentials {
    /// Keeps a name and a password; says where. What was kept for the same key is replaced.
    ///
    /// # Errors
    /// When nothing could be kept; then everything is as it was.
    pub async fn store(&self, key: &LoginKey, username: &str, password: &Secret) -> Result<String, CredentialError> {
        let (file, contents) = self.file_for(key).await?;
        let shown = format!("`{}`", file.path.display());
        let helper = contents.helper(&key.registry).map(str::to_owned);
        let entry = match &helper {
            Some(name) if !key.namespace.is_empty() => {
                return Err(CredentialError::HelperFailed {
                    name: super::super::words::harmless(name),
                    reason: "helpers keep credentials of whole registries only".to_owned(),
                });
            }
            Some(name) => {
                self.helpers().store(name, helper_key(&key.registry), username, password).await?;
                serde_json::json!({})
            }
            None => {
                let auth = STANDARD.encode(format!("{username}:{}", password.expose()));
                serde_json::json!({ "auth": auth })
            }
        };
        let (written, meant) = (file.clone(), key.clone());
        in_background(move || {
            document::change(&written.path, written.bare, |document| {
                document.put(&meant.key(), &entry, |other| meant.means(other));
                Ok((true, ()))
            })
        })
        .await?;
        Ok(match helper {
            Some(name) => format!("`docker-credential-{name}`, which {shown} names"),
            None => shown,
        })
    }

    /// Forgets what is kept for a key, or everything for `None`; says what was forgotten, place by place.
    ///
    /// # Errors
    /// The first file or helper that does not let go; what came before is forgotten.
    pub async fn forget(&self, key: Option<&LoginKey>) -> Result<Vec<String>, CredentialError> {
        let mut forgotten = Vec::new();
        for file in &self.files {
            let contents = match file.read().await {
                Ok(Some(contents)) => contents,
                Ok(None) => continue,
                // Nothing is kept in a file that is still to be made.
                Err(CredentialError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let shown = file.path.display().to_string();
            for (helper, key) in self.kept_by_helpers(&contents, key).await? {
                if self.helpers().erase(&helper, &key).await? {
                    forgotten
                        .push(format!("`{}` in `docker-credential-{helper}`, which `{shown}` names", normalised(&key)));
                }
            }
            let (file, meant) = (file.clone(), key.cloned());
            let removed = in_background(move || {
                document::change(&file.path, file.bare, |document| {
                    let is_meant = |key: &str| meant.as_ref().is_none_or(|meant| meant.means(key));
                    let keys: Vec<String> = document.keys().filter(|key| is_meant(key)).map(str::to_owned).collect();
                    let count = document.remove(|key| keys.iter().any(|gone| gone == key));
                    Ok((count > 0, keys))
                })
            });
            for key in removed.await? {
                let key = super::super::words::harmless(&normalised(&key));
                let line = format!("`{key}` in `{shown}`");
                // A helper's entry in the file is no second login.
                let by_helper = format!("`{key}` in `docker-credential-");
                if !forgotten.iter().any(|said| said.starts_with(&by_helper) && said.contains(&shown)) {
                    forgotten.push(line);
                }
            }
        }
        Ok(forgotten)
    }

    /// (helper, key) of what helpers may have.
    async fn kept_by_helpers(
        &self,
        contents: &Contents,
        key: Option<&LoginKey>,
    ) -> Result<Vec<(String, String)>, CredentialError> {
        if let Some(key) = key {
            let helper = contents.helper(&key.registry).filter(|_| key.namespace.is_empty());
            return Ok(helper
                .map(|name| (name.to_owned(), helper_key(&key.registry).to_owned()))
                .into_iter()
                .collect());
        }
        let mut kept = Vec::new();
        for name in contents.helpers() {
            let keys = self.helpers().list(name).await?;
            kept.extend(keys.into_iter().map(|key| (name.to_owned(), key)));
        }
        Ok(kept)
    }

    /// The file that a login goes into, and what stands there.
    async fn file_for(&self, key: &LoginKey) -> Result<(AuthFile, Contents), CredentialError> {
        if let [named] = self.files.as_slice()
            && named.required
        {
            let contents = match named.read().await {
                Err(CredentialError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
                other => other?,
            };
            return Ok((named.clone(), contents.unwrap_or_default()));
        }
        let mut first = None;
        for file in self.files.iter().filter(|file| !file.bare) {
            let Some(contents) = file.read().await? else { continue };
            if contents.speaks_of(&key.registry, |other| key.means(other)) {
                return Ok((file.clone(), contents));
            }
            first = first.or(Some((file.clone(), contents)));
        }
        let usual = || self.files.iter().find(|file| file.is_dockers).map(|file| (file.clone(), Contents::default()));
        first.or_else(usual).ok_or(CredentialError::Nowhere)
    }

    fn helpers(&self) -> Helpers<'_> {
        Helpers { path: &self.helper_path, through: self.through.as_ref() }
    }

    /// The files that are looked into, in their order.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().map(|file| &file.path)
    }
}

/// Waiting for another writer holds up no thread of the runtime.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CredentialError> + Send + 'static,
) -> Result<T, CredentialError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
