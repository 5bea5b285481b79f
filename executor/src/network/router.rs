//! The build's router: a network namespace between the steps and the way out, and the namespaces of the steps.
//!
//! ```text
//!   step's namespace      the build's router
//!   eth0 ═════════════ step<n> ─┐
//!                               steps (a bridge, the steps' gateway) ── masquerade ──► uplink ══► out
//!   eth0 ═════════════ step<n> ─┘
//! ```
//! Everything of a build's network but the uplink's other end is in namespaces that only the build's processes hold, so
//! it vanishes with them. Steps do not reach each other. IPv6 is off but for loopback: what has both uses IPv4 at once.
//!
//! In come drivers to try, out go a [`Router`] and, per step, a namespace. The thread stands in one namespace at a time;
//! between calls it is the router's.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::bridge::{Bridge, Surroundings};
use super::link::{Links, Pair};
use super::pool::{Block, Pool};
use super::rules::{Chain, Hook, Part, Table};
use super::settings::Driver;
use super::tap::{Guard, Tap};
use super::trouble::{Trouble, at, could_not};
use crate::userns::IdMap;
use crate::userns::make::make;

/// The router's interface to the outside.
pub const UPLINK: &str = "uplink";
const STEPS: &str = "steps";
/// A bridge without a fixed address takes its ports', and changes when they come and go. Nobody else sees this one.
const BRIDGE_ADDRESS: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const LOOPBACK: u32 = 1;
/// The port of name servers.
const DNS: u16 = 53;

/// What to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Ways out, in order; with the program's path where one is needed.
    pub candidates: Vec<(Driver, Option<PathBuf>)>,
    /// Where addresses come from.
    pub pools: Vec<Pool>,
    /// What the names on the host end with.
    pub id: String,
    /// The ids of a user namespace per step, which its network belongs to.
    pub users: Option<IdMap>,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The way out.
    pub driver: Driver,
    /// The steps' gateway, which is also where names can be asked for.
    pub gateway: Ipv4Addr,
    /// An address that means this machine, if the way out leads there.
    pub host: Option<Ipv4Addr>,
    /// Addresses that mean this machine, or nothing, for steps.
    pub own_addresses: Vec<Ipv4Addr>,
    /// What was tried before, and why it did not do.
    pub passed_over: Vec<(Driver, Trouble)>,
}

/// A network namespace, and a way to change what is in it from anywhere.
pub struct Place {
    /// The namespace.
    pub namespace: OwnedFd,
    /// Its interfaces.
    pub links: Links,
}

impl Place {
    /// Where this thread is.
    fn here() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())?;
        Ok(Self { namespace, links: Links::open()? })
    }

    /// A new one, in which this thread then is; only its loopback is up.
    fn new() -> Result<Self, Trouble> {
        crate::sys::unshare_network().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => Trouble::new("this process may not make network namespaces (it lacks CAP_SYS_ADMIN)"),
            Some(libc::ENOSPC) => Trouble::new("there are as many network namespaces as are allowed")
                .help("raise the limit: `sysctl user.max_net_namespaces`"),
            _ => could_not("make a network namespace")(error),
        })?;
        Self::begun()
    }

    /// A new one that belongs to a new user namespace, in which this thread then is.
    fn of_users(ids: &IdMap) -> Result<Self, Trouble> {
        let made = make(ids, true).map_err(|error| Trouble::new(error.to_string()).help(error.help()))?;
        let network = made.network.ok_or_else(|| Trouble::new("no network came with a user namespace"))?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(could_not("enter a network namespace"))?;
        Self::begun()
    }

    /// The new one that this thread is in.
    fn begun() -> Result<Self, Trouble> {
        let mut place = Self::here().map_err(could_not("open a network namespace"))?;
        let ipv6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
        match fs::write(ipv6, "1") {
            // A kernel without IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            written => written.map_err(at("write", ipv6))?,
        }
        place.links.up(LOOPBACK).map_err(could_not("switch loopback on"))?;
        Ok(place)
    }

    /// Goes there.
    pub fn enter(&self) -> Result<(), Trouble> {
        move_into_link_name_space(self.namespace(), Some(LinkNameSpaceType::Network))
            .map_err(could_not("enter a network namespace"))
    }

    /// The namespace.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

