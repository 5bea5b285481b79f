//! The helper as the builder sees it: started with the first step, told of every step, gone with the builder.
//!
//! In comes the binary ([`Executable`]); out go, per step, one end of a socket whose other end the helper has got, with
//! everything that the step needs already waiting in it. Deliberately absent: what helper and step do
//! ([`super::init`], `perform`), and what is heard of it ([`super::run`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use super::exe::Executable;
use super::wire::{self, Order};

/// The helper of one builder: at most one process, whose steps may be many.
#[derive(Debug)]
pub struct Keeper {
    binary: Executable,
    /// The name by which the binary knows which helper it is.
    arg0: &'static str,
    kept: Mutex<Option<Arc<Helper>>>,
}

/// What a step's set-up gets: standard streams, and descriptors for its acts or to be held.
pub struct Belongings<'a> {
    /// Standard input, unless there is nothing to read.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output.
    pub stdout: BorrowedFd<'a>,
    /// Standard error.
    pub stderr: BorrowedFd<'a>,
    /// Held until the step is dead.
    pub handed: &'a [BorrowedFd<'a>],
}

impl Keeper {
    /// Nothing is started yet.
    pub fn new(binary: Executable, arg0: &'static str) -> Self {
        Self { binary, arg0, kept: Mutex::new(None) }
    }

    /// A path by which a child of this process can execute the binary.
    pub fn path(&self) -> PathBuf {
        self.binary.path()
    }

    /// The helper; started, if there is none or it has died.
    pub fn helper(&self) -> io::Result<Arc<Helper>> {
        let mut kept = locked(&self.kept);
        if let Some(helper) = kept.as_ref().filter(|helper| helper.is_alive()) {
            return Ok(helper.clone());
        }
        Ok(kept.insert(Arc::new(Helper::start(&self.path(), self.arg0)?)).clone())
    }
}

/// The process. Dropping it ends it, once the steps that it has are dead.
#[derive(Debug)]
pub struct Helper {
    socket: OwnedFd,
    process: Mutex<Option<Child>>,
}

impl Helper {
    fn start(binary: &std::path::Path, arg0: &str) -> io::Result<Self> {
        let (socket, theirs) = pair()?;
        let mut command = Command::new(binary);
        // No variable of the builder's, no process group of the terminal's. Without a `pre_exec` the standard library
        // spawns by vfork and exec at once, which threads do not disturb.
        command.arg0(arg0).env_clear().process_group(0).stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { socket, process: Mutex::new(Some(command.spawn()?)) })
    }

    fn is_alive(&self) -> bool {
        locked(&self.process).as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// Hands it a step, which is in `document`; it tells of it over the socket that is returned, and kills it when that is shut.
    pub fn begin(&self, order: &Order, document: &[u8], belongings: &Belongings<'_>) -> io::Result<OwnedFd> {
        let mut memory = std::fs::File::from(rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC)?);
        io::Write::write_all(&mut memory, document)?;
        let Belongings { stdin, stdout, stderr, handed } = *belongings;
        let (ours, theirs) = pair()?;
        let first: Vec<_> = [memory.as_fd(), stdout, stderr].into_iter().chain(stdin).collect();
        wire::send_all(&ours, &first, handed)?;
        // Last, so that the helper never waits for a builder.
        wire::send(&self.socket, &serde_json::to_vec(order)?, &[theirs.as_fd()])?;
        Ok(ours)
    }

    /// How it ended. Blocks until it has.
    pub fn ended(&self) -> io::Result<ExitStatus> {
        locked(&self.process).as_mut().ok_or(io::ErrorKind::NotFound)?.wait()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Err(error) = rustix::net::shutdown(&self.socket, Shutdown::Both) {
            tracing::debug!(%error, "the helper is gone already");
        }
        let Some(mut process) = locked(&self.process).take() else { return };
        // Whoever drops it may be anywhere; waiting for a step's death is for somebody else.
        let reaping = std::thread::Builder::new().name("reap".into()).spawn(move || process.wait());
        if let Err(error) = reaping {
            tracing::debug!(%error, "the helper will be a zombie until the builder ends");
        }
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// What a panic left behind is still what it was.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
