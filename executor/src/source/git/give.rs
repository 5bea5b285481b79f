//! Repositories of one store for another: what was fetched is there too, and nobody is asked.
//!
//! In: two stores. Out: in the other the same repositories, and what their remotes said last. Objects, which git never
//! changes, are shared where both stores are on one disk; the rest is copied.

use std::fs::{DirEntry, FileType};
use std::io;
use std::path::Path;

use store::Store;
use tokio_util::sync::CancellationToken;

use super::program::Git;
use super::refs::NOTES;
use super::repository::{READY, locked};
use super::{Connectivity, GitError};

/// Gives another store all repositories that this one has, and what is noted of them.
///
/// # Errors
/// When one of them cannot be read or written.
pub async fn give(from: &Store, to: &Store, cancel: &CancellationToken) -> Result<(), GitError> {
    let folder = from.root().join("git");
    let mut names = Vec::new();
    for (name, kind) in entries(&folder)? {
        if kind.is_dir() && folder.join(&name).join(READY).is_file() {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let (ours, theirs) = (Git::new(from, Connectivity::Offline, cancel)?, Git::new(to, Connectivity::Offline, cancel)?);
    for name in names {
        let _lock = locked(folder.join(format!("{name}.lock")), &ours).await?;
        let (source, target) = (folder.join(&name), theirs.folder().join(&name));
        let copied = tokio::task::spawn_blocking(move || copy(&source, &target, false)).await;
        copied.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    from.give_notes(NOTES, to, |_| Ok(true))
}

/// Copies a folder of a repository; `linked` are files that nobody changes.
fn copy(source: &Path, target: &Path, linked: bool) -> Result<(), GitError> {
    std::fs::create_dir(target).map_err(GitError::io("make", target))?;
    for (name, kind) in entries(source)? {
        let (from, to) = (source.join(&name), target.join(&name));
        if kind.is_dir() {
            copy(&from, &to, linked || name == "objects")?;
        } else if kind.is_file() && !(linked && std::fs::hard_link(&from, &to).is_ok()) {
            std::fs::copy(&from, &to).map_err(GitError::io("copy", &from))?;
        }
    }
    Ok(())
}

/// What is in a folder; nothing if it is not there.
fn entries(folder: &Path) -> Result<Vec<(String, FileType)>, GitError> {
    let failed = || GitError::io("list", folder);
    let read = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(failed())?,
    };
    let entry = |entry: io::Result<DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?))
    };
    read.map(entry).collect::<io::Result<_>>().map_err(failed())
}
