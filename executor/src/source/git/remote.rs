//! Addresses of repositories: which are taken, what git sees of them, what people see.
//!
//! In: text that anybody may have written. Out: a [`Remote`], whose address holds no password: that goes to git beside
//! the address, never on a command line. Only https, http, ssh and git are spoken; local paths, `file://`, `ext::` and
//! every other helper are refused by name. Deliberately absent: fragments, queries and abbreviations of a build
//! context's address, which are the frontend's.

use oci::http::reqwest::Url;

use super::GitError;
use crate::source::address::{self, MASK, masked};

/// Whether an address is one of ssh, if it is one at all.
pub fn is_over_ssh(text: &str) -> bool {
    Remote::parse(text).is_ok_and(|remote| remote.transport == Transport::Ssh)
}

/// How a remote is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Https,
    Http,
    Ssh,
    Git,
}

/// A repository elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    pub transport: Transport,
    /// As git gets it; without user name and password when they are secret.
    pub address: String,
    /// User name and password of an http(s) address.
    pub credentials: Option<(String, String)>,
    /// Scheme, host and port: to whom the credentials belong.
    pub origin: String,
    /// For messages.
    pub shown: String,
}

impl Remote {
    /// Reads an address.
    pub fn parse(text: &str) -> Result<Self, GitError> {
        let refused = |reason: &str| GitError::Address { url: masked(text), reason: reason.to_owned() };
        if text.is_empty() {
            return Err(refused("it is empty"));
        }
        // Parsers disagree about these; a newline could end a line of git's protocols.
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(refused("it holds white space or control characters"));
        }
        if text.starts_with('-') {
            return Err(refused("it begins with `-`, like an option"));
        }
        match text.split_once("://") {
            Some((scheme, _)) => Self::of_url(text, &scheme.to_ascii_lowercase()).map_err(|reason| refused(&reason)),
            None => Self::of_scp(text).map_err(refused),
        }
    }

    fn of_url(text: &str, scheme: &str) -> Result<Self, String> {
        let transport = match scheme {
            "https" => Transport::Https,
            "http" => Transport::Http,
            "ssh" | "git+ssh" | "ssh+git" => Transport::Ssh,
            "git" => Transport::Git,
            other => return Err(format!("`{other}` is not spoken, only https, http, ssh and git")),
        };
        let mut url = Url::parse(text).map_err(|error| error.to_string())?;
        let host = url.host_str().unwrap_or_default().to_owned();
        if host.is_empty() || host.starts_with('-') || host.contains('%') {
            return Err("it has no proper host".to_owned());
        }
        if url.path().trim_matches('/').is_empty() {
            return Err("it names no repository".to_owned());
        }
        url.set_fragment(None);
        let is_http = matches!(transport, Transport::Https | Transport::Http);
        let mut credentials = None;
        if is_http && (!url.username().is_empty() || url.password().is_some()) {
            let user = decoded(url.username())?;
            credentials = Some((user, decoded(url.password().unwrap_or_default())?));
        } else if url.username().starts_with('-') {
            return Err("its user name begins with `-`, like an option".to_owned());
        }
        // ssh takes no password from an address.
        let cleared = url.set_password(None).is_ok() && (!is_http || url.set_username("").is_ok());
        if !cleared {
            return Err("its user name cannot be taken out".to_owned());
        }
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let origin = format!("{}://{host}{port}", url.scheme());
        let shown = shown(&url, credentials.is_some());
        Ok(Self { transport, address: url.to_string(), credentials, origin, shown })
    }

    /// `user@host:path`, ssh's older form.
    fn of_scp(text: &str) -> Result<Self, &'static str> {
        const NONE: &str = "it is no address of https, http, ssh or git; local repositories are not read";
        let (place, path) = match text.find('[') {
            Some(open) if text[..open].is_empty() || text[..open].ends_with('@') => {
                let close = text.find("]:").ok_or(NONE)?;
                (&text[..=close], &text[close + 2..])
            }
            _ => text.split_once(':').ok_or(NONE)?,
        };
        let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
        // A slash before the colon makes it a path; a colon after it the name of a helper, `ext::sh -c …`.
        if place.contains('/') || path.starts_with(':') || path.trim_matches('/').is_empty() {
            return Err(NONE);
        }
        if host.is_empty() || host.starts_with('-') || place.starts_with('-') || path.starts_with('-') {
            return Err("a part of it begins with `-`, like an option");
        }
        Ok(Self {
            transport: Transport::Ssh,
            address: text.to_owned(),
            credentials: None,
            origin: format!("ssh://{host}"),
            shown: text.to_owned(),
        })
    }

    /// The address of a submodule of this repository: `./x` and `../x` start at this repository's own address, with its
    /// credentials; everything else is an address like any.
    pub fn submodule(&self, address: &str) -> Result<Self, GitError> {
        if !address.starts_with("./") && !address.starts_with("../") {
            return Self::parse(address);
        }
        let refused = |reason: &str| GitError::Address { url: masked(address), reason: reason.to_owned() };
        if address.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '?' | '#')) {
            return Err(refused("it holds characters that no relative address has"));
        }
        let (front, path) = match self.address.split_once("://") {
            Some((_, rest)) => {
                let start = self.address.len() - rest.len();
                let slash = rest.find('/').map_or(self.address.len(), |at| start + at);
                self.address.split_at(slash)
            }
            None => {
                let colon = self.address.find("]:").map_or_else(|| self.address.find(':'), |at| Some(at + 1));
                self.address.split_at(colon.map_or(0, |at| at + 1))
            }
        };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let absolute = path.starts_with('/');
        let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        for name in address.split('/') {
            match name {
                "" | "." => {}
                ".." if names.pop().is_none() => return Err(refused("it leads above the root of the host")),
                ".." => {}
                name => names.push(name),
            }
        }
        let slash = if absolute { "/" } else { "" };
        let mut remote = Self::parse(&format!("{front}{slash}{}", names.join("/")))?;
        if remote.origin != self.origin {
            return Err(refused("it leads to another host"));
        }
        if let Some(credentials) = &self.credentials {
            remote.credentials = Some(credentials.clone());
            remote.shown = remote.shown.replacen("://", &format!("://{MASK}@"), 1);
        }
        Ok(remote)
    }
}

