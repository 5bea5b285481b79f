//! A process ahead of need: cloned into new namespaces while one step runs, it waits to become the next.
//!
//! The kernel takes about as long to clone, and to make namespaces, as a step's set-up does to mount: a step that finds a
//! process waiting need not wait for that. In: the kinds of namespaces of the last step, as the next is likely to want
//! the same; one that wants others, a control group to be born in, or a user namespace, gets a process of its own. It
//! has read nothing and holds nothing but a socket to the helper and what it mounted for itself ([`super::ahead`]); it
//! serves one step, and ends with the helper. Until it begins, its mounts follow the host's as far as these are shared. Deliberately absent: what a step
//! does (`perform`).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};

use super::ahead::Ahead;
use super::init::{Received, receive};
use super::perform::{Begun, perform};
use super::plan::Namespace;
use super::sys;
use super::wire::{self, Order};

/// The process, from the helper's side.
pub struct Spare {
    namespaces: Vec<Namespace>,
    to: OwnedFd,
    /// Its process id.
    pub pid: i32,
    /// The same as a descriptor.
    pub pidfd: OwnedFd,
}

impl Spare {
    /// Takes a new process in these namespaces, which waits at the other end of `to`.
    pub fn new(namespaces: &[Namespace], to: OwnedFd, pid: i32, pidfd: OwnedFd) -> Self {
        Self { namespaces: namespaces.to_vec(), to, pid, pidfd }
    }

    /// Whether a process that is ordered so can be made ahead.
    pub fn is_possible(order: &Order) -> bool {
        order.users.is_none() && order.group.is_none()
    }

    /// Whether it is what the order wants.
    pub fn serves(&self, order: &Order) -> bool {
        Self::is_possible(order) && order.namespaces == self.namespaces
    }

    /// Has it become a step.
    pub fn begin(&self, socket: &OwnedFd, received: &Received) -> io::Result<()> {
        let Received { plan, stdin, stdout, stderr, handed } = received;
        wire::send(&self.to, &[wire::MORE], &[socket.as_fd()])?;
        let first: Vec<_> = [plan, stdout, stderr].into_iter().chain(stdin).map(|file| file.as_fd()).collect();
        let handed: Vec<_> = handed.iter().map(|file| file.as_fd()).collect();
        wire::send_all(&self.to, &first, &handed)
    }

    /// Ends it, and waits for its end.
    pub fn end(self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => sys::wait_for(self.pid).map(drop),
            Err(error) => Err(error.into()),
        }
    }
}

/// The two ends of a way to it.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The process itself: waits for its step at `from`, and becomes it.
pub fn become_step(from: OwnedFd, helper: &OwnedFd, ahead: Ahead) -> ! {
    let next = || {
        let socket = wire::receive(&from, &mut [0])?.1.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok::<_, io::Error>((socket, receive(&from)?))
    };
    // The helper is gone; or it is a step that got no descriptors, whose builder hears of its end.
    let Ok((socket, received)) = next() else { sys::exit_now(1) };
    drop(from);
    let Received { plan, stdin, stdout, stderr, handed } = received;
    perform(Begun { plan, stdin, stdout, stderr, handed, users: None, born: false, ahead, socket: &socket, helper })
}
