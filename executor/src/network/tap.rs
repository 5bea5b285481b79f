//! The way out over a program of the user's: `pasta` or `slirp4netns` speak TCP and UDP in the host's name for the
//! build's router, without any right over the host's network.
//!
//! In come the two namespaces and a program, out goes a [`Tap`] whose interface is configured, or what the program
//! said. It lives as long as the helper does: a guard process (this binary again) asks the kernel for that before it
//! becomes the program. It is started in the host's namespace, to which a helper without rights cannot go back.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, Signal, pidfd_open};

use super::netlink::Socket;
use super::pool::{Block, Subnet};
use super::router::{Place, UPLINK};
use super::settings::Driver;
use super::trouble::{Trouble, could_not};
use crate::sandbox::wire;

/// The name by which the binary knows that it is to become a program that dies with its parent.
pub const GUARD_ARGV0: &str = "rbuild-guard";
/// Both programs are ready in a few hundredths of a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Enough for what a program says before it ends.
const WORDS_MAX_BYTES: u64 = 2000;
/// The largest packet of a device of this kind.
const MTU: &str = "65520";

/// A process that waits, in the namespace in which it was started, to become a program.
pub struct Guard {
    child: Child,
    socket: OwnedFd,
    said: File,
}

impl Guard {
    /// Starts it where this thread is: the host's namespace.
    pub fn start() -> Result<Self, Trouble> {
        let started = || {
            let said = rustix::fs::memfd_create("said", MemfdFlags::CLOEXEC)?;
            let (socket, theirs) =
                rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            let mut command = Command::new("/proc/self/exe");
            command.arg0(GUARD_ARGV0).arg(std::process::id().to_string()).env_clear();
            command.stdin(theirs).stdout(said.try_clone()?).stderr(said.try_clone()?);
            Ok(Self { child: command.spawn()?, socket, said: said.into() })
        };
        started().map_err(could_not::<io::Error>("start a process for a way out"))
    }
}

/// A running program.
pub struct Tap {
    driver: Driver,
    child: Child,
    said: File,
}

impl Tap {
    /// Lets `guard` become `program` for `router`, in which this thread is.
    pub fn set_up(
        driver: Driver,
        program: &Path,
        guard: Guard,
        router: &mut Place,
        block: Block,
    ) -> Result<(Self, u32), Trouble> {
        let Guard { child, socket, said } = guard;
        let mut tap = Self { driver, child, said };
        match tap.become_program(program, &socket, router, block) {
            Ok(mtu) => Ok((tap, mtu)),
            Err(trouble) => {
                tap.take_down();
                Err(trouble)
            }
        }
    }

