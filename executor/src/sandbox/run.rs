//! The builder's side: hands the helper a plan, passes output on, hears how it ended.
//!
//! In come a [`ProcessSpec`], its standard streams and a cancellation token; out goes [`Finished`]. It returns only
//! when every process of the step is gone. Dropping the future kills the step too, but does not wait for it: cancel
//! through the token when the root is to be deleted next.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::process::{Signal, pidfd_send_signal};
use solver::seam::LogSink;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::SandboxError;
use super::driver::{Driven, Driver, Signals};
use super::exe::Executable;
use super::helper::{Belongings, Keeper};
use super::init::ARGV0;
use super::open_files;
use super::output::Pump;
use super::plan::plan;
use super::spec::{Descriptors, ProcessSpec};
use super::stub::Stub;
use super::sys;
use super::terminal::{self, Relay, Terminal};
use super::wire::{self, Ended, Failure, Order, PACKET_MAX_BYTES, Report};
use crate::chroot::task::{Own, task};
use crate::rootless::Surroundings;

/// So often a forwarded SIGINT or SIGTERM is tried before the command is killed: PID 1 ignores what it does not handle.
const STOPS_MAX: usize = 3;

/// How steps are started. Cheap to clone; the helper process that all clones share ends with the last of them.
#[derive(Clone, Debug)]
pub struct Settings {
    helper: Arc<Keeper>,
    surroundings: Surroundings,
    way: Way,
}

/// How a step is run by its helper.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// In namespaces.
    Sandbox,
    /// In a directory: [`crate::chroot`].
    Chroot,
}

impl Way {
    /// What the helper must know of a step, and what it is handed.
    fn document(self, spec: &ProcessSpec) -> Result<(Order, Vec<u8>), SandboxError> {
        let failed = |source| SandboxError::Helper { act: "write the plan", source };
        let (order, document) = match self {
            Self::Sandbox => {
                let plan = plan(spec);
                (Order::of(&plan), serde_json::to_vec(&plan))
            }
            Self::Chroot => {
                let task = task(spec, &Own::here().map_err(failed)?)?;
                (Order::of(&task.plan), serde_json::to_vec(&task))
            }
        };
        Ok((order, document.map_err(|error| failed(error.into()))?))
    }
}

impl Settings {
    /// With the helper binary at `path`: one whose `main` begins with [`super::init_if_asked`].
    pub fn with_helper(path: &Path) -> Result<Self, SandboxError> {
        Self::with(Executable::open(path))
    }

    /// With this very binary. Once per process is enough.
    pub fn of_this_process() -> Result<Self, SandboxError> {
        match crate::rootless::own_binary() {
            Some(binary) => Self::with(Executable::of(binary)),
            None => Self::with_helper(Path::new("/proc/self/exe")),
        }
    }

    /// With this very binary, for steps without mounts and namespaces.
    pub fn in_chroot() -> Result<Self, SandboxError> {
        Self::in_chroot_with_helper(Path::new("/proc/self/exe"))
    }

    /// The same with another binary.
    pub fn in_chroot_with_helper(path: &Path) -> Result<Self, SandboxError> {
        let helper = Executable::unprotected(path);
        let helper = helper.map_err(|source| SandboxError::Helper { act: "open its own binary", source })?;
        let helper = Arc::new(Keeper::new(helper, crate::chroot::ARGV0));
        Ok(Self { helper, surroundings: Surroundings::here(), way: Way::Chroot })
    }

    fn with(helper: io::Result<Executable>) -> Result<Self, SandboxError> {
        let helper = helper.map_err(|source| SandboxError::Helper { act: "mount its own binary read-only", source })?;
        let helper = Arc::new(Keeper::new(helper, ARGV0));
        Ok(Self { helper, surroundings: Surroundings::here(), way: Way::Sandbox })
    }

    /// A path by which a child of this process can execute the helper, read-only as it is.
    pub fn helper_path(&self) -> PathBuf {
        self.helper.path()
    }
}

/// The command's standard streams.
pub struct Io<'a> {
    /// Where it reads.
    pub stdin: Stdin,
    /// Where it writes.
    pub output: Output<'a>,
    /// Whether SIGINT, SIGTERM and the like that reach the builder are passed to the command.
    pub forward_signals: bool,
}

/// Where a command reads from.
pub enum Stdin {
    /// Nothing to read.
    Null,
    /// The builder's standard input.
    Inherit,
    /// This.
    Descriptor(OwnedFd),
}

