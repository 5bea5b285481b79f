//! Trees of git repositories, fetched by the `git` program, of which nothing is believed that was not asked for.
//!
//! In: a [`GitSource`]. [`resolve`] says which commit it means, [`checkout`] fills a directory with that commit's tree,
//! submodules included. Out: files, and the time of the commit. What a repository may bring along is data: its hooks,
//! attributes and configuration start no program, its links are not followed, its submodules are fetched by the same
//! narrow ways as itself ([`submodules`]).
//!
//! ```text
//! <store>/git/
//!   home/               empty: the home directory of every git that is started
//!   <hex>/              bare repository of one remote, named by the SHA-256 of its address; shallow. Only a commit
//!                       with a reference in refs/rbuild/ is complete. May be deleted while its lock is held
//!   <hex>.lock          held by whoever works in <hex>/, and by every git that was started there: the lock outlives
//!                       the death of an rbuild as long as its git lives
//! ```
//!
//! Deliberately absent: large files kept elsewhere (Git LFS; its pointers are files like any other), signatures of
//! commits, credentials other than those of the address and of its [`Access`]. Next: [`remote`] which addresses
//! are taken, [`program`] how git is started, [`refs`] names to commits, [`repository`] commits to disk, [`worktree`]
//! and [`submodules`] commits to files.

mod access;
mod check;
mod error;
mod give;
mod program;
mod refs;
mod remote;
mod repository;
mod submodules;
mod worktree;

use std::path::Path;

use solver::seam::LogSink;
use store::Store;
use tokio_util::sync::CancellationToken;

pub use access::{Access, Agent, Authorization};
pub use check::verify;
pub use error::GitError;
pub use give::give;
pub use remote::is_over_ssh;

use super::Connectivity;
use program::Git;
use remote::Remote;

/// A commit's tree, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitSource {
    /// The remote as git takes it: `https://…`, `http://…`, `ssh://…`, `git://…`, `user@host:path`.
    pub url: String,
    /// Branch, tag, full reference (`refs/…`) or full commit; `None` is the remote's default branch.
    pub reference: Option<String>,
    /// What the commit's name must be or begin with: at least seven digits.
    pub commit: Option<String>,
    /// The directory that becomes the tree; `None` is all of it.
    pub subdir: Option<String>,
    /// Whether `.git` stays. Without effect when a subdirectory is asked for.
    pub keep_git_dir: bool,
    /// Whether submodules are filled in.
    pub submodules: bool,
    /// Whether every file gets the time of the commit instead of that of the checkout.
    pub mtime_commit: bool,
    /// Whether `commit`, when it is whole, is asked for itself, whatever `reference` means now.
    pub fetch_by_commit: bool,
    /// What of the user's may be used for it.
    pub access: Access,
}

/// What a [`GitSource`] means, once and for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitPin {
    /// The whole commit, in lower case.
    pub commit: String,
    /// The full reference that it was found under (`refs/heads/main`); `None` when it was given.
    pub reference: Option<String>,
}

/// Which commit a source means. Asks the remote, unless the source names a whole commit; offline, it is what the remote
/// said last.
///
/// # Errors
/// When the address or the reference is malformed, the remote cannot be asked, has no such reference, or it means
/// another commit than the source says.
pub async fn resolve(
    store: &Store,
    source: &GitSource,
    connectivity: Connectivity,
    cancel: &CancellationToken,
) -> Result<GitPin, GitError> {
    let remote = Remote::parse(&source.url)?;
    if let Some(pin) = refs::given(source, &remote)? {
        return Ok(pin);
    }
    if connectivity == Connectivity::Offline {
        return refs::last_said(store, &remote, source);
    }
    let git = Git::new(store, connectivity, cancel)?.using(&source.access);
    refs::ask(&git, store, &remote, source).await
}

/// Fills the empty directory `into` with the tree of `pin` and returns the time of the commit, in seconds since 1970.
/// What was fetched for an earlier build is not fetched again, and nothing is when offline. After an error `into` may hold anything.
///
/// # Errors
/// When the remote cannot be reached or does not give the commit, when there is no such subdirectory, when a submodule
/// cannot be had, when the disk is full.
pub async fn checkout(
    store: &Store,
    source: &GitSource,
    pin: &GitPin,
    into: &Path,
    connectivity: Connectivity,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<i64, GitError> {
    let remote = Remote::parse(&source.url)?;
    refs::check_commit(&pin.commit, &remote)?;
    let git = Git::new(store, connectivity, cancel)?.using(&source.access);
    worktree::fill(&git, &remote, source, pin, into, log).await
}

/// The subdirectory of a source, cleaned; empty when it is all of the tree.
pub(crate) fn subdir(source: &GitSource) -> String {
    worktree::parts(source.subdir.as_deref().unwrap_or_default()).join("/")
}

#[cfg(test)]
pub(super) mod tests;
