//! Addresses of files, and what the files are called.
//!
//! In: text that anybody may have written. Out: an [`Address`] without user name and password, which become a header,
//! and a plain file name. Deliberately absent: where a redirect may lead, which is [`super::ask`]'s.

use oci::http::reqwest::Url;
use oci::http::reqwest::header::{HeaderMap, HeaderValue};

use super::HttpError;
use crate::source::address::{decoded, masked};

/// What a file is called when neither server nor address say.
const NAMELESS: &str = "download";
/// The longest name of a file on Linux.
const NAME_MAX_BYTES: usize = 255;

/// Where a file is.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// Without user name, password and fragment.
    pub url: Url,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// The value of `Authorization`, if `credentials` say nothing.
    pub authorization: Option<HeaderValue>,
    /// What notes are kept under.
    pub key: String,
    /// For messages.
    pub shown: String,
}

impl Address {
    pub fn parse(text: &str) -> Result<Self, HttpError> {
        let refused = |reason: &str| HttpError::Address { url: masked(text), reason: reason.to_owned() };
        // Parsers disagree about these.
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(refused("it holds white space or control characters"));
        }
        let mut url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused("only https and http are spoken"));
        }
        let part = |text: &str| String::from_utf8(decoded(text)).map_err(|_| refused("its user name is no text"));
        let mut credentials = None;
        if !url.username().is_empty() || url.password().is_some() {
            credentials = Some((part(url.username())?, part(url.password().unwrap_or_default())?));
        }
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return Err(refused("it has no host"));
        }
        url.set_fragment(None);
        Ok(Self { key: url.to_string(), credentials, authorization: None, shown: masked(text), url })
    }
}

/// What a file is called: by its server (`Content-Disposition`, RFC 6266), else by its address. Folders in a name do not
/// count, and a name that could not be a file's is none.
pub(super) fn name(headers: &HeaderMap, url: &Url) -> String {
    let disposition = headers.get("content-disposition").map(|value| String::from_utf8_lossy(value.as_bytes()));
    let given = disposition.and_then(|value| plain(&parameter(&value, "filename")?));
    given.unwrap_or_else(|| file_name(url.as_str()))
}

/// What the file at an address is called, as far as the address says.
pub fn file_name(url: &str) -> String {
    let path = Url::parse(url).map(|url| url.path().to_owned()).unwrap_or_default();
    let name = String::from_utf8(decoded(&path)).ok().and_then(|path| plain(&path));
    name.unwrap_or_else(|| NAMELESS.to_owned())
}

/// The last part of a path, if it is a name.
fn plain(path: &str) -> Option<String> {
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    let fits = !matches!(name, "" | "." | "..") && name.len() <= NAME_MAX_BYTES && !name.chars().any(char::is_control);
    fits.then(|| name.to_owned())
}

/// A parameter of a header such as `attachment; filename="a b"; filename*=UTF-8''a%20b`. The extended form goes before
/// the plain one. RFC 6266, section 4.1; RFC 8187.
fn parameter(value: &str, wanted: &str) -> Option<String> {
    let mut found = None;
    let mut rest = value.split_once(';')?.1;
    while !rest.trim().is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        let after = after.trim_start();
        let text;
        (text, rest) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (token, rest) = after.split_once(';').unwrap_or((after, ""));
                (token.trim().to_owned(), rest)
            }
        };
        rest = rest.trim_start().trim_start_matches(';');
        if name == format!("{wanted}*") {
            let (charset, encoded) = text.split_once('\'').and_then(|(c, rest)| Some((c, rest.split_once('\'')?.1)))?;
            if charset.eq_ignore_ascii_case("utf-8")
                && let Ok(text) = String::from_utf8(decoded(encoded))
            {
                return Some(text);
            }
        } else if name == wanted {
            found = Some(text);
        }
    }
    found
}

/// A quoted string from after its first quote, and what follows it. RFC 9110, section 5.6.4.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &text[at + 1..])),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_by_their_server_or_else_by_their_address() {
        let cases = [
            ("https://host/a/b.tar?x=/y#z", "", "b.tar"),
            ("https://host/a%20b", "", "a b"),
            ("https://host/a/", "", "a"),
            ("https://host/a%2Fb", "", "b"),
            ("https://host/", "", "download"),
            ("https://host", "", "download"),
            ("https://host/%2e%2e", "", "download"),
            ("https://host/a%00b", "", "download"),
            ("https://host/%ff", "", "download"),
            ("https://host/x", "attachment; filename=a.txt", "a.txt"),
            ("https://host/x", "attachment; filename=\"a b;c\\\"d.txt\"; size=3", "a b;c\"d.txt"),
            ("https://host/x", "attachment; filename=\"plain\"; filename*=UTF-8''%C3%A9%20x", "é x"),
            ("https://host/x", "attachment; filename*=utf-8'en'n; filename=plain", "n"),
            ("https://host/x", "attachment; filename*=latin1''%E9; filename=plain", "plain"),
            ("https://host/x", "ATTACHMENT;FileName = a", "a"),
            ("https://host/x", "attachment; filename=\"../../etc/passwd\"", "passwd"),
            ("https://host/x", "attachment; filename=\"..\"", "x"),
            ("https://host/x", "attachment; filename=\"../..\"", "x"),
            ("https://host/x", "attachment; filename=\"a\u{7f}b\"", "x"),
            ("https://host/x", "attachment; filename=\"\"", "x"),
            ("https://host/x", "attachment; filename=\"open", "x"),
            ("https://host/x", "attachment", "x"),
            ("https://host/x", "attachment; =; filename", "x"),
        ];
        for (url, disposition, want) in cases {
            let mut headers = HeaderMap::new();
            if !disposition.is_empty() {
                headers.insert(
                    "content-disposition",
                    disposition
                        .as_bytes()
                        .try_into()
                        .unwrap_or_else(|_| "attachment; filename=\"\"".try_into().expect("a plain header")),
                );
            }
            assert_eq!(name(&headers, &Url::parse(url).unwrap()), want, "{url} {disposition}");
        }
        assert_eq!(file_name(&format!("https://host/{}", "x".repeat(256))), "download");
    }

    #[test]
    fn credentials_leave_the_address() {
        let address = Address::parse("https://me:s%40cret@host/a?token=t#f").unwrap();
        assert_eq!(address.url.as_str(), "https://host/a?token=t");
        assert_eq!(address.credentials, Some(("me".into(), "s@cret".into())));
        assert_eq!(address.shown, "https://***@host/a?***");
        for text in ["", "a", "ftp://host/a", "https://", "https://host/a b", "https://ho\nst/a", "file:///etc/passwd"]
        {
            assert!(matches!(Address::parse(text), Err(HttpError::Address { .. })), "{text}");
        }
    }
}
