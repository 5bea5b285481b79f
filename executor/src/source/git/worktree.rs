//! Commits to files.
//!
//! In: a pinned commit and an empty directory. Out: the commit's tree in it, submodules in their places. git writes the
//! files, by an index of our own; it refuses names such as `.git` in any disguise and never writes through a link.
//! Submodules are repositories like any other, fetched into folders of their own. Deliberately absent: which commit.
//!
//! With `.git` kept, the directory becomes a shallow clone: `HEAD` is the commit, the branch or tag that it was found
//! under is there, `origin` is the remote without any password. The files of submodules stand without a `.git` of
//! their own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use solver::seam::LogSink;

use super::program::{Git, Run};
use super::remote::Remote;
use super::repository::Repository;
use super::submodules::{Origins, Submodule, in_index};
use super::{GitError, GitPin, GitSource};
use crate::tree::attrs::{self, times};
use crate::tree::shown;
use crate::tree::walk::{Descend, Entry, Visitor, walk};

/// Submodules within submodules. Commits cannot contain themselves, but chains of them can be long.
const DEPTH_MAX: usize = 16;
/// Submodules in all: the largest known project has a few hundred; nesting could make it billions.
const SUBMODULES_MAX: usize = 2_000;

/// See [`super::checkout`].
pub(super) async fn fill(
    git: &Git<'_>,
    remote: &Remote,
    source: &GitSource,
    pin: &GitPin,
    into: &Path,
    log: &dyn LogSink,
) -> Result<i64, GitError> {
    let subdir = parts(source.subdir.as_deref().unwrap_or_default());
    let mut filling = Filling { git, log, submodules: source.submodules, filled: 0 };
    let time = if subdir.is_empty() {
        let keep = source.keep_git_dir;
        filling.fill(remote, pin, into, &subdir, keep, 0).await?
    } else {
        let aside = into.join(aside_name()?);
        std::fs::create_dir(&aside).map_err(GitError::io("make", &aside))?;
        let time = filling.fill(remote, pin, &aside, &subdir, false, 0).await?;
        move_up(remote, &aside, &subdir, into)?;
        time
    };
    if source.mtime_commit {
        let dir = open_dir(into)?;
        let copy = dir.try_clone().map_err(GitError::io("open", into))?;
        tokio::task::spawn_blocking(move || walk(dir, &mut SetTimes(time)))
            .await
            .map_err(|error| GitError::io("walk", into)(std::io::Error::other(error)))??;
        rustix::fs::futimens(&copy, &times(time, 0)).map_err(|errno| GitError::io("touch", into)(errno.into()))?;
    }
    Ok(time)
}

/// The parts of a subdirectory's path. `..` goes no higher than the root of the repository.
pub(super) fn parts(subdir: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for part in subdir.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

struct Filling<'a> {
    git: &'a Git<'a>,
    log: &'a dyn LogSink,
    submodules: bool,
    filled: usize,
}

type Filled<'f> = Pin<Box<dyn Future<Output = Result<i64, GitError>> + Send + 'f>>;

impl Filling<'_> {
    /// Fills `into` with as much of the commit's tree as `subdir` needs, at its own places.
    fn fill<'f>(
        &'f mut self,
        remote: &'f Remote,
        pin: &'f GitPin,
        into: &'f Path,
        subdir: &'f [String],
        keep_git_dir: bool,
        depth: usize,
    ) -> Filled<'f> {
        Box::pin(async move {
            let wanted = subdir.join("/");
            let (time, modules, origins) = loop {
                // The lock is given back before a submodule's is asked for: two builds must not wait for each other.
                let mut repository = Repository::open(self.git, remote, pin.commit.len()).await?;
                let is_new = repository.bring(pin).await?;
                match one(&repository, pin, into, &wanted, self.submodules, keep_git_dir).await {
                    Err(error @ GitError::Failed { .. }) => {
                        // The remote was not asked: something is wrong with what is kept here. Once it is fetched anew.
                        repository.discard()?;
                        if is_new {
                            return Err(error);
                        }
                        tracing::info!(remote = remote.shown, %error, "what is kept of a repository is broken");
                    }
                    done => break done?,
                }
            };
            for module in modules {
                self.submodule(remote, &module, &origins, into, subdir, depth).await?;
            }
            Ok(time)
        })
    }

    async fn submodule(
        &mut self,
        parent: &Remote,
        module: &Submodule,
        origins: &Origins,
        into: &Path,
        subdir: &[String],
        depth: usize,
    ) -> Result<(), GitError> {
        let path = shown(&module.path);
        let bad = |reason: String| GitError::BadSubmodule { url: parent.shown.clone(), path: path.clone(), reason };
        let Some(remote) = origins.remote_of(parent, module)? else { return Ok(()) };
        if depth >= DEPTH_MAX {
            return Err(bad(format!("it is nested deeper than {DEPTH_MAX} submodules")));
        }
        self.filled += 1;
        if self.filled > SUBMODULES_MAX {
            return Err(bad(format!("there are more than {SUBMODULES_MAX} submodules")));
        }
        self.log.notice(&format!("submodule `{path}`: {}", remote.shown));
        let place = into.join(OsStr::from_bytes(&module.path));
        std::fs::create_dir_all(&place).map_err(GitError::io("make", &place))?;
        // git made it, or we did just now; a link on the way would be neither's.
        check_beneath(into, &module.path).map_err(|error| bad(error.to_string()))?;
        let names = module.path.split(|byte| *byte == b'/').count();
        let rest = subdir.get(names..).unwrap_or_default();
        let pin = GitPin { commit: module.commit.clone(), reference: None };
        match self.fill(&remote, &pin, &place, rest, false, depth + 1).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_canceled() => Err(GitError::Canceled),
            Err(source) => Err(GitError::Submodule { path, source: Box::new(source) }),
        }
    }
}

