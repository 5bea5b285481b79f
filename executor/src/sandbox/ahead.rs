//! What a waiting process has mounted already: the kernel file systems that every step gets, each on no place yet.
//!
//! Making a file system costs more than putting it somewhere, and needs nothing of the step but the namespaces that
//! [`super::spare`] was born into. In: the acts of the last step that are so ([`wanted`]), as the next is likely to have
//! the same. Out: what was made, for whoever asks for exactly that; a step that asks for something else makes its own.
//! What cannot be made ahead is not missed: the act itself is performed then, and says why it fails. Deliberately
//! absent: any place of an image.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::host;
use super::mount::{self, MountError};
use super::plan::{Act, FileSystem};
use super::trouble::Trouble;

/// Where the memory file system of the devices goes.
const DEV: &str = "/dev";

/// What was made.
#[derive(Default)]
pub struct Ahead {
    trees: Vec<(FileSystem, OwnedFd)>,
    /// What `/dev` among them has.
    devices: Vec<Act>,
    stage: Option<OwnedFd>,
}

/// The acts of a plan that a process can perform, in part, before it knows of its step.
pub fn wanted(acts: &[Act]) -> Vec<Act> {
    // They show what the process is in, and it will be in another one.
    let moves = acts.iter().any(|act| matches!(act, Act::JoinNetwork(_) | Act::JoinItsNetwork));
    let before_the_image = acts.iter().take_while(|act| !matches!(act, Act::GeneratedFile { .. }));
    before_the_image
        .filter(|act| match act {
            Act::FileSystem(wanted) => !moves || wanted.kind != "sysfs",
            Act::Stage | Act::Device { .. } | Act::DeviceLink { .. } => true,
            _ => false,
        })
        .cloned()
        .collect()
}

impl Ahead {
    /// Makes what it can.
    pub fn make(acts: &[Act]) -> Self {
        // As for the acts themselves: modes are the ones that are written there.
        rustix::process::umask(Mode::empty());
        let mut made = Self::default();
        for act in acts {
            match act {
                Act::Stage => made.stage = mount::stage().ok(),
                Act::FileSystem(wanted) => made.trees.extend(new(wanted).ok().map(|tree| (wanted.clone(), tree))),
                _ if made.dev().is_some_and(|dev| in_dev(dev, act).is_ok()) => made.devices.push(act.clone()),
                _ => {}
            }
        }
        made
    }

    fn dev(&self) -> Option<&OwnedFd> {
        self.trees.iter().find_map(|(made, tree)| (made.target == DEV).then_some(tree))
    }

    /// The file system, on no place yet.
    pub fn file_system(&mut self, wanted: &FileSystem) -> Result<OwnedFd, Trouble> {
        match self.trees.iter().position(|(made, _)| made == wanted) {
            Some(index) => Ok(self.trees.swap_remove(index).1),
            None => {
                if wanted.target == DEV {
                    self.devices.clear();
                }
                new(wanted)
            }
        }
    }

    /// What a stage is made of.
    pub fn stage(&mut self) -> Result<OwnedFd, MountError> {
        self.stage.take().map_or_else(mount::stage, Ok)
    }

    /// Has a device or link in `dev`.
    pub fn in_dev(&mut self, dev: &OwnedFd, wanted: &Act) -> Result<(), Errno> {
        match self.devices.iter().position(|made| made == wanted) {
            Some(index) => drop(self.devices.swap_remove(index)),
            None => in_dev(dev, wanted)?,
        }
        Ok(())
    }

    /// The process goes to another network than it was born into, and `/sys` shows that.
    pub fn network_is_left(&mut self) {
        self.trees.retain(|(made, _)| made.kind != "sysfs");
    }
}

fn new(wanted: &FileSystem) -> Result<OwnedFd, Trouble> {
    mount::file_system(&wanted.kind, &wanted.options, wanted.flags).map_err(|error| host::explain(&wanted.kind, error))
}

fn in_dev(dev: &OwnedFd, act: &Act) -> Result<(), Errno> {
    match act {
        Act::Device { name, major, minor } => {
            let device = rustix::fs::makedev(*major, *minor);
            rustix::fs::mknodat(dev, name.as_str(), FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)
        }
        Act::DeviceLink { name, target } => rustix::fs::symlinkat(target.as_str(), dev.as_fd(), name.as_str()),
        _ => unreachable!("only these two are made in `/dev`"),
    }
}
