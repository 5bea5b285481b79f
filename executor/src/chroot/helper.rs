//! The helper: this binary re-executed, single-threaded, between the builder and its steps (A in [`super`]'s drawing).
//!
//! In come orders over the socket on standard input, one step after the other; of a step comes a [`Task`], out go its
//! pidfd, what failed, how it ended. Whatever happens after the first thing was put into a tree, everything is taken back
//! before the next order is read or this process ends. It holds what travelled with the task until then: locks of the
//! draft and of cache mounts.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::ARGV0;
use super::put::Placer;
use super::strays;
use super::task::Task;
use crate::sandbox::init::{self, Received};
use crate::sandbox::perform::{Begun, perform};
use crate::sandbox::plan::Plan;
use crate::sandbox::sys;
use crate::sandbox::trouble::Trouble;
use crate::sandbox::wire::{self, Ended, Failure, PACKET_MAX_BYTES, Report};
use crate::sys::fork_single_threaded;

/// Becomes the helper if this process was started as one, and then never returns.
pub(crate) fn become_if_asked(name: &std::ffi::OsStr) {
    if name == ARGV0 {
        // Of an error nobody is left to hear: the socket is what failed.
        sys::exit_now(serve().map_or(1, |()| 0))
    }
}

fn serve() -> io::Result<()> {
    let orders = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    // `/dev/null`, so that no step begins with a socket of ours as its standard input.
    rustix::stdio::dup2_stdin(io::stdout())?;
    rustix::process::umask(rustix::fs::Mode::empty());
    strays::adopt()?;
    let mut packet = vec![0; PACKET_MAX_BYTES];
    // One after the other: there is one process root at a time. No more orders, or nobody to have more from, is the end.
    while let Ok((1.., descriptors)) = wire::receive(&orders, &mut packet) {
        let socket = descriptors.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
        // A builder that is gone does not want to know.
        let _ = wire::report(&socket, &whole(&socket), None);
    }
    Ok(())
}

/// One step from its order to its last word.
fn whole(socket: &OwnedFd) -> Report {
    match received(socket) {
        Ok(ended) => Report::Exited(ended),
        Err((act, Trouble { errno, detail })) => Report::Failed(Failure { act, is_exec: false, detail, errno }),
    }
}

/// `(trouble) => (act, trouble)`.
fn at<T: Into<Trouble>>(act: impl Into<String>) -> impl FnOnce(T) -> (String, Trouble) {
    move |trouble| (act.into(), trouble.into())
}

fn received(socket: &OwnedFd) -> Result<Ended, (String, Trouble)> {
    let received = init::receive(socket).map_err(at("take what the step needs"))?;
    let task = read(&received.plan).map_err(at("read the task"))?;
    let locks: Result<Vec<OwnedFd>, _> = received.handed.iter().map(OwnedFd::try_clone).collect();
    let handed = locks.map_err(at("take what the step needs"))?;
    let mut placer = Placer::new(&task.tree, &task.aside, &handed).map_err(at("open the tree"))?;
    let done = step(&task, &mut placer, socket, received);
    // Nobody may write any more to what goes home.
    let done = strays::end_all().map_err(at("end what the step has left")).and(done);
    let taken = placer.take_back().map_err(at("take back what was put into the tree"));
    // Before the builder hears of the end: whatever was locked for the step is free then.
    drop(placer);
    drop(handed);
    done.and_then(|ended| taken.map(|()| ended))
}

fn read(memory: &OwnedFd) -> io::Result<Task> {
    let (mut file, mut text) = (File::from(memory.try_clone()?), Vec::new());
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// A plan as the step's process finds it.
fn handed_plan(plan: &Plan) -> io::Result<OwnedFd> {
    let mut memory = File::from(rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC)?);
    memory.write_all(&serde_json::to_vec(plan)?)?;
    Ok(memory.into())
}

/// Puts things into the tree and runs the process to its end.
fn step(
    task: &Task,
    placer: &mut Placer<'_>,
    socket: &OwnedFd,
    received: Received,
) -> Result<Ended, (String, Trouble)> {
    for put in &task.puts {
        placer.put(put).map_err(at(put.to_string()))?;
    }
    let begin = "start the step";
    let helper = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map_err(at(begin))?;
    let Received { stdin, stdout, stderr, handed, .. } = received;
    let stdin = match stdin {
        Some(stdin) => stdin,
        // Of the machine: the tree's may be none.
        None => File::open("/dev/null").map_err(at("open /dev/null"))?.into(),
    };
    let plan = handed_plan(&task.plan).map_err(at(begin))?;
    let pid = match fork_single_threaded(0).map_err(at(begin))? {
        None => perform(Begun {
            plan,
            stdin: Some(stdin),
            stdout,
            stderr,
            handed,
            users: None,
            born: false,
            ahead: Default::default(),
            socket,
            helper: &helper,
        }),
        Some(pid) => pid,
    };
    // Pipes to the builder must end when the step does, not when we do.
    drop((plan, stdin, stdout, stderr));
    let number = Pid::from_raw(pid).expect("fork answers with the number of a process");
    // It is nobody else's as long as it was not waited for.
    let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(at(begin))?;
    // If the builder is gone already, the wait below says so too.
    let _ = wire::report(socket, &Report::Started, Some(pidfd.as_fd()));
    wait(socket, &pidfd).map_err(at("wait for the step"))?;
    let waited = sys::wait_for(pid).map_err(at("wait for the step"))?;
    Ok(Ended { status: waited.status, user: waited.user, system: waited.system, max_rss_bytes: waited.max_rss_bytes })
}

/// Waits until the process has ended, by itself or because the builder let go of the socket.
fn wait(socket: &OwnedFd, pidfd: &OwnedFd) -> Result<(), Errno> {
    let mut killed = false;
    loop {
        let mut polled = [PollFd::new(pidfd, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
        // After the kill the socket stays readable for ever; only the process counts then.
        let count = if killed { 1 } else { 2 };
        rustix::io::retry_on_intr(|| poll(&mut polled[..count], None))?;
        if !polled[0].revents().is_empty() {
            return Ok(());
        }
        // Any word or the end: the builder never speaks but to stop.
        if !killed && !polled[1].revents().is_empty() {
            match pidfd_send_signal(pidfd, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => killed = true,
                Err(errno) => return Err(errno),
            }
        }
    }
}