/// The files of one repository; its submodules are told, not filled.
async fn one(
    repository: &Repository<'_>,
    pin: &GitPin,
    into: &Path,
    wanted: &str,
    submodules: bool,
    keep_git_dir: bool,
) -> Result<(i64, Vec<Submodule>, Origins), GitError> {
    let index = repository.path.join("rbuild-index");
    match std::fs::remove_file(&index) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(GitError::io("remove", &index)(error));
        }
        _ => {}
    }
    let read = repository.here("read the tree of", ["read-tree", &pin.commit]);
    repository.git.run(read.with("GIT_INDEX_FILE", &index)).await?;
    let mut modules = in_index(repository, &index).await?;
    let is_within = |path: &[u8], folder: &[u8]| {
        folder.is_empty() || path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"))
    };
    let leads_through = |module: &Submodule| !wanted.is_empty() && is_within(wanted.as_bytes(), &module.path);
    let through = submodules && modules.iter().any(leads_through);
    if keep_git_dir {
        clone(repository, pin, into).await?;
    } else if !through {
        let write = if wanted.is_empty() {
            repository.here("check out", ["checkout-index", "--all", "--force", "--quiet"])
        } else {
            repository.here("check out", ["checkout", "--force", "--quiet", "--", wanted])
        };
        let write = write.into_folder(into).with("GIT_INDEX_FILE", &index);
        repository.git.run(write).await.map_err(|error| match error {
            GitError::Failed { said, .. } if said.contains("did not match any file") => GitError::Subdir {
                url: repository.remote.shown.clone(),
                subdir: wanted.to_owned(),
                reason: format!("the commit `{}` has no such directory", pin.commit),
            },
            error => error,
        })?;
    }
    std::fs::remove_file(&index).map_err(GitError::io("remove", &index))?;
    let time = commit_time(repository, &pin.commit).await?;
    if !submodules {
        return Ok((time, Vec::new(), Origins::none()));
    }
    modules.retain(|module| if through { leads_through(module) } else { is_within(&module.path, wanted.as_bytes()) });
    let origins = if modules.is_empty() { Origins::none() } else { Origins::read(repository, &pin.commit).await? };
    Ok((time, modules, origins))
}

async fn commit_time(repository: &Repository<'_>, commit: &str) -> Result<i64, GitError> {
    let args = ["show", "--no-patch", "--no-show-signature", "--format=%ct", "--end-of-options", commit];
    let output = repository.run("read the time of", args).await?;
    let text = String::from_utf8_lossy(&output);
    text.trim().parse().map_err(|_| GitError::Failed {
        act: "read the time of",
        url: repository.remote.shown.clone(),
        said: format!("`{}` is no time", shown(text.trim().as_bytes())),
    })
}

