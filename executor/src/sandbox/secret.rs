//! What a step is given that nothing may keep: files and variables with secrets, sockets of ssh agents.
//!
//! In: descriptors that travelled beside the plan, and names for what they bring. A secret's bytes come in memory, which
//! is emptied once they have been taken; a file of them is on a memory file system of this step alone, which is never
//! swapped out where the kernel can promise it (Linux 6.4), and a variable goes from here to the command. The socket of
//! an agent is made here, where owners and modes mean what they mean inside, and goes back to the builder, who answers
//! ([`agent_listener`]). Deliberately absent: values and agents ([`crate::secrets`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use super::mount::{self, Stage};
use super::plan::Flags;
use super::spec::Handed;
use super::trouble::{Trouble, with};
use super::wire;

/// All files of secrets of a step; a file more than that says that there is no space.
const FILES_MAX: &str = "64m";
/// Connections that nobody has answered yet.
pub(crate) const BACKLOG: i32 = 16;

/// A file with a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// Memory with its bytes.
    pub bytes: Handed,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// A variable with a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretVariable {
    /// Its name.
    pub name: String,
    /// Memory with its bytes, none of which is zero.
    pub bytes: Handed,
}

/// The socket of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSocket {
    /// A socket over which the listening one goes to the builder.
    pub to: Handed,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What was given so far.
#[derive(Default)]
pub(super) struct Given {
    /// The memory file system of the files.
    files: Option<OwnedFd>,
    count: usize,
    /// `NAME=value`.
    pub variables: Vec<Vec<u8>>,
}

impl Given {
    /// Makes a file; the mount of it is nowhere yet.
    pub fn file(&mut self, wanted: &SecretFile, arrived: &[OwnedFd], stage: &mut Stage) -> Result<OwnedFd, Trouble> {
        let bytes = take(wanted.bytes, arrived)?;
        let name = self.next_name();
        let directory = match &self.files {
            Some(directory) => directory,
            None => {
                let memory = memory()?;
                // Only what is in the namespace can be cloned in part.
                mount::attach(&memory, stage.directory()?)?;
                self.files.insert(memory)
            }
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, &name, flags, Mode::empty())?;
        let mut file = std::fs::File::from(file);
        io::Write::write_all(&mut file, &bytes)?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid)))
            .map_err(with("change the owner"))?;
        // After the owner, whose change would take set-id bits away.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(wanted.mode))?;
        inert(directory.as_fd(), &name)
    }

    /// Remembers a variable for the command.
    pub fn variable(&mut self, wanted: &SecretVariable, arrived: &[OwnedFd]) -> Result<(), Trouble> {
        let value = take(wanted.bytes, arrived)?;
        let mut pair = format!("{}=", wanted.name).into_bytes();
        pair.extend_from_slice(&value);
        self.variables.push(pair);
        Ok(())
    }

    /// Makes a socket, listens on it and hands it to the builder; the mount of it is nowhere yet.
    pub fn agent(&mut self, wanted: &AgentSocket, arrived: &[OwnedFd], stage: &Stage) -> Result<OwnedFd, Trouble> {
        let to = wanted.to.among(arrived).ok_or_else(|| "no socket came with the plan".to_owned())?;
        let name = format!("agent{}", self.next_name());
        // The address of a socket is a path; this one is relative to here.
        rustix::process::fchdir(stage.as_fd())?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&name)?).map_err(with("bind a socket"))?;
        let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
        rustix::fs::chownat(stage.as_fd(), &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(with("change the owner"))?;
        rustix::fs::chmodat(stage.as_fd(), &name, Mode::from_raw_mode(wanted.mode), AtFlags::empty())?;
        rustix::net::listen(&socket, BACKLOG)?;
        wire::send(to, &[0], &[socket.as_fd()])?;
        inert(stage.as_fd(), &name)
    }

    fn next_name(&mut self) -> String {
        self.count += 1;
        self.count.to_string()
    }
}

/// A memory file system that is not swapped out, where the kernel has such.
fn memory() -> Result<OwnedFd, Trouble> {
    let options = [("size", FILES_MAX), ("mode", "0700")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let flags = Flags { nosuid: true, nodev: true, noexec: true, readonly: false };
    // Older kernels do not know it, and in a user namespace nobody may ask for it.
    mount::file_system_with("tmpfs", &["noswap"], &options, flags)
        .or_else(|_| mount::file_system("tmpfs", &options, flags))
        .map_err(Trouble::from)
}

/// A read-only mount of a file, in which it is only a file.
fn inert(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Trouble> {
    let place = rustix::fs::openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = Flags { readonly: true, nosuid: true, nodev: true, noexec: true };
    Ok(mount::clone_of(place, flags, false)?)
}

/// The bytes of handed memory, which is empty afterwards: the helper holds it as long as the step lives.
fn take(handed: Handed, arrived: &[OwnedFd]) -> Result<Vec<u8>, Trouble> {
    let memory = handed.among(arrived).ok_or_else(|| "no value came with the plan".to_owned())?;
    let length = rustix::fs::fstat(memory)?.st_size;
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::FBIG)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::retry_on_intr(|| rustix::io::pread(memory, &mut bytes[filled..], filled as u64))? {
            0 => return Err("a value came cut off".to_owned().into()),
            count => filled += count,
        }
    }
    rustix::fs::ftruncate(memory, 0)?;
    Ok(bytes)
}

/// Memory with `bytes`, to be handed over. It has no name, and nobody but its holders can open it.
///
/// # Errors
/// When there is no memory.
pub fn handed_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("rbuild", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memory);
    io::Write::write_all(&mut file, bytes)?;
    Ok(file.into())
}

/// The builder's side of [`AgentSocket::to`]: the listening socket, once the step has made it.
///
/// # Errors
/// When the step ends without.
pub async fn agent_listener(from: UnixStream) -> io::Result<UnixListener> {
    let mut byte = [0];
    let received = from.async_io(Interest::READABLE, || wire::receive(&from, &mut byte)).await?;
    let listener = received.1.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}
