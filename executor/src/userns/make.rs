//! Makes a user namespace, for processes with one thread.
//!
//! A process that does nothing is born in it and ends as soon as the namespace has its ids and is held by a descriptor.
//! With it may come a network namespace that belongs to it, in which its root may do what root may. Deliberately absent:
//! going there (`sandbox::userns`).

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::PollFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::{IdMap, UsernsError};
use crate::rootless::ids;
use crate::sandbox::sys as processes;
use crate::sys;

/// A user namespace, and what was made with it.
#[derive(Debug)]
pub struct Made {
    /// The namespace.
    pub user: OwnedFd,
    /// A network namespace that belongs to it.
    pub network: Option<OwnedFd>,
}

/// Makes a user namespace with these ids, if wanted with a network namespace.
pub fn make(map: &IdMap, network: bool) -> Result<Made, UsernsError> {
    let keeper = Keeper::start(network)?;
    let write = |file: &str, map: &[ids::Extent]| {
        let path = format!("/proc/{}/{file}", keeper.0);
        std::fs::write(&path, ids::text(map))
            .map_err(UsernsError::io(format!("map the ids of a user namespace ({file})")))
    };
    write("uid_map", &map.uids)?;
    write("gid_map", &map.gids)?;
    let open = |kind: &str| {
        let path = format!("/proc/{}/ns/{kind}", keeper.0);
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| UsernsError::io(format!("open the {kind} namespace of a step"))(errno.into()))
    };
    Ok(Made { user: open("user")?, network: network.then(|| open("net")).transpose()? })
}

/// The namespace that a network namespace belongs to.
pub fn owner_of(network: impl std::os::fd::AsFd) -> Result<OwnedFd, UsernsError> {
    sys::owner_of_namespace(network).map_err(UsernsError::io("find the user namespace of a step's network"))
}

/// The process that is in the namespace, by its id.
struct Keeper(i32);

impl Keeper {
    fn start(network: bool) -> Result<Self, UsernsError> {
        let flags = libc::CLONE_NEWUSER | if network { libc::CLONE_NEWNET } else { 0 };
        let parent = rustix::process::getpid();
        match sys::fork_single_threaded(flags).map_err(UsernsError::refused)? {
            Some(pid) => Ok(Self(pid)),
            None => keep(parent),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Not waited for yet, so the number is still its own.
        let killed = Pid::from_raw(self.0).map_or(Ok(()), |pid| kill_process(pid, Signal::KILL));
        if let Err(error) = killed.map_err(io::Error::from).and_then(|()| processes::wait_for(self.0)) {
            tracing::debug!(%error, "a process of a user namespace was not waited for");
        }
    }
}

/// What the process does: nothing, until it is killed or its parent is gone.
fn keep(parent: Pid) -> ! {
    let asked = set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have died before we asked.
    if asked.is_err() || rustix::process::getppid() != Some(parent) {
        processes::exit_now(1)
    }
    loop {
        // Nothing to wait for but signals.
        if rustix::event::poll(&mut [] as &mut [PollFd<'_>], None).is_err_and(|errno| errno != rustix::io::Errno::INTR)
        {
            processes::exit_now(1)
        }
    }
}
