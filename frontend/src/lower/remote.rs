//! Sources of ADD that are addresses: what kind of address, which operation brings it, and what the flags ask of it.
//!
//! In comes the text of a source once variables are in; out comes a [`SourceOp`] and the path of what is copied from
//! it. Deliberately absent: fetching. Next: [`crate::git`] reads addresses of repositories.

use std::collections::BTreeMap;

use solver::op::{SourceOp, attr};
use solver::redact;

use crate::error::{Diagnostic, Refusal};
use crate::git::{self, GitRef, GitRefError};
use crate::instr::Copy;

/// The name of a file whose address names none.
const UNNAMED: &str = "__unnamed__";
/// Longer names fit into no directory.
const NAME_MAX_BYTES: usize = 255;
/// Digest algorithms of `--checksum`, with the number of their hexadecimal digits.
const ALGORITHMS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];

/// What a source of COPY or ADD is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A path.
    Local,
    /// The address of a file.
    Http,
    /// The address of a repository.
    Git,
}

/// What a source is. With `known_git` (`--keep-git-dir` was given) every address is one of a repository.
pub fn kind(text: &str, known_git: bool) -> Kind {
    // Every address has a colon; hardly a path has one.
    if !text.contains(':') {
        return Kind::Local;
    }
    let git = if known_git { git::parse_known(text) } else { git::parse(text, false) };
    match git {
        Some(_) => Kind::Git,
        None if text.starts_with("http://") || text.starts_with("https://") => Kind::Http,
        None => Kind::Local,
    }
}

/// COPY takes no addresses. What git would run as a helper program is an ordinary file name here.
pub fn copy_source(text: &str) -> Result<(), Refusal> {
    if !text.contains(':') {
        return Ok(());
    }
    let address = match git::parse(text, false) {
        Some(Err(GitRefError::Helper { .. })) => false,
        Some(_) => true,
        None => kind(text, false) != Kind::Local,
    };
    if address {
        return Err(Refusal::new("COPY takes no addresses").help(format!("write `ADD {} …`", redact::addresses(text))));
    }
    Ok(())
}

/// Whether an address can be fetched at all.
pub fn add_source(text: &str, known_git: bool) -> Result<(), Refusal> {
    match kind(text, known_git) {
        Kind::Local => Ok(()),
        Kind::Git => git_ref(text, known_git).map(|_| ()),
        Kind::Http => {
            let rest = text.split_once("://").map_or("", |(_, rest)| rest);
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            if host.is_empty() || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
                return Err(Refusal::new(format!("`{}` is no address", shown(text)))
                    .help("write it like `https://example.com/file.tar.gz`"));
            }
            Ok(())
        }
    }
}

fn git_ref(text: &str, known_git: bool) -> Result<GitRef, Refusal> {
    let parsed = if known_git { git::parse_known(text) } else { git::parse(text, false) };
    // Only called for what is an address of a repository.
    parsed.unwrap_or_else(|| Ok(GitRef::default())).map_err(|error| refuse_git(&error))
}

fn refuse_git(error: &GitRefError) -> Refusal {
    Refusal::new(redact::addresses(&error.to_string())).help(error.help())
}

/// Holds `--checksum` and `--keep-git-dir` against the sources; a kind or checksum that is not known yet is `None`.
///
/// # Errors
/// The first contradiction.
pub fn check_flags(copy: &Copy, kinds: &[Option<Kind>], checksum: Option<&str>) -> Result<(), Diagnostic> {
    if let Some(flag) = &copy.checksum {
        let refuse = |message: &str, help: &str| Err(Refusal::new(message).help(help).at(flag.span));
        match kinds {
            [Some(Kind::Local)] => return refuse("`--checksum` is for http(s) and git sources", "remove the flag"),
            [kind] => match (kind, checksum) {
                (Some(Kind::Http), Some(text)) => http_checksum(text).map_err(|refusal| refusal.at(flag.span))?,
                (Some(Kind::Git), Some(text)) => {
                    GitRef::default().demand_commit(text).map_err(|error| refuse_git(&error).at(flag.span))?;
                }
                _ => {}
            },
            _ => return refuse("`--checksum` needs exactly one source", "write one ADD for each of them"),
        }
    }
    if copy.keep_git_dir.is_some() {
        let other = copy.paths().zip(kinds).find(|(_, kind)| !matches!(kind, None | Some(Kind::Git)));
        if let Some((path, _)) = other {
            return Err(Refusal::new("`--keep-git-dir` is for git sources").help("remove the flag").at(path.span));
        }
    }
    Ok(())
}

