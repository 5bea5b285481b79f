//! The helper: this binary re-executed, single-threaded, between the builder and the step (A in [`super`]'s drawing).
//!
//! In comes the plan over the socket on standard input; it clones B into the new namespaces, tells of it, and then
//! waits for either of two things: B's end, which it reports, or the builder's silence (the socket's end), upon which
//! it kills B and waits until B, and with it the whole PID namespace, is gone. Deliberately absent: mounts and
//! decisions. It stays in the host's namespaces, where control groups and networks can be arranged later.

use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup;
use super::perform::perform;
use super::plan::{Act, Namespace, Plan};
use super::sys::{self, Cloned};
use super::wire::{self, Ended, Failure, Report};

/// The name by which the binary knows that it is the helper.
pub const ARGV0: &str = "rbuild-init";

/// Becomes the helper if this process was started as one, and then never returns. Call it first in `main`, before any
/// thread: the helper clones itself.
pub fn init_if_asked() {
    let Some(name) = std::env::args_os().next() else { return };
    crate::network::become_helper_if_asked(&name);
    if name == ARGV0 {
        main()
    }
}

fn main() -> ! {
    // The descriptors of the builder's own terminal session must not stop or signal us: the builder put us into a
    // process group of our own, and it alone decides when a step ends.
    let code = match helper() {
        Ok(()) => 0,
        // Nobody is left to tell: reports go over the socket, and the socket is what failed.
        Err(_) => 1,
    };
    sys::exit_now(code)
}

fn helper() -> io::Result<()> {
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    // What was handed over is let go when this process ends, which is after the step.
    let Received { plan, memory, stdin, handed } = receive(&socket)?;
    let namespaces = plan.0.iter().find_map(|act| match act {
        Act::Namespaces(list) => Some((act, clone_flags(list))),
        _ => None,
    });
    let (act, flags) = namespaces.ok_or(io::ErrorKind::InvalidData)?;
    let this = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    // Born in its group a process costs less than moved there.
    let born = cgroup::birthplace(&plan.0, &handed);
    // SAFETY: nothing before `init_if_asked` starts a thread, and nothing here has.
    let cloned = unsafe {
        match born.map(|group| sys::clone_into_group(flags, group)) {
            Some(Err(error)) if cgroup::is_missing(&error) => (sys::clone_into(flags), false),
            Some(cloned) => (cloned, true),
            None => (sys::clone_into(flags), false),
        }
    };
    let (pid, pidfd) = match cloned.0 {
        Ok(Cloned::Child) => perform(&plan, &socket, this, stdin, &handed, cloned.1),
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or_default();
            let failure = Failure { act: act.to_string(), is_exec: false, detail: error.to_string(), errno };
            return wire::report(&socket, &Report::Failed(failure), None);
        }
    };
    drop(stdin);
    // The pipes to the builder must end when the step does, not when we do.
    rustix::stdio::dup2_stdin(&memory)?;
    rustix::stdio::dup2_stdout(&memory)?;
    rustix::stdio::dup2_stderr(&memory)?;
    // If the builder is gone already, the poll below says so too.
    let _ = wire::report(&socket, &Report::Started, Some(pidfd.as_fd()));
    wait(&socket, &pidfd)?;
    let waited = sys::wait_for(pid)?;
    let ended =
        Ended { status: waited.status, user: waited.user, system: waited.system, max_rss_bytes: waited.max_rss_bytes };
    wire::report(&socket, &Report::Exited(ended), None)
}

/// Waits until the process has ended, by itself or because the builder let go of the socket.
fn wait(socket: &OwnedFd, pidfd: &OwnedFd) -> io::Result<()> {
    let mut killed = false;
    loop {
        let mut polled = [PollFd::new(pidfd, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
        // After the kill the socket stays readable for ever; only the process counts then.
        let count = if killed { 1 } else { 2 };
        match poll(&mut polled[..count], None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        if !polled[0].revents().is_empty() {
            return Ok(());
        }
        // Any word or the end: the builder never speaks but to stop.
        if !killed && !polled[1].revents().is_empty() {
            match pidfd_send_signal(pidfd, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => killed = true,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What comes from the builder.
struct Received {
    plan: Plan,
    /// The memory file that the plan came in.
    memory: OwnedFd,
    stdin: Option<OwnedFd>,
    /// What travelled with the plan: descriptors that acts name, and locks that the builder has taken for the step, which
    /// its own death must not free before the step is dead too.
    handed: Vec<OwnedFd>,
}

fn receive(socket: &OwnedFd) -> io::Result<Received> {
    let mut byte = [wire::LAST];
    let (_, descriptors) = wire::receive(socket, &mut byte)?;
    let mut handed = Vec::new();
    while byte == [wire::MORE] {
        let (count, more) = wire::receive(socket, &mut byte)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        handed.extend(more);
    }
    let mut descriptors = descriptors.into_iter();
    let memory = descriptors.next().ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut file = std::fs::File::from(memory);
    file.rewind()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let plan = serde_json::from_slice(&text)?;
    Ok(Received { plan, memory: file.into(), stdin: descriptors.next(), handed })
}

fn clone_flags(namespaces: &[Namespace]) -> libc::c_int {
    namespaces.iter().fold(0, |flags, namespace| {
        flags
            | match namespace {
                Namespace::Mount => libc::CLONE_NEWNS,
                Namespace::Pid => libc::CLONE_NEWPID,
                Namespace::Uts => libc::CLONE_NEWUTS,
                Namespace::Ipc => libc::CLONE_NEWIPC,
                Namespace::Cgroup => libc::CLONE_NEWCGROUP,
                Namespace::Network => libc::CLONE_NEWNET,
            }
    })
}
