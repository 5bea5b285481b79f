//! Contexts from elsewhere: repositories and addresses.
//!
//! In come the options' places; out come trees in drafts of the store, or a Dockerfile that stands alone at its address.
//! Commits are pinned before they are checked out, by `executor::source::git`; what an address gives goes through the
//! store's cache of downloads, by `executor::source::http`. Addresses are shown masked.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use executor::secrets::SecretError;
use executor::source::Connectivity;
use executor::source::git::{self, Access, GitError, GitSource};
use executor::source::http::{self, HttpError, HttpFile, HttpSource};
use frontend::git::GitRef;
use oci::content::{BlobReader, ContentError, ContentStore as _};
use oci::model::Digest;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};
use solver::seam::LogSink;
use store::{Draft, Store};

use super::archive::{Stream, sniff, unpack};
use super::{Found, Opener, Text, Tree, read_text};
use crate::engine::task::{Task, in_background};
use crate::engine::{Failure, words};
use crate::options::context::masked;

/// The permission bits of a file that an address gave, as with ADD.
const FILE_MODE: u32 = 0o600;

/// A repository as people recognise it: the address without secrets, what of it is meant.
pub fn shown(git: &GitRef) -> String {
    let mut text = masked(&git.remote);
    if git.reference.is_some() || git.subdir.is_some() {
        text.push('#');
        text.push_str(git.reference.as_deref().unwrap_or_default());
    }
    if let Some(subdir) = &git.subdir {
        text.push(':');
        text.push_str(subdir);
    }
    text
}

