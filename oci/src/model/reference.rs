//! Names of images: `[host[:port]/]path[:tag][@digest]`, as distribution's reference grammar has it.

use std::fmt;
use std::str::FromStr;

use super::Digest;

/// The registry of names that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where that registry keeps names without a slash.
const DEFAULT_NAMESPACE: &str = "library";
/// distribution's limit for registry and repository together.
const NAME_MAX_BYTES: usize = 255;
/// distribution's limit for a tag.
const TAG_MAX_BYTES: usize = 128;

/// A full name: registry and repository always there, and a tag, a digest, or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// `docker.io`, `ghcr.io`, `localhost:5000`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `latest` when neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when the name is pinned.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same image under a name of another registry, a mirror for example. What the parts may hold is the caller's
    /// business.
    pub fn at(&self, registry: &str, repository: &str) -> Self {
        Self { registry: registry.to_owned(), repository: repository.to_owned(), ..self.clone() }
    }

    /// The same repository, pinned.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// What has that digest in the same repository, without a tag.
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same repository under another tag, without a digest.
    ///
    /// # Errors
    /// For a text that is no tag.
    pub fn at_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        format!("{}/{}:{tag}", self.registry, self.repository).parse()
    }

    /// The short form people write: `debian:12` for `docker.io/library/debian:12`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(short).to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bad = |reason: &'static str| ReferenceError { text: text.chars().take(300).collect(), reason };
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| bad("what follows `@` is not a sha256 digest"))?;
                (rest, Some(digest))
            }
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') && !tag.contains(']') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            let first_ok = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
            let rest_ok = tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
            if !first_ok || !rest_ok || tag.len() > TAG_MAX_BYTES {
                return Err(bad("the tag may hold letters, digits, `_`, `.` and `-`, 128 at most"));
            }
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{DEFAULT_NAMESPACE}/{path}")
        } else {
            path.to_owned()
        };
        check_registry(registry).map_err(bad)?;
        if path.is_empty() || !path.split('/').all(is_path_component) {
            return Err(bad(if path.bytes().any(|b| b.is_ascii_uppercase()) {
                "a repository name is lower case"
            } else {
                "a repository name is made of lower-case letters and digits, separated by `.`, `_`, `__`, `-` or `/`"
            }));
        }
        if registry.len() + repository.len() + 1 > NAME_MAX_BYTES {
            return Err(bad("the name is longer than 255 bytes"));
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// The first component is a registry when it could not be a namespace: it has a dot, a port, capitals, or is
/// `localhost`.
fn is_host(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':', '[']) || component.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("the registry's address has no closing `]`")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "the registry is not an IPv6 address")?;
            ("v6", after.strip_prefix(':').or(if after.is_empty() { None } else { Some("") }))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if !host.split('.').all(label) {
        return Err("the registry is not a host name");
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return Err("the registry's port is not a number");
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|b| alnum(*b)) || !bytes.last().is_some_and(|b| alnum(*b)) {
        return false;
    }
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    separators
        .filter(|run| !run.is_empty())
        .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
}

/// Text that is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image name: {reason}")]
pub struct ReferenceError {
    /// The text, shortened.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// `want` is the full name and the familiar one.
    fn check(text: &str, want: Option<(&str, &str)>) {
        let parsed: Result<Reference, _> = text.parse();
        let got = parsed.as_ref().ok().map(|name| (name.to_string(), name.familiar()));
        let want = want.map(|(full, familiar)| (full.to_owned(), familiar.to_owned()));
        assert_eq!(got, want, "{text}");
        if let Ok(name) = parsed {
            assert_eq!(name.to_string().parse(), Ok(name.clone()), "the full name means the same");
            assert_eq!(name.familiar().parse(), Ok(name), "the familiar name means the same");
        }
    }

    #[test]
    fn names_are_read_as_distribution_reads_them() {
        check("debian", Some(("docker.io/library/debian:latest", "debian:latest")));
        check("debian:12", Some(("docker.io/library/debian:12", "debian:12")));
        check("team/app", Some(("docker.io/team/app:latest", "team/app:latest")));
        check("docker.io/debian", Some(("docker.io/library/debian:latest", "debian:latest")));
        check("index.docker.io/library/debian", Some(("docker.io/library/debian:latest", "debian:latest")));
        check("library/a/b", Some(("docker.io/library/a/b:latest", "library/a/b:latest")));
        check("ghcr.io/a/b:1", Some(("ghcr.io/a/b:1", "ghcr.io/a/b:1")));
        check("ghcr.io/library/b:1", Some(("ghcr.io/library/b:1", "ghcr.io/library/b:1")));
        check("localhost/x", Some(("localhost/x:latest", "localhost/x:latest")));
        check("localhost:5000/x", Some(("localhost:5000/x:latest", "localhost:5000/x:latest")));
        check("[::1]:5000/x:t", Some(("[::1]:5000/x:t", "[::1]:5000/x:t")));
        check("[::1]/x", Some(("[::1]/x:latest", "[::1]/x:latest")));
        check("HOST/x", Some(("HOST/x:latest", "HOST/x:latest")));
        check("ab/c__d.e---f", Some(("docker.io/ab/c__d.e---f:latest", "ab/c__d.e---f:latest")));
        let pinned = format!("debian:12@{PIN}");
        check(&pinned, Some((&format!("docker.io/library/debian:12@{PIN}"), &pinned)));
        let pinned = format!("debian@{PIN}");
        check(&pinned, Some((&format!("docker.io/library/debian@{PIN}"), &pinned)));
        check("x:_tag.-1", Some(("docker.io/library/x:_tag.-1", "x:_tag.-1")));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let (long_name, long_tag) = ("a".repeat(256), format!("x:{}", "t".repeat(129)));
        for text in [
            "",
            ":",
            "@",
            "/",
            "a/",
            "/a",
            "a//b",
            "a/../b",
            "../x",
            "Foo",
            "foo/Bar",
            "x:",
            "x:.t",
            "x:-t",
            "x:a b",
            "x:t:u",
            "x@sha256:00",
            "x@",
            "a b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "_a",
            "a\u{e9}",
            "a\nb",
            "host.io/",
            "host.io:x/a",
            "host.io:70000/a",
            "host.io:+1/a",
            "[::1/a",
            "[zz]/a",
            "[::1]x/a",
            "-h.io/a",
            "h..io/a",
            "http://x/y",
            "x@y@z",
            long_name.as_str(),
            long_tag.as_str(),
        ] {
            check(text, None);
        }
        let error = "Foo".parse::<Reference>().unwrap_err().to_string();
        assert_eq!(error, "`Foo` is not an image name: a repository name is lower case");
    }
}
