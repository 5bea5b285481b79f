//! Secrets that servers of sources ask for: found by their names, and each for its own host alone.
//!
//! In: the secrets of a build, and the host of a source. Out: what is sent there. The names are BuildKit's:
//!
//! ```text
//! GIT_AUTH_TOKEN    GIT_AUTH_TOKEN.HOST      a token: the password of `x-access-token`
//! GIT_AUTH_HEADER   GIT_AUTH_HEADER.HOST     the value of `Authorization`
//! HTTP_AUTH_TOKEN_HOST                       a token: `Authorization: Bearer …`
//! HTTP_AUTH_HEADER_HOST                      the value of `Authorization`
//! ```
//! A name with a host stands above one without, a header above a token. What names no host is for the repository that
//! is fetched, never for its submodules elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::http::reqwest::header::HeaderValue;
use tokio_util::sync::CancellationToken;

use super::{Secret, SecretError, Secrets};
use crate::source::git::Authorization;

/// The user whose password a token is.
const TOKEN_USER: &str = "x-access-token";

/// What is sent to the servers of a repository at `host`, which has its port if it is not the usual one.
pub(crate) async fn of_git(
    secrets: &Secrets,
    host: &str,
    cancel: &CancellationToken,
) -> Result<Vec<(String, Authorization)>, SecretError> {
    let mut found: Vec<(String, Authorization)> = Vec::new();
    let ids: Vec<&str> = secrets.ids().collect();
    for (kind, is_header) in [("GIT_AUTH_HEADER", true), ("GIT_AUTH_TOKEN", false)] {
        let mut named: Vec<(&str, &str)> =
            ids.iter().filter_map(|id| Some((*id, id.strip_prefix(kind)?.strip_prefix('.')?))).collect();
        named.extend(ids.iter().filter(|id| **id == kind).map(|id| (*id, host)));
        for (id, host) in named {
            if found.iter().any(|(known, _)| known == host) {
                continue;
            }
            let Some(secret) = secrets.get(id, cancel).await? else { continue };
            found.push((host.to_owned(), if is_header { header(&secret)? } else { token(&secret)? }));
        }
    }
    Ok(found)
}

/// The value of `Authorization` for a file at `host`, which has its port if it is not the usual one.
pub(crate) async fn of_http(
    secrets: &Secrets,
    host: &str,
    cancel: &CancellationToken,
) -> Result<Option<HeaderValue>, SecretError> {
    let name = host.split(':').next().unwrap_or(host);
    for (kind, scheme) in [("HTTP_AUTH_HEADER_", ""), ("HTTP_AUTH_TOKEN_", "Bearer ")] {
        for host in [host, name] {
            let Some(secret) = secrets.get(&format!("{kind}{host}"), cancel).await? else { continue };
            let mut value = HeaderValue::from_bytes(&[scheme.as_bytes(), secret.trimmed()].concat())
                .map_err(|_| SecretError::Header { id: secret.id().into() })?;
            value.set_sensitive(true);
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn text(secret: &Secret) -> Result<&str, SecretError> {
    let text = std::str::from_utf8(secret.trimmed()).ok().filter(|text| !text.chars().any(char::is_control));
    text.ok_or_else(|| SecretError::Header { id: secret.id().into() })
}

fn token(secret: &Secret) -> Result<Authorization, SecretError> {
    Ok(Authorization::password(TOKEN_USER, text(secret)?))
}

/// A header that says user and password goes the way of these: git then minds itself whom it tells.
fn header(secret: &Secret) -> Result<Authorization, SecretError> {
    let text = text(secret)?;
    let basic = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    let decoded = basic.and_then(|(_, encoded)| String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok());
    match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((user, password)) if !decoded.as_deref().unwrap_or_default().contains(char::is_control) => {
            Ok(Authorization::password(user, password))
        }
        _ => Ok(Authorization::header(text)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::SecretSource;
    use super::*;

    #[tokio::test]
    async fn every_secret_is_for_its_own_host() {
        let secrets = |given: &[(&str, &str)]| {
            let sources =
                given.iter().map(|(id, value)| (id.to_string(), SecretSource::Command(format!("echo '{value}'"))));
            Secrets::new(&sources.collect::<BTreeMap<_, _>>())
        };
        let never = CancellationToken::new();
        let all = secrets(&[
            ("GIT_AUTH_TOKEN", "general"),
            ("GIT_AUTH_TOKEN.other.example", "other"),
            ("GIT_AUTH_HEADER.third.example:8443", "basic dXNlcjp3b3Jk"),
            ("GIT_AUTH_HEADER.bearer.example", "Bearer abc"),
            ("GIT_AUTH_TOKEN.bearer.example", "less"),
        ]);
        let mut found = of_git(&all, "host.example", &never).await.expect("readable");
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        let password = Authorization::password;
        assert_eq!(
            found,
            [
                ("bearer.example".to_owned(), Authorization::header("Bearer abc")),
                ("host.example".to_owned(), password(TOKEN_USER, "general")),
                ("other.example".to_owned(), password(TOKEN_USER, "other")),
                ("third.example:8443".to_owned(), password("user", "word")),
            ]
        );
        assert!(!format!("{found:?}").contains("general"));
        let own = of_git(&all, "other.example", &never).await.expect("readable");
        assert!(own.contains(&("other.example".to_owned(), password(TOKEN_USER, "other"))));
        assert!(matches!(
            of_git(&secrets(&[("GIT_AUTH_TOKEN", "a\nb")]), "h", &never).await,
            Err(SecretError::Header { .. })
        ));

        let web = secrets(&[
            ("HTTP_AUTH_TOKEN_a.example", "t"),
            ("HTTP_AUTH_HEADER_a.example:81", "Digest x"),
            ("HTTP_AUTH_TOKEN_bad.example", "a\nb"),
        ]);
        for (host, expected) in [
            ("a.example", Some("Bearer t")),
            ("a.example:80", Some("Bearer t")),
            ("a.example:81", Some("Digest x")),
            ("b.example", None),
        ] {
            let found = of_http(&web, host, &never).await.expect("readable");
            assert_eq!(found.as_ref().map(|value| value.to_str().expect("text")), expected, "{host}");
            assert!(found.is_none_or(|value| value.is_sensitive()));
        }
        assert!(of_http(&web, "bad.example", &never).await.is_err());
    }
}
