//! The way out over a program of the user's: `pasta` or `slirp4netns` speak TCP and UDP in the host's name for the
//! build's router, without any right over the host's network.
//!
//! In come the two namespaces and a program, out goes a [`Tap`] whose interface is configured, or what the program
//! said. It lives as long as the helper does: a guard process (this binary again) asks the kernel for that before it
//! becomes the program.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, Timespec};
use rustix::process::{PidfdFlags, Signal, pidfd_open};

use super::netlink::Socket;
use super::pool::{Block, Subnet};
use super::router::{Place, UPLINK};
use super::settings::Driver;
use super::trouble::{Trouble, could_not};

/// The name by which the binary knows that it is to become a program that dies with its parent.
pub const GUARD_ARGV0: &str = "rbuild-guard";
/// Both programs are ready in a few hundredths of a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Enough for what a program says before it ends.
const WORDS_MAX_BYTES: u64 = 2000;
/// The largest packet of a device of this kind.
const MTU: &str = "65520";

/// A running program.
pub struct Tap {
    driver: Driver,
    child: Child,
    said: File,
}

impl Tap {
    /// Starts `program` in `host`, in which this thread is, for `router`. Afterwards the thread is in `host`.
    pub fn set_up(
        driver: Driver,
        program: &Path,
        host: &mut Place,
        router: &mut Place,
        block: Block,
    ) -> Result<(Self, u32), Trouble> {
        let name = driver.name();
        let said = rustix::fs::memfd_create("said", MemfdFlags::CLOEXEC).map_err(could_not("make a file in memory"))?;
        let duplicate = |descriptor: &OwnedFd| descriptor.try_clone().map(Stdio::from);
        let stdio = || Ok::<_, io::Error>((duplicate(&router.namespace)?, duplicate(&said)?, duplicate(&said)?));
        let (stdin, stdout, stderr) = stdio().map_err(could_not("duplicate a descriptor"))?;
        router.enter()?;
        let changes = Socket::listener((libc::RTMGRP_LINK | libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV4_IFADDR) as u32);
        host.enter()?;
        let changes = changes.map_err(could_not("listen for changes of interfaces"))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(GUARD_ARGV0).arg(std::process::id().to_string()).arg(program).args(arguments(driver, block)?);
        command.env_clear().stdin(stdin).stdout(stdout).stderr(stderr);
        let child = command.spawn().map_err(could_not(format!("start `{name}`")))?;
        let mut tap = Self { driver, child, said: said.into() };
        match tap.wait(&changes, router) {
            Ok(mtu) => Ok((tap, mtu)),
            Err(trouble) => {
                tap.take_down();
                Err(trouble)
            }
        }
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

/// Becomes a program that the kernel kills when the parent dies; in `args` the parent's id and the program's words.
/// Returns only why not, over the exit code.
pub fn guard(mut args: impl Iterator<Item = std::ffi::OsString>) -> i32 {
    let parent = args.next().and_then(|word| word.to_str()?.parse::<i32>().ok());
    let program = args.next();
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // It may have died before we asked.
    let is_ours = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) == parent;
    match (asked, program) {
        (Ok(()), Some(program)) if is_ours => {
            let error = Command::new(&program).args(args).exec();
            eprintln!("{}: {error}", program.display());
        }
        (asked, _) => eprintln!("{asked:?}"),
    }
    1
}
