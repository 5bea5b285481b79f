//! The bare repository of one remote, and commits in it.
//!
//! In: a remote, a commit. Out: a repository that has the commit and its tree, whole. A commit that is there already is
//! not asked for again. Deliberately absent: files ([`super::worktree`]), throwing old commits away.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use oci::model::Digest;
use rustix::fs::FlockOperation;

use super::program::{Git, Run};
use super::remote::Remote;
use super::{GitError, GitPin};
use crate::waiting::Waiting;

/// git's own word for "all of it".
const FULL_DEPTH: &str = "--depth=2147483647";

/// The file in a repository that says that it is whole.
pub(super) const READY: &str = "rbuild-ready";

/// A repository of ours; nobody else works in it as long as this value lives.
pub(super) struct Repository<'a> {
    pub git: &'a Git<'a>,
    pub remote: &'a Remote,
    pub path: PathBuf,
    pub lock: File,
    format: &'static str,
    /// Whether nothing was ever fetched into it.
    is_new: bool,
}

impl<'a> Repository<'a> {
    /// Opens or makes the repository of a remote, for commits of `digits` digits. Waits until nobody else works in it.
    pub async fn open(git: &'a Git<'a>, remote: &'a Remote, digits: usize) -> Result<Self, GitError> {
        let (format, suffix) = if digits == 64 { ("sha256", "-sha256") } else { ("sha1", "") };
        let name = format!("{}{suffix}", Digest::of(remote.address.as_bytes()).hex());
        let path = git.folder().join(&name);
        let lock_path = git.folder().join(format!("{name}.lock"));
        let lock = locked(lock_path, git).await?;
        let mut repository = Self { git, remote, path, lock, format, is_new: false };
        if repository.ready().is_file() {
            repository.sweep()?;
        } else {
            repository.make().await?;
        }
        Ok(repository)
    }

