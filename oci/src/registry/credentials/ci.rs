//! Credentials that CI systems put into the environment of a job.
//!
//! Variables come in, credentials go out, each for the host that the same system says it is for and for no other:
//!
//! | variables | host |
//! |---|---|
//! | `DOCKER_AUTH_CONFIG`: the text of a `config.json` (GitLab and others) | those it names |
//! | `CI_REGISTRY_USER`, `CI_REGISTRY_PASSWORD`, else `CI_JOB_TOKEN` (GitLab) | `CI_REGISTRY` |
//! | `CI_DEPENDENCY_PROXY_USER`, `CI_DEPENDENCY_PROXY_PASSWORD`, else `CI_JOB_TOKEN` | `CI_DEPENDENCY_PROXY_SERVER` |
//! | `GITHUB_TOKEN` and `GITHUB_ACTOR`, where `GITHUB_ACTIONS` is `true` | `ghcr.io` |
//!
//! Nobody chose them for a build, so they come after all files; and where they are refused, what is open to everybody
//! is still pulled. Outside of a job nothing is taken from GitHub's variables: people keep tokens there that know
//! nothing of packages.

use std::ffi::OsString;

use super::{Credential, Secret};

/// Who a GitLab job is when it has only its token.
const GITLAB_TOKEN_USER: &str = "gitlab-ci-token";
/// Who a GitHub token may say it is; the registry looks at the token alone.
const GITHUB_TOKEN_USER: &str = "x-access-token";

/// What the environment of a job holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Job {
    /// `DOCKER_AUTH_CONFIG`.
    pub(super) auth_config: Option<Secret>,
    /// By host, with the variable that holds the secret.
    pub(super) hosts: Vec<(String, Credential, &'static str)>,
}

impl Job {
    pub(super) fn from_variables(get: &impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| get(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
        let mut job = Self { auth_config: text("DOCKER_AUTH_CONFIG").map(Secret::new), hosts: Vec::new() };
        let password = |user: Option<String>, name: &'static str| {
            let password = text(name)?;
            Some((Credential::Password { username: user?, password: Secret::new(password) }, name))
        };
        let token = || password(Some(GITLAB_TOKEN_USER.to_owned()), "CI_JOB_TOKEN");
        let mut add = |host: Option<String>, found: Option<(Credential, &'static str)>| {
            if let (Some(host), Some((credential, variable))) = (host.as_deref().and_then(host_of), found) {
                job.hosts.push((host, credential, variable));
            }
        };
        add(text("CI_REGISTRY"), password(text("CI_REGISTRY_USER"), "CI_REGISTRY_PASSWORD").or_else(token));
        let proxy = password(text("CI_DEPENDENCY_PROXY_USER"), "CI_DEPENDENCY_PROXY_PASSWORD").or_else(token);
        add(text("CI_DEPENDENCY_PROXY_SERVER"), proxy);
        if text("GITHUB_ACTIONS").as_deref() == Some("true") {
            let user = text("GITHUB_ACTOR").unwrap_or_else(|| GITHUB_TOKEN_USER.to_owned());
            add(Some("ghcr.io".to_owned()), password(Some(user), "GITHUB_TOKEN"));
        }
        job
    }

    /// The credential for a registry, and the variable that holds it.
    pub(super) fn find(&self, registry: &str) -> Option<(&Credential, &'static str)> {
        let registry = host_of(registry)?;
        let found = self.hosts.iter().find(|(host, ..)| *host == registry);
        found.map(|(_, credential, variable)| (credential, *variable))
    }
}

/// `HOST` or `HOST:PORT` in lower case, without a scheme, a path or the port of HTTPS.
fn host_of(text: &str) -> Option<String> {
    let bare = text.strip_prefix("https://").unwrap_or(text);
    let host = bare.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host).to_owned();
    (!host.is_empty() && !host.contains('@')).then_some(host)
}