/// Where a command writes to.
pub enum Output<'a> {
    /// To a log.
    Log(&'a dyn LogSink),
    /// What it says to this, and what it complains about to a log.
    Descriptor(OwnedFd, &'a dyn LogSink),
    /// To the builder's standard output and error.
    Inherit,
    /// To a terminal of its own, which is relayed to the builder's.
    Terminal,
    /// To whoever drives it.
    Driven(Driver),
}

/// A command that ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How.
    pub exit: Exit,
    /// Mount points that were made in its root; see [`super::remove_stubs`].
    pub stubs: Vec<Stub>,
    /// What it used.
    pub usage: Usage,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// As a shell shows it: a signal is 128 and its number.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = match self {
            Exit::Code(code) => return write!(f, "exit code: {code}"),
            Exit::Signal(number) => *number,
        };
        match SIGNALS.iter().find(|(known, _)| *known == number) {
            Some((_, name)) => write!(f, "killed by signal {number} ({name})"),
            None => write!(f, "killed by signal {number}"),
        }
    }
}

/// Names of the signals that end processes.
const SIGNALS: [(i32, &str); 13] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL, which the kernel also sends when memory runs out"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGSYS, "SIGSYS"),
];

/// What a command used, with all that it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Time in user code.
    pub user: Duration,
    /// Time in the kernel.
    pub system: Duration,
    /// Largest resident set of one process, in bytes.
    pub max_rss_bytes: u64,
}

/// Runs the process and waits until it, and everything that it started, is gone.
///
/// # Errors
/// When the sandbox could not be set up (then nothing of the command ran), when it could not be executed, or when
/// `cancel` fired. A command that fails is not an error.
pub async fn run(
    settings: &Settings,
    spec: &ProcessSpec,
    io: Io<'_>,
    cancel: &CancellationToken,
) -> Result<Finished, SandboxError> {
    run_with(settings, spec, io, &Descriptors::default(), cancel).await
}

/// As [`run`], with descriptors for the set-up, or locks to be held until the step is dead.
pub async fn run_with(
    settings: &Settings,
    spec: &ProcessSpec,
    io: Io<'_>,
    handed: &Descriptors<'_>,
    cancel: &CancellationToken,
) -> Result<Finished, SandboxError> {
    if cancel.is_cancelled() {
        return Err(SandboxError::Canceled);
    }
    let relays = matches!(io.output, Output::Terminal);
    let mut spec = spec.clone();
    spec.surroundings = settings.surroundings;
    spec.terminal = match &io.output {
        Output::Terminal => Some(terminal::window_size()),
        Output::Driven(Driver { streams: Driven::Terminal(size, _), .. }) => Some(*size),
        _ => None,
    };
    spec.stdin = spec.terminal.is_none() && !matches!(io.stdin, Stdin::Null);
    open_files::restore(&mut spec.limits);
    let input = matches!(io.stdin, Stdin::Inherit);
    let stdio = |act| move |source| SandboxError::Stdio { act, source };

    let (mut started, mut driven, mut master) = (None, None, None);
    let (mut pump, stdout, stderr) = match io.output {
        Output::Log(log) => Pump::new(log).map(|(pump, stdout, stderr)| (Some(pump), stdout, stderr)),
        Output::Descriptor(stdout, log) => Pump::of_stderr(log).map(|(pump, stderr)| (Some(pump), stdout, stderr)),
        Output::Inherit => own_output().map(|(stdout, stderr)| (None, stdout, stderr)),
        Output::Terminal => nowhere().map(|(stdout, stderr)| (None, stdout, stderr)),
        Output::Driven(driver) => {
            (started, driven) = (Some(driver.started), Some(driver.signals));
            match driver.streams {
                Driven::Pipes(stdout, stderr) => Ok((None, stdout, stderr)),
                Driven::Terminal(_, to) => {
                    master = Some(to);
                    nowhere().map(|(stdout, stderr)| (None, stdout, stderr))
                }
            }
        }
    }
    .map_err(stdio("make pipes"))?;
    let mut signals =
        if io.forward_signals || relays { Signals::listen(io.forward_signals, relays)? } else { Signals::default() };
    signals.driven = driven;
    let failed = |act| move |source| SandboxError::Helper { act, source };
    let (order, document) = settings.way.document(&spec)?;
    let helper = settings.helper.helper().map_err(failed("start the helper"))?;
    let socket = {
        let own = io::stdin();
        let stdin = match &io.stdin {
            Stdin::Descriptor(stdin) if spec.stdin => Some(stdin.as_fd()),
            Stdin::Inherit if spec.stdin => Some(own.as_fd()),
            _ => None,
        };
        let belongings =
            Belongings { stdin, stdout: stdout.as_fd(), stderr: stderr.as_fd(), handed: handed.0.as_slice() };
        helper.begin(&order, &document, &belongings).map_err(failed("talk to the helper"))?
    };
    // Pipes end with the step, not with us.
    drop((io.stdin, stdout, stderr));
    rustix::io::ioctl_fionbio(&socket, true).map_err(io::Error::from).map_err(failed("talk to the helper"))?;
    let socket = sys::watch(socket).map_err(failed("talk to the helper"))?;
    let mut step = Step {
        pidfd: None,
        early: Vec::new(),
        started,
        master,
        relay: None,
        stubs: Vec::new(),
        failure: None,
        ended: None,
        input,
    };
    let canceled = follow(&socket, &mut step, pump.as_mut(), signals, cancel).await?;

    // The socket is closed on the other side: no unfinished set-up. Without a word of the end the helper has died, and
    // the command may still live.
    let mut died = String::new();
    if step.ended.is_none() {
        step.kill().await?;
        if step.failure.is_none() {
            let ended = tokio::task::spawn_blocking(move || helper.ended()).await.map_err(io::Error::other);
            died = ended.flatten().map_err(failed("wait for the helper"))?.to_string();
        }
    }
    if let Some(pump) = &mut pump {
        pump.drain().map_err(stdio("read the command's output"))?;
    }
    if let Some(relay) = step.relay.take() {
        let finished = tokio::task::spawn_blocking(move || relay.finish()).await.map_err(io::Error::other);
        finished.flatten().map_err(stdio("relay the command's terminal"))?;
    }
    if canceled {
        return Err(SandboxError::Canceled);
    }
    step.outcome(&spec, died)
}

