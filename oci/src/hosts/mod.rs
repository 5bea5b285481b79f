//! Settings of registries: for an image and an act, which endpoints are asked in which order, and with which TLS.
//!
//! Texts of files come in ([`buildkit`], [`registries_conf`], [`hosts_toml`], [`daemon_json`]) and names of
//! certificates ([`certs_d`]); a table [`Hosts`] goes out. Whoever reads the files adds what they say in the order of
//! their say:
//!
//! - The first source with mirrors for a name has the say about its mirrors; likewise about where it really is, and
//!   whether it is blocked. Within one source the longest prefix that fits wins.
//! - What a host is trusted with is added up over all sources; `insecure` is what the first that speaks of it says.
//! - Mirrors come first, in their order, then the registry itself. Pushes go to the registry itself alone.
//!
//! Deliberately absent: reading files; certificates themselves, which [`crate::registry`] reads when it needs them;
//! credentials.

mod rule;

pub mod buildkit;

pub mod registries_conf;

pub mod hosts_toml;

pub mod daemon_json;

pub mod certs_d;

mod text;

use std::net::IpAddr;
use std::sync::Arc;

pub use text::Said;

pub use rule::{Digests, Identity, Location, LocationError, Mirror, Prefix, Rule, Trust};

use crate::model::Reference;

/// What is done with a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A name becomes a manifest.
    Resolve,
    /// Blobs come.
    Pull,
    /// Anything is written.
    Push,
}

/// One place to ask for an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `host` or `host:port`, as credentials are looked up by.
    pub registry: String,
    /// The repository there.
    pub repository: String,
    /// The path of the API, if it is not `/v2/`; with slashes at both ends.
    pub api: Option<String>,
    /// Whether only HTTPS, or only plain HTTP is spoken there; `None`: HTTPS, or what is allowed.
    pub scheme: Option<Scheme>,
    /// Whether it stands in for the registry that the name says.
    pub is_mirror: bool,
    /// The registry that the name says, for mirrors that serve several of them (`?ns=`).
    pub namespace: Option<String>,
    /// What it is trusted with.
    pub trust: Arc<Trust>,
    /// What said that it is to be asked; `None`: the name alone.
    pub source: Option<Arc<str>>,
}

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// With TLS.
    Https,
    /// Without.
    Http,
}

/// An image that settings forbid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{image}` is blocked by `{source_name}`")]
pub struct Blocked {
    /// The image.
    pub image: String,
    /// What says so.
    pub source_name: Arc<str>,
}

/// All settings of registries.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// By source, the one with the first say first.
    sources: Vec<Vec<Rule>>,
    /// What whole commands ask for: `--tls-verify=false`, `--cert-dir`. For every registry that is named, and for no
    /// other host.
    named: Trust,
    /// Hints for people: a file that could not be understood, a setting that means nothing here.
    warnings: Vec<String>,
}

impl Hosts {
    /// Adds what one source says; it has a say after all that were added before.
    pub fn add(&mut self, said: Said) {
        self.warnings.extend(said.warnings);
        if !said.rules.is_empty() {
            self.sources.push(said.rules);
        }
    }

    /// Adds a hint.
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// Trusts every registry that a name says with this too.
    pub fn trust_named(&mut self, trust: Trust) {
        self.named.add(&trust);
    }

    /// Lets a registry be spoken to as insecure ones are, whatever files say.
    pub fn let_be_insecure(&mut self, registry: &str) {
        let trust = Trust { insecure: Some(true), ..Trust::default() };
        let rule = Rule { trust, ..Rule::new(Prefix::of_host(registry), "the command line".into()) };
        self.sources.insert(0, vec![rule]);
    }

