//! Between the user's terminal and the command's: raw mode, bytes both ways, until the command's side is closed.
//!
//! A thread of its own with poll(2), because standard input is shared with other processes and must stay blocking.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::spec::WindowSize;

const BUFFER_BYTES: usize = 16 << 10;
/// What a terminal of no known size is taken for.
const SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };

/// Size of the user's terminal.
pub fn window_size() -> WindowSize {
    match tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => WindowSize { rows: size.ws_row, columns: size.ws_col },
        // Not a terminal, or one that does not say.
        _ => SIZE,
    }
}

/// The controlling side of a command's terminal, for whoever drives it.
pub struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// Takes it; within a runtime.
    pub(super) fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        super::sys::watch_for(master, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    /// Reads what the command writes; 0 when nobody has its side open any more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.async_io(Interest::READABLE, |master| Ok(rustix::io::read(master, &mut *buffer)?)).await;
        match read {
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
            read => read,
        }
    }

    /// Types all of it.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.0.async_io(Interest::WRITABLE, |master| Ok(rustix::io::write(master, bytes)?)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Gives it another size.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resize(&self, WindowSize { rows, columns }: WindowSize) -> io::Result<()> {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.0.get_ref(), size)?)
    }
}

/// A running relay. Dropping it restores the user's terminal.
pub struct Relay {
    master: Arc<OwnedFd>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<io::Result<()>>>,
    _raw: Option<RawMode>,
}

impl Relay {
    /// Starts between standard input and output and `master`; `input` says whether anything is typed.
    pub fn start(master: OwnedFd, input: bool) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
        let raw = if input && isatty(io::stdin()) { Some(RawMode::enter()?) } else { None };
        let (master, stop) = (Arc::new(master), Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?));
        let ends = (master.clone(), stop.clone());
        let thread =
            std::thread::Builder::new().name("terminal".into()).spawn(move || relay(&ends.0, &ends.1, input))?;
        Ok(Self { master, stop, thread: Some(thread), _raw: raw })
    }

    /// Tells the command's terminal the size of the user's.
    pub fn resize(&self) -> io::Result<()> {
        let WindowSize { rows, columns } = window_size();
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(&*self.master, size)?)
    }

    /// Passes on what the command still wrote, and stops. Blocks for as long as standard output does.
    pub fn finish(mut self) -> io::Result<()> {
        rustix::io::write(&*self.stop, &1u64.to_ne_bytes())?;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the terminal thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The thread ends by itself soon; a failed write means that it has.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
    }
}

fn relay(master: &OwnedFd, stop: &OwnedFd, input: bool) -> io::Result<()> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut typed: Vec<u8> = Vec::new();
    let mut reading = input;
    loop {
        let idle = PollFlags::empty();
        let (wants_input, wants_write) = (reading && typed.is_empty(), !typed.is_empty());
        let mut polled = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(master, if wants_write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }),
            PollFd::new(&stdin, if wants_input { PollFlags::IN } else { idle }),
        ];
        // A closed standard input would answer at once for ever, asked or not.
        let count = if wants_input { 3 } else { 2 };
        match poll(&mut polled[..count], None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let [stopped, command, user] = polled.map(|fd| fd.revents());
        if command.intersects(PollFlags::IN | PollFlags::HUP) || !stopped.is_empty() {
            loop {
                match rustix::io::read(master, &mut buffer) {
                    // EIO: nobody has the command's side open any more.
                    Ok(0) | Err(Errno::IO) => return Ok(()),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => {}
                    Ok(count) => write_all(&stdout, &buffer[..count])?,
                    Err(error) => return Err(error.into()),
                }
            }
            if !stopped.is_empty() {
                return Ok(());
            }
        }
        if wants_write && command.contains(PollFlags::OUT) {
            match rustix::io::write(master, &typed) {
                Ok(count) => drop(typed.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if wants_input && !user.is_empty() {
            match rustix::io::read(&stdin, &mut buffer) {
                Ok(0) | Err(Errno::IO) => reading = false,
                Ok(count) => typed.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Unbuffered, because a prompt ends without a newline.
fn write_all(to: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&to, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The user's terminal without echo, lines and signals of its own, until dropped.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