    fn become_program(
        &mut self,
        program: &Path,
        socket: &OwnedFd,
        router: &mut Place,
        block: Block,
    ) -> Result<u32, Trouble> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV4_IFADDR;
        let changes = Socket::listener(groups as u32).map_err(could_not("listen for changes of interfaces"))?;
        let words = (program, arguments(self.driver, block)?);
        let told = serde_json::to_vec(&words).map_err(io::Error::from);
        told.and_then(|words| wire::send(socket, &words, &[router.namespace()]))
            .map_err(could_not(format!("start `{}`", self.driver)))?;
        self.wait(&changes, router)
    }

    /// Waits until the router has a way out.
    fn wait(&mut self, changes: &Socket, router: &mut Place) -> Result<u32, Trouble> {
        let name = self.driver.name();
        let listen = |error: io::Error| could_not(format!("wait for `{name}`"))(error);
        let pid = rustix::process::Pid::from_child(&self.child);
        let child = pidfd_open(pid, PidfdFlags::empty()).map_err(could_not(format!("wait for `{name}`")))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_default = |destination: &Subnet| destination.prefix() == 0;
            if router.links.destinations().map_err(listen)?.iter().any(is_default) {
                return Ok(router.links.find(UPLINK).map_err(listen)?.mtu);
            }
            self.alive()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Trouble::new(format!("`{name}` is not ready after {} s", PATIENCE.as_secs())));
            }
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut polled = [PollFd::new(changes, PollFlags::IN), PollFd::new(&child, PollFlags::IN)];
            match poll(&mut polled, Some(&left)) {
                Ok(_) if !polled[0].revents().is_empty() => changes.drain().map_err(listen)?,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(listen(error.into())),
            }
        }
    }

    /// Whether it still runs; if not, its own words.
    pub fn alive(&mut self) -> Result<(), Trouble> {
        let name = self.driver.name();
        let Some(status) = self.child.try_wait().map_err(could_not(format!("ask after `{name}`")))? else {
            return Ok(());
        };
        let mut words = String::new();
        let read = self.said.rewind().and_then(|()| {
            let mut bytes = Vec::new();
            self.said.as_fd().try_clone_to_owned().map(File::from)?.take(WORDS_MAX_BYTES).read_to_end(&mut bytes)?;
            words = String::from_utf8_lossy(&bytes).into_owned();
            Ok(())
        });
        read.map_err(could_not(format!("read what `{name}` said")))?;
        // Without a system log it complains of that before every line.
        let lines = words.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("to syslog"));
        let lines: Vec<_> = lines.collect();
        Err(Trouble::new(match lines.as_slice() {
            [] => format!("`{name}` ended by itself ({status})"),
            lines => format!("`{name}` ended by itself ({status}): {}", lines.join("; ")),
        }))
    }

    /// Ends it.
    pub fn take_down(mut self) {
        // It may have ended already; then there is nothing to kill, and its status is there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program's words. The router's namespace is its standard input.
fn arguments(driver: Driver, block: Block) -> Result<Vec<String>, Trouble> {
    let namespace = "/proc/self/fd/0";
    let words: &[&str] = match driver {
        Driver::Bridge => &[],
        // No port of either side is the other's, and no address means the host.
        Driver::Pasta => &[
            "--runas",
            "0",
            "--foreground",
            "--quiet",
            "--ipv4-only",
            "--netns-only",
            "--config-net",
            "--no-map-gw",
            "--tcp-ports",
            "none",
            "--udp-ports",
            "none",
            "--tcp-ns",
            "none",
            "--udp-ns",
            "none",
            "--mtu",
            MTU,
            "--ns-ifname",
            UPLINK,
            "--netns",
            namespace,
        ],
        Driver::Slirp4netns => {
            let subnet = block.other_half();
            if subnet.prefix() > 25 {
                return Err(Trouble::new("`slirp4netns` needs a pool of at least a /24"));
            }
            let cidr = format!("--cidr={subnet}");
            let words = ["--configure", "--disable-host-loopback", "--disable-dns", "--netns-type=path", "--mtu", MTU];
            let words = words.into_iter().chain([cidr.as_str(), namespace, UPLINK]);
            return Ok(words.map(String::from).collect());
        }
    };
    Ok(words.iter().map(|word| (*word).to_owned()).collect())
}

/// Waits to be told a program, and becomes it with the namespace that came along as its standard input. The kernel
/// kills it when its parent, whose id is in `args`, dies. Returns only why not, over the exit code.
pub fn guard(mut args: impl Iterator<Item = std::ffi::OsString>) -> i32 {
    let parent = args.next().and_then(|word| word.to_str()?.parse::<i32>().ok());
    let error = match become_told(parent) {
        Ok(None) => return 0,
        Ok(Some(error)) | Err(error) => error,
    };
    eprintln!("{error}");
    1
}

/// `None`: the parent needs it no more.
fn become_told(parent: Option<i32>) -> io::Result<Option<io::Error>> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before we asked.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != parent {
        return Ok(None);
    }
    let mut packet = vec![0; wire::PACKET_MAX_BYTES];
    let (count, descriptors) = wire::receive(io::stdin(), &mut packet)?;
    let Some(namespace) = descriptors.first().filter(|_| count > 0) else { return Ok(None) };
    let (program, words): (PathBuf, Vec<String>) = serde_json::from_slice(&packet[..count])?;
    rustix::stdio::dup2_stdin(namespace)?;
    Ok(Some(Command::new(program).args(words).exec()))
}
