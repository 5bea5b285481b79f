//! Addresses without what they hold for their server alone: passwords, and tokens in queries.
//!
//! In: text that anybody may have written. Out: the same for people, logs and records. A malformed address is masked
//! too: rather too much than too little. Keys tell addresses apart by their digests, wherever something was masked.

use std::borrow::Cow;
use std::ops::Range;

/// What stands for a secret.
const MASK: &str = "***";
/// A parameter of a query whose name has one of these in it is for the server alone.
const TELLING: [&str; 8] = ["token", "pass", "pwd", "secret", "key", "sig", "auth", "cred"];

/// A text with every address in it masked.
pub fn addresses(text: &str) -> Cow<'_, str> {
    let secret = secrets(text);
    if secret.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for range in secret {
        out.push_str(&text[at..range.start]);
        out.push_str(MASK);
        at = range.end;
    }
    out.push_str(&text[at..]);
    Cow::Owned(out)
}

/// As [`addresses`], with every byte where it was: places in the text still mean what they meant.
pub fn addresses_in_place(text: &str) -> Cow<'_, str> {
    let secret = secrets(text);
    if secret.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut bytes = text.to_owned().into_bytes();
    secret.into_iter().for_each(|range| bytes[range].fill(b'*'));
    // Whole characters were replaced by others of one byte each.
    Cow::Owned(String::from_utf8(bytes).expect("bytes of whole characters were replaced"))
}

/// Where the secrets of all addresses are, in order.
fn secrets(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].find("://") {
        let start = at + next + 3;
        let ends = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`' | '<' | '>');
        let end = text[start..].find(ends).map_or(text.len(), |length| start + length);
        let scheme = text[..at + next].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '+').next();
        of_address(&text[start..end], scheme.unwrap_or_default().ends_with("ssh"), start, &mut found);
        at = end;
    }
    found
}

/// `rest` is what stands behind `://`, at `start`.
fn of_address(rest: &str, is_ssh: bool, start: usize, found: &mut Vec<Range<usize>>) {
    let path_end = rest.find(['?', '#']).unwrap_or(rest.len());
    let authority = &rest[..rest[..path_end].find('/').unwrap_or(path_end)];
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    let user = match authority.rfind('@') {
        Some(at) => Some(at),
        // A password with a slash in it, or a question mark: where it ends is anybody's guess.
        None if port.bytes().all(|byte| byte.is_ascii_digit()) => None,
        None => rest.rfind('@'),
    };
    // The user of ssh is `git` for everybody.
    if let Some(user) = user.filter(|user| *user > 0 && (!is_ssh || rest[..*user].contains(':'))) {
        found.push(start..start + user);
    }
    let Some(query) = rest[path_end..].strip_prefix('?') else { return };
    let mut at = path_end + 1;
    for parameter in query.split('#').next().unwrap_or_default().split(['&', ';']) {
        if let Some((name, value)) = parameter.split_once('=') {
            let value_at = at + name.len() + 1;
            let name = name.to_ascii_lowercase();
            if TELLING.iter().any(|part| name.contains(part)) && !value.is_empty() && user.is_none_or(|user| user < at)
            {
                found.push(start + value_at..start + value_at + value.len());
            }
        }
        at += parameter.len() + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_the_server_alone_is_masked() {
        let check = |text: &str, expected: &str| {
            assert_eq!(addresses(text), expected);
            let kept = addresses_in_place(text);
            assert_eq!(kept.len(), text.len());
            assert!(expected.contains("***") || kept == text, "{kept}");
            assert!(!text.contains("canary") || !kept.contains("canary"), "{kept}");
        };
        check("ADD a b", "ADD a b");
        check("https://host/a?x=1#y", "https://host/a?x=1#y");
        check("https://u:canary@host/a", "https://***@host/a");
        check("https://canary@host:80/a", "https://***@host:80/a");
        check("ADD https://u:canary@host/a /b", "ADD https://***@host/a /b");
        check("ADD [\"https://u:canary@host/a\", \"/b\"]", "ADD [\"https://***@host/a\", \"/b\"]");
        check("https://host/a?token=canary&v=1", "https://host/a?token=***&v=1");
        check("https://host/a?v=1&X-Amz-Signature=canary#top", "https://host/a?v=1&X-Amz-Signature=***#top");
        check("https://u:canary@host/a?access_key=canary", "https://***@host/a?access_key=***");
        check("https://u:ca/canary@host/a", "https://***@host/a");
        check("https://u:ca?canary@host/a", "https://***@host/a");
        check("https://u:c?token=canary@host/a", "https://***@host/a");
        check("https://host/@scope/a@1", "https://host/@scope/a@1");
        check("https://host:8080/@scope/a", "https://host:8080/@scope/a");
        check("ssh://git@host/a", "ssh://git@host/a");
        check("git+ssh://git:canary@host/a", "git+ssh://***@host/a");
        check("https://ü:cänary@host/a", "https://***@host/a");
        check("a://u:canary@h b://u:canary@h", "a://***@h b://***@h");
        check("https://@host/a://", "https://@host/a://");
        check("://", "://");
    }
}
