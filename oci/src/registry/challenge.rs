//! What a registry wants to see: the `WWW-Authenticate` header. RFC 9110, section 11.6.1; distribution's token
//! authentication specification.
//!
//! Headers come in; the challenge to answer goes out, Bearer before Basic. Deliberately absent: whether the realm is
//! trusted ([`super::origin`]).

use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// A challenge that rbuild can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password.
    Basic,
    /// A token from elsewhere.
    Bearer {
        /// Where tokens are made.
        realm: Url,
        /// For whom.
        service: Option<String>,
        /// For what, sorted.
        scopes: Vec<String>,
    },
}

/// The best of a 401's challenges; `None` if there is none that rbuild knows. The error says what is malformed.
pub(super) fn best(headers: &HeaderMap) -> Result<Option<Challenge>, String> {
    let mut best = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let text = value.to_str().map_err(|_| "its `WWW-Authenticate` is not text".to_owned())?;
        let challenges = http_auth::parse_challenges(text)
            .map_err(|_| format!("its `WWW-Authenticate` is malformed: `{}`", super::words::harmless(text)))?;
        for challenge in challenges {
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                return bearer(&challenge).map(Some);
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                best = Some(Challenge::Basic);
            }
        }
    }
    Ok(best)
}

fn bearer(challenge: &http_auth::ChallengeRef<'_>) -> Result<Challenge, String> {
    let param = |name: &str| {
        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
    };
    let realm = param("realm").ok_or("its Bearer challenge names no realm")?;
    let realm = Url::parse(&realm)
        .map_err(|_| format!("the realm of its Bearer challenge is no URL: `{}`", super::words::harmless(&realm)))?;
    let mut scopes: Vec<String> = param("scope").iter().flat_map(|s| s.split(' ')).map(str::to_owned).collect();
    scopes.retain(|scope| !scope.is_empty());
    scopes.sort();
    scopes.dedup();
    Ok(Challenge::Bearer { realm, service: param("service"), scopes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str], want: Result<Option<&str>, &str>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().expect("a header value"));
        }
        let got = best(&headers).map(|challenge| {
            challenge.map(|challenge| match challenge {
                Challenge::Basic => "basic".to_owned(),
                Challenge::Bearer { realm, service, scopes } => {
                    format!("{realm} {} {}", service.unwrap_or_default(), scopes.join(","))
                }
            })
        });
        match (got, want) {
            (Ok(got), Ok(want)) => assert_eq!(got.as_deref(), want, "{values:?}"),
            (Err(got), Err(want)) => assert!(got.contains(want), "{values:?}: {got}"),
            (got, want) => panic!("{values:?}: got {got:?}, wanted {want:?}"),
        }
    }

    #[test]
    fn bearer_comes_before_basic() {
        check(&[], Ok(None));
        check(&["Negotiate"], Ok(None));
        check(&["Basic realm=\"x\""], Ok(Some("basic")));
        check(&["Basic realm=\"x\", Bearer realm=\"https://t/\""], Ok(Some("https://t/  ")));
        check(&["Basic realm=\"x\"", "bearer REALM=\"https://t/a\",service=\"s\""], Ok(Some("https://t/a s ")));
        check(
            &[
                "Bearer realm=\"https://t/\",service=\"\",scope=\"repository:a:pull,push  repository:b:pull repository:b:pull\"",
            ],
            Ok(Some("https://t/  repository:a:pull,push,repository:b:pull")),
        );
        check(&["Bearer scope=\"x\""], Err("names no realm"));
        check(&["Bearer realm=\"token\""], Err("is no URL"));
        check(&["Bearer realm=\"unclosed"], Err("malformed"));
    }
}
