//! Where requests may go, and who gets to see credentials.
//!
//! URLs come in, verdicts go out; no IO. The rules, all of them here:
//! - Plain HTTP only to loopback hosts and to those the user listed as insecure.
//! - Credentials travel over HTTPS, or over plain HTTP to a loopback host; nowhere else, insecure or not.
//! - A redirect never goes from HTTPS to HTTP, and beyond the registry's own origin it carries no credentials.
//! - A token server (the `realm` of a Bearer challenge) gets the registry's credentials if it is the registry's host,
//!   a subdomain of it, a domain above it, or its sibling beneath a domain that one party holds; or if a table (Docker
//!   Hub's is built in) names the pair. Any other token server is asked anonymously.
//!
//! Siblings are judged without the public suffix list: see [`one_party_holds`] for what that costs.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Url;

use super::route::HostTable;

/// Redirects followed for one request. Registries send one or two: to a mirror, then to object storage.
pub(super) const REDIRECTS_MAX: usize = 10;

/// Where Docker Hub's API lives, whose images are named `docker.io/…`.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// Token servers in another domain than their registry: (registry, token server).
const TOKEN_SERVERS: &[(&str, &str)] = &[("docker.io", "auth.docker.io")];

/// Domains that give subdomains to strangers, beyond the country-code registries. Registries live beneath them, so
/// siblings there are no friends.
const SHARED_DOMAINS: &[&str] = &[
    "amazonaws.com",
    "azurecr.io",
    "azurewebsites.net",
    "cloudapp.net",
    "cloudfront.net",
    "duckdns.org",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "jfrog.io",
    "netlify.app",
    "ngrok.io",
    "ngrok.app",
    "ngrok-free.app",
    "nip.io",
    "on.aws",
    "onrender.com",
    "pages.dev",
    "run.app",
    "sslip.io",
    "trycloudflare.com",
    "ts.net",
    "vercel.app",
    "web.app",
    "windows.net",
    "workers.dev",
];

/// The user's exceptions.
#[derive(Clone, Default)]
pub(super) struct Rules {
    /// Settings of hosts.
    pub hosts: Arc<HostTable>,
    /// `host` or `host:port` that may be spoken to over plain HTTP.
    pub insecure: Vec<String>,
    /// (registry as in image names, host of its token server).
    pub token_servers: Vec<(String, String)>,
}

impl Rules {
    /// Whether plain HTTP to `url`'s host is allowed at all.
    pub(super) fn permits_plain(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        is_loopback(url)
            || self.hosts.permits_plain(&authority(url))
            || self.insecure.iter().any(|entry| {
                let entry = entry.to_ascii_lowercase();
                entry == host || entry == authority(url)
            })
    }

    /// Whether rbuild may ask `to`, where `from` has sent it.
    pub(super) fn check_hop(&self, from: &Url, to: &Url) -> Result<(), &'static str> {
        match to.scheme() {
            "https" => {}
            "http" if from.scheme() == "https" => return Err("that leads from HTTPS to plain HTTP"),
            "http" if !self.permits_plain(to) => {
                return Err("plain HTTP is only spoken to loopback hosts and to registries listed as insecure");
            }
            "http" => {}
            _ => return Err("only HTTPS and HTTP are spoken"),
        }
        if !to.username().is_empty() || to.password().is_some() {
            return Err("the address carries a user name or password");
        }
        if to.host_str().is_none_or(str::is_empty) {
            return Err("the address has no host");
        }
        Ok(())
    }

    /// Whether the credentials of `registry` (as in image names, reached at `site`) may be sent to `realm`.
    pub(super) fn realm_gets_credentials(&self, registry: &str, site: &Url, realm: &Url) -> Result<(), String> {
        travels_safely(realm)?;
        let (mine, theirs) = (site.host_str().unwrap_or_default(), realm.host_str().unwrap_or_default());
        let listed = TOKEN_SERVERS.iter().any(|(name, host)| *name == registry && *host == theirs)
            || self.token_servers.iter().any(|(name, host)| {
                name.eq_ignore_ascii_case(registry)
                    && (host.eq_ignore_ascii_case(theirs) || host.eq_ignore_ascii_case(&authority(realm)))
            });
        if mine == theirs || listed || related(mine, theirs) {
            return Ok(());
        }
        Err(format!("the registry names a token server of another domain, `{theirs}`, which is not listed as its own"))
    }
}

