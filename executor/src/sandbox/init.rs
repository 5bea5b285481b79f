//! The helper: this binary re-executed, single-threaded, between the builder and its steps (A in [`super`]'s drawing).
//!
//! In come orders over the socket on standard input; for each it clones a B into new namespaces, tells of it, and then
//! waits for either of two things: B's end, which it reports, or the builder's silence (the end of B's socket), upon
//! which it kills B. When the builder itself falls silent, all are killed; it ends when B, and with it the whole PID
//! namespace, is gone. It lives as long as the builder, because starting it costs as much as all that a step mounts.
//! It also has the next step's process ready ([`super::spare`]). It keeps nothing of a step: plan,
//! environment and secrets are read by B; of another step's descriptors B lets go before anything else. Deliberately
//! absent: mounts and decisions. It stays in the host's namespaces.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::ahead::Ahead;
use super::cgroup;
use super::perform::{Begun, perform};
use super::plan::{Act, Namespace};
use super::spare::{self, Spare};
use super::sys::{self, Cloned};
use super::trouble::Trouble;
use super::userns;
use super::wire::{self, Ended, Failure, Order, PACKET_MAX_BYTES, Report};

/// The name by which the binary knows that it is the helper.
pub const ARGV0: &str = "rbuild-init";

/// Becomes the helper if this process was started as one, and then never returns. Call it first in `main`, before any
/// thread: the helper clones itself.
pub fn init_if_asked() {
    let Some(name) = std::env::args_os().next() else { return };
    crate::network::become_helper_if_asked(&name);
    crate::chroot::helper::become_if_asked(&name);
    crate::userns::become_probe_if_asked(&name);
    crate::emulate::become_probe_if_asked(&name);
    if name == ARGV0 {
        // Signals of the builder's terminal do not reach us: it put us into a process group of our own, and it alone
        // decides when a step ends. Of an error nobody is left to hear: the socket is what failed.
        sys::exit_now(Helper::start().and_then(Helper::serve).map_or(1, |()| 0))
    }
}

struct Helper {
    /// Where orders come from; `None` when there will be no more.
    orders: Option<OwnedFd>,
    this: OwnedFd,
    steps: Vec<Step>,
    /// The process of the next step, if it is there.
    spare: Option<Spare>,
}

/// A step that is not dead yet.
struct Step {
    socket: OwnedFd,
    pid: i32,
    pidfd: OwnedFd,
    killed: bool,
    /// What travelled with the plan: descriptors that acts name, and locks that the builder has taken for the step, which
    /// its own death must not free before the step is dead too.
    handed: Vec<OwnedFd>,
}

impl Helper {
    fn start() -> io::Result<Self> {
        let orders = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        // `/dev/null`, so that no step begins with a socket of ours as its standard input.
        rustix::stdio::dup2_stdin(io::stdout())?;
        let this = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
        // For all steps: those of the builder are none of theirs.
        sys::reset_signals();
        Ok(Self { orders: Some(orders), this, steps: Vec::new(), spare: None })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut packet = vec![0; PACKET_MAX_BYTES];
        while self.orders.is_some() || !self.steps.is_empty() {
            let Ready { order, told } = self.wait()?;
            // From the last, so that those before keep their places.
            for (index, news) in told.into_iter().enumerate().rev() {
                match news {
                    News::None => {}
                    News::Silence => self.steps[index].kill()?,
                    News::Ended => self.steps.swap_remove(index).reap()?,
                }
            }
            let Some(orders) = self.orders.as_ref().filter(|_| order) else { continue };
            match wire::receive(orders, &mut packet) {
                Ok((count @ 1.., descriptors)) => {
                    let socket = descriptors.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
                    let order: Order = serde_json::from_slice(&packet[..count])?;
                    self.begin(&order, socket);
                    // While the step is set up.
                    if self.spare.is_none() && Spare::is_possible(&order) {
                        self.prepare(&order);
                    }
                }
                // No more orders, or nobody to have more from.
                Ok((0, _)) | Err(_) => {
                    self.orders = None;
                    self.spare.take().map_or(Ok(()), Spare::end)?;
                    self.steps.iter_mut().try_for_each(Step::kill)?;
                }
            }
        }
        Ok(())
    }