fn shown(url: &Url, masks_user: bool) -> String {
    let mut text = url.to_string();
    if let Some(query) = url.query() {
        // Some servers take tokens there.
        text.truncate(text.len() - query.len());
        text.push_str(MASK);
    }
    if masks_user { text.replacen("://", &format!("://{MASK}@"), 1) } else { text }
}

/// Percent-decoding. What a line-based protocol cannot carry is refused.
fn decoded(text: &str) -> Result<String, String> {
    match String::from_utf8(address::decoded(text)) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(text),
        _ => Err("its user name or password holds control characters".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_four_transports_are_taken() {
        let taken = [
            ("https://github.com/a/b.git", Transport::Https),
            ("HTTPS://GitHub.com/a/b.git", Transport::Https),
            ("http://127.0.0.1:8080/a", Transport::Http),
            ("ssh://git@host:22/~me/a", Transport::Ssh),
            ("git+ssh://git@host/a", Transport::Ssh),
            ("git://host/a", Transport::Git),
            ("git@github.com:a/b.git", Transport::Ssh),
            ("github.com:a/b", Transport::Ssh),
            ("git@[::1]:a/b", Transport::Ssh),
            ("[::1]:a/b", Transport::Ssh),
        ];
        for (text, transport) in taken {
            assert_eq!(Remote::parse(text).map(|remote| remote.transport).ok(), Some(transport), "{text}");
        }
        let refused = [
            "",
            "-",
            "--upload-pack=x",
            "-oProxyCommand=x:y",
            "/srv/a",
            "./a",
            "../a",
            "a",
            "a/b:c",
            "file:///srv/a",
            "FILE:///srv/a",
            "ext::sh -c x",
            "ext::sh",
            "ext::x:y",
            "fd::17",
            "ext://x/y",
            "ftp://host/a",
            "https://",
            "https:///a",
            "https://host",
            "https://host/",
            "ssh://-oProxyCommand=x/a",
            "ssh://-ox@host/a",
            "git://-x/a",
            "-x@host:a",
            "git@-host:a",
            "host:-a",
            "host:",
            "host:/",
            ":a",
            "https://host/a b",
            "https://host/a\nb",
            "https://host/\ta",
            "https://u:%0ahost=evil@host/a",
            "https://ho%00st/a",
            "ssh://ho%2dst/a",
            "host::a",
            "git@host::a",
            "transport::https://host/a",
            "[::1:a",
        ];
        for text in refused {
            assert!(matches!(Remote::parse(text), Err(GitError::Address { .. })), "{text}: {:?}", Remote::parse(text));
        }
    }

    #[test]
    fn passwords_leave_the_address_and_are_never_shown() {
        let remote = Remote::parse("https://me:s%40cret@host:8443/a.git").unwrap();
        assert_eq!(remote.address, "https://host:8443/a.git");
        assert_eq!(remote.credentials, Some(("me".into(), "s@cret".into())));
        assert_eq!(remote.origin, "https://host:8443");
        assert_eq!(remote.shown, "https://***@host:8443/a.git");
        let token = Remote::parse("https://ghp_token@github.com/a").unwrap();
        assert_eq!(token.credentials, Some(("ghp_token".into(), String::new())));
        assert_eq!((&*token.address, &*token.shown), ("https://github.com/a", "https://***@github.com/a"));
        let ssh = Remote::parse("ssh://git:secret@host/a").unwrap();
        assert_eq!((&*ssh.address, &*ssh.shown), ("ssh://git@host/a", "ssh://git@host/a"));
        let query = Remote::parse("https://host/a?token=secret").unwrap();
        assert_eq!(query.shown, "https://host/a?***");
    }

    #[test]
    fn relative_submodules_stay_on_the_host() {
        let cases = [
            ("https://me:pw@host/a/b.git", "../c.git", Ok("https://host/a/c.git")),
            ("https://host/a/b.git/", "../../c", Ok("https://host/c")),
            ("https://host/a/b.git", "./c", Ok("https://host/a/b.git/c")),
            ("https://host/a/b.git?x=1", "../c", Ok("https://host/a/c")),
            ("https://host/a", "../../c", Err(())),
            ("https://host/a", "../..", Err(())),
            ("https://host/a", "../", Err(())),
            ("https://host/a", "../@evil/c", Ok("https://host/@evil/c")),
            ("https://host/a", "../../@evil/c", Err(())),
            ("git@host:a/b.git", "../c.git", Ok("git@host:a/c.git")),
            ("git@host:/a/b.git", "../c.git", Ok("git@host:/a/c.git")),
            ("git@host:a.git", "../c.git", Ok("git@host:c.git")),
            ("git@host:a.git", "../-c", Err(())),
            ("git@[::1]:a/b", "../c", Ok("git@[::1]:a/c")),
            ("ssh://git@host:22/a/b", "../c", Ok("ssh://git@host:22/a/c")),
            ("https://host/a", "/srv/c", Err(())),
            ("https://host/a", "--upload-pack=x", Err(())),
            ("https://host/a", "ext::sh -c x", Err(())),
            ("https://host/a", "file:///c", Err(())),
            ("https://host/a", "../c#d", Err(())),
            ("https://host/a", "ssh://git@other/c", Ok("ssh://git@other/c")),
        ];
        for (parent, address, want) in cases {
            let found = Remote::parse(parent).unwrap().submodule(address);
            assert_eq!(found.as_ref().map(|remote| &*remote.address).map_err(|_| ()), want, "{parent} {address}");
        }
        let parent = Remote::parse("https://me:pw@host/a/b.git").unwrap();
        let near = parent.submodule("../c").unwrap();
        assert_eq!((near.credentials, &*near.shown), (parent.credentials.clone(), "https://***@host/a/c"));
        assert_eq!(parent.submodule("https://host/c").unwrap().credentials, None);
    }
}
