//! Git repositories and files of the web as trees of the graph.
//!
//! In: `git://…`, `https://…`, `http://…`, with the attributes of [`solver::op::attr`]. Out: for keys the content that
//! a source means, and a layer of its own with exactly that. What was found out about a source holds for the whole
//! build ([`Known`]): the tree that runs is the one that the key speaks of. Every entry belongs to 0:0. Deliberately
//! absent: how things are fetched ([`super::git`], [`super::http`]).

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use oci::content::open_verified;
use oci::model::{Descriptor, Digest};
use rustix::fs::{Mode, OFlags};
use solver::key::ContentDigest;
use solver::op::{SourceOp, attr};
use solver::seam::LogSink;
use store::{Draft, Store};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::address::masked;
use super::git::{self, Access, GitPin, GitSource};
use super::given::Given;
use super::http::{self, HttpFile, HttpSource};
use super::{Connectivity, SourceError};
use crate::tree::attrs::{self, times};
use crate::tree::walk::{Descend, Entry, Visitor, walk};
use crate::tree::{TreeError, joined};

/// Permission bits of a file of the web.
const FILE_MODE: u32 = 0o600;
/// Read at once when a blob becomes a file.
const COPY_BYTES: usize = 256 << 10;

/// What a build has found out about its sources.
#[derive(Default)]
pub(crate) struct Known {
    connectivity: Connectivity,
    given: Given,
    commits: Once<GitPin>,
    files: Once<HttpFile>,
}