impl Opener<'_> {
    /// The tree of a repository; its time is that of the commit. `keep_git_dir` holds where the address says nothing.
    pub(super) async fn git_tree(&self, git: &GitRef, keep_git_dir: bool, log: &dyn LogSink) -> Result<Tree, Failure> {
        let access = match self.connectivity {
            Connectivity::Online => self.given.for_git(&git.remote, self.cancel).await.map_err(|error| {
                let about = format!("the repository `{}`", shown(git));
                not_given(&about, &error)
            })?,
            Connectivity::Offline => Access::default(),
        };
        let source = GitSource {
            url: git.remote.clone(),
            reference: git.reference.clone(),
            commit: git.commit.clone(),
            subdir: git.subdir.clone(),
            keep_git_dir: git.keep_git_dir.unwrap_or(keep_git_dir),
            submodules: git.submodules.unwrap_or(true),
            mtime_commit: git.mtime_commit,
            fetch_by_commit: git.fetch_by_commit.unwrap_or(false),
            access,
        };
        let failed = |error: GitError| match (error.is_canceled(), error.help()) {
            (true, _) => words::canceled(),
            (false, None) => Failure::from_error(&error),
            (false, Some(help)) => Failure::from_error(&error).help(help),
        };
        let pin = git::resolve(self.store, &source, self.connectivity, self.cancel).await.map_err(failed)?;
        tracing::debug!(commit = pin.commit, reference = pin.reference, "the repository is pinned");
        let draft = self.store.draft().map_err(|error| words::store(&error))?;
        let filled = git::checkout(self.store, &source, &pin, draft.fs(), self.connectivity, log, self.cancel).await;
        let time = filled.map_err(failed)?;
        Ok(Tree::of_draft(draft, format!("the repository `{}`", shown(git)), Some(time), None))
    }

    /// What an address gives: an archive's tree, or a Dockerfile.
    pub(super) async fn at_address(&self, url: &str, log: &dyn LogSink) -> Result<Found, Failure> {
        let file = self.fetch(url, log).await?;
        let (shown, cancel) = (masked(url), self.cancel.clone());
        in_background(self.store, move |store| match sniffed(store, &file, &shown)? {
            Stream::Archive(stream) => {
                let called = format!("the archive at `{shown}`");
                let unpacked = unpack(store, stream, &called, &cancel)?;
                Ok(Found::tree(Tree::of_draft(unpacked.draft, called, file.last_modified, None)))
            }
            Stream::Text(stream) => Ok(Found::Text(read_text(stream, &shown, &cancel)?, file.last_modified)),
        })
        .await
    }

    /// The Dockerfile at an address.
    pub(super) async fn dockerfile_at(&self, url: &str) -> Result<Text, Failure> {
        let shown = masked(url);
        let task = Task::start(&format!("[internal] load {shown}"), self.progress);
        let text = async {
            let file = self.fetch(url, &task.log()).await?;
            let cancel = self.cancel.clone();
            in_background(self.store, move |store| read_text(open(store, &file.digest)?, &shown, &cancel)).await
        };
        let text = text.await;
        task.end(text)
    }

    /// The tree of a named context at an address: an archive's, or one that holds the one file.
    pub(super) async fn tree_at_address(&self, url: &str, log: &dyn LogSink) -> Result<Tree, Failure> {
        let file = self.fetch(url, log).await?;
        let (shown, cancel) = (masked(url), self.cancel.clone());
        in_background(self.store, move |store| match sniffed(store, &file, &shown)? {
            Stream::Archive(stream) => {
                let called = format!("the archive at `{shown}`");
                let unpacked = unpack(store, stream, &called, &cancel)?;
                Ok(Tree::of_draft(unpacked.draft, called, file.last_modified, None))
            }
            Stream::Text(stream) => {
                let draft = store.draft().map_err(|error| words::store(&error))?;
                put(&draft, &file, stream).map_err(|error| {
                    Failure::new(format!("cannot write what `{shown}` gives to the store")).note(error.to_string())
                })?;
                Ok(Tree::of_draft(draft, format!("the file at `{shown}`"), file.last_modified, None))
            }
        })
        .await
    }

    async fn fetch(&self, url: &str, log: &dyn LogSink) -> Result<HttpFile, Failure> {
        let authorization = match self.connectivity {
            Connectivity::Online => {
                let given = self.given.for_web(url, self.cancel).await;
                given.map_err(|error| not_given(&format!("`{}`", masked(url)), &error))?
            }
            Connectivity::Offline => None,
        };
        let source = HttpSource { url: url.to_owned(), checksum: None, authorization };
        let failed = |error: HttpError| match (&error, error.help()) {
            (HttpError::Canceled, _) => words::canceled(),
            (_, None) => Failure::from_error(&error),
            (_, Some(help)) => Failure::from_error(&error).help(help),
        };
        http::fetch(self.store, &source, self.connectivity, log, self.cancel).await.map_err(failed)
    }
}

/// What the user would have to give for a context, or has given wrongly.
fn not_given(about: &str, error: &SecretError) -> Failure {
    if matches!(error, SecretError::Canceled) {
        return words::canceled();
    }
    let failure = Failure::from_error(error).note(format!("it is for {about}"));
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

fn open(store: &Store, digest: &Digest) -> Result<Box<dyn BlobReader>, Failure> {
    let missing = || ContentError::Missing { digest: *digest };
    store.blobs().open(digest).and_then(|blob| blob.ok_or_else(missing)).map_err(|error| words::content(&error))
}

fn sniffed(store: &Store, file: &HttpFile, shown: &str) -> Result<Stream<Box<dyn BlobReader>>, Failure> {
    let unreadable =
        |error: io::Error| Failure::new(format!("cannot read what `{shown}` gave")).note(error.to_string());
    sniff(open(store, &file.digest)?).map_err(unreadable)
}

/// Puts the file into an empty tree, under the plain name that it has.
fn put(draft: &Draft, file: &HttpFile, mut bytes: impl io::Read) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(draft.fs_fd(), file.file_name.as_str(), flags, Mode::from_raw_mode(FILE_MODE))?;
    let mut out = File::from(fd);
    io::copy(&mut bytes, &mut out)?;
    if let Some(seconds) = file.last_modified {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        rustix::fs::futimens(out.as_fd(), &Timestamps { last_access: time, last_modification: time })?;
    }
    Ok(())
}