    /// The repository of that name, as it is; `None` if somebody works in it, or it is gone or was never finished, which
    /// the next who wants it sees to.
    pub fn if_free(git: &'a Git<'a>, remote: &'a Remote, name: &str) -> Result<Option<Self>, GitError> {
        let lock_path = git.folder().join(format!("{name}.lock"));
        let lock = lock_file(&lock_path)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(GitError::io("lock", &lock_path)(errno.into())),
        }
        let format = if name.ends_with("-sha256") { "sha256" } else { "sha1" };
        let repository = Self { git, remote, path: git.folder().join(name), lock, format, is_new: false };
        Ok(repository.ready().is_file().then_some(repository))
    }

    /// Hashes every object again, and looks whether what the references lead to is there.
    pub async fn check(&self) -> Result<(), GitError> {
        self.sweep()?;
        let tolerated = ["zeroPaddedFilemode", "badTimezone", "missingSpaceBeforeDate"];
        let mut run = self.here("check", [""; 0]);
        for mistake in tolerated {
            run.args.extend(["-c".into(), format!("fsck.{mistake}=ignore").into()]);
        }
        run.args.extend(["fsck", "--full", "--no-dangling", "--no-progress"].map(Into::into));
        self.git.run(run).await.map(drop)
    }

    /// Says that the repository is whole.
    fn ready(&self) -> PathBuf {
        self.path.join(READY)
    }

    async fn make(&mut self) -> Result<(), GitError> {
        self.discard()?;
        self.is_new = true;
        let format = format!("--object-format={}", self.format);
        let mut init = Run::new("make a repository for", self.remote, ["init", "--quiet", "--bare", "--template="]);
        init.args.extend([format.into(), "--".into(), self.path.clone().into()]);
        init.lock = Some(&self.lock);
        self.git.run(init).await?;
        // Of this repository only we ask for commits, and only those that we have given a name.
        self.run("make a repository for", ["config", "uploadpack.allowAnySHA1InWant", "true"]).await?;
        std::fs::write(self.ready(), "").map_err(GitError::io("write", &self.ready()))
    }

    /// Removes the repository; the next who opens it makes it anew.
    pub fn discard(&self) -> Result<(), GitError> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(GitError::io("remove", &self.path)(error)),
            _ => Ok(()),
        }
    }

    /// Removes what a git that was killed has left. Nobody works here: the lock says so.
    fn sweep(&self) -> Result<(), GitError> {
        let is_left = |name: &str| name.ends_with(".lock") || name.starts_with("tmp_");
        for folder in [".", "objects/pack", "refs/rbuild", "refs/tags"] {
            let folder = self.path.join(folder);
            let entries = match std::fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(GitError::io("list", &folder))?,
            };
            for entry in entries {
                let entry = entry.map_err(GitError::io("list", &folder))?;
                if is_left(&entry.file_name().to_string_lossy()) {
                    std::fs::remove_file(entry.path()).map_err(GitError::io("remove", &entry.path()))?;
                }
            }
        }
        Ok(())
    }

    /// Runs git in this repository, talking to nobody.
    pub async fn run<const N: usize>(&self, act: &'static str, args: [&str; N]) -> Result<Vec<u8>, GitError> {
        self.git.run(self.here(act, args)).await
    }

    /// A run in this repository.
    pub fn here<const N: usize>(&self, act: &'static str, args: [&str; N]) -> Run<'_> {
        let mut run = Run::new(act, self.remote, args);
        run.lock = Some(&self.lock);
        run.with("GIT_DIR", &self.path)
    }

    /// Brings the commit of `pin` and its tree, if they are not here; `false` when they were.
    ///
    /// Servers differ: most give a commit that is asked for by name, some only what a reference leads to, and one that
    /// is a mere folder of files cannot give less than everything.
    pub async fn bring(&mut self, pin: &GitPin) -> Result<bool, GitError> {
        let kept = format!("refs/rbuild/{}", pin.commit);
        if self.path.join(&kept).is_file() && self.commit_of(&kept).await?.as_deref() == Some(&*pin.commit) {
            return Ok(false);
        }
        match self.fetch_commit(pin, &kept).await {
            Err(error @ (GitError::CommitNotFound { .. } | GitError::Failed { .. })) if !self.is_new => {
                // What was kept before may be broken and stand in the way.
                tracing::debug!(remote = self.remote.shown, %error, "once more into a new repository");
                self.make().await?;
                self.fetch_commit(pin, &kept).await?;
            }
            result => result?,
        }
        Ok(true)
    }

    async fn fetch_commit(&self, pin: &GitPin, kept: &str) -> Result<(), GitError> {
        let by_commit = format!("+{}:{kept}", pin.commit);
        let reference = pin.reference.as_deref();
        let mut tries: Vec<(Option<&str>, Vec<&str>)> = vec![(Some("--depth=1"), vec![&by_commit])];
        if let Some(reference) = reference {
            tries.push((Some("--depth=1"), vec![reference]));
            tries.push((Some(FULL_DEPTH), vec![reference]));
            tries.push((None, vec![reference]));
        }
        let all = vec!["+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*"];
        tries.push((Some(FULL_DEPTH), all.clone()));
        tries.push((None, all));
        let mut last = None;
        for (depth, refspecs) in tries {
            match self.fetch(depth, &refspecs).await {
                Ok(()) if self.is_whole(&pin.commit).await? => {
                    self.run("remember a commit of", ["update-ref", kept, &pin.commit]).await?;
                    return Ok(());
                }
                Ok(()) => {}
                Err(error @ (GitError::Failed { .. } | GitError::NotFound { .. })) => {
                    tracing::debug!(remote = self.remote.shown, %error, "fetched in another way");
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(match last {
            Some(error @ GitError::NotFound { .. }) => error,
            last => GitError::CommitNotFound {
                url: self.remote.shown.clone(),
                commit: pin.commit.clone(),
                said: last.map_or_else(String::new, |error| error.to_string()),
            },
        })
    }

    /// Brings an annotated tag as such, if it still leads to the commit.
    pub async fn bring_tag(&self, tag: &str, commit: &str) -> Result<bool, GitError> {
        if self.git.is_offline() {
            return Ok(self.commit_of(tag).await?.as_deref() == Some(commit));
        }
        let refspec = format!("+{tag}:{tag}");
        match self.fetch(Some("--depth=1"), &[&refspec]).await {
            Ok(()) => {}
            Err(GitError::Canceled) => return Err(GitError::Canceled),
            Err(error) => {
                tracing::debug!(remote = self.remote.shown, %error, "the tag itself is not had");
                return Ok(false);
            }
        }
        Ok(self.commit_of(tag).await?.as_deref() == Some(commit))
    }

    async fn fetch(&self, depth: Option<&str>, refspecs: &[&str]) -> Result<(), GitError> {
        let mut run = self.here(
            "fetch",
            ["fetch", "--quiet", "--force", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"],
        );
        // A remote may be shallow itself.
        run.args.extend(depth.map(Into::into));
        run.args.extend(["--update-shallow".into(), "--".into(), (&self.remote.address).into()]);
        run.args.extend(refspecs.iter().map(Into::into));
        run.online = true;
        self.git.run(run).await.map(drop)
    }

    /// Whether the commit and every file of its tree are here.
    async fn is_whole(&self, commit: &str) -> Result<bool, GitError> {
        if self.commit_of(commit).await?.as_deref() != Some(commit) {
            return Ok(false);
        }
        let walk = ["rev-list", "--objects", "--no-walk", "--quiet", commit, "--"];
        match self.run("look at", walk).await {
            Ok(_) => Ok(true),
            Err(GitError::Failed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The commit that a name leads to.
    pub async fn commit_of(&self, name: &str) -> Result<Option<String>, GitError> {
        let peeled = format!("{name}^{{commit}}");
        match self.run("look at", ["rev-parse", "--verify", "--quiet", "--end-of-options", &peeled]).await {
            Ok(output) => Ok(Some(String::from_utf8_lossy(&output).trim().to_owned())),
            Err(GitError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn lock_file(path: &std::path::Path) -> Result<File, GitError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let options =
        std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).to_owned();
    options.open(path).map_err(GitError::io("open", path))
}

/// Waits for a lock without holding up a thread that others need, and gives up when nobody wants it any more.
pub(super) async fn locked(path: PathBuf, git: &Git<'_>) -> Result<File, GitError> {
    let file = lock_file(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        Err(errno) => return Err(GitError::io("lock", &path)(errno.into())),
    }
    // It may wait for another rbuild's whole fetch.
    let waiting = Waiting::start("git-lock", move |given_up| -> io::Result<_> {
        Ok(store::flock_unless(&file, given_up)?.then_some(file))
    });
    let waiting = waiting.map_err(GitError::io("wait for", &path))?;
    tokio::select! {
        biased;
        () = git.cancel().cancelled() => Err(GitError::Canceled),
        result = waiting => Ok(result.map_err(GitError::io("lock", &path))?.expect("nobody gave up")),
    }
}
