//! Whether the repositories of a store are whole: git itself hashes every object again.
//!
//! In: a store. Out: a [`Damage`] for each repository that git does not accept, which is thrown away; the next build that
//! needs it fetches it again. One in which somebody works is theirs to judge. git is started as for fetching, with
//! nothing of the user's, and talks to nobody ([`super::program`]).

use std::path::Path;

use store::{Damage, Kind, Store};
use tokio_util::sync::CancellationToken;

use super::GitError;
use super::program::Git;
use super::remote::Remote;
use super::repository::Repository;
use crate::source::Connectivity;

/// Said of an address that nobody knows any more: a repository's name is its digest.
const UNKNOWN: &str = "ssh://unknown/repository";

/// Checks every repository of the store, one after the other.
///
/// # Errors
/// When git is not installed although there are repositories, or cannot be started, or the store cannot be read.
pub async fn verify(store: &Store, cancel: &CancellationToken) -> Result<Vec<Damage>, GitError> {
    let names = names(&store.root().join("git"))?;
    let mut damages = Vec::new();
    if names.is_empty() {
        return Ok(damages);
    }
    let git = Git::new(store, Connectivity::Offline, cancel)?;
    let remote = Remote { shown: "a kept repository".into(), ..Remote::parse(UNKNOWN)? };
    for name in names {
        let Some(repository) = Repository::if_free(&git, &remote, &name)? else { continue };
        let what = match repository.check().await {
            Ok(()) => continue,
            Err(GitError::Failed { said, .. }) => said,
            Err(
                error @ (GitError::Canceled | GitError::NotInstalled | GitError::Start { .. } | GitError::Io { .. }),
            ) => return Err(error),
            Err(error) => error.to_string(),
        };
        repository.discard()?;
        damages.push(Damage {
            kind: Kind::Git,
            name,
            what: format!("git does not accept it: {}", what.lines().next().unwrap_or("it does not say why")),
            used_by: Vec::new(),
            healed: Some("dropped; it is fetched again when it is needed".into()),
        });
    }
    Ok(damages)
}

/// Names of all repositories, sorted.
fn names(folder: &Path) -> Result<Vec<String>, GitError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(GitError::io("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(GitError::io("list", folder))?.file_name();
        // Beside them stand their locks and git's home.
        let is_repository = |name: &str| {
            let digits = name.trim_end_matches("-sha256");
            digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        names.extend(name.into_string().ok().filter(|name| is_repository(name)));
    }
    names.sort();
    Ok(names)
}
