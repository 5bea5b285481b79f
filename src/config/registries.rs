//! `[registry."…"]` of `config.toml`: the words of BuildKit's `buildkitd.toml`, and `location` and `blocked`.

use std::path::PathBuf;

use oci::hosts::{Identity, Location, Prefix, Rule, buildkit};
use toml::Spanned;
use toml::de::DeValue;

use super::file::Reader;
use super::{Setting, Source};

/// All keys.
pub const KEYS: &[&str] = &["mirrors", "insecure", "http", "ca", "keypair", "location", "blocked"];

/// What is set for one registry, or for the names beneath a prefix.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// Asked before the registry itself.
    pub mirrors: Option<Setting<Vec<Location>>>,
    /// Whether its certificate is not looked at, and plain HTTP may be spoken.
    pub insecure: Option<Setting<bool>>,
    /// Whether only plain HTTP is spoken.
    pub http: Option<Setting<bool>>,
    /// Certificates of authorities.
    pub ca: Option<Setting<Vec<PathBuf>>>,
    /// How rbuild shows who it is.
    pub keypair: Option<Setting<Identity>>,
    /// Where it really is.
    pub location: Option<Setting<Location>>,
    /// Whether nothing may be had from it.
    pub blocked: Option<Setting<bool>>,
}

impl RegistryConfig {
    pub(super) fn fill(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        reader: &mut Reader<'_>,
    ) {
        let flag = |reader: &mut Reader<'_>| reader.value(value, "true or false", |value| value.as_bool(), Ok);
        match key.get_ref().as_ref() {
            "mirrors" => {
                let parse = |texts: Vec<String>| texts.iter().map(|text| location(text)).collect();
                self.mirrors = reader.value(value, "a list of texts in quotes", texts, parse);
            }
            "insecure" => self.insecure = flag(reader),
            "http" => self.http = flag(reader),
            "blocked" => self.blocked = flag(reader),
            "ca" => {
                let parse = |texts: Vec<String>| texts.iter().map(|text| absolute(text)).collect();
                self.ca = reader.value(value, "a path in quotes, or a list of them", texts, parse);
            }
            "keypair" => {
                let what = "a table is expected here, `{ key = \"PATH\", cert = \"PATH\" }`, or a list of one; a table";
                self.keypair = reader.value(value, what, pair, |(key, certificate)| {
                    Ok(Identity { key: absolute(&key)?, certificate: absolute(&certificate)? })
                });
            }
            "location" => self.location = reader.text(value, location),
            _ => reader.unknown(key, KEYS),
        }
    }

    /// Key by key, and `other` where this says nothing.
    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            mirrors: self.mirrors.or(other.mirrors),
            insecure: self.insecure.or(other.insecure),
            http: self.http.or(other.http),
            ca: self.ca.or(other.ca),
            keypair: self.keypair.or(other.keypair),
            location: self.location.or(other.location),
            blocked: self.blocked.or(other.blocked),
        }
    }

    /// What it says, to those who ask registries. The name was looked at when it was read.
    pub fn rule(&self, name: &str) -> Option<Rule> {
        let sources = [
            self.mirrors.as_ref().map(|setting| &setting.source),
            self.location.as_ref().map(|setting| &setting.source),
            self.blocked.as_ref().map(|setting| &setting.source),
            self.insecure.as_ref().map(|setting| &setting.source),
        ];
        let source = sources.into_iter().flatten().next().map_or("config.toml".to_owned(), Source::to_string);
        let mut rule = Rule::new(Prefix::parse(name).ok()?, source.into());
        let mirrors = self.mirrors.iter().flat_map(|setting| setting.value.iter().cloned());
        rule.mirrors = mirrors.map(buildkit::mirror).collect();
        rule.location = self.location.as_ref().map(|setting| setting.value.clone());
        rule.blocked = self.blocked.as_ref().map(|setting| setting.value);
        rule.trust.insecure = self.insecure.as_ref().map(|setting| setting.value);
        rule.trust.http = self.http.as_ref().map(|setting| setting.value);
        rule.trust.authorities = self.ca.as_ref().map(|setting| setting.value.clone()).unwrap_or_default();
        rule.trust.identity = self.keypair.as_ref().map(|setting| setting.value.clone());
        Some(rule)
    }

    /// What is set, as key, text and source.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static str, String, &Source)> {
        fn row<'a, T>(
            key: &'static str,
            setting: &'a Option<Setting<T>>,
            text: impl FnOnce(&T) -> String,
        ) -> Option<(&'static str, String, &'a Source)> {
            setting.as_ref().map(|setting| (key, text(&setting.value), &setting.source))
        }
        [
            row("mirrors", &self.mirrors, |all| all.iter().map(Location::to_string).collect::<Vec<_>>().join(" ")),
            row("insecure", &self.insecure, bool::to_string),
            row("http", &self.http, bool::to_string),
            row("ca", &self.ca, |all| all.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")),
            row("keypair", &self.keypair, |pair| format!("{} {}", pair.certificate.display(), pair.key.display())),
            row("location", &self.location, Location::to_string),
            row("blocked", &self.blocked, bool::to_string),
        ]
        .into_iter()
        .flatten()
    }
}

/// Whether a table may have this name.
pub(super) fn name(text: &str) -> Result<(), String> {
    Prefix::parse(text).map(|_| ()).map_err(|error| error.to_string())
}

fn location(text: &str) -> Result<Location, String> {
    Location::parse(text).map_err(|error| error.to_string())
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("`{text}` is not an absolute path")) }
}

/// One text, or a list of them.
fn texts(value: &DeValue<'_>) -> Option<Vec<String>> {
    if let Some(text) = value.as_str() {
        return Some(vec![text.to_owned()]);
    }
    value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

/// Key and certificate of a table, or of a list of one.
fn pair(value: &DeValue<'_>) -> Option<(String, String)> {
    let table = match value.as_array() {
        Some(items) if items.len() == 1 => items.iter().next()?.get_ref().as_table()?,
        Some(_) => return None,
        None => value.as_table()?,
    };
    let text = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str()).map(str::to_owned);
    Some((text("key")?, text("cert")?))
}
