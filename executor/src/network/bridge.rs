//! The way out over the host itself: a cable from the build's router to the host, which passes on what comes through it
//! under its own address.
//!
//! ```text
//!   host                                          the build's router (a network namespace)
//!   eth0 ◄── masquerade ── forward ◄── rbuild<id> ═══════ uplink ◄── …
//! ```
//! In come the two namespaces, out goes a [`Bridge`] that was seen to work, or why it cannot. The cable and the rules
//! die with the process that made them, and [`super::forwarding`] counts what the host had to be told. What the host
//! newly passes on is ours alone: between its other interfaces it passes on no more than before.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use super::forwarding::{Entry, Notes, PREFIX, forward_from};
use super::link::{Address, Interface, Links, Pair};
use super::pool::{Block, Pool, Subnet};
use super::router::{Place, UPLINK};
use super::rules::{self, Chain, Hook, Part, Table};
use super::trouble::{Trouble, could_not};

/// Routes of fewer bits say where everything goes, not what is near: a VPN that takes all has two of one bit.
const NEAR_PREFIX_MIN: u8 = 8;
/// An address of documents (RFC 5737), which is nowhere. What is sent there is answered by our own rule.
const NOWHERE: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 51, 100, 1);
/// The discard port; nobody sees it.
const PROBE_PORT: u16 = 9;
/// The probe's answer comes from this machine's kernel, in microseconds.
const PROBE_PATIENCE: Duration = Duration::from_millis(50);
/// A packet may be lost for other reasons than a firewall.
const PROBES: usize = 10;
/// Smaller packets are no link of IPv4's.
const MTU_MIN: u32 = 576;

/// A cable to the host with all that belongs to it.
pub struct Bridge {
    name: String,
    entry: Option<Entry>,
    table: Option<Table>,
}

/// What a machine is connected to.
pub struct Surroundings {
    /// Its interfaces with addresses, without loopback and ours.
    pub interfaces: Vec<Interface>,
    /// Its IPv4 addresses.
    pub addresses: Vec<Address>,
    near: Vec<Subnet>,
    has_far: bool,
}

impl Surroundings {
    /// Looks at a namespace.
    pub fn of(links: &mut Links) -> Result<Self, Trouble> {
        let looked = could_not::<io::Error>("look at this machine's interfaces and routes");
        let look = |links: &mut Links| Ok((links.all()?, links.addresses()?, links.destinations()?));
        let (all, addresses, destinations) = look(links).map_err(looked)?;
        let has_address = |interface: &Interface| {
            let mut of_it = addresses.iter().filter(|address| address.interface == interface.index);
            of_it.any(|address| !address.address.is_loopback())
        };
        let interfaces = all.into_iter().filter(|interface| !interface.name.starts_with(PREFIX));
        let interfaces = interfaces.filter(has_address).collect();
        let (near, far): (Vec<_>, Vec<_>) =
            destinations.into_iter().partition(|destination| destination.prefix() >= NEAR_PREFIX_MIN);
        let near = near.into_iter().chain(addresses.iter().map(|address| address.subnet)).collect();
        Ok(Self { interfaces, addresses, near, has_far: !far.is_empty() })
    }

    /// The first block that nothing near is in.
    pub fn free_block(&self, pools: &[Pool]) -> Result<Block, Trouble> {
        let is_free = |block: &Block| !self.near.iter().any(|near| near.overlaps(block.subnet()));
        pools.iter().flat_map(|pool| pool.blocks()).find(is_free).ok_or_else(|| {
            let pools: Vec<_> = pools.iter().map(|pool| format!("`{pool}`")).collect();
            Trouble::new(format!("no addresses are free: this machine has routes into all of {}", pools.join(", ")))
                .help("name a free range in `config.toml`: `[network]`, `pool = \"10.200.0.0/16\"`")
        })
    }

    /// The largest packet that every way takes.
    fn mtu(&self) -> Option<u32> {
        self.interfaces.iter().map(|interface| interface.mtu).filter(|mtu| *mtu >= MTU_MIN).min()
    }
}

