//! Addresses of git repositories: what is fetched, which commit of it, and which directory of that.
//!
//! In comes text as people write it: `git://`, `ssh://`, `user@host:path`, `http(s)://….git`, and for contexts the
//! old `github.com/team/project`; each may end in `?query` and `#ref[:subdir]`. Out comes a [`GitRef`], or why it is
//! refused. Whatever could be read as an option, a helper program or a path outside the tree is refused here, before
//! any program sees it. Deliberately absent: running git. Next: [`GitRef::source`] is what the executor gets.

mod parts;

use std::collections::BTreeMap;

use solver::op::{SourceOp, attr};

pub(crate) use parts::decoded;
use parts::{check_reference, is_git_path, part, scp, shortened, url};

use crate::{meter, suggest};

/// A repository, and what of it is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitRef {
    /// The repository, as git takes it: without query and fragment.
    pub remote: String,
    /// Branch, tag, full reference name or commit; `None` is the default branch.
    pub reference: Option<String>,
    /// A directory of the tree, cleaned, without slashes around it.
    pub subdir: Option<String>,
    /// The commit that it must be, or a beginning of it; small letters.
    pub commit: Option<String>,
    /// Whether `.git` is kept.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched.
    pub submodules: Option<bool>,
    /// Whether every file gets the time of the commit.
    pub mtime_commit: bool,
    /// Whether the commit itself is asked for, whatever the reference points to by now.
    pub fetch_by_commit: Option<bool>,
}

