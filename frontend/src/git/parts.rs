//! The parts of a git address, one by one: user, host, port, path, reference. Text in, fault out.
//!
//! A part that starts with `-` could become an option of a program, `x::y` makes git run one, and a control character
//! could end a line of a protocol; all are refused.

use super::GitRefError;

/// Longer parts are shown shortened.
const SHOWN_MAX_CHARS: usize = 60;

/// Whether what follows `http://` is the path of a repository.
pub(super) fn is_git_path(rest: &str) -> bool {
    rest.contains('/') && decoded(rest, false).is_some_and(|rest| rest.ends_with(".git"))
}

/// Checks `[user[:password]@]host[:port]/path`.
pub(super) fn url(rest: &str) -> Result<(), GitRefError> {
    let (authority, path) = rest.split_once('/').ok_or_else(|| part("path", "is missing"))?;
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if let Some(user) = user {
        name("user", &decoded(user, false).ok_or_else(|| part("user", MALFORMED))?)?;
    }
    let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
        Some(_) => return Err(part("host", "is not an IPv6 address")),
        None => host.find(':').map_or((host, ""), |colon| host.split_at(colon)),
    };
    host_name(host)?;
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
        return Err(part("port", "is not a number"));
    }
    path_text(path)
}

/// Reads `user@host:path`. A path alone is a file, and so is `host:path`: files have such names.
pub(super) fn scp(address: &str) -> Option<Result<String, GitRefError>> {
    if let Some((helper, _)) = address.split_once("::") {
        let is_helper = helper.starts_with(|c: char| c.is_ascii_alphanumeric())
            && helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'.'));
        return is_helper.then(|| Err(GitRefError::Helper { name: shortened(helper) }));
    }
    let (authority, path) = address.split_once(':')?;
    let (user, host) = authority.split_once('@')?;
    // A slash in front of the colon makes it a path.
    if authority.contains('/') {
        return None;
    }
    let checked = name("user", user).and_then(|()| host_name(host)).and_then(|()| {
        if path.starts_with('-') {
            return Err(part("path", DASH));
        }
        path_text(path)
    });
    Some(checked.map(|()| address.to_owned()))
}

const DASH: &str = "starts with `-` and could be read as an option";
const MALFORMED: &str = "is malformed";

pub(super) fn part(part: &'static str, reason: &'static str) -> GitRefError {
    GitRefError::Part { part, reason }
}

fn name(what: &'static str, text: &str) -> Result<(), GitRefError> {
    match text {
        "" => Err(part(what, "is empty")),
        _ if text.starts_with('-') => Err(part(what, DASH)),
        _ if text.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | '\\')) => {
            Err(part(what, MALFORMED))
        }
        _ => Ok(()),
    }
}

fn host_name(host: &str) -> Result<(), GitRefError> {
    name("host", host)?;
    let is_fine = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if is_fine { Ok(()) } else { Err(part("host", "is not a host name")) }
}

fn path_text(path: &str) -> Result<(), GitRefError> {
    match decoded(path, false) {
        _ if path.trim_matches('/').is_empty() => Err(part("path", "is missing")),
        None => Err(part("path", "has a malformed `%`")),
        Some(path) if path.chars().any(char::is_control) => Err(part("path", "holds a control character")),
        Some(_) => Ok(()),
    }
}

/// What `git check-ref-format` refuses, and what could be read as an option or a refspec.
pub(super) fn check_reference(text: &str) -> Result<(), GitRefError> {
    let bad = |reason| Err(part("reference", reason));
    if text.starts_with('-') {
        return bad(DASH);
    }
    if text.starts_with('+') {
        return bad("starts with `+`");
    }
    if text.contains(|c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\')) {
        return bad("holds a character that no reference has");
    }
    let bad_name = |name: &str| name.is_empty() || name.starts_with('.') || name.ends_with(".lock");
    if text.contains("..") || text.contains("@{") || text.ends_with('.') || text.split('/').any(bad_name) {
        return bad("is not a name of git");
    }
    Ok(())
}

/// `%41` becomes `A`, in a query also `+` a blank; `None` when an escape is malformed or the result is no text.
pub(crate) fn decoded(text: &str, query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit()?, digit()?);
                (high * 16 + low) as u8
            }
            b'+' if query => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_MAX_CHARS).collect()
}