impl Bridge {
    /// Connects `router`, in which this thread is, with `host`, and tries it out. Afterwards the thread is in either.
    pub fn set_up(
        host: &mut Place,
        router: &mut Place,
        pools: &[Pool],
        id: &str,
    ) -> Result<(Self, Block, u32), Trouble> {
        let around = Surroundings::of(&mut host.links)?;
        let mtu = around.mtu().ok_or_else(|| Trouble::new("this machine has no IPv4 address beside loopback's"))?;
        let name = format!("{PREFIX}{id}");
        let pair = Pair { name: &name, bridge: None, peer: UPLINK, namespace: router.namespace(), mtu };
        host.links.add_pair(&pair).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => Trouble::new("this process may not make interfaces (it lacks CAP_NET_ADMIN)"),
            Some(libc::EOPNOTSUPP) => Trouble::new("this kernel has no virtual interfaces (module `veth`)"),
            _ => could_not(format!("make the interface `{name}`"))(error),
        })?;
        // Only who may make interfaces there may also go there.
        host.enter()?;
        let mut bridge = Self { name, entry: None, table: None };
        match bridge.connect(host, router, &around, pools, id) {
            Ok(block) => Ok((bridge, block, mtu)),
            Err(trouble) => Err(match bridge.take_down(host) {
                Ok(()) => trouble,
                Err(more) => Trouble { detail: format!("{trouble}; then, cleaning up, {more}"), ..trouble },
            }),
        }
    }

    fn connect(
        &mut self,
        host: &mut Place,
        router: &mut Place,
        around: &Surroundings,
        pools: &[Pool],
        id: &str,
    ) -> Result<Block, Trouble> {
        let notes = Notes::open()?;
        notes.sweep(&mut host.links)?;
        self.entry = Some(notes.enter(id)?);
        // Under the lock: the address in the kernel is what tells others that the block is taken.
        let block = Surroundings::of(&mut host.links)?.free_block(pools)?;
        let name = self.name.as_str();
        let address = |links: &mut Links, name: &str, address| {
            let index = links.find(name)?.index;
            links.up(index)?;
            links.add_address(index, address, block.transit().prefix())
        };
        address(&mut host.links, name, block.host()).map_err(could_not(format!("give `{name}` an address")))?;
        forward_from(name)?;
        let interfaces: Vec<_> = around.interfaces.iter().map(|interface| interface.name.clone()).collect();
        let switched = notes.switch_on(&interfaces)?;
        let table =
            Table::add(name, true, &chains(name, block, &switched)).map_err(|error| match error.raw_os_error() {
                Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::ENOENT) => {
                    Trouble::new(format!("this kernel lacks a part of nf_tables ({error})"))
                }
                _ => could_not("make packet rules")(error),
            })?;
        let table = self.table.insert(table);
        drop(notes);
        address(&mut router.links, UPLINK, block.router())
            .and_then(|()| router.links.add_default_route(block.host()))
            .and_then(|()| host.links.wait_until_works(name))
            .map_err(could_not("connect the build's router"))?;
        if around.has_far {
            probe(host, router, table)?;
        } else {
            tracing::debug!("nothing is far from this machine; the way out is not tried");
        }
        Ok(block)
    }

    /// Removes it all. This thread is in `host`.
    pub fn take_down(self, host: &mut Place) -> Result<(), Trouble> {
        let cable = host.links.remove(&self.name).map_err(could_not(format!("remove `{}`", self.name)));
        let rules = self.table.map_or(Ok(()), Table::remove).map_err(could_not("remove packet rules"));
        let notes = self.entry.map_or(Ok(()), |entry| Notes::open()?.leave(entry, &mut host.links));
        cable.and(rules).and(notes)
    }
}

/// The host's rules for one build.
fn chains(name: &str, block: Block, switched: &[String]) -> [Chain; 4] {
    let (from, to) = (Part::From(name.into()), Part::To(name.into()));
    let mut forward = vec![
        // Nobody on the way in from elsewhere: not from another build, not from the neighbourhood.
        vec![to, Part::Unasked, Part::Drop],
        vec![from.clone(), Part::NotSource(block.router()), Part::Drop],
    ];
    // What passes something on only for our sake passes nothing else on.
    let ours_alone = |interface: &String| vec![Part::From(interface.clone()), Part::NotToAny(PREFIX), Part::Drop];
    forward.extend(switched.iter().map(ours_alone));
    let probe = vec![from, Part::Destination(NOWHERE), Part::Count];
    let answer = probe.iter().cloned().chain([Part::Refuse]).collect();
    let source = Part::Source(block.transit());
    let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
    [
        chain(SEEN, "filter", Hook::Forward, -1_000_000, vec![probe]),
        chain("forward", "filter", Hook::Forward, 0, forward),
        chain(PASSED, "filter", Hook::Forward, 1_000_000, vec![answer]),
        chain(
            "masquerade",
            "nat",
            Hook::Postrouting,
            100,
            vec![vec![source, Part::NotTo(name.into()), Part::Masquerade]],
        ),
    ]
}

/// Counts probes before all other rules of this machine have seen them.
const SEEN: &str = "seen";
/// Counts and answers those that all of them let through.
const PASSED: &str = "passed";

/// Sends one packet the way that packets of steps go. It never leaves the machine: behind all of the host's own rules
/// stands one of ours that counts and answers it.
fn probe(host: &Place, router: &Place, table: &mut Table) -> Result<(), Trouble> {
    router.enter()?;
    let sent = send_probe();
    host.enter()?;
    sent.map_err(could_not("send a packet through the build's router"))?;
    let mut count = |chain| {
        let counts = table.counts(chain).map_err(could_not("read the counters of packet rules"))?;
        Ok(counts.first().copied().unwrap_or_default())
    };
    if count(PASSED)? > 0 {
        return Ok(());
    }
    if count(SEEN)? == 0 {
        return Err(Trouble::new("this machine does not pass on what steps send, though forwarding is on")
            .help("look at `ip rule`, and for a rule that drops packets before they are routed"));
    }
    let closed = rules::closed_chains().map_err(could_not("list packet rules"))?;
    let closed: Vec<_> = closed.iter().map(|chain| format!("`{chain}`")).collect();
    let culprit = match closed.as_slice() {
        [] => "one of its rules for forwarded packets does (`nft list ruleset`, `iptables-legacy -S FORWARD`)".into(),
        chains => format!("{} lets through only what a rule allows", chains.join(", ")),
    };
    Err(Trouble::new(format!("this machine's firewall drops what steps send: {culprit}")).help(format!(
        "allow it: `iptables -I FORWARD -i {PREFIX}+ -j ACCEPT` and `iptables -I FORWARD -o {PREFIX}+ -m conntrack \
         --ctstate ESTABLISHED,RELATED -j ACCEPT`"
    )))
}

fn send_probe() -> io::Result<()> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((NOWHERE, PROBE_PORT))?;
    socket.set_read_timeout(Some(PROBE_PATIENCE))?;
    for _ in 0..PROBES {
        match socket.send(&[]).and_then(|_| socket.recv(&mut [0])) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            // Whoever refuses it: the counters say who saw it.
            _ => break,
        }
    }
    Ok(())
}