/// Whether credentials may travel to `url` at all.
pub(super) fn travels_safely(url: &Url) -> Result<(), String> {
    if url.scheme() == "https" || is_loopback(url) {
        return Ok(());
    }
    Err(format!("`{}` is spoken to over plain HTTP", authority(url)))
}

/// Scheme, host and port: the unit that credentials belong to.
pub fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

/// Host, and port where it is not the scheme's own.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The URL without query, fragment, user name: what may stand in an error.
pub fn display(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), authority(url), url.path())
}

/// The root of a registry's API; `api` is its path.
pub(super) fn base(registry: &str, scheme: &str, api: &str) -> Option<Url> {
    let host = if registry == "docker.io" { DOCKER_HUB_API } else { registry };
    let url = Url::parse(&format!("{scheme}://{host}{api}")).ok()?;
    (url.path() == api && url.query().is_none() && url.username().is_empty()).then_some(url)
}

/// `localhost`, 127.0.0.0/8, `::1`.
pub fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback(),
        Ok(IpAddr::V6(address)) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|address| address.is_loopback())
        }
        Err(_) => host == "localhost",
    }
}

/// One is beneath the other, or both are beneath a domain that one party holds.
fn related(mine: &str, theirs: &str) -> bool {
    if [mine, theirs].iter().any(|host| host.starts_with('[') || host.parse::<IpAddr>().is_ok()) {
        return false;
    }
    let labels = |host: &str| host.split('.').rev().map(str::to_owned).collect::<Vec<_>>();
    let (mine, theirs) = (labels(mine), labels(theirs));
    let shared: Vec<&str> =
        mine.iter().zip(&theirs).take_while(|(a, b)| a == b).map(|(label, _)| label.as_str()).collect();
    // Whoever runs a domain runs the names beneath it, so a registry's subdomains are its own.
    let beneath = shared.len() == mine.len() && mine.len() >= 2;
    beneath || one_party_holds(&shared)
}