/// Makes `into` a shallow clone of our repository that says it came from the remote.
async fn clone(repository: &Repository<'_>, pin: &GitPin, into: &Path) -> Result<(), GitError> {
    let act = "make a clone of";
    let format = if pin.commit.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    let mut init = Run::new(act, repository.remote, ["init", "--quiet", "--template=", format, "--"]);
    init.args.push(into.into());
    repository.git.run(init).await?;
    let git_dir = into.join(".git");
    let mut kept = vec![format!("refs/rbuild/{}", pin.commit)];
    let mut own = None;
    if let Some(reference) = &pin.reference {
        if reference.starts_with("refs/tags/") && repository.bring_tag(reference, &pin.commit).await? {
            // The tag comes as it is, with its author and words.
            kept.push(format!("+{reference}:{reference}"));
        } else if reference.starts_with("refs/") {
            own = Some(reference.as_str());
        }
    }
    let in_clone = |args: &[&str]| Run::new(act, repository.remote, args).into_folder(into).with("GIT_DIR", &git_dir);
    let mut fetch = in_clone(&["fetch", "--quiet", "--no-tags", "--depth=1", "--update-head-ok", "--"]);
    fetch.args.push(repository.path.clone().into());
    fetch.args.extend(kept.iter().map(Into::into));
    (fetch.reads_ours, fetch.lock) = (true, Some(&repository.lock));
    repository.git.run(fetch).await?;
    if let Some(own) = own {
        repository.git.run(in_clone(&["update-ref", own, &pin.commit])).await?;
    }
    repository.git.run(in_clone(&["update-ref", "--no-deref", "HEAD", &pin.commit])).await?;
    repository.git.run(in_clone(&["read-tree", &pin.commit])).await?;
    repository.git.run(in_clone(&["checkout-index", "--all", "--force", "--index", "--quiet"])).await?;
    let address = &repository.remote.address;
    for (key, value) in
        [("remote.origin.url", address.as_str()), ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")]
    {
        repository.git.run(in_clone(&["config", "--end-of-options", key, value])).await?;
    }
    let head = repository.git.run(in_clone(&["rev-parse", "--verify", "HEAD^{commit}"])).await?;
    if String::from_utf8_lossy(&head).trim() != pin.commit {
        let said = "its HEAD is another commit than was asked for".to_owned();
        return Err(GitError::Failed { act, url: repository.remote.shown.clone(), said });
    }
    for left in ["FETCH_HEAD", "logs", "ORIG_HEAD"] {
        let left = git_dir.join(left);
        let removed = if left.is_dir() { std::fs::remove_dir_all(&left) } else { std::fs::remove_file(&left) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(GitError::io("remove", &left)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A name that no repository has by accident, for what is only there for a moment.
fn aside_name() -> Result<String, GitError> {
    let mut bytes = [0_u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(GitError::io("read", Path::new("/dev/urandom"))(errno.into())),
        }
    }
    Ok(format!(".rbuild-{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

/// Moves the contents of `aside/<subdir>` to `into`. Every part must be a real directory: a link would lead elsewhere.
fn move_up(remote: &Remote, aside: &Path, subdir: &[String], into: &Path) -> Result<(), GitError> {
    let wanted = subdir.join("/");
    let refused = |reason: &str| GitError::Subdir {
        url: remote.shown.clone(),
        subdir: wanted.clone(),
        reason: reason.to_owned(),
    };
    check_beneath(aside, wanted.as_bytes()).map_err(|errno| match errno {
        Errno::NOTDIR => refused("it is no directory"),
        Errno::LOOP => refused("a part of it is a symbolic link, which is not followed"),
        Errno::NOENT => refused("there is no such directory"),
        errno => GitError::io("open", &aside.join(&wanted))(errno.into()),
    })?;
    let from = aside.join(&wanted);
    for entry in std::fs::read_dir(&from).map_err(GitError::io("list", &from))? {
        let entry = entry.map_err(GitError::io("list", &from))?;
        let to: PathBuf = into.join(entry.file_name());
        std::fs::rename(entry.path(), &to).map_err(GitError::io("move", &to))?;
    }
    std::fs::remove_dir_all(aside).map_err(GitError::io("remove", aside))
}

/// Whether every part of `path` beneath `root` is a real directory.
fn check_beneath(root: &Path, path: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags | OFlags::NOFOLLOW, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve).map(drop)
}

fn open_dir(path: &Path) -> Result<std::os::fd::OwnedFd, GitError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| GitError::io("open", path)(errno.into()))
}

/// Gives every entry one time.
struct SetTimes(i64);

impl SetTimes {
    fn set(&self, entry: &Entry<'_>) -> Result<(), GitError> {
        let set = attrs::set_times_at(entry.dir, entry.name, &times(self.0, 0));
        Ok(set.map_err(crate::tree::TreeError::io("set the time of", entry.path))?)
    }
}

impl Visitor for SetTimes {
    type Error = GitError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, GitError> {
        if !entry.kind().is_dir() {
            self.set(entry)?;
        }
        Ok(Descend::Enter)
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), GitError> {
        self.set(entry)
    }
}