/// `sha256:…` and its longer siblings.
fn http_checksum(text: &str) -> Result<(), Refusal> {
    let (algorithm, digits) = text.split_once(':').unwrap_or(("", text));
    let help = "write `--checksum=sha256:` and 64 hexadecimal digits";
    let Some((_, count)) = ALGORITHMS.iter().find(|(name, _)| *name == algorithm) else {
        let names = ALGORITHMS.map(|(name, _)| name);
        let help = crate::suggest::did_you_mean(algorithm, names).unwrap_or_else(|| help.into());
        let message = match algorithm {
            "" => format!("`{}` is no checksum", shown(text)),
            _ => format!("`{}` is no algorithm of checksums", shown(algorithm)),
        };
        return Err(Refusal::new(message).help(help));
    };
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if digits.len() != *count || !digits.bytes().all(hex) {
        let message = format!("a {algorithm} checksum has {count} hexadecimal digits in small letters");
        return Err(Refusal::new(message).help(help));
    }
    Ok(())
}

/// An address as an operation, with the path of what is copied from its tree.
pub struct Remote {
    /// What brings it.
    pub source: SourceOp,
    /// The file, or `/` for a whole tree.
    pub path: String,
}

/// The operation for an address; `None` for a path.
///
/// # Errors
/// For a malformed address, and for flags that contradict it.
pub fn remote(text: &str, checksum: Option<&str>, keep_git_dir: Option<bool>) -> Result<Option<Remote>, Refusal> {
    let known_git = keep_git_dir.is_some();
    add_source(text, known_git)?;
    match kind(text, known_git) {
        Kind::Local => Ok(None),
        Kind::Git => {
            let mut address = git_ref(text, known_git)?;
            if let (Some(flag), Some(asked)) = (keep_git_dir, address.keep_git_dir)
                && flag != asked
            {
                return Err(Refusal::new("the flag `--keep-git-dir` contradicts the address").help("keep one of them"));
            }
            address.keep_git_dir = keep_git_dir.or(address.keep_git_dir);
            if let Some(checksum) = checksum {
                address.demand_commit(checksum).map_err(|error| refuse_git(&error))?;
            }
            Ok(Some(Remote { source: address.source(), path: "/".into() }))
        }
        Kind::Http => {
            let name = file_name(text);
            let mut attrs = BTreeMap::from([(attr::HTTP_FILENAME.to_owned(), name.clone())]);
            if let Some(checksum) = checksum {
                attrs.insert(attr::HTTP_CHECKSUM.to_owned(), checksum.to_owned());
            }
            let source = SourceOp { identifier: text.to_owned(), attrs };
            Ok(Some(Remote { source, path: format!("/{name}") }))
        }
    }
}

/// The last name in the path of an address; what is no name of a file becomes [`UNNAMED`].
fn file_name(address: &str) -> String {
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let decoded = git::decoded(path, false).unwrap_or_default();
    let name = decoded.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let is_name = !matches!(name, "" | "." | "..") && !name.contains(char::is_control) && name.len() <= NAME_MAX_BYTES;
    if is_name { name.to_owned() } else { UNNAMED.to_owned() }
}

/// Whether the address holds a password, which everybody reads who reads the file.
pub fn has_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