enum Uplink {
    Bridge(Bridge),
    Tap(Tap),
}

/// A build's router.
pub struct Router {
    host: Place,
    own: Place,
    uplink: Uplink,
    /// Held, since its rules are needed.
    _rules: Table,
    block: Block,
    bridge: u32,
    mtu: u32,
    /// How many steps there were.
    count: usize,
    users: Option<IdMap>,
}

impl Router {
    /// Makes a router with the first way out that works.
    ///
    /// # Errors
    /// With why each of them does not.
    pub fn start(start: &Start) -> Result<(Self, Ready), Vec<(Driver, Trouble)>> {
        let for_all = |trouble: Trouble| {
            start.candidates.iter().map(|(driver, _)| (*driver, trouble.clone())).collect::<Vec<_>>()
        };
        let places = || {
            let host = Place::here().map_err(could_not("open this machine's network namespace"))?;
            // Who may not come back, in a user namespace, leaves processes there for what has to be done there.
            let guards: Vec<Option<Guard>> = match host.enter() {
                Ok(()) => start.candidates.iter().map(|_| None).collect(),
                Err(_) => {
                    let needs = |(_, program): &(Driver, Option<PathBuf>)| program.is_some();
                    let guard = |candidate| needs(candidate).then(Guard::start).transpose();
                    start.candidates.iter().map(guard).collect::<Result<_, _>>()?
                }
            };
            let own = Place::new()?;
            super::forwarding::forward_from("all")?;
            Ok((host, own, guards))
        };
        let (mut host, mut own, guards) = places().map_err(for_all)?;
        let mut passed_over = Vec::new();
        for ((driver, program), guard) in start.candidates.iter().zip(guards) {
            match way_out(*driver, program.as_ref(), guard, &mut host, &mut own, start) {
                Ok((uplink, block, mtu)) => {
                    let finish = Self::finish(host, own, uplink, block, mtu);
                    return finish.map_err(for_all).map(|(router, own_addresses)| {
                        let router = Self { users: start.users.clone(), ..router };
                        let (gateway, driver) = (block.gateway(), *driver);
                        let host = (driver == Driver::Bridge).then(|| block.host());
                        (router, Ready { driver, gateway, host, own_addresses, passed_over })
                    });
                }
                Err(trouble) => passed_over.push((*driver, trouble)),
            }
        }
        Err(passed_over)
    }

    /// The inner side.
    fn finish(
        mut host: Place,
        mut own: Place,
        uplink: Uplink,
        block: Block,
        mtu: u32,
    ) -> Result<(Self, Vec<Ipv4Addr>), Trouble> {
        let mut inside = || {
            let own_addresses = Surroundings::of(&mut host.links)?.addresses;
            let bridge = own.links.add_bridge(STEPS, BRIDGE_ADDRESS, mtu).map_err(could_not("make a bridge"))?;
            let address = own.links.add_address(bridge, block.gateway(), block.steps().prefix());
            address.map_err(could_not("give the bridge an address"))?;
            let rules = Table::add(STEPS, false, &chains()).map_err(could_not("make the router's packet rules"))?;
            Ok((bridge, rules, own_addresses.iter().map(|address| address.address).collect()))
        };
        match inside() {
            Ok((bridge, rules, own_addresses)) => {
                let router = Self { host, own, uplink, _rules: rules, block, bridge, mtu, count: 0, users: None };
                Ok((router, own_addresses))
            }
            Err(trouble) => {
                uplink.take_down(&mut host)?;
                Err(trouble)
            }
        }
    }

