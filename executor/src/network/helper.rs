//! The helper of a build's network: this binary re-executed, with a single thread, which may therefore go from one
//! network namespace to another.
//!
//! In comes one packet per wish over the socket on standard input, out goes one per answer; descriptors come along. It
//! lives as long as the socket: its end, for whatever reason, means that the build is over, and everything is removed.
//! Deliberately absent: decisions about steps ([`super::networks`], the builder's side).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::router::{Ready, Router, Start};
use super::settings::Driver;
use super::tap::{GUARD_ARGV0, guard};
use super::trouble::Trouble;
use crate::sandbox::wire;

/// The name by which the binary knows that it is the helper.
pub const ARGV0: &str = "rbuild-network";
/// A wish or an answer; the longest holds some paths and words.
const PACKET_MAX_BYTES: usize = 64 << 10;

/// What the builder wants.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// A way out; the first wish.
    Start(Start),
    /// A namespace for a step.
    Step,
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The way out is there. Comes with sockets for a name server, UDP and TCP.
    Ready(Ready),
    /// None is.
    Failed(Vec<(Driver, Trouble)>),
    /// A step's namespace, which comes along.
    Step,
    /// None could be made.
    StepFailed(Trouble),
}

/// Becomes the helper, or its guard, if this process was started as one, and then never returns.
pub fn become_helper_if_asked(name: &std::ffi::OsStr) {
    if name == ARGV0 {
        // Nobody is left to tell: answers go over the socket, and the socket is what failed.
        std::process::exit(helper().map_or(1, |()| 0))
    }
    if name == GUARD_ARGV0 {
        std::process::exit(guard(std::env::args_os().skip(1)))
    }
}

fn helper() -> io::Result<()> {
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let Some(Request::Start(start)) = next(&socket)? else { return Ok(()) };
    let (mut router, ready) = match Router::start(&start) {
        Ok(started) => started,
        Err(tried) => return answer(&socket, &Reply::Failed(tried), &[]),
    };
    let served =
        router.name_server().and_then(|(udp, tcp)| answer(&socket, &Reply::Ready(ready), &[udp.as_fd(), tcp.as_fd()]));
    let served = served.and_then(|()| serve(&socket, &mut router));
    // Nobody hears of what stays behind; the next builder finds and removes it.
    let removed = router.take_down().map_err(io::Error::other);
    served.and(removed)
}

fn serve(socket: &OwnedFd, router: &mut Router) -> io::Result<()> {
    while let Some(Request::Step) = next(socket)? {
        match router.step() {
            Ok(namespace) => answer(socket, &Reply::Step, &[namespace.as_fd()])?,
            Err(trouble) => answer(socket, &Reply::StepFailed(trouble), &[])?,
        }
    }
    Ok(())
}

fn next(socket: &OwnedFd) -> io::Result<Option<Request>> {
    let mut packet = vec![0; PACKET_MAX_BYTES];
    match wire::receive(socket, &mut packet)? {
        (0, _) => Ok(None),
        (count, _) => Ok(Some(serde_json::from_slice(&packet[..count])?)),
    }
}

fn answer(socket: &OwnedFd, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    wire::send(socket, &serde_json::to_vec(reply)?, descriptors)
}

/// The builder's half of the conversation: one wish, one answer. Blocking.
pub fn ask(socket: &OwnedFd, request: &Request) -> io::Result<(Reply, Vec<OwnedFd>)> {
    wire::send(socket, &serde_json::to_vec(request)?, &[])?;
    let mut packet = vec![0; PACKET_MAX_BYTES];
    match wire::receive(socket, &mut packet)? {
        (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        (count, descriptors) => Ok((serde_json::from_slice(&packet[..count])?, descriptors)),
    }
}