/// The builder's own standard output and error.
fn own_output() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok((io::stdout().as_fd().try_clone_to_owned()?, io::stderr().as_fd().try_clone_to_owned()?))
}

/// The null device twice, until there is a terminal.
fn nowhere() -> io::Result<(OwnedFd, OwnedFd)> {
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    Ok((null.try_clone()?.into(), null.into()))
}

/// Does everything that is to be done until the step's side closes the socket. Says whether it was canceled.
async fn follow(
    socket: &AsyncFd<OwnedFd>,
    step: &mut Step,
    mut pump: Option<&mut Pump<'_>>,
    mut signals: Signals,
    cancel: &CancellationToken,
) -> Result<bool, SandboxError> {
    let mut canceled = false;
    let mut stops = 0;
    let mut packet = vec![0; PACKET_MAX_BYTES];
    loop {
        let reading = pump.as_ref().is_some_and(|pump| pump.is_open());
        tokio::select! {
            biased;
            () = cancel.cancelled(), if !canceled => {
                canceled = true;
                stop(socket)?;
            }
            Some(number) = signals.next() => match Signal::from_named_raw(number) {
                Some(Signal::WINCH) => {
                    if let Some(relay) = &step.relay {
                        relay.resize().map_err(|source| SandboxError::Stdio { act: "resize the terminal", source })?;
                    }
                }
                Some(signal) => {
                    stops += usize::from(matches!(signal, Signal::INT | Signal::TERM));
                    if stops >= STOPS_MAX { stop(socket)? } else { step.forward(signal)? }
                }
                None => {}
            },
            report = next_report(socket, &mut packet) => match report? {
                Some((report, descriptor)) => step.hear(report, descriptor)?,
                None => return Ok(canceled),
            },
            passed = pass_on(&mut pump), if reading => {
                passed.map_err(|source| SandboxError::Stdio { act: "read the command's output", source })?;
            }
        }
    }
}

async fn pass_on(pump: &mut Option<&mut Pump<'_>>) -> io::Result<()> {
    match pump {
        Some(pump) => pump.pass_on().await,
        None => std::future::pending().await,
    }
}

