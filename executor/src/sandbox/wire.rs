//! What the builder, its helper and the steps say to each other, over sockets of packets (`SOCK_SEQPACKET`).
//!
//! Builder to helper, over the helper's own socket: one [`Order`] as JSON per step, with a socket for that step. In the
//! latter wait, from the builder: one packet of one byte with descriptors: the plan as a file in memory, standard output
//! and error, then standard input if the command gets one. The byte says whether a packet of the same form follows, with
//! descriptors that the helper holds until the command has ended. After that only silence; the end of the step's socket
//! means "kill it", that of the helper's "kill all, and end". Over the step's socket to the builder: one [`Report`] as
//! JSON per packet, with at most one descriptor. Packets keep their bounds, so both the helper and the process in the
//! sandbox write to the same socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use super::plan::{Act, Namespace, Plan};
use super::spec::Handed;
use super::stub::Stub;
use super::userns::UserNamespace;
use super::{ahead, cgroup};
use crate::emulate::Emulator;

/// The longest report is a failure that quotes two paths of 4 KiB, escaped.
pub const PACKET_MAX_BYTES: usize = 64 << 10;
/// Descriptors in one packet; the kernel takes 253.
pub const DESCRIPTORS_MAX: usize = 64;
/// The byte of a packet of the builder's, when another one follows.
pub const MORE: u8 = 1;
/// The byte of its last packet.
pub const LAST: u8 = 0;

/// What the helper must know of a step; the rest is for the step alone, and the helper never reads it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// What the step's process is born into.
    pub namespaces: Vec<Namespace>,
    /// The user namespace that it ends up in, if it is one of its own.
    pub users: Option<UserNamespace>,
    /// Emulators that are handlers in that namespace.
    pub emulators: Vec<Emulator>,
    /// The control group of version 2 that it may be born in.
    pub group: Option<Handed>,
    /// What the process of the next step may mount before it knows of its step.
    pub ahead: Vec<Act>,
}

impl Order {
    /// That of a plan.
    pub fn of(plan: &Plan) -> Self {
        let namespaces = plan.0.iter().find_map(|act| match act {
            Act::Namespaces(list) => Some(list.clone()),
            _ => None,
        });
        let users = plan.0.iter().find_map(|act| match act {
            Act::UserNamespace(wanted) => Some(wanted.clone()),
            _ => None,
        });
        let emulators = plan.0.iter().find_map(|act| match act {
            Act::Handlers(list) => Some(list.clone()),
            _ => None,
        });
        Self {
            namespaces: namespaces.unwrap_or_default(),
            users,
            emulators: emulators.unwrap_or_default(),
            group: cgroup::birthplace(&plan.0),
            ahead: ahead::wanted(&plan.0),
        }
    }
}

/// What the helper's side tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The process exists; its pidfd comes along.
    Started,
    /// A mount point was made.
    Stub(Stub),
    /// A terminal was opened; its controlling side comes along.
    Terminal,
    /// An act failed; the command did not run.
    Failed(Failure),
    /// The command ended, and with it everything in its PID namespace.
    Exited(Ended),
}

/// Which act failed, and why.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The act as printed.
    pub act: String,
    /// Whether it is the last one, the execution of the command.
    pub is_exec: bool,
    /// What exactly.
    pub detail: String,
    /// The kernel's number; 0 when it was not the kernel.
    pub errno: i32,
}

/// How the command ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    /// Status word of wait(2).
    pub status: i32,
    /// Time spent in user code.
    pub user: Duration,
    /// Time spent in the kernel.
    pub system: Duration,
    /// Largest resident set of one process, in bytes.
    pub max_rss_bytes: u64,
}

/// Sends one packet.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        // Room for them all was made above.
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => continue,
            result => return result.map(drop).map_err(Into::into),
        }
    }
}

/// Sends what a step needs: one packet with the `first` descriptors, and as many as the others take.
pub fn send_all(socket: impl AsFd, first: &[BorrowedFd<'_>], others: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut packets = std::iter::once(first).chain(others.chunks(DESCRIPTORS_MAX)).peekable();
    while let Some(packet) = packets.next() {
        let follows = if packets.peek().is_some() { MORE } else { LAST };
        send(&socket, &[follows], packet)?;
    }
    Ok(())
}

/// Sends one report.
pub fn report(socket: impl AsFd, report: &Report, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    send(socket, &serde_json::to_vec(report)?, descriptor.as_slice())
}

/// Receives one packet: how many bytes (0 is the end), and its descriptors.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            result => break result?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            descriptors.extend(list);
        }
    }
    Ok((received.bytes, descriptors))
}