/// Whether a domain (labels from the right) is one that a single party registered. Errs towards no: beneath a
/// two-letter country code, a second label of up to three letters (`co.uk`, but also `ab.de`) counts as a registry's.
fn one_party_holds(labels: &[&str]) -> bool {
    let country_registry = matches!(labels, [country, second, ..] if country.len() == 2 && second.len() <= 3);
    let needed = if country_registry { 3 } else { 2 };
    let shared = SHARED_DOMAINS.iter().any(|domain| {
        let domain: Vec<&str> = domain.split('.').rev().collect();
        labels.starts_with(&domain) && labels.len() < needed.max(domain.len() + 1)
    });
    labels.len() >= needed && !shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a test URL")
    }

    #[test]
    fn credentials_go_only_to_token_servers_of_the_registry() {
        let rules = Rules {
            insecure: vec!["plain.lan".into()],
            token_servers: vec![("r.example".into(), "t.other:8443".into())],
            ..Rules::default()
        };
        let cases = [
            ("docker.io", "https://registry-1.docker.io/v2/", "https://auth.docker.io/token", true),
            ("ghcr.io", "https://ghcr.io/v2/", "https://ghcr.io/token", true),
            ("evil.example", "https://evil.example/v2/", "https://auth.docker.io/token", false),
            ("quay.io", "https://quay.io/v2/", "https://auth.quay.io/", true),
            ("registry.gitlab.com", "https://registry.gitlab.com/v2/", "https://gitlab.com/jwt/auth", true),
            ("registry.corp.example", "https://registry.corp.example/v2/", "https://login.corp.example/", true),
            (
                "registry.corp.example:5000",
                "https://registry.corp.example:5000/v2/",
                "https://registry.corp.example/",
                true,
            ),
            ("a.example", "https://a.example/v2/", "https://b.example/", false),
            ("a.co.uk", "https://a.co.uk/v2/", "https://b.co.uk/", false),
            ("r.a.co.uk", "https://r.a.co.uk/v2/", "https://t.a.co.uk/", true),
            ("a.azurecr.io", "https://a.azurecr.io/v2/", "https://b.azurecr.io/", false),
            ("a.azurecr.io", "https://a.azurecr.io/v2/", "https://azurecr.io/", false),
            ("x.a.github.io", "https://x.a.github.io/v2/", "https://y.a.github.io/", true),
            ("io", "https://io/v2/", "https://evil.io/", false),
            ("a.example", "https://a.example/v2/", "http://a.example/token", false),
            ("plain.lan", "http://plain.lan/v2/", "http://plain.lan/token", false),
            ("localhost:5000", "http://localhost:5000/v2/", "http://localhost:5001/token", true),
            ("localhost:5000", "http://localhost:5000/v2/", "http://127.0.0.1:5001/token", false),
            ("10.0.0.1", "https://10.0.0.1/v2/", "https://10.0.0.2/", false),
            ("1.0.0.1", "https://1.0.0.1/v2/", "https://2.0.0.1/", false),
            ("[2001:db8::1]", "https://[2001:db8::1]/v2/", "https://[2001:db8::2]/", false),
            ("r.example", "https://r.example/v2/", "https://t.other:8443/", true),
            ("r.example", "https://r.example/v2/", "https://t.other/", false),
            ("s.example", "https://s.example/v2/", "https://t.other:8443/", false),
        ];
        for (registry, site, realm, want) in cases {
            let verdict = rules.realm_gets_credentials(registry, &url(site), &url(realm));
            assert_eq!(verdict.is_ok(), want, "{registry} {realm}: {verdict:?}");
        }
    }

    #[test]
    fn hops_never_lose_https_nor_reach_strangers_over_plain_http() {
        let rules = Rules { insecure: vec!["plain.lan:80".into(), "Box:5000".into()], ..Rules::default() };
        let cases = [
            ("https://a/", "https://b/x?sig=1", true),
            ("https://a/", "http://a/", false),
            ("https://a/", "http://localhost/", false),
            ("http://localhost/", "http://127.9.9.9:1/", true),
            ("http://localhost/", "http://[::1]:1/", true),
            ("http://localhost/", "http://[::ffff:127.0.0.1]/", true),
            ("http://localhost/", "http://10.0.0.1/", false),
            ("http://localhost/", "http://localhost.evil.example/", false),
            ("http://localhost/", "http://box:5000/", true),
            ("http://localhost/", "http://box:5001/", false),
            ("http://localhost/", "https://user@b/", false),
            ("http://localhost/", "https://:pass@b/", false),
            ("http://localhost/", "file:///etc/passwd", false),
            ("http://localhost/", "ftp://b/", false),
        ];
        for (from, to, want) in cases {
            let verdict = rules.check_hop(&url(from), &url(to));
            assert_eq!(verdict.is_ok(), want, "{from} {to}: {verdict:?}");
        }
    }

    #[test]
    fn credentials_never_travel_over_plain_http_to_strangers() {
        let cases = [
            ("https://r.example/", true),
            ("http://r.example/", false),
            ("http://10.0.0.1:5000/", false),
            ("http://127.1.2.3:5000/", true),
            ("http://0x7f.1/", true),
            ("http://[::1]/", true),
            ("http://localhost/", true),
            ("http://localhost./", false),
        ];
        for (to, want) in cases {
            assert_eq!(travels_safely(&url(to)).is_ok(), want, "{to}");
        }
    }

    #[test]
    fn registries_have_their_api_at_v2() {
        let cases = [
            ("docker.io", Some("https://registry-1.docker.io/v2/")),
            ("GHCR.io", Some("https://ghcr.io/v2/")),
            ("[::1]:5000", Some("https://[::1]:5000/v2/")),
            ("a@b", None),
            ("a?b", None),
        ];
        for (registry, want) in cases {
            assert_eq!(base(registry, "https", "/v2/").as_ref().map(Url::as_str), want, "{registry}");
        }
    }
}