/// Lets go of the step's socket in the writing direction, upon which the helper kills the step.
fn stop(socket: &AsyncFd<OwnedFd>) -> Result<(), SandboxError> {
    match rustix::net::shutdown(socket.get_ref(), Shutdown::Write) {
        // The other side is gone already.
        Ok(()) | Err(Errno::NOTCONN) => Ok(()),
        Err(error) => Err(SandboxError::Helper { act: "stop the helper", source: error.into() }),
    }
}

/// The next report, or `None` when there will be none.
async fn next_report(
    socket: &AsyncFd<OwnedFd>,
    packet: &mut [u8],
) -> Result<Option<(Report, Option<OwnedFd>)>, SandboxError> {
    let received = socket.async_io(Interest::READABLE, |socket| wire::receive(socket, packet)).await;
    let (count, descriptors) = match received {
        // It died with our plan unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        received => received.map_err(|source| SandboxError::Helper { act: "talk to the helper", source })?,
    };
    if count == 0 {
        return Ok(None);
    }
    let report = serde_json::from_slice(&packet[..count]).map_err(|source| SandboxError::Report { source })?;
    Ok(Some((report, descriptors.into_iter().next())))
}

/// What is known of the step so far.
struct Step {
    pidfd: Option<OwnedFd>,
    /// Signals that came before it was heard of.
    early: Vec<Signal>,
    started: Option<oneshot::Sender<()>>,
    master: Option<oneshot::Sender<Terminal>>,
    relay: Option<Relay>,
    stubs: Vec<Stub>,
    failure: Option<Failure>,
    ended: Option<Ended>,
    input: bool,
}

impl Step {
    fn hear(&mut self, report: Report, descriptor: Option<OwnedFd>) -> Result<(), SandboxError> {
        match report {
            Report::Started => {
                self.pidfd = descriptor;
                std::mem::take(&mut self.early).into_iter().try_for_each(|signal| self.forward(signal))?;
                if let Some(started) = self.started.take() {
                    // Who drives it may have gone, which is no matter of the command's.
                    let _ = started.send(());
                }
            }
            Report::Stub(stub) => self.stubs.push(stub),
            Report::Terminal => {
                let failed = |source| SandboxError::Stdio { act: "relay the command's terminal", source };
                let master = descriptor.ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
                match self.master.take() {
                    // Likewise.
                    Some(to) => drop(to.send(Terminal::new(master).map_err(failed)?)),
                    None => self.relay = Some(Relay::start(master, self.input).map_err(failed)?),
                }
            }
            Report::Failed(failure) => self.failure = Some(failure),
            Report::Exited(ended) => self.ended = Some(ended),
        }
        Ok(())
    }

    fn forward(&mut self, signal: Signal) -> Result<(), SandboxError> {
        let Some(pidfd) = &self.pidfd else {
            self.early.push(signal);
            return Ok(());
        };
        match pidfd_send_signal(pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(SandboxError::Helper { act: "signal the command", source: error.into() }),
        }
    }

    /// Kills the command and waits for its end, without the helper.
    async fn kill(&mut self) -> Result<(), SandboxError> {
        self.forward(Signal::KILL)?;
        if let Some(pidfd) = self.pidfd.take() {
            let failed = |source| SandboxError::Helper { act: "wait for the command", source };
            let pidfd = sys::watch(pidfd).map_err(failed)?;
            drop(pidfd.readable().await.map_err(failed)?);
        }
        Ok(())
    }

    fn outcome(self, spec: &ProcessSpec, died: String) -> Result<Finished, SandboxError> {
        if let Some(failure) = self.failure {
            let Failure { act, is_exec, detail, errno } = failure;
            return Err(match (is_exec, errno) {
                (true, 1..) => {
                    let program = spec.args.first().cloned().unwrap_or_default();
                    SandboxError::Exec { program, source: io::Error::from_raw_os_error(errno) }
                }
                (_, errno) => SandboxError::Act { act, detail, errno: Some(errno).filter(|&errno| errno > 0) },
            });
        }
        let ended = self.ended.ok_or(SandboxError::HelperDied { how: died })?;
        let status = ExitStatus::from_raw(ended.status);
        let exit = match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            // wait4 without WUNTRACED reports nothing else.
            (None, None) => return Err(SandboxError::HelperDied { how: status.to_string() }),
        };
        let usage = Usage { user: ended.user, system: ended.system, max_rss_bytes: ended.max_rss_bytes };
        Ok(Finished { exit, stubs: self.stubs, usage })
    }
}