    /// Hints for people.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every rule, in the order of its say.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.sources.iter().flatten()
    }

    /// Where to ask for an image, first things first. Never empty; the last is the registry itself.
    ///
    /// # Errors
    /// For images that are blocked.
    pub fn endpoints(&self, image: &Reference, act: Act) -> Result<Vec<Endpoint>, Blocked> {
        let fitting: Vec<&Rule> = self.sources.iter().filter_map(|rules| longest(rules, image)).collect();
        if let Some(rule) = fitting.iter().find(|rule| rule.blocked.is_some()).filter(|rule| rule.blocked == Some(true))
        {
            return Err(Blocked { image: image.familiar(), source_name: rule.source.clone() });
        }
        let mut endpoints = Vec::new();
        let pinned = image.digest().is_some();
        if act != Act::Push
            && let Some(rule) = fitting.iter().find(|rule| !rule.mirrors.is_empty())
        {
            let serves = |mirror: &&Mirror| match act {
                Act::Resolve => {
                    mirror.resolves
                        && match mirror.digests {
                            Digests::All => true,
                            Digests::Only => pinned,
                            Digests::Never => !pinned,
                        }
                }
                // Blobs are always asked for by digest, whatever the image's name.
                Act::Pull => mirror.pulls && (mirror.digests != Digests::Never || !pinned),
                Act::Push => false,
            };
            for mirror in rule.mirrors.iter().filter(serves) {
                let mut trust = mirror.trust.clone();
                trust.add(&self.trust_of(&mirror.location.host));
                endpoints.push(Endpoint {
                    registry: mirror.location.host.clone(),
                    repository: mirror.location.repository(rule.prefix.rest(image)),
                    api: mirror.location.api.clone(),
                    scheme: mirror.location.scheme,
                    is_mirror: true,
                    namespace: mirror.says_namespace.then(|| image.registry().to_owned()),
                    trust: Arc::new(trust),
                    source: Some(rule.source.clone()),
                });
            }
        }
        endpoints.push(self.origin(image, &fitting));
        Ok(endpoints)
    }

    /// The registry itself.
    fn origin(&self, image: &Reference, fitting: &[&Rule]) -> Endpoint {
        let located = fitting.iter().find_map(|rule| Some((rule, rule.location.as_ref()?)));
        let mut trust = Trust::default();
        for rule in fitting {
            trust.add(&rule.trust);
        }
        let (registry, repository, api, scheme) = match located {
            Some((rule, location)) => (
                location.host.clone(),
                location.repository(rule.prefix.rest(image)),
                location.api.clone(),
                location.scheme,
            ),
            None => (image.registry().to_owned(), image.repository().to_owned(), None, None),
        };
        trust.add(&self.trust_of(&registry));
        trust.add(&self.named);
        Endpoint {
            registry,
            repository,
            api,
            scheme,
            is_mirror: false,
            namespace: None,
            trust: Arc::new(trust),
            source: located.map(|(rule, _)| rule.source.clone()),
        }
    }

    /// What a host is trusted with, whoever sends there: a mirror, or the token server of another registry. Rules about
    /// parts of a registry do not count.
    pub fn trust_of(&self, host: &str) -> Trust {
        let mut trust = Trust::default();
        for rule in self.rules().filter(|rule| rule.prefix.is_host(host)) {
            trust.add(&rule.trust);
        }
        trust
    }
}

/// One setting as text: its name, its value, and what says it.
pub type Row = (String, String, Arc<str>);

impl Rule {
    /// What it says, for people.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |key: &str, value: String| {
            rows.push((format!("registry.\"{}\".{key}", self.prefix), value, self.source.clone()));
        };
        if !self.mirrors.is_empty() {
            let mirrors: Vec<String> = self.mirrors.iter().map(Mirror::to_string).collect();
            row("mirrors", mirrors.join(" "));
        }
        if let Some(location) = &self.location {
            row("location", location.to_string());
        }
        if let Some(blocked) = self.blocked {
            row("blocked", blocked.to_string());
        }
        if let Some(insecure) = self.trust.insecure {
            row("insecure", insecure.to_string());
        }
        if let Some(http) = self.trust.http {
            row("http", http.to_string());
        }
        if !self.trust.authorities.is_empty() {
            let paths: Vec<String> = self.trust.authorities.iter().map(|path| path.display().to_string()).collect();
            row("ca", paths.join(" "));
        }
        if let Some(identity) = &self.trust.identity {
            row("keypair", format!("{} {}", identity.certificate.display(), identity.key.display()));
        }
        rows
    }
}

/// The rule of a source that fits an image best.
fn longest<'a>(rules: &'a [Rule], image: &Reference) -> Option<&'a Rule> {
    let fitting = rules.iter().filter_map(|rule| Some((rule.prefix.fits(image)?, rule)));
    // Of equals the first.
    fitting.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, rule)| rule)
}

/// The address in `host`, `host:port`, `[v6]` or `[v6]:port`, if it is one.
fn address(host: &str) -> Option<IpAddr> {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']')?.0.parse().ok();
    }
    host.rsplit_once(':').map_or(host, |(bare, _)| bare).parse().ok()
}

#[cfg(test)]
mod tests;
