//! Which submodules a commit has, and where they come from.
//!
//! In: a repository that has the commit. Out: for every submodule its path, its commit and its remote. `.gitmodules`
//! is read as data: the addresses in it are taken by the rules of any address, its other settings run nothing, names
//! of submodules are never used as paths. Deliberately absent: fetching them, which is [`super::worktree`]'s.

use std::collections::HashMap;

use super::GitError;
use super::remote::Remote;
use super::repository::Repository;
use crate::source::address::masked;
use crate::tree::shown;

/// A submodule in a commit's tree.
#[derive(Clone, Debug)]
pub(super) struct Submodule {
    /// Where it stands in the tree.
    pub path: Vec<u8>,
    /// Which commit of it.
    pub commit: String,
}

/// What `.gitmodules` says of one submodule.
#[derive(Default)]
struct Section {
    path: Option<Vec<u8>>,
    url: Option<Vec<u8>>,
    update: Option<Vec<u8>>,
}

/// The submodules in the index `index` of a repository, sorted by path.
pub(super) async fn in_index(repository: &Repository<'_>, index: &std::path::Path) -> Result<Vec<Submodule>, GitError> {
    let run = repository.here("read the tree of", ["ls-files", "--stage", "-z"]);
    let output = repository.git.run(run.with("GIT_INDEX_FILE", index)).await?;
    // `160000 <commit> 0\t<path>`
    let found = output.split(|byte| *byte == 0).filter_map(|entry| {
        let rest = entry.strip_prefix(b"160000 ")?;
        let tab = rest.iter().position(|byte| *byte == b'\t')?;
        let commit = std::str::from_utf8(rest[..tab].split(|byte| *byte == b' ').next()?).ok()?;
        Some(Submodule { path: rest[tab + 1..].to_vec(), commit: commit.to_owned() })
    });
    Ok(found.collect())
}

/// Where the submodules of a commit come from, by path. `None` marks one that the repository itself leaves out.
pub(super) struct Origins {
    by_path: HashMap<Vec<u8>, Section>,
}

impl Origins {
    /// Of a commit without submodules.
    pub fn none() -> Self {
        Self { by_path: HashMap::new() }
    }

    /// Reads the commit's `.gitmodules`.
    pub async fn read(repository: &Repository<'_>, commit: &str) -> Result<Self, GitError> {
        let act = "read the submodules of";
        let entry = repository.run(act, ["ls-tree", "-z", commit, "--", ".gitmodules"]).await?;
        if entry.is_empty() {
            return Ok(Self::none());
        }
        if !entry.starts_with(b"100") {
            return Err(GitError::BadSubmodule {
                url: repository.remote.shown.clone(),
                path: ".gitmodules".to_owned(),
                reason: "it is no regular file".to_owned(),
            });
        }
        let blob = format!("--blob={commit}:.gitmodules");
        let output = repository.run(act, ["config", "-z", "--no-includes", &blob, "--list"]).await?;
        Ok(Self::parse(&output))
    }

    /// Reads `key\nvalue\0`, git's form for programs. Of a key that comes twice the last counts.
    fn parse(output: &[u8]) -> Self {
        let mut sections: HashMap<Vec<u8>, Section> = HashMap::new();
        for setting in output.split(|byte| *byte == 0) {
            let Some(newline) = setting.iter().position(|byte| *byte == b'\n') else { continue };
            let (key, value) = (&setting[..newline], &setting[newline + 1..]);
            let Some(rest) = key.strip_prefix(b"submodule.") else { continue };
            let Some(dot) = rest.iter().rposition(|byte| *byte == b'.') else { continue };
            let section = sections.entry(rest[..dot].to_vec()).or_default();
            match &rest[dot + 1..] {
                b"path" => section.path = Some(value.to_vec()),
                b"url" => section.url = Some(value.to_vec()),
                b"update" => section.update = Some(value.to_vec()),
                _ => {}
            }
        }
        let mut named: Vec<(Vec<u8>, Section)> = sections.into_iter().collect();
        // Two sections for one path: whoever reads it twice gets the same.
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        let by_path = named.into_iter().filter_map(|(_, mut section)| {
            let path = section.path.take()?;
            let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
            Some((path[..end].to_vec(), section))
        });
        Self { by_path: by_path.collect() }
    }

    /// The remote of a submodule; `None` when the repository says that it is not to be filled in.
    pub fn remote_of(&self, parent: &Remote, module: &Submodule) -> Result<Option<Remote>, GitError> {
        let bad =
            |reason: String| GitError::BadSubmodule { url: parent.shown.clone(), path: shown(&module.path), reason };
        let section = self.by_path.get(&module.path);
        if section.and_then(|section| section.update.as_deref()) == Some(b"none") {
            return Ok(None);
        }
        let url = section.and_then(|section| section.url.as_deref());
        let url = url.ok_or_else(|| bad("`.gitmodules` gives no address for it".to_owned()))?;
        let url = std::str::from_utf8(url).map_err(|_| bad(format!("its address `{}` is not text", shown(url))))?;
        match parent.submodule(url) {
            Ok(remote) => Ok(Some(remote)),
            Err(GitError::Address { reason, .. }) => {
                Err(bad(format!("its address `{}` is refused: {reason}", masked(url))))
            }
            Err(error) => Err(error),
        }
    }
}