    /// Sockets at the steps' name server address, over UDP and TCP.
    pub fn name_server(&self) -> io::Result<(UdpSocket, TcpListener)> {
        let address = (self.block.gateway(), DNS);
        Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?))
    }

    /// Makes the namespace of one step.
    pub fn step(&mut self) -> Result<OwnedFd, Trouble> {
        if let Uplink::Tap(tap) = &mut self.uplink {
            tap.alive()?;
        }
        let step = self.users.as_ref().map_or_else(Place::new, Place::of_users);
        // Also when that failed half-way.
        self.own.enter()?;
        let mut step = step?;
        let (port, address) = self.plug_in(&step)?;
        let configure = |links: &mut Links| {
            let index = links.find("eth0")?.index;
            links.up(index)?;
            links.add_address(index, address, self.block.steps().prefix())?;
            links.add_default_route(self.block.gateway())
        };
        configure(&mut step.links)
            .and_then(|()| self.own.links.wait_until_works(&port))
            .map_err(could_not("configure a step's interface"))?;
        Ok(step.namespace)
    }

    /// Connects a step's namespace with the bridge: gives the port, and an address that is free. The kernel knows which are taken: each
    /// has a port of that number, which goes when the step's namespace does.
    fn plug_in(&mut self, step: &Place) -> Result<(String, Ipv4Addr), Trouble> {
        let addresses = self.block.step_addresses();
        let count = addresses.len();
        for number in (0..count).map(|n| (self.count + n) % count) {
            let name = format!("step{number}");
            let pair = Pair {
                name: &name,
                bridge: Some(self.bridge),
                peer: "eth0",
                namespace: step.namespace(),
                mtu: self.mtu,
            };
            match self.own.links.add_pair(&pair) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => continue,
                made => made.map_err(could_not("make a step's interface"))?,
            }
            let isolated = self.own.links.find(&name).and_then(|port| self.own.links.isolate_port(port.index));
            isolated.map_err(could_not("keep steps apart"))?;
            self.count = number + 1;
            return Ok((name, addresses.clone().nth(number).expect("it counts less than there are")));
        }
        Err(Trouble::new(format!(
            "{count} steps at once have a network already, and `{}` has no more addresses",
            self.block.subnet()
        ))
        .help("run fewer at once with `--jobs`, or set a larger pool in `config.toml`: `[network]`, `pool`"))
    }

    /// Removes what is not removed by itself.
    pub fn take_down(mut self) -> Result<(), Trouble> {
        self.uplink.take_down(&mut self.host)
    }
}

impl Uplink {
    fn take_down(self, host: &mut Place) -> Result<(), Trouble> {
        match self {
            Self::Bridge(bridge) => host.enter().and_then(|()| bridge.take_down(host)),
            Self::Tap(tap) => {
                tap.take_down();
                Ok(())
            }
        }
    }
}

/// Sets one way out up, or nothing of it. The thread is in `own` before and afterwards.
fn way_out(
    driver: Driver,
    program: Option<&PathBuf>,
    guard: Option<Guard>,
    host: &mut Place,
    own: &mut Place,
    start: &Start,
) -> Result<(Uplink, Block, u32), Trouble> {
    let Some((name, package)) = driver.program() else {
        let made = Bridge::set_up(host, own, &start.pools, &start.id);
        own.enter()?;
        let (bridge, block, mtu) = made?;
        return Ok((Uplink::Bridge(bridge), block, mtu));
    };
    let program = program.ok_or_else(|| {
        Trouble::new(format!("the program `{name}` is not installed"))
            .help(format!("install the package `{package}`: `apt-get install {package}`, `dnf install {package}`"))
    })?;
    let block = Surroundings::of(&mut host.links)?.free_block(&start.pools)?;
    let guard = match guard {
        Some(guard) => guard,
        None => {
            host.enter()?;
            let guard = Guard::start();
            own.enter()?;
            guard?
        }
    };
    let (tap, mtu) = Tap::set_up(driver, program, guard, own, block)?;
    Ok((Uplink::Tap(tap), block, mtu))
}

/// The router's own rules.
fn chains() -> [Chain; 2] {
    let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
    [
        // What nobody in here asked for comes neither from outside nor from another step.
        chain("forward", "filter", Hook::Forward, 0, vec![vec![Part::To(STEPS.into()), Part::Unasked, Part::Drop]]),
        chain("masquerade", "nat", Hook::Postrouting, 100, vec![vec![Part::To(UPLINK.into()), Part::Masquerade]]),
    ]
}
