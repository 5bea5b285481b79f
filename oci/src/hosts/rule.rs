//! What one source says about one registry, or about the names beneath a prefix.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Scheme, address};
use crate::model::Reference;

/// What one source says about one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which names it is about.
    pub prefix: Prefix,
    /// `/etc/containers/registries.conf:12`
    pub source: Arc<str>,
    /// Asked before the registry itself.
    pub mirrors: Vec<Mirror>,
    /// Where the registry really is; stands in for the prefix.
    pub location: Option<Location>,
    /// Whether nothing may be had from it.
    pub blocked: Option<bool>,
    /// What the registry itself is trusted with.
    pub trust: Trust,
}

impl Rule {
    /// One that says nothing yet.
    pub fn new(prefix: Prefix, source: Arc<str>) -> Self {
        Self { prefix, source, mirrors: Vec::new(), location: None, blocked: None, trust: Trust::default() }
    }
}

/// A place that stands in for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where it is.
    pub location: Location,
    /// Whether it is asked what a name means.
    pub resolves: bool,
    /// Whether it is asked for blobs.
    pub pulls: bool,
    /// Which names it is asked about.
    pub digests: Digests,
    /// Whether it is told the registry that the name says, as containerd and BuildKit do (`?ns=`).
    pub says_namespace: bool,
    /// What it is trusted with, beside what is said of its host.
    pub trust: Trust,
}

impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.location)?;
        match self.digests {
            Digests::All => {}
            Digests::Only => f.write_str(" (digests only)")?,
            Digests::Never => f.write_str(" (tags only)")?,
        }
        match (self.resolves, self.pulls) {
            (true, true) => Ok(()),
            (true, false) => f.write_str(" (names only)"),
            (false, true) => f.write_str(" (blobs only)"),
            (false, false) => f.write_str(" (never asked)"),
        }
    }
}

impl Mirror {
    /// One that serves everything.
    pub fn new(location: Location) -> Self {
        Self {
            location,
            resolves: true,
            pulls: true,
            digests: Digests::All,
            says_namespace: false,
            trust: Trust::default(),
        }
    }
}

/// Which names a mirror is asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Digests {
    /// All.
    #[default]
    All,
    /// Those with a digest.
    Only,
    /// Those without.
    Never,
}

/// What a host is trusted with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trust {
    /// Whether its certificate is not looked at, and plain HTTP may be spoken if it speaks no TLS.
    pub insecure: Option<bool>,
    /// Whether only plain HTTP is spoken.
    pub http: Option<bool>,
    /// Files of certificates (PEM) of authorities that may vouch for it, beside the system's.
    pub authorities: Vec<PathBuf>,
    /// How rbuild shows who it is.
    pub identity: Option<Identity>,
}

/// A client certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// File of the certificate (PEM).
    pub certificate: PathBuf,
    /// File of its key (PEM); may be the same.
    pub key: PathBuf,
}

impl Trust {
    /// Adds what a later source says.
    pub fn add(&mut self, later: &Self) {
        self.insecure = self.insecure.or(later.insecure);
        self.http = self.http.or(later.http);
        for path in &later.authorities {
            if !self.authorities.contains(path) {
                self.authorities.push(path.clone());
            }
        }
        if self.identity.is_none() {
            self.identity.clone_from(&later.identity);
        }
    }

    /// Whether it needs no HTTP client of its own.
    pub fn is_usual_tls(&self) -> bool {
        self.insecure != Some(true) && self.authorities.is_empty() && self.identity.is_none()
    }

    /// Whether plain HTTP may be spoken.
    pub fn permits_plain(&self) -> bool {
        self.insecure == Some(true) || self.http == Some(true)
    }
}

/// Which names a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// A registry, and perhaps the beginning of a repository: `docker.io`, `r.example:5000/team`.
    Path {
        /// `host` or `host:port`, in lower case.
        host: String,
        /// Empty, or the beginning of a repository, in whole components.
        path: String,
    },
    /// Every registry.
    Any,
    /// Every host beneath a domain: `*.example.com`.
    Below {
        /// `.example.com`
        suffix: String,
    },
    /// Every registry that is named by an address of this network: `10.0.0.0/8`.
    Network {
        /// Its first address.
        first: IpAddr,
        /// How many bits count.
        bits: u32,
    },
}

impl Prefix {
    /// All of one registry.
    pub fn of_host(host: &str) -> Self {
        Self::Path { host: canonical(host), path: String::new() }
    }