/// Values by source, each found out once, however many ask at the same time.
struct Once<T>(Mutex<HashMap<String, Arc<OnceCell<T>>>>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Once<T> {
    async fn get<E>(&self, source: &SourceOp, find: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let attrs = serde_json::to_string(&source.attrs).expect("a map of strings becomes JSON");
        let key = format!("{}\n{attrs}", source.identifier);
        let cell = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        cell.get_or_try_init(|| find).await.cloned()
    }
}

impl Known {
    /// Nothing yet.
    pub fn new(connectivity: Connectivity, given: Given) -> Self {
        Self { connectivity, given, ..Self::default() }
    }

    /// The repository of a source, with what the user has given for it.
    async fn git_source(&self, source: &SourceOp, cancel: &CancellationToken) -> Result<GitSource, SourceError> {
        let mut wanted = git_source(source)?;
        if self.connectivity == Connectivity::Offline {
            return Ok(wanted);
        }
        wanted.access = self.given.for_git(&wanted.url, cancel).await?;
        Ok(wanted)
    }

    async fn web_file(&self, source: &SourceOp, cancel: &CancellationToken) -> Result<WebFile, SourceError> {
        let mut wanted = WebFile::of(source)?;
        if self.connectivity == Connectivity::Online {
            wanted.source.authorization = self.given.for_web(&source.identifier, cancel).await?;
        }
        Ok(wanted)
    }

    /// What a source is.
    pub async fn pin(&self, store: &Store, source: &SourceOp) -> Result<ContentDigest, SourceError> {
        // Whoever wants it no longer drops the future, which ends a git and a request alike.
        let cancel = CancellationToken::new();
        if source.scheme() == "git" {
            let wanted = self.git_source(source, &cancel).await?;
            let pin = self.commit(store, source, &wanted, &cancel).await?;
            return Ok(git_content(&wanted, &pin));
        }
        let wanted = self.web_file(source, &cancel).await?;
        if let Some(checksum) = &wanted.source.checksum {
            return Ok(wanted.content(&checksum.to_string(), &wanted.name(None), None));
        }
        let file = self.file(store, source, &wanted, &Silent, &cancel).await?;
        Ok(wanted.content(&file.digest.to_string(), &wanted.name(Some(&file)), file.last_modified))
    }

    /// Makes the tree of a source in an empty draft.
    pub async fn fill(
        &self,
        store: &Store,
        source: &SourceOp,
        draft: &Draft,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<(), SourceError> {
        if source.scheme() == "git" {
            let wanted = self.git_source(source, cancel).await?;
            let pin = self.commit(store, source, &wanted, cancel).await?;
            git::checkout(store, &wanted, &pin, draft.fs(), self.connectivity, log, cancel).await?;
            let dir = draft.fs_fd().try_clone_to_owned().map_err(|error| in_tree(source)(io("open", error)))?;
            let owned = tokio::task::spawn_blocking(move || walk(dir, &mut Own)).await;
            return owned
                .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
                .map_err(in_tree(source));
        }
        let wanted = self.web_file(source, cancel).await?;
        let file = self.file(store, source, &wanted, log, cancel).await?;
        let (store, folder) = (store.clone(), draft.fs_fd().try_clone_to_owned());
        let folder = folder.map_err(|error| in_tree(source)(io("open", error)))?;
        let name = wanted.name(Some(&file));
        let identifier = masked(&source.identifier);
        let written = tokio::task::spawn_blocking(move || write(&store, &file, folder, &name, wanted.mode)).await;
        let written = written.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        written.map_err(|source| SourceError::Tree { context: format!("`{identifier}`"), source })
    }

    async fn commit(
        &self,
        store: &Store,
        source: &SourceOp,
        wanted: &GitSource,
        cancel: &CancellationToken,
    ) -> Result<GitPin, SourceError> {
        Ok(self.commits.get(source, git::resolve(store, wanted, self.connectivity, cancel)).await?)
    }

    async fn file(
        &self,
        store: &Store,
        source: &SourceOp,
        wanted: &WebFile,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<HttpFile, SourceError> {
        Ok(self.files.get(source, http::fetch(store, &wanted.source, self.connectivity, log, cancel)).await?)
    }
}

/// The attributes of a source, with errors that show no password.
fn attribute(source: &SourceOp, name: &'static str, reason: impl Into<String>) -> SourceError {
    SourceError::Attribute { name, identifier: masked(&source.identifier), reason: reason.into() }
}

fn flag(source: &SourceOp, name: &'static str) -> Result<bool, SourceError> {
    match source.attrs.get(name).map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(attribute(source, name, format!("`{other}` is neither `true` nor `false`"))),
    }
}

/// `git://<host>/<path>[#ref[:subdir]]`; the address itself stands in [`attr::GIT_FULL_URL`].
fn git_source(source: &SourceOp) -> Result<GitSource, SourceError> {
    let (plain, fragment) = source.identifier.split_once('#').unwrap_or((&source.identifier, ""));
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mtime_commit = match source.attrs.get(attr::GIT_MTIME).map(String::as_str) {
        None | Some("checkout") => false,
        Some("commit") => true,
        Some(other) => {
            return Err(attribute(source, attr::GIT_MTIME, format!("`{other}` is neither `checkout` nor `commit`")));
        }
    };
    Ok(GitSource {
        url: source.attrs.get(attr::GIT_FULL_URL).map_or(plain, String::as_str).to_owned(),
        reference: some(reference),
        commit: source.attrs.get(attr::GIT_CHECKSUM).cloned(),
        subdir: some(subdir),
        keep_git_dir: flag(source, attr::GIT_KEEP_DIR)?,
        submodules: !flag(source, attr::GIT_SKIP_SUBMODULES)?,
        mtime_commit,
        fetch_by_commit: flag(source, attr::GIT_FETCH_BY_COMMIT)?,
        access: Access::default(),
    })
}

/// What decides the tree of a commit. Its address does not, unless it stands in a `.git` that is kept.
fn git_content(source: &GitSource, pin: &GitPin) -> ContentDigest {
    let subdir = git::subdir(source);
    let keeps = source.keep_git_dir && subdir.is_empty();
    let kept = if keeps {
        format!("{}\n{}", pin.reference.as_deref().unwrap_or_default(), masked(&source.url))
    } else {
        String::new()
    };
    content(&[
        "rbuild git 1",
        &pin.commit,
        &subdir,
        &kept,
        if source.submodules { "submodules" } else { "" },
        if source.mtime_commit { "time of the commit" } else { "" },
    ])
}

fn content(fields: &[&str]) -> ContentDigest {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u64).to_le_bytes());
        bytes.extend_from_slice(field.as_bytes());
    }
    ContentDigest(*Digest::of(&bytes).as_bytes())
}

/// A file of the web as a tree.
struct WebFile {
    source: HttpSource,
    name: Option<String>,
    mode: u32,
}

