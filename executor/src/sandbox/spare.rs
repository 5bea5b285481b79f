//! A network namespace ahead of need, for the next step without a network.
//!
//! The kernel takes longer to make one than for anything else that such a step begins with, and it is the same for all:
//! empty, with loopback up. So the helper makes one while a step runs; the next step begins in it, and nobody did
//! before. It is held by its descriptor alone and goes with the helper. Deliberately absent: networks with a way out
//! ([`crate::network`], which has its own two ahead), and namespaces that belong to a user namespace of the step's own.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::sys;

/// At most one namespace.
pub struct Spare {
    /// Where the helper belongs.
    own: OwnedFd,
    ready: Option<OwnedFd>,
}

impl Spare {
    /// None yet. `None` for a user: who goes to a namespace and back must have the machine's rights over both.
    pub fn new() -> io::Result<Option<Self>> {
        let own = current()?;
        let may_return = move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network)).is_ok();
        Ok(may_return.then_some(Self { own, ready: None }))
    }

    /// The namespace, which is the taker's alone from now on.
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.ready.take()
    }

    /// Makes one, unless there is one. For a process with a single thread.
    ///
    /// # Errors
    /// When this process cannot go back to where it belongs, and so must not go on.
    pub fn prepare(&mut self) -> io::Result<()> {
        // Whoever wants one that could not be made makes its own, and then says why that fails.
        if self.ready.is_none() && crate::sys::unshare_network().is_ok() {
            let made = sys::loopback_up().and_then(|()| current());
            move_into_link_name_space(self.own.as_fd(), Some(LinkNameSpaceType::Network))?;
            self.ready = made.ok();
        }
        Ok(())
    }
}

/// The network namespace that this process is in.
fn current() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
