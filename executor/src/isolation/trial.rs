//! Whether a rung with namespaces can be had: tried by a process of its own, which ends with what it made.
//!
//! In: the rung, who runs this process, where the store will be. Out: nothing, or why not and what to do. What is tried
//! is what every step needs: a user namespace where the rung has one, a `/proc`, and layers stacked on the store's disk.

use std::error::Error as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::Rung;
use crate::rootless::{self, Diagnosis, EnterError, Facts, Refused, Who, diagnose, probe};
use crate::sandbox::sys as processes;
use crate::sys;

/// Tries `rung`. This process must have one thread.
pub fn of(rung: Rung, who: &Who, store: &Path) -> Result<(), Diagnosis> {
    let untried = |error: io::Error| Diagnosis {
        reason: format!("it could not be tried: {error}"),
        fix: "name the rung, and the build says more".into(),
    };
    let (answer, tells) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| untried(errno.into()))?;
    let Some(pid) = sys::fork_single_threaded(0).map_err(untried)? else {
        drop(answer);
        let told = match try_it(rung, who, store) {
            Ok(()) => Ok(()),
            Err(Diagnosis { reason, fix }) => File::from(tells).write_all(format!("{reason}\0{fix}").as_bytes()),
        };
        processes::exit_now(if told.is_ok() { 0 } else { 1 })
    };
    drop(tells);
    let mut text = String::new();
    let read = File::from(answer).read_to_string(&mut text);
    let status = processes::wait_for(pid).map_err(untried)?.status;
    read.map_err(untried)?;
    match text.split_once('\0') {
        Some((reason, fix)) => Err(Diagnosis { reason: reason.into(), fix: fix.into() }),
        None if status == 0 => Ok(()),
        None => Err(untried(io::Error::other("the process that tried it failed"))),
    }
}

fn try_it(rung: Rung, who: &Who, store: &Path) -> Result<(), Diagnosis> {
    if rung == Rung::Rootless {
        rootless::enter(who).map_err(|error| match error {
            EnterError::Refused { diagnosis, .. } => diagnosis,
            error => {
                let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                Diagnosis { reason: format!("{error}{source}"), fix: "`rbuild doctor` says more".into() }
            }
        })?;
    }
    probe::proc_mount().map_err(|error| match rung {
        Rung::Rootless => Diagnosis {
            reason: format!("steps cannot have a `/proc` of their own ({error}): the container around hides parts of its own"),
            fix: "start that container with `--security-opt systempaths=unconfined` (docker), `--security-opt unmask=ALL` \
                  (podman) or `procMount: Unmasked` (Kubernetes)"
                .into(),
        },
        _ => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::PERM);
            let Diagnosis { reason, fix } = diagnose(Refused::Mounts, errno, &Facts::gather());
            Diagnosis { reason: format!("nothing can be mounted ({error}): {reason}"), fix }
        }
    })?;
    overlay(store)
}

/// Layers stacked on the disk of `store`, or of the nearest directory above that is there.
fn overlay(store: &Path) -> Result<(), Diagnosis> {
    let Some(there) = store.ancestors().find(|path| path.is_dir()) else { return Ok(()) };
    let dir = there.join(format!(".rbuild-trial-{}", std::process::id()));
    // Where nothing can be written there will be no store either, which is said when it is opened.
    if std::fs::create_dir(&dir).is_err() {
        return Ok(());
    }
    let tried = probe::overlay(&dir);
    let removed = std::fs::remove_dir_all(&dir);
    let fix = "keep the store on a disk of this machine (ext4, xfs, btrfs), not on NFS or on another overlay: `--root DIR`, \
               or a volume of the container";
    let refused = |what: String| Diagnosis { reason: what, fix: fix.into() };
    tried.map_err(|error| {
        let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        refused(format!("layers cannot be stacked in `{}`: {error}{source}", there.display()))
    })?;
    removed.map_err(|error| refused(format!("`{}` cannot be taken away: {error}", dir.display())))
}