    /// `host[:port][/path]` or `*.domain`.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        if let Some(domain) = text.strip_prefix("*.") {
            return if domain.is_empty() || domain.contains(['/', '*']) {
                Err(LocationError::new(text, "`*.` stands before a domain, and nothing follows it"))
            } else {
                Ok(Self::Below { suffix: format!(".{}", domain.to_ascii_lowercase()) })
            };
        }
        let location = Location::parse(text)?;
        Ok(Self::Path { host: canonical(&location.host), path: location.path })
    }

    /// `10.0.0.0/8`; `None`: no network.
    pub fn network(text: &str) -> Option<Self> {
        let (first, bits) = text.split_once('/')?;
        let (first, bits): (IpAddr, u32) = (first.parse().ok()?, bits.parse().ok()?);
        let width = if first.is_ipv4() { 32 } else { 128 };
        (bits <= width).then_some(Self::Network { first, bits })
    }

    /// How well it fits an image; `None`: not at all.
    pub(super) fn fits(&self, image: &Reference) -> Option<usize> {
        match self {
            Self::Path { path, .. } if path.is_empty() => self.is_host(image.registry()).then_some(1),
            Self::Path { host, path } => {
                let rest = image.repository().strip_prefix(path.as_str())?;
                (canonical(image.registry()) == *host && (rest.is_empty() || rest.starts_with('/')))
                    .then_some(2 + path.len())
            }
            Self::Any | Self::Below { .. } | Self::Network { .. } => self.is_host(image.registry()).then_some(0),
        }
    }

    /// Whether it is about all of a host.
    pub(super) fn is_host(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Path { host, path } => path.is_empty() && canonical(name) == *host,
            Self::Below { suffix } => {
                let name = canonical(name);
                name.rsplit_once(':').map_or(name.as_str(), |(bare, _)| bare).ends_with(suffix.as_str())
            }
            Self::Network { first, bits } => address(name).is_some_and(|address| is_within(address, *first, *bits)),
        }
    }

    /// What of an image's repository stands behind the prefix.
    pub(super) fn rest<'a>(&self, image: &'a Reference) -> &'a str {
        let rest = match self {
            Self::Path { path, .. } => image.repository().strip_prefix(path.as_str()).unwrap_or(image.repository()),
            Self::Any | Self::Below { .. } | Self::Network { .. } => image.repository(),
        };
        rest.trim_start_matches('/')
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Path { host, path } if path.is_empty() => f.write_str(host),
            Self::Path { host, path } => write!(f, "{host}/{path}"),
            Self::Below { suffix } => write!(f, "*{suffix}"),
            Self::Network { first, bits } => write!(f, "{first}/{bits}"),
        }
    }
}

/// Docker Hub has many names; host names know no capitals.
fn canonical(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

fn is_within(address: IpAddr, first: IpAddr, bits: u32) -> bool {
    match (address, first) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(a) & mask == u32::from(b) & mask
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(a) & mask == u128::from(b) & mask
        }
        _ => false,
    }
}

/// Where a registry or mirror is: `[https://]host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// If it was written.
    pub scheme: Option<Scheme>,
    /// `host` or `host:port`, as it was written.
    pub host: String,
    /// Stands before every repository; empty, or components without slashes at the ends.
    pub path: String,
    /// The path of the API, if it is not `/v2/`; with slashes at both ends.
    pub api: Option<String>,
}

impl Location {
    /// Reads one. A slash at the end means nothing, and neither does `/v2` in front of the path.
    ///
    /// # Errors
    /// For what has no host, or more than a host and a path.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let bad = |reason| LocationError::new(text, reason);
        let (scheme, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(_) => return Err(bad("only http and https are spoken")),
            None => (None, text),
        };
        if rest.contains('@') {
            return Err(bad("credentials stand in auth files, not in addresses"));
        }
        if rest.contains(['?', '#', ' ', '\t', '\\']) || rest.chars().any(char::is_control) {
            return Err(bad("an address is a host, perhaps a port and a path"));
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        // What a host may be is for the grammar of image names to say.
        let host_ok = format!("{host}/x").parse::<Reference>().is_ok_and(|name| {
            name.repository() == "x" || name.registry() == "docker.io" && name.repository().ends_with("/x")
        });
        if host.is_empty() || !host_ok {
            return Err(bad("it does not begin with the name of a host"));
        }
        let path = path.trim_matches('/');
        let path = path.strip_prefix("v2/").unwrap_or(if path == "v2" { "" } else { path });
        if path.split('/').any(|part| matches!(part, "." | "..") || part.is_empty() && !path.is_empty()) {
            return Err(bad("its path has empty parts or dots"));
        }
        Ok(Self { scheme, host: host.to_owned(), path: path.to_owned(), api: None })
    }

    /// A repository there.
    pub(super) fn repository(&self, rest: &str) -> String {
        match (self.path.as_str(), rest) {
            ("", rest) => rest.to_owned(),
            (path, "") => path.to_owned(),
            (path, rest) => format!("{path}/{rest}"),
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.scheme {
            Some(Scheme::Https) => f.write_str("https://")?,
            Some(Scheme::Http) => f.write_str("http://")?,
            None => {}
        }
        f.write_str(&self.host)?;
        if let Some(api) = &self.api {
            return f.write_str(api);
        }
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

/// Text that is no place of a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the address of a registry: {reason}")]
pub struct LocationError {
    /// The text, made harmless.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl LocationError {
    fn new(text: &str, reason: &'static str) -> Self {
        // Who wrote a password into it does not want it shown.
        let shown = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
        Self { text: crate::registry::words::harmless(shown), reason }
    }
}
