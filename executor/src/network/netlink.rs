//! Netlink, synchronously: the kernel's own way to interfaces, addresses, routes and packet rules.
//!
//! In comes a [`Message`], out go the kernel's replies or its error number. A socket speaks about the network namespace
//! in which it was opened, wherever its owner goes afterwards. Deliberately absent: what any attribute means
//! ([`super::link`], [`super::rules`]). rtnetlink(7), nfnetlink; numbers are of this machine's byte order unless said.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// This message asks for something.
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// Tell when it is done.
const ACK: u16 = libc::NLM_F_ACK as u16;
/// Everything of the kind.
const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// It must not be there yet.
pub const NEW: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
/// As above, behind what is there.
pub const APPEND: u16 = (libc::NLM_F_CREATE | libc::NLM_F_APPEND) as u16;

/// Length of a message's header.
const HEADER: usize = 16;
/// The kernel puts at most 32 KiB into one packet of a dump.
const PACKET_MAX_BYTES: usize = 64 << 10;
/// The kernel answers at once; only a fault of ours could make it silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request under construction: a header, a fixed head, attributes.
#[derive(Clone)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message of type `kind` with its fixed head.
    pub fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        Self(bytes).raw(head)
    }

    /// Adds bytes that are no attribute.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute.
    pub fn put(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.raw(value)
    }

    /// Adds a number of this machine's byte order.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Adds a number of the network's byte order.
    pub fn big(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a text.
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.put(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute that consists of others.
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0; 4]);
        let mut filled = fill(self).0;
        let length = (filled.len() - start) as u16;
        filled[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled[start + 2..start + 4].copy_from_slice(&(kind | libc::NLA_F_NESTED as u16).to_ne_bytes());
        Self(filled)
    }

    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = flags | u16::from_ne_bytes([self.0[6], self.0[7]]);
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A conversation with one subsystem of the kernel, about one network namespace.
pub struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Speaks about interfaces, addresses and routes of this thread's network namespace.
    pub fn route() -> io::Result<Self> {
        Self::open(None, 0)
    }

    /// Speaks about its packet rules.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER), 0)
    }

    /// Hears of changes of `groups` (`RTMGRP_*`).
    pub fn listener(groups: u32) -> io::Result<Self> {
        Self::open(None, groups)
    }

    fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Does what `message` says.
    pub fn ask(&mut self, message: Message) -> io::Result<()> {
        self.get(message).map(drop)
    }

    /// Does what `message` says, and gives what the kernel replies: heads with attributes.
    pub fn get(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.exchange(message, ACK)
    }

    /// Everything of the kind.
    pub fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.exchange(message, DUMP)
    }

    fn exchange(&mut self, message: Message, flags: u16) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        self.send(&message.finish(flags, self.sequence))?;
        let mut replies = Vec::new();
        loop {
            for reply in self.receive()? {
                match reply.kind {
                    _ if reply.sequence != self.sequence => {}
                    ERROR => return reply.error().map(|()| replies),
                    DONE => return Ok(replies),
                    _ => replies.push(reply.payload),
                }
            }
        }
    }

    /// Does all of `messages` or none, between `begin` and `end`.
    pub fn batch(&mut self, begin: Message, messages: Vec<Message>, end: Message) -> io::Result<()> {
        let first = self.sequence + 1;
        let last = first + messages.len() as u32;
        self.sequence = last + 1;
        let mut bytes = begin.finish(0, first);
        for (message, sequence) in messages.into_iter().zip(first + 1..) {
            // What fails is always told; the last one also tells of its success.
            bytes.extend(message.finish(if sequence == last { ACK } else { 0 }, sequence));
        }
        bytes.extend(end.finish(0, self.sequence));
        self.send(&bytes)?;
        let mut failed = None;
        loop {
            for reply in self.receive()?.into_iter().filter(|reply| reply.kind == ERROR && reply.sequence >= first) {
                if let Err(error) = reply.error() {
                    failed.get_or_insert(error);
                }
                // A batch that may not even begin is not read on.
                if reply.sequence == last || reply.sequence == first {
                    return failed.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = rustix::net::send(&self.socket, bytes, SendFlags::empty())?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The messages of one packet; waits for it.
    fn receive(&self) -> io::Result<Vec<Reply>> {
        let mut buffer = vec![0; PACKET_MAX_BYTES];
        let (_, count) = loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                result => break result?,
            }
        };
        let mut rest = buffer.get(..count).ok_or(io::ErrorKind::InvalidData)?;
        let mut replies = Vec::new();
        while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
            let message = rest.get(..length).filter(|_| length >= HEADER).ok_or(io::ErrorKind::InvalidData)?;
            replies.push(Reply {
                kind: u16::from_ne_bytes([message[4], message[5]]),
                sequence: number(&message[8..12]).unwrap_or_default(),
                payload: message[HEADER..].to_vec(),
            });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(replies)
    }

    /// Waits until something changes, at most so long. For listeners.
    pub fn wait(&self, at_most: Duration) -> io::Result<()> {
        let at_most = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&at_most)) {
            Ok(0) | Err(Errno::INTR) => Ok(()),
            Ok(_) => self.drain(),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what has been heard; for listeners, whose words do not matter.
    pub fn drain(&self) -> io::Result<()> {
        match self.receive() {
            // There was more than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            received => received.map(drop),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;

struct Reply {
    kind: u16,
    sequence: u32,
    payload: Vec<u8>,
}

impl Reply {
    fn error(&self) -> io::Result<()> {
        match number(&self.payload).map(|errno| errno as i32) {
            Some(0) => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The number at the beginning of `bytes`.
pub fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The attributes in `bytes`; what is cut off ends the list.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & libc::NLA_TYPE_MASK as u16;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A text without its zero byte.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_again_and_what_is_cut_off_ends_the_list() {
        let message = Message::new(1, 0, &[9; 4]).text(3, "eth0").nest(18, |inner| inner.number(2, 7).put(1, b"x"));
        let bytes = &message.finish(ACK, 5)[HEADER + 4..];
        assert_eq!(attribute(bytes, 3).map(text).as_deref(), Some("eth0"));
        let inner = attribute(bytes, 18).expect("it was put in");
        assert_eq!((attribute(inner, 2).and_then(number), attribute(inner, 1)), (Some(7), Some(&b"x"[..])));
        for end in 0..bytes.len() {
            assert!(attributes(&bytes[..end]).count() < 3);
        }
        assert_eq!(attributes(&[0; 8]).count(), 0, "a length of nothing is no attribute");
    }
}