    /// Begins a step, or tells its builder why not.
    fn begin(&mut self, order: &Order, socket: OwnedFd) {
        // If the builder is gone already, the next poll says so too.
        let tell = |failure| drop(wire::report(&socket, &Report::Failed(failure), None));
        let failed = |act: String, error: io::Error| {
            let errno = error.raw_os_error().unwrap_or_default();
            tell(Failure { act, is_exec: false, detail: error.to_string(), errno });
        };
        let mut received = match receive(&socket) {
            Ok(received) => received,
            Err(error) => return failed("take what the step needs".into(), error),
        };
        let users = match order.users.as_ref().map(|wanted| userns::make(wanted, &received.handed)).transpose() {
            Ok(users) => users,
            Err(failure) => return tell(failure),
        };
        if let Some(users) = users.as_ref().filter(|_| !order.emulators.is_empty()) {
            match crate::emulate::private::register(users.user.as_fd(), &order.emulators) {
                // Held until the step is dead: with the last descriptor the handlers go.
                Ok(handlers) => received.handed.push(handlers),
                Err(Trouble { errno, detail }) => {
                    let act = Act::Handlers(order.emulators.clone()).to_string();
                    return tell(Failure { act, is_exec: false, detail, errno });
                }
            }
        }
        if let Some(spare) = self.spare.take_if(|spare| spare.serves(order)) {
            match spare.begin(&socket, &received) {
                Ok(()) => return self.begun(socket, spare.pid, spare.pidfd, received.handed),
                // It has died; the step gets a process of its own. What is wrong with the machine will be said then.
                Err(_) => drop(spare.end()),
            }
        }
        let flags = clone_flags(&order.namespaces);
        // Born in its group a process costs less than moved there.
        let born = order.group.and_then(|group| group.among(&received.handed));
        // SAFETY: nothing before `init_if_asked` starts a thread, and nothing here has.
        let (cloned, born) = unsafe {
            match born.map(|group| sys::clone_into_group(flags, group)) {
                Some(Err(error)) if cgroup::is_missing(&error) => (sys::clone_into(flags), false),
                Some(cloned) => (cloned, true),
                None => (sys::clone_into(flags), false),
            }
        };
        match cloned {
            Ok(Cloned::Child) => {
                self.let_go();
                let Received { plan, stdin, stdout, stderr, handed } = received;
                let ahead = Ahead::default();
                let helper = &self.this;
                perform(Begun { plan, stdin, stdout, stderr, handed, users, born, ahead, socket: &socket, helper })
            }
            Ok(Cloned::Parent { pid, pidfd }) => self.begun(socket, pid, pidfd, received.handed),
            Err(error) => failed(Act::Namespaces(order.namespaces.clone()).to_string(), error),
        }
    }

    /// Tells of a step's process, and watches it from now on. The pipes to the builder are not kept: they must end when
    /// the step does.
    fn begun(&mut self, socket: OwnedFd, pid: i32, pidfd: OwnedFd, handed: Vec<OwnedFd>) {
        // The next poll says it too, should the builder be gone.
        let _ = wire::report(&socket, &Report::Started, Some(pidfd.as_fd()));
        self.steps.push(Step { socket, pid, pidfd, killed: false, handed });
    }

    /// Has a process wait that would serve such an order. If that fails, the next step's own will, and says why.
    fn prepare(&mut self, Order { namespaces, ahead, .. }: &Order) {
        let Ok((ours, theirs)) = spare::pair() else { return };
        // SAFETY: nothing before `init_if_asked` starts a thread, and nothing here has.
        match unsafe { sys::clone_into(clone_flags(namespaces)) } {
            Ok(Cloned::Child) => {
                drop(ours);
                self.let_go();
                spare::become_step(theirs, &self.this, Ahead::make(ahead))
            }
            Ok(Cloned::Parent { pid, pidfd }) => self.spare = Some(Spare::new(namespaces, ours, pid, pidfd)),
            Err(_) => {}
        }
    }

    /// In a step's process: lets go of all that is not its own.
    fn let_go(&mut self) {
        self.orders = None;
        self.steps.clear();
        self.spare = None;
    }

    /// Waits until there is something to be done.
    fn wait(&self) -> io::Result<Ready> {
        let mut polled = Vec::with_capacity(1 + 2 * self.steps.len());
        polled.extend(self.orders.iter().map(|orders| PollFd::new(orders, PollFlags::IN)));
        for step in &self.steps {
            polled.push(PollFd::new(&step.pidfd, PollFlags::IN));
            // After the kill the socket stays readable for ever; only the process counts then.
            polled.extend((!step.killed).then(|| PollFd::new(&step.socket, PollFlags::IN)));
        }
        rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
        let mut happened = polled.iter().map(|polled| !polled.revents().is_empty());
        let mut next = || happened.next().unwrap_or_default();
        let order = self.orders.is_some() && next();
        let news = self.steps.iter().map(|step| match (next(), !step.killed && next()) {
            (true, _) => News::Ended,
            // Any word or the end: the builder never speaks but to stop.
            (false, true) => News::Silence,
            (false, false) => News::None,
        });
        Ok(Ready { order, told: news.collect() })
    }
}

/// What a wait ended with.
struct Ready {
    order: bool,
    /// Per step.
    told: Vec<News>,
}

enum News {
    None,
    Silence,
    Ended,
}

impl Step {
    fn kill(&mut self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => self.killed = true,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn reap(self) -> io::Result<()> {
        let waited = sys::wait_for(self.pid)?;
        // Before the builder hears of the end: whatever was locked for the step is free then.
        drop(self.handed);
        let ended = Ended {
            status: waited.status,
            user: waited.user,
            system: waited.system,
            max_rss_bytes: waited.max_rss_bytes,
        };
        // A builder that is gone does not want to know.
        let _ = wire::report(&self.socket, &Report::Exited(ended), None);
        Ok(())
    }
}

/// What comes from the builder for a step.
pub(crate) struct Received {
    /// The memory file that the plan is in.
    pub plan: OwnedFd,
    /// What the command reads from, if it gets something.
    pub stdin: Option<OwnedFd>,
    /// Where its output goes.
    pub stdout: OwnedFd,
    /// Where its errors go.
    pub stderr: OwnedFd,
    pub handed: Vec<OwnedFd>,
}

/// Receives it.
pub(crate) fn receive(socket: &OwnedFd) -> io::Result<Received> {
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
    let mut next = || descriptors.next().ok_or(io::ErrorKind::UnexpectedEof);
    let (plan, stdout, stderr) = (next()?, next()?, next()?);
    Ok(Received { plan, stdout, stderr, stdin: descriptors.next(), handed })
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
