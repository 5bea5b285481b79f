//! Enters a user namespace; see the drawing in [`super`].

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::diagnose::{Diagnosis, Facts, Refused, diagnose};
use super::ids::{self, Extent};
use super::user::{self, Who};
use crate::sandbox::sys as processes;
use crate::sys;

/// So much of what a program says is kept.
const WORDS_MAX_BYTES: usize = 400;

/// What was entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// How many user ids there are.
    pub uids: u64,
    /// Why there is but one, if there is.
    pub missing: Option<Missing>,
}

/// Why no id but the user's own is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nobody gave any to the user.
    Ranges {
        /// The user.
        user: String,
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
    },
    /// A program that maps them is not installed.
    Program {
        /// Its name.
        name: &'static str,
    },
    /// A program that maps them failed.
    Failed {
        /// What it said.
        words: String,
    },
}

impl Missing {
    /// In words, and what to do.
    pub fn diagnosis(&self) -> Diagnosis {
        let diagnosis = |reason: String, fix: String| Diagnosis { reason, fix };
        match self {
            Self::Ranges { user, file } => diagnosis(
                format!("`{file}` gives no ids to `{user}`"),
                format!("give it some: `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}`"),
            ),
            Self::Program { name } => diagnosis(
                format!("the program `{name}` is not installed"),
                "install it: `sudo apt-get install uidmap` (Debian, Ubuntu), `sudo dnf install shadow-utils` (Fedora)".into(),
            ),
            Self::Failed { words } => diagnosis(
                format!("the ids of the user cannot be mapped: {words}"),
                "the programs `newuidmap` and `newgidmap` need their set-uid bits or capabilities, on a file system without \
                 `nosuid`: `sudo apt-get install --reinstall uidmap`; a container that sets `no_new_privs` \
                 (`allowPrivilegeEscalation: false`) takes them away"
                    .into(),
            ),
        }
    }
}

/// Why a user namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The kernel or a policy refused.
    #[error("cannot enter a user namespace: {}", diagnosis.reason)]
    Refused {
        /// Why, and what to do.
        diagnosis: Diagnosis,
        /// The kernel's words.
        source: io::Error,
    },
    /// The ids could not be mapped as they should be.
    #[error("cannot map the ids of a user namespace: {words}")]
    Map {
        /// Who said what.
        words: String,
    },
    /// Something that always works did not.
    #[error("cannot enter a user namespace: cannot {act}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Makes this process, which must have one thread, uid 0 of a new user namespace.
///
/// # Errors
/// When the kernel or a policy refuses. After an error the process is good for telling of it and nothing else: it may
/// have lost its ids.
pub fn enter(who: &Who) -> Result<Entered, EnterError> {
    let (way, missing) = Way::of(who)?;
    let helper = match &way {
        Way::Own => None,
        way => Some(Helper::start(way)?),
    };
    let refused = |refused, error: io::Error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::PERM);
        EnterError::Refused { diagnosis: diagnose(refused, errno, &Facts::gather()), source: error }
    };
    // Dropped, the helper sees that there is nothing to do and ends.
    sys::unshare_user_and_mounts().map_err(|error| refused(Refused::Namespace, error))?;
    let (mut uids, mut missing) = (way.uids(), missing);
    match helper.map(Helper::map).transpose()? {
        None => own_ids_only(who)?,
        Some(Mapped { uid: Ok(()), gid: Ok(()) }) => {}
        Some(Mapped { uid: Err(words), gid: Err(_) }) if matches!(way, Way::Programs { .. }) => {
            own_ids_only(who)?;
            (uids, missing) = (1, Some(Missing::Failed { words }));
        }
        Some(Mapped { uid, gid }) => {
            let words = [uid, gid].into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; ");
            return Err(EnterError::Map { words });
        }
    }
    // What is mounted on the machine later is seen here; what is mounted here is never seen there. And whoever may not do
    // this may not mount anything, which is known better now than in the middle of a build.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|errno| refused(Refused::Mounts, errno.into()))?;
    user::remember(who).map_err(|source| EnterError::Io { act: "find this program again", source })?;
    Ok(Entered { uids, missing })
}

/// How ids are mapped.
enum Way {
    /// By set-uid programs.
    Programs { newuidmap: PathBuf, newgidmap: PathBuf, uids: Vec<Extent>, gids: Vec<Extent> },
    /// By ourselves: root of this namespace may give all its ids.
    Write { uids: Vec<Extent>, gids: Vec<Extent> },
    /// By ourselves: anybody may give its own id.
    Own,
}

