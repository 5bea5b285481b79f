//! Names to commits.
//!
//! In: a [`GitSource`]. Out: a [`GitPin`]. A name is a full reference, or a tag, or a branch, in this order, as
//! BuildKit has it; only exact names count, and an annotated tag stands for its commit. Forty or 64 digits are a
//! commit, whatever branch may have such a name. Deliberately absent: abbreviated commits, which a remote cannot look
//! up.

use serde::{Deserialize, Serialize};
use store::Store;

use super::program::{Git, Run};
use super::remote::Remote;
use super::{GitError, GitPin, GitSource};

/// A checksum may be a beginning, but not one that anybody could meet by chance.
const COMMIT_MIN_DIGITS: usize = 7;
/// The kind of our notes.
pub(super) const NOTES: &str = "git";
/// Names that are shown when one is not found.
const NEAR_MAX: usize = 5;

/// Whether it is a whole commit: SHA-1 or SHA-256.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Refuses what is no whole commit.
pub(super) fn check_commit(commit: &str, _remote: &Remote) -> Result<(), GitError> {
    if is_commit(commit) { Ok(()) } else { Err(GitError::Commit { commit: crate::tree::shown(commit.as_bytes()) }) }
}

/// The pin of a source that says it all itself.
pub(super) fn given(source: &GitSource, remote: &Remote) -> Result<Option<GitPin>, GitError> {
    let expected = expected(source)?;
    if let Some(reference) = source.reference.as_deref().filter(|reference| is_commit(reference)) {
        let commit = reference.to_ascii_lowercase();
        return match expected {
            Some(expected) if !commit.starts_with(&expected) => Err(GitError::Mismatch {
                url: remote.shown.clone(),
                reference: reference.to_owned(),
                expected,
                found: commit,
            }),
            _ => Ok(Some(GitPin { commit, reference: None })),
        };
    }
    if let Some(reference) = &source.reference {
        check_name(reference)?;
    }
    match expected {
        Some(commit) if source.fetch_by_commit && is_commit(&commit) => Ok(Some(GitPin { commit, reference: None })),
        _ => Ok(None),
    }
}

/// The commit that is asked for, or its beginning, in lower case.
fn expected(source: &GitSource) -> Result<Option<String>, GitError> {
    let Some(commit) = &source.commit else { return Ok(None) };
    let fits = (COMMIT_MIN_DIGITS..=64).contains(&commit.len()) && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if fits {
        Ok(Some(commit.to_ascii_lowercase()))
    } else {
        Err(GitError::Commit { commit: crate::tree::shown(commit.as_bytes()) })
    }
}

/// git-check-ref-format(1), for names with and without `refs/` before them. Wildcards and options are none.
pub(super) fn check_name(name: &str) -> Result<(), GitError> {
    let bad = |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let parts_fit = name.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock"));
    let fits = !name.starts_with('-')
        && !name.contains(bad)
        && parts_fit
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
        && name != "@"
        && name.len() <= 1024;
    if fits { Ok(()) } else { Err(GitError::Reference { reference: crate::tree::shown(name.as_bytes()) }) }
}

/// One line of a remote's list.
struct Listed<'a> {
    object: &'a str,
    name: &'a str,
}

/// Asks the remote what the source's reference means, and notes the answer.
pub(super) async fn ask(git: &Git<'_>, store: &Store, remote: &Remote, source: &GitSource) -> Result<GitPin, GitError> {
    let name = source.reference.as_deref().unwrap_or("HEAD");
    let candidates = if name == "HEAD" || name.starts_with("refs/") {
        vec![name.to_owned()]
    } else {
        vec![format!("refs/tags/{name}"), format!("refs/heads/{name}")]
    };
    let mut patterns = vec!["--symref".to_owned(), "--".to_owned(), remote.address.clone()];
    for candidate in &candidates {
        patterns.push(candidate.clone());
        patterns.push(format!("{candidate}^{{}}"));
    }
    let output = list(git, remote, &patterns).await?;
    let listed = listed(&output);
    let find = |name: &str| listed.iter().find(|line| line.name == name).map(|line| line.object);
    let Some((full, object)) = candidates.iter().find_map(|full| Some((full, find(full)?))) else {
        return Err(unknown(git, remote, name).await);
    };
    let commit = find(&format!("{full}^{{}}")).unwrap_or(object);
    let reference = if full == "HEAD" { default_branch(&output).unwrap_or("HEAD") } else { full };
    let said = Said { commit: commit.to_owned(), object: object.to_owned(), reference: reference.to_owned() };
    note(store, remote, name, &said)?;
    said.pin(remote, source)
}

/// What a remote said of a name; noted (kind `git`, by address and name), to be used when nobody may be asked.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    commit: String,
    /// The annotated tag, or the commit.
    object: String,
    /// The full reference.
    reference: String,
}