/// Why an address of a repository is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitRefError {
    /// A part is missing or malformed.
    #[error("the {part} of this git address {reason}")]
    Part {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `x::y` makes git run a program.
    #[error("`{name}::` would make git run a helper program")]
    Helper {
        /// The helper.
        name: String,
    },
    /// A key of the query that means nothing.
    #[error("a git address has no option `{key}`")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// An option without its value, or with one that it does not take.
    #[error("`{value}` is no value of the git option `{key}`")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// Two things that cannot both hold.
    #[error("this git address asks for `{first}` and for `{second}`")]
    Conflict {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
}

const KEYS: [&str; 9] = ["ref", "tag", "branch", "subdir", "checksum", "commit", "keep-git-dir", "submodules", "mtime"];
const FETCH_BY_COMMIT: &str = "fetch-by-commit";
/// git shortens a commit to no fewer digits.
const COMMIT_MIN_DIGITS: usize = 4;
/// Digits of a SHA-1 and of a SHA-256 commit.
const COMMIT_FULL_DIGITS: [usize; 2] = [40, 64];

impl GitRefError {
    /// What to do.
    pub fn help(&self) -> String {
        match self {
            Self::Part { .. } => "write it like `https://example.com/team/project.git#main:directory`".into(),
            Self::Helper { .. } => "use an address that starts with `https://` or `ssh://`".into(),
            Self::UnknownKey { key } => {
                let keys = KEYS.into_iter().chain([FETCH_BY_COMMIT]);
                suggest::did_you_mean(key, keys.clone()).unwrap_or_else(|| {
                    let list: Vec<String> = keys.map(|key| format!("`{key}`")).collect();
                    format!("the options are {}", list.join(", "))
                })
            }
            Self::Value { key: "mtime", .. } => "write `mtime=checkout` or `mtime=commit`".into(),
            Self::Value { key: "commit" | "checksum", .. } => {
                format!("write the digits of a commit, at least {COMMIT_MIN_DIGITS}")
            }
            Self::Value { key: FETCH_BY_COMMIT, .. } => "it needs all digits of a commit: add `&commit=…`".into(),
            Self::Value { key: "keep-git-dir" | "submodules", .. } => "write true or false".into(),
            Self::Value { key, .. } => format!("write `{key}=…` once, with a value"),
            Self::Conflict { .. } => "keep one of them".into(),
        }
    }
}

/// Reads an address. `None`: not a git address at all. With `context` the old form `github.com/team/project` counts.
pub fn parse(text: &str, context: bool) -> Option<Result<GitRef, GitRefError>> {
    read(text, context, false)
}

/// The same where it is known that a repository is meant: then `http(s)://` needs no `.git` at its end.
pub fn parse_known(text: &str) -> Option<Result<GitRef, GitRefError>> {
    read(text, false, true)
}

fn read(text: &str, context: bool, known: bool) -> Option<Result<GitRef, GitRefError>> {
    meter::tick(text.len());
    let (address, fragment) = cut(text, '#');
    let (address, query) = cut(address, '?');
    let remote = match address.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(':') => {
            let scheme = scheme.to_ascii_lowercase();
            match scheme.as_str() {
                "git" | "ssh" => {}
                "http" | "https" if known || is_git_path(rest) => {}
                _ => return None,
            }
            url(rest).map(|()| format!("{scheme}://{rest}"))
        }
        None if context && address.starts_with("github.com/") => url(address).map(|()| format!("https://{address}")),
        _ => scp(address)?,
    };
    let decode = address.contains("://") || address.starts_with("github.com/");
    Some(remote.and_then(|remote| {
        let mut found = GitRef { remote, ..GitRef::default() };
        found.read_fragment(fragment.unwrap_or_default(), decode)?;
        found.read_query(query.unwrap_or_default())?;
        if text.chars().any(char::is_control) {
            return Err(part("text", "holds a control character"));
        }
        Ok(found)
    }))
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

impl GitRef {
    fn read_fragment(&mut self, fragment: &str, decode: bool) -> Result<(), GitRefError> {
        let fragment = if decode { decoded(fragment, false) } else { Some(fragment.to_owned()) };
        let fragment = fragment.ok_or_else(|| part("fragment", "has a malformed `%`"))?;
        let (reference, subdir) = cut(&fragment, ':');
        self.set_reference(reference)?;
        self.set_subdir(subdir.unwrap_or_default())
    }

    fn read_query(&mut self, query: &str) -> Result<(), GitRefError> {
        let mut values: BTreeMap<&'static str, Option<String>> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = cut(pair, '=');
            let malformed = || part("query", "has a malformed `%`");
            let written = decoded(key, true).ok_or_else(malformed)?;
            let known = KEYS.into_iter().chain([FETCH_BY_COMMIT]).find(|known| *known == written);
            let key = known.ok_or_else(|| GitRefError::UnknownKey { key: shortened(&written) })?;
            let value = value.map(|value| decoded(value, true).ok_or_else(malformed)).transpose()?;
            let value = value.filter(|value| !value.is_empty());
            if let Some(before) = values.insert(key, value.clone()) {
                let show = |value: Option<String>| format!("{key}={}", shortened(&value.unwrap_or_default()));
                return Err(GitRefError::Conflict { first: show(before), second: show(value) });
            }
        }
        for (key, value) in values {
            match (key, value) {
                ("keep-git-dir", value) => self.keep_git_dir = Some(truth(key, value)?),
                ("submodules", value) => self.submodules = Some(truth(key, value)?),
                (FETCH_BY_COMMIT, value) => self.fetch_by_commit = Some(truth(key, value)?),
                (_, None) => return Err(GitRefError::Value { key, value: String::new() }),
                ("ref", Some(value)) => self.set_reference(&value)?,
                ("tag", Some(value)) => self.set_reference(&qualified("refs/tags/", value))?,
                ("branch", Some(value)) => self.set_reference(&qualified("refs/heads/", value))?,
                ("subdir", Some(value)) => self.set_subdir(&value)?,
                ("mtime", Some(value)) => match value.as_str() {
                    "commit" => self.mtime_commit = true,
                    "checkout" => {}
                    _ => return Err(GitRefError::Value { key, value: shortened(&value) }),
                },
                (_, Some(value)) => self.set_commit(key, &value)?,
            }
        }
        let is_full = |commit: &String| COMMIT_FULL_DIGITS.contains(&commit.len());
        if self.fetch_by_commit == Some(true) && !self.commit.as_ref().is_some_and(is_full) {
            return Err(GitRefError::Value { key: FETCH_BY_COMMIT, value: "true".into() });
        }
        if self.reference.is_none() {
            self.reference.clone_from(&self.commit);
        }
        Ok(())
    }

    fn set_reference(&mut self, text: &str) -> Result<(), GitRefError> {
        if text.is_empty() {
            return Ok(());
        }
        check_reference(text)?;
        set(&mut self.reference, text)
    }

    fn set_subdir(&mut self, text: &str) -> Result<(), GitRefError> {
        let mut parts: Vec<&str> = Vec::new();
        for part_text in text.split('/') {
            match part_text {
                "" | "." => {}
                ".." if parts.pop().is_none() => return Err(part("directory", "leads out of the repository")),
                ".." => {}
                name => parts.push(name),
            }
        }
        if text.chars().any(char::is_control) {
            return Err(part("directory", "holds a control character"));
        }
        if parts.is_empty() { Ok(()) } else { set(&mut self.subdir, &parts.join("/")) }
    }

    /// Demands a commit, as `--checksum` of ADD does.
    ///
    /// # Errors
    /// When it is no beginning of a commit, or the address demands another one.
    pub fn demand_commit(&mut self, text: &str) -> Result<(), GitRefError> {
        self.set_commit("checksum", text)?;
        if self.reference.is_none() {
            self.reference.clone_from(&self.commit);
        }
        Ok(())
    }

    fn set_commit(&mut self, key: &'static str, text: &str) -> Result<(), GitRefError> {
        let longest = COMMIT_FULL_DIGITS[COMMIT_FULL_DIGITS.len() - 1];
        if !(COMMIT_MIN_DIGITS..=longest).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(GitRefError::Value { key, value: shortened(text) });
        }
        set(&mut self.commit, &text.to_ascii_lowercase())
    }

    /// As a source of the graph: `git://<host>/<path>[#ref[:subdir]]`, whatever the scheme, so that one repository is
    /// one source; the whole address stands in [`attr::GIT_FULL_URL`].
    pub fn source(&self) -> SourceOp {
        let place = match self.remote.split_once("://") {
            Some((_, rest)) => {
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                format!("{host}/{}", path.trim_start_matches('/'))
            }
            None => {
                let (authority, path) = self.remote.split_once(':').unwrap_or((&self.remote, ""));
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                format!("{host}/{}", path.trim_start_matches('/'))
            }
        };
        let mut identifier = format!("git://{place}");
        if self.reference.is_some() || self.subdir.is_some() {
            identifier.push('#');
            identifier.push_str(self.reference.as_deref().unwrap_or_default());
        }
        if let Some(subdir) = &self.subdir {
            identifier.push(':');
            identifier.push_str(subdir);
        }
        let mut attrs = BTreeMap::from([(attr::GIT_FULL_URL.to_owned(), self.remote.clone())]);
        let mut flag = |name: &str, set: bool| {
            if set {
                attrs.insert(name.to_owned(), "true".to_owned());
            }
        };
        flag(attr::GIT_KEEP_DIR, self.keep_git_dir == Some(true));
        flag(attr::GIT_SKIP_SUBMODULES, self.submodules == Some(false));
        flag(attr::GIT_FETCH_BY_COMMIT, self.fetch_by_commit == Some(true));
        if let Some(commit) = &self.commit {
            attrs.insert(attr::GIT_CHECKSUM.to_owned(), commit.clone());
        }
        if self.mtime_commit {
            attrs.insert(attr::GIT_MTIME.to_owned(), "commit".to_owned());
        }
        SourceOp { identifier, attrs }
    }
}

/// Sets what may be said twice if it is the same.
fn set(slot: &mut Option<String>, text: &str) -> Result<(), GitRefError> {
    match slot {
        Some(before) if before != text => {
            Err(GitRefError::Conflict { first: shortened(before), second: shortened(text) })
        }
        _ => {
            *slot = Some(text.to_owned());
            Ok(())
        }
    }
}

fn qualified(prefix: &str, name: String) -> String {
    if name.starts_with(prefix) { name } else { format!("{prefix}{name}") }
}

fn truth(key: &'static str, value: Option<String>) -> Result<bool, GitRefError> {
    match value.as_deref() {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(GitRefError::Value { key, value: shortened(other) }),
    }
}
