//! The step's control group, from inside: entered first of all, and the top of what is seen of groups from then on.
//!
//! In: descriptors that the builder opened, so that no path of a hierarchy is needed and the builder's rights count.
//! Deliberately absent: making, limiting and removing groups ([`crate::limits`]), and
//! what a step sees of them ([`super::groups`]).

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::plan::Act;
use super::spec::Handed;
use super::sys;
use super::trouble::{Trouble, with};

/// A control group that a process is put into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlGroup {
    /// Its directory, when all of it is of version 2: a process can be born in it.
    pub directory: Option<Handed>,
    /// The file of each hierarchy that takes the process that writes to it: `tasks`, `cgroup.procs`.
    pub entrances: Vec<Handed>,
}

/// Goes into the group, unless this process was `born` in it, and makes it the root of what is seen of groups.
pub fn enter(group: &ControlGroup, handed: &[OwnedFd], born: bool) -> Result<(), Trouble> {
    if !born {
        join(group, handed)?;
    }
    Ok(sys::unshare_control_groups()?)
}

/// Goes into the group.
pub fn join(group: &ControlGroup, handed: &[OwnedFd]) -> Result<(), Trouble> {
    for entrance in &group.entrances {
        let file = entrance.among(handed).ok_or_else(|| "its descriptor did not arrive".to_owned())?;
        // 0 is whoever writes. In version 1 a single thread moves without stopping all others of the machine.
        rustix::io::write(file, b"0").map_err(with("move into it"))?;
    }
    Ok(())
}

/// Whether a process can be born in the group of a plan, and where.
pub fn birthplace(acts: &[Act]) -> Option<Handed> {
    acts.iter().find_map(|act| if let Act::ControlGroup(group) = act { Some(group) } else { None })?.directory
}

/// Why a process cannot be born in a group, although it could write itself into it: the call is not there, or a filter
/// of system calls does not know it.
pub fn is_missing(error: &std::io::Error) -> bool {
    let known = [Errno::NOSYS, Errno::INVAL, Errno::TOOBIG, Errno::PERM, Errno::OPNOTSUPP];
    Errno::from_io_error(error).is_some_and(|errno| known.contains(&errno))
}