impl Said {
    /// As the source wants it.
    fn pin(self, remote: &Remote, source: &GitSource) -> Result<GitPin, GitError> {
        check_commit(&self.commit, remote)?;
        match expected(source)? {
            // An annotated tag may be meant itself.
            Some(expected) if !self.commit.starts_with(&expected) && !self.object.starts_with(&expected) => {
                Err(GitError::Mismatch {
                    url: remote.shown.clone(),
                    reference: source.reference.clone().unwrap_or_else(|| "HEAD".into()),
                    expected,
                    found: self.commit,
                })
            }
            _ => Ok(GitPin { commit: self.commit, reference: Some(self.reference) }),
        }
    }
}

fn note_key(remote: &Remote, name: &str) -> String {
    format!("{}\n{name}", remote.address)
}

fn note(store: &Store, remote: &Remote, name: &str, said: &Said) -> Result<(), GitError> {
    let text = serde_json::to_string(said).expect("plain data becomes JSON");
    Ok(store.set_note(NOTES, &note_key(remote, name), &text)?)
}

/// What the remote said of the source's reference when it was last asked.
pub(super) fn last_said(store: &Store, remote: &Remote, source: &GitSource) -> Result<GitPin, GitError> {
    let name = source.reference.as_deref().unwrap_or("HEAD");
    let said = match store.note(NOTES, &note_key(remote, name))?.map(|text| serde_json::from_str::<Said>(&text)) {
        Some(Ok(said)) => said,
        unknown => {
            if let Some(Err(error)) = unknown {
                tracing::debug!(%error, "a note that cannot be read");
            }
            return Err(GitError::Offline { act: "list the references of", url: remote.shown.clone() });
        }
    };
    said.pin(remote, source)
}

async fn list(git: &Git<'_>, remote: &Remote, args: &[String]) -> Result<String, GitError> {
    let mut run = Run::new("list the references of", remote, ["ls-remote", "--quiet"]);
    run.args.extend(args.iter().map(Into::into));
    (run.online, run.lists) = (true, true);
    Ok(String::from_utf8_lossy(&git.run(run).await?).into_owned())
}

fn listed(output: &str) -> Vec<Listed<'_>> {
    let lines = output.lines().filter_map(|line| line.split_once('\t'));
    lines.filter(|(object, _)| is_commit(object)).map(|(object, name)| Listed { object, name }).collect()
}

/// Which branch `HEAD` is, when the remote says so in a proper name.
fn default_branch(output: &str) -> Option<&str> {
    let named = output.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"))?;
    (named.starts_with("refs/heads/") && check_name(named).is_ok()).then_some(named)
}

/// The error for a name that is not there, with names that are.
async fn unknown(git: &Git<'_>, remote: &Remote, name: &str) -> GitError {
    let all = ["--heads", "--tags", "--refs", "--", &remote.address].map(str::to_owned);
    let (near, similar) = match list(git, remote, &all).await {
        Ok(output) => {
            let names: Vec<&str> = listed(&output)
                .iter()
                .filter_map(|line| {
                    line.name.strip_prefix("refs/heads/").or_else(|| line.name.strip_prefix("refs/tags/"))
                })
                .collect();
            let (near, similar) = near(name, &names);
            (near.iter().map(|name| crate::tree::shown(name.as_bytes())).collect(), similar)
        }
        Err(GitError::Canceled) => return GitError::Canceled,
        Err(error) => {
            tracing::debug!(%error, "no similar names are known");
            (Vec::new(), false)
        }
    };
    GitError::UnknownReference { url: remote.shown.clone(), reference: name.to_owned(), near, similar }
}

/// Names that look like `wanted`, or else the first ones. People forget the `v` of a version, the folder of a branch,
/// the case, or a letter.
fn near<'a>(wanted: &str, names: &[&'a str]) -> (Vec<&'a str>, bool) {
    let plain = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or_default().to_lowercase();
        last.strip_prefix('v')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            .map(str::to_owned)
            .unwrap_or(last)
    };
    let wanted = plain(wanted);
    let rank = |name: &str| {
        let name = plain(name);
        if name == wanted {
            return Some(0);
        }
        let common = name.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
        let tail = name.bytes().rev().zip(wanted.bytes().rev()).take_while(|(a, b)| a == b).count();
        // One slip: all but two letters of the longer are the beginning and the end of both.
        let longer = name.len().max(wanted.len());
        let slip = longer >= 3 && (common + tail) + 2 >= longer && common + tail >= longer.div_ceil(2);
        let within = wanted.len() >= 3 && (name.contains(&wanted) || (name.len() >= 3 && wanted.contains(&name)));
        if slip {
            Some(1)
        } else if within {
            Some(2)
        } else {
            None
        }
    };
    let mut ranked: Vec<(i32, &str)> = names.iter().filter_map(|name| Some((rank(name)?, *name))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    if ranked.is_empty() {
        return (names.iter().take(NEAR_MAX).copied().collect(), false);
    }
    (ranked.into_iter().take(NEAR_MAX).map(|(_, name)| name).collect(), true)
}