impl WebFile {
    fn of(source: &SourceOp) -> Result<Self, SourceError> {
        let checksum = source.attrs.get(attr::HTTP_CHECKSUM).map(|text| text.parse());
        let checksum = checksum.transpose().map_err(SourceError::Http)?;
        let name = source.attrs.get(attr::HTTP_FILENAME).cloned();
        if let Some(name) = &name {
            let is_plain = !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '\0']);
            if !is_plain {
                return Err(attribute(source, attr::HTTP_FILENAME, format!("`{}` is no name", masked(name))));
            }
        }
        let mode = match source.attrs.get(attr::HTTP_PERM) {
            None => FILE_MODE,
            Some(text) => u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| attribute(source, attr::HTTP_PERM, format!("`{text}` is no octal number up to 7777")))?,
        };
        Ok(Self { source: HttpSource { url: source.identifier.clone(), checksum, authorization: None }, name, mode })
    }

    /// With a checksum its server has no say: nobody asks it when the file is known.
    fn name(&self, file: Option<&HttpFile>) -> String {
        match (&self.name, file.filter(|_| self.source.checksum.is_none())) {
            (Some(name), _) => name.clone(),
            (None, Some(file)) => file.file_name.clone(),
            (None, None) => http::file_name_of(&self.source.url),
        }
    }

    fn content(&self, bytes: &str, name: &str, last_modified: Option<i64>) -> ContentDigest {
        let time = last_modified.map(|seconds| seconds.to_string()).unwrap_or_default();
        content(&["rbuild http 1", bytes, name, &format!("{:o}", self.mode), &time])
    }
}

/// Writes a blob as the one file of a tree.
fn write(store: &Store, file: &HttpFile, folder: OwnedFd, name: &str, mode: u32) -> Result<(), TreeError> {
    let failed = |act: &'static str| TreeError::io(act, name.as_bytes());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed("make"))?;
    let mut out = File::from(fd);
    let blob = Descriptor::new("application/octet-stream", file.digest, file.size_bytes);
    let other = |act: &'static str| {
        move |source: std::io::Error| TreeError::Io { act, path: crate::tree::shown(name.as_bytes()), source }
    };
    let mut blob = open_verified(store.blobs(), &blob).map_err(std::io::Error::from).map_err(other("read"))?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = blob.read(&mut buffer).map_err(other("read"))?;
        if count == 0 {
            break;
        }
        out.write_all(&buffer[..count]).map_err(other("write"))?;
    }
    attrs::chown(out.as_fd(), 0, 0).map_err(failed("change the owner of"))?;
    rustix::fs::fchmod(&out, Mode::from_raw_mode(mode)).map_err(failed("change the mode of"))?;
    rustix::fs::futimens(&out, &times(file.last_modified.unwrap_or_default(), 0)).map_err(failed("set the time of"))
}

/// Gives every entry to 0:0; a group of its own that a process has would show otherwise.
struct Own;

impl Visitor for Own {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        if (entry.stat.st_uid, entry.stat.st_gid) != (0, 0) {
            let path = joined(b"", entry.path);
            attrs::chown_at(entry.dir, entry.name, 0, 0).map_err(TreeError::io("change the owner of", &path))?;
        }
        Ok(Descend::Enter)
    }

    fn leave(&mut self, _entry: &Entry<'_>) -> Result<(), TreeError> {
        Ok(())
    }
}

fn in_tree(source: &SourceOp) -> impl Fn(TreeError) -> SourceError + use<> {
    let context = format!("`{}`", masked(&source.identifier));
    move |source| SourceError::Tree { context: context.clone(), source }
}

fn io(act: &'static str, error: std::io::Error) -> TreeError {
    TreeError::Io { act, path: "/".to_owned(), source: error }
}

/// Keys are made in silence; the transfer shows up under the source's own step when it runs.
struct Silent;

impl LogSink for Silent {
    fn write(&self, _stream: solver::seam::Stream, _bytes: &[u8]) {}
    fn progress(&self, _name: &str, _current_bytes: u64, _total_bytes: Option<u64>, _done: bool) {}
    fn notice(&self, _text: &str) {}
}

#[cfg(test)]
mod tests;
