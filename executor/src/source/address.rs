//! Addresses of the network in messages and in parts.
//!
//! In: text that anybody may have written. Out: the same without what may be secret ([`masked`]), and percent-decoding.
//! Next: [`super::git`] and [`super::http`], which say what an address must be.

/// What stands for a secret.
pub(crate) const MASK: &str = "***";

/// An address for people and logs, even a malformed one: user name, password and query are masked (some servers take
/// tokens there), control characters escaped. The user name of ssh stays: it is `git` for everybody.
pub fn masked(text: &str) -> String {
    let text = crate::tree::shown(text.as_bytes());
    let (text, has_query) = match text.split_once('?') {
        Some((front, _)) => (front.to_owned(), true),
        None => (text, false),
    };
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find('/').map_or(text.len(), |at| start + at);
    let is_ssh = start == 0 || text[..start].to_ascii_lowercase().contains("ssh");
    // In a malformed address the `@` may stand anywhere.
    let user = text[start..end].rfind('@').map(|at| start + at).or_else(|| text.rfind('@').filter(|at| *at > start));
    let mut out = match user {
        Some(at) if is_ssh && !text[start..at].contains(':') => text,
        Some(at) => format!("{}{MASK}{}", &text[..start], &text[at..]),
        None => text,
    };
    if has_query {
        out.push('?');
        out.push_str(MASK);
    }
    out
}

/// Host and port of an address as servers are told apart: the port is left out where it is the usual one. Empty for what
/// has none.
pub(crate) fn host(text: &str) -> String {
    let Ok(url) = oci::http::reqwest::Url::parse(text) else { return String::new() };
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Percent-decoding; what is no `%` with two digits stays as it is.
pub(crate) fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_left() {
        for (text, want) in [
            ("https://host/a", "https://host/a"),
            ("https://u:secret@host/a", "https://***@host/a"),
            ("https://secret@host:8443/a?token=secret", "https://***@host:8443/a?***"),
            ("https://u:secret@ho st/a", "https://***@ho st/a"),
            ("https://u:secret@host/a b", "https://***@host/a b"),
            ("https://u:sec/ret@host/a b", "https://***@host/a b"),
            ("ftp://u:secret@host/a?x=secret", "ftp://***@host/a?***"),
            ("ssh://git@host/a b", "ssh://git@host/a b"),
            ("ssh://git:secret@host/a b", "ssh://***@host/a b"),
            ("git@host:a b", "git@host:a b"),
            ("https://host/a\u{1b}[31m", "https://host/a\\u{1b}[31m"),
            ("https://host/@scope/a", "https://***@scope/a"),
        ] {
            assert_eq!(masked(text), want);
        }
    }

    #[test]
    fn percent_signs_are_decoded_where_they_stand_for_a_byte() {
        for (text, want) in
            [("a%20b", &b"a b"[..]), ("%", b"%"), ("%4", b"%4"), ("%zz", b"%zz"), ("%+1", b"%+1"), ("%FFx", b"\xffx")]
        {
            assert_eq!(decoded(text), want, "{text}");
        }
    }
}