fn shown(text: &str) -> String {
    redact::addresses(text).chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_sources() {
        let check = |text: &str, expected: Kind, known: Kind| {
            assert_eq!((kind(text, false), kind(text, true)), (expected, known), "{text}");
        };
        check("http://example.com/x.tar", Kind::Http, Kind::Git);
        check("https://example.com/x", Kind::Http, Kind::Git);
        check("https://example.com/x.git", Kind::Git, Kind::Git);
        check("https://example.com/x.git#main:dir", Kind::Git, Kind::Git);
        check("https://example.com/x.git?ref=main", Kind::Git, Kind::Git);
        check("git://example.com/x", Kind::Git, Kind::Git);
        check("ssh://git@example.com/x", Kind::Git, Kind::Git);
        check("git@example.com:x/y", Kind::Git, Kind::Git);
        check("example.com/x.git", Kind::Local, Kind::Local);
        check("github.com/x/y", Kind::Local, Kind::Local);
        check("x.tar", Kind::Local, Kind::Local);
        check("./http:/x", Kind::Local, Kind::Local);
        check("", Kind::Local, Kind::Local);
    }

    #[test]
    fn file_names_of_addresses() {
        let check = |address: &str, expected: &str| assert_eq!(file_name(address), expected, "{address}");
        check("https://example.com/a.tar.gz", "a.tar.gz");
        check("https://example.com/dir/a", "a");
        check("https://example.com/dir/a?token=/x#y/z", "a");
        check("https://example.com/dir/", "dir");
        check("https://example.com/dir//", "dir");
        check("https://example.com/a%20b", "a b");
        check("https://example.com/a%2Fb", "b");
        check("https://example.com/%E2%82%AC", "€");
        check("https://example.com/", UNNAMED);
        check("https://example.com", UNNAMED);
        check("https://example.com?x=/y", UNNAMED);
        check("https://example.com/.", UNNAMED);
        check("https://example.com/a/..", UNNAMED);
        check("https://example.com/%2E%2E", UNNAMED);
        check("https://example.com/a%2F..", UNNAMED);
        check("https://example.com/a%00b", UNNAMED);
        check("https://example.com/a%0Ab", UNNAMED);
        check("https://example.com/%zz", UNNAMED);
        check("https://example.com/%ff", UNNAMED);
        check(&format!("https://example.com/{}", "a".repeat(255)), &"a".repeat(255));
        check(&format!("https://example.com/{}", "a".repeat(256)), UNNAMED);
    }

    #[test]
    fn checksums_of_files() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(http_checksum(text).err().map(|refusal| refusal.message).as_deref(), expected, "{text}");
        };
        check(&format!("sha256:{}", "a1".repeat(32)), None);
        check(&format!("sha384:{}", "a1".repeat(48)), None);
        check(&format!("sha512:{}", "a1".repeat(64)), None);
        let digits = Some("a sha256 checksum has 64 hexadecimal digits in small letters");
        check(&format!("sha256:{}", "A1".repeat(32)), digits);
        check(&format!("sha256:{}", "g1".repeat(32)), digits);
        check("sha256:", digits);
        check("sha256:ab", digits);
        check(&"a1".repeat(4), Some("`a1a1a1a1` is no checksum"));
        check("md5:ab", Some("`md5` is no algorithm of checksums"));
        check("SHA256:ab", Some("`SHA256` is no algorithm of checksums"));
        check("", Some("`` is no checksum"));
    }

    #[test]
    fn passwords_in_addresses_are_seen() {
        let check = |text: &str, expected: bool| assert_eq!(has_password(text), expected, "{text}");
        check("https://user:word@example.com/x", true);
        check("ssh://git:word@example.com/x", true);
        check("https://user@example.com/x", false);
        check("https://example.com/x:y@z", false);
        check("git@example.com:x", false);
        check("x", false);
    }
}