impl Way {
    fn of(who: &Who) -> Result<(Self, Option<Missing>), EnterError> {
        let own = rustix::thread::capabilities(None)
            .map_err(|errno| EnterError::Io { act: "read the capabilities of this process", source: errno.into() })?;
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETFCAP;
        if who.uid == 0 && own.effective.contains(needed) {
            let map = |path: &'static str| {
                std::fs::read_to_string(path)
                    .map(|text| ids::identity(&text))
                    .map_err(|source| EnterError::Io { act: "read the ids of this namespace", source })
            };
            return Ok((Self::Write { uids: map("/proc/self/uid_map")?, gids: map("/proc/self/gid_map")? }, None));
        }
        let ranges = |file| Missing::Ranges { user: who.shown(), file };
        let missing = match (&who.newuidmap, &who.newgidmap) {
            _ if who.uids.is_empty() => ranges("/etc/subuid"),
            _ if who.gids.is_empty() => ranges("/etc/subgid"),
            (Some(newuidmap), Some(newgidmap)) => {
                let (newuidmap, newgidmap) = (newuidmap.clone(), newgidmap.clone());
                let (uids, gids) = (ids::map(who.uid, &who.uids), ids::map(who.gid, &who.gids));
                return Ok((Self::Programs { newuidmap, newgidmap, uids, gids }, None));
            }
            (None, _) => Missing::Program { name: "newuidmap" },
            (_, None) => Missing::Program { name: "newgidmap" },
        };
        Ok((Self::Own, Some(missing)))
    }

    fn uids(&self) -> u64 {
        match self {
            Self::Programs { uids, .. } | Self::Write { uids, .. } => ids::count(uids),
            Self::Own => 1,
        }
    }

    /// Maps the ids of the process `pid`, from outside of its namespace.
    fn map(&self, pid: i32) -> Mapped {
        let write = |file: &str, map: &[Extent]| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::write(&path, ids::text(map)).map_err(|error| format!("cannot write `{path}`: {error}"))
        };
        match self {
            Self::Programs { newuidmap, newgidmap, uids, gids } => {
                Mapped { uid: run(newuidmap, pid, uids), gid: run(newgidmap, pid, gids) }
            }
            Self::Write { uids, gids } => Mapped { uid: write("uid_map", uids), gid: write("gid_map", gids) },
            Self::Own => Mapped { uid: Ok(()), gid: Ok(()) },
        }
    }
}

fn run(program: &Path, pid: i32, map: &[Extent]) -> Result<(), String> {
    let output = Command::new(program).arg(pid.to_string()).args(ids::arguments(map)).env_clear().output();
    let output = output.map_err(|error| format!("`{}` cannot be run: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let mut words = output.stderr;
    words.truncate(WORDS_MAX_BYTES);
    let words = String::from_utf8_lossy(&words);
    Err(format!("`{}` ended with {}: {}", program.display(), output.status, words.trim()))
}

/// From inside, without anybody's help: 0 is the user, and nobody may choose groups, which could hide what a group is
/// refused. user_namespaces(7)
fn own_ids_only(who: &Who) -> Result<(), EnterError> {
    let write = |path: &str, text: String| {
        std::fs::write(path, text).map_err(|source| EnterError::Io { act: "map the user's own id", source })
    };
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {} 1\n", who.uid))?;
    write("/proc/self/gid_map", format!("0 {} 1\n", who.gid))
}

/// How mapping went, for users and for groups.
#[derive(Debug, Serialize, Deserialize)]
struct Mapped {
    uid: Result<(), String>,
    gid: Result<(), String>,
}

/// The process H, from this side.
struct Helper {
    pid: i32,
    go: Option<OwnedFd>,
    answer: File,
}

impl Helper {
    fn start(way: &Way) -> Result<Self, EnterError> {
        let failed = |act| move |source| EnterError::Io { act, source };
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from).map_err(failed("make a pipe"));
        let ((waits, go), (answer, tells)) = (pipe()?, pipe()?);
        let this = rustix::process::getpid().as_raw_nonzero().get();
        match sys::fork_single_threaded(0).map_err(failed("start a helper process"))? {
            Some(pid) => Ok(Self { pid, go: Some(go), answer: answer.into() }),
            None => {
                drop((go, answer));
                let done = help(way, this, waits.into(), tells.into());
                processes::exit_now(if done.is_ok() { 0 } else { 1 })
            }
        }
    }

    /// Says that the namespace is there; returns how mapping went.
    fn map(mut self) -> Result<Mapped, EnterError> {
        let failed = |source| EnterError::Io { act: "talk to the helper process", source };
        if let Some(go) = self.go.take() {
            File::from(go).write_all(b".").map_err(failed)?;
        }
        let mut text = Vec::new();
        self.answer.read_to_end(&mut text).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Closed unsaid, it ends the helper.
        drop(self.go.take());
        if let Err(error) = processes::wait_for(self.pid) {
            tracing::debug!(%error, "the helper that maps ids was not waited for");
        }
    }
}

/// What H does.
fn help(way: &Way, pid: i32, mut waits: File, mut tells: File) -> io::Result<()> {
    if waits.read(&mut [0])? == 0 {
        return Ok(());
    }
    tells.write_all(&serde_json::to_vec(&way.map(pid))?)
}
