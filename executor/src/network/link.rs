//! Interfaces, addresses and routes of one network namespace, by name. rtnetlink(7).
//!
//! Deliberately absent: which interfaces there are to be ([`super::bridge`], [`super::router`]).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::netlink::{Message, NEW, Socket, attribute, number, text};
use super::pool::Subnet;

const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
/// `IFLA_BRPORT_ISOLATED`
const PORT_ISOLATED: u16 = 33;
/// `IF_OPER_UP`
const OPERATIONAL: u8 = 6;
/// The kernel's own threads take some milliseconds, on a busy machine some more.
const PATIENCE: Duration = Duration::from_secs(5);
const UP: u32 = libc::IFF_UP as u32;

/// A pair of virtual interfaces, each the other's cable.
pub struct Pair<'a> {
    /// The end in the namespace of the socket.
    pub name: &'a str,
    /// The bridge that it is plugged into, if any.
    pub bridge: Option<u32>,
    /// The end in the other namespace.
    pub peer: &'a str,
    /// The other namespace.
    pub namespace: BorrowedFd<'a>,
    /// Largest packet.
    pub mtu: u32,
}

/// One address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub interface: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// What it is an address of.
    pub subnet: Subnet,
}

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Largest packet.
    pub mtu: u32,
    /// Whether packets pass it.
    pub works: bool,
}

/// Interfaces, addresses and routes of the namespace in which it was opened.
pub struct Links(Socket);

impl Links {
    /// Those of this thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Socket::route().map(Self)
    }

    /// Makes a pair; this end is up. The other one cannot be from the beginning: the kernel wants the cable first.
    pub fn add_pair(&mut self, pair: &Pair<'_>) -> io::Result<()> {
        let head = interface_head(libc::AF_UNSPEC as u8, 0, UP, UP);
        let message = Message::new(libc::RTM_NEWLINK, NEW, &head)
            .text(libc::IFLA_IFNAME, pair.name)
            .number(libc::IFLA_MTU, pair.mtu)
            .nest(libc::IFLA_LINKINFO, |info| {
                info.text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
                    data.nest(VETH_PEER, |peer| {
                        peer.raw(&interface_head(libc::AF_UNSPEC as u8, 0, 0, 0))
                            .text(libc::IFLA_IFNAME, pair.peer)
                            .number(libc::IFLA_MTU, pair.mtu)
                            .number(libc::IFLA_NET_NS_FD, pair.namespace.as_raw_fd() as u32)
                    })
                })
            });
        self.0.ask(match pair.bridge {
            Some(bridge) => message.number(libc::IFLA_MASTER, bridge),
            None => message,
        })
    }

    /// Makes a bridge, which is up, and gives its index.
    pub fn add_bridge(&mut self, name: &str, hardware: [u8; 6], mtu: u32) -> io::Result<u32> {
        self.0.ask(
            Message::new(libc::RTM_NEWLINK, NEW, &interface_head(libc::AF_UNSPEC as u8, 0, UP, UP))
                .text(libc::IFLA_IFNAME, name)
                .put(libc::IFLA_ADDRESS, &hardware)
                .number(libc::IFLA_MTU, mtu)
                .nest(libc::IFLA_LINKINFO, |info| info.text(INFO_KIND, "bridge")),
        )?;
        Ok(self.find(name)?.index)
    }

    /// Lets a port of a bridge reach the bridge itself but no other such port.
    pub fn isolate_port(&mut self, index: u32) -> io::Result<()> {
        self.0.ask(
            Message::new(libc::RTM_SETLINK, 0, &interface_head(libc::AF_BRIDGE as u8, index, 0, 0))
                .nest(libc::IFLA_PROTINFO, |port| port.put(PORT_ISOLATED, &[1])),
        )
    }

    /// Switches an interface on.
    pub fn up(&mut self, index: u32) -> io::Result<()> {
        self.0.ask(Message::new(libc::RTM_NEWLINK, 0, &interface_head(libc::AF_UNSPEC as u8, index, UP, UP)))
    }

    /// Waits until packets pass an interface that is up, as its other end is: the kernel opens the way some moments
    /// later, and packets before that would be lost. This thread is in the namespace.
    pub fn wait_until_works(&mut self, name: &str) -> io::Result<()> {
        let changes = Socket::listener(libc::RTMGRP_LINK as u32)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.find(name)?.works {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            changes.wait(left)?;
        }
        Ok(())
    }

    /// Removes an interface.
    pub fn remove(&mut self, name: &str) -> io::Result<()> {
        let head = interface_head(libc::AF_UNSPEC as u8, 0, 0, 0);
        self.0.ask(Message::new(libc::RTM_DELLINK, 0, &head).text(libc::IFLA_IFNAME, name))
    }

    /// Looks an interface up.
    pub fn find(&mut self, name: &str) -> io::Result<Interface> {
        let head = interface_head(libc::AF_UNSPEC as u8, 0, 0, 0);
        let replies = self.0.get(Message::new(libc::RTM_GETLINK, 0, &head).text(libc::IFLA_IFNAME, name))?;
        replies.first().and_then(|reply| interface(reply)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// All interfaces.
    pub fn all(&mut self) -> io::Result<Vec<Interface>> {
        let head = interface_head(libc::AF_UNSPEC as u8, 0, 0, 0);
        let replies = self.0.dump(Message::new(libc::RTM_GETLINK, 0, &head))?;
        Ok(replies.iter().filter_map(|reply| interface(reply)).collect())
    }

    /// Gives an interface an address.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut head = [0; 8];
        (head[0], head[1]) = (libc::AF_INET as u8, prefix);
        head[4..].copy_from_slice(&index.to_ne_bytes());
        self.0.ask(
            Message::new(libc::RTM_NEWADDR, NEW, &head)
                .put(libc::IFA_LOCAL, &address.octets())
                .put(libc::IFA_ADDRESS, &address.octets()),
        )
    }

    /// All IPv4 addresses.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let replies = self.0.dump(Message::new(libc::RTM_GETADDR, 0, &[libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0]))?;
        let address = |reply: &Vec<u8>| {
            let (head, rest) = reply.split_at_checked(8)?;
            // Of a point-to-point interface, the address is the other side's.
            let address = ip(attribute(rest, libc::IFA_LOCAL).or_else(|| attribute(rest, libc::IFA_ADDRESS))?)?;
            let peer = attribute(rest, libc::IFA_ADDRESS).and_then(ip).unwrap_or(address);
            let subnet = Subnet::around(peer, head[1]);
            (head[0] == libc::AF_INET as u8).then_some(Address { interface: number(&head[4..])?, address, subnet })
        };
        Ok(replies.iter().filter_map(address).collect())
    }

    /// Sends everything that nothing else says to `gateway`.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        let head = route_head(libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RTN_UNICAST);
        self.0.ask(Message::new(libc::RTM_NEWROUTE, NEW, &head).put(libc::RTA_GATEWAY, &gateway.octets()))
    }

    /// Where IPv4 packets go: the destinations of all unicast routes, whatever their table.
    pub fn destinations(&mut self) -> io::Result<Vec<Subnet>> {
        let replies = self.0.dump(Message::new(libc::RTM_GETROUTE, 0, &route_head(0, 0, 0)))?;
        let destination = |reply: &Vec<u8>| {
            let (head, rest) = reply.split_at_checked(12)?;
            let address = attribute(rest, libc::RTA_DST).and_then(ip).unwrap_or(Ipv4Addr::UNSPECIFIED);
            let unicast = head[0] == libc::AF_INET as u8 && head[7] == libc::RTN_UNICAST;
            unicast.then(|| Subnet::around(address, head[1]))
        };
        Ok(replies.iter().filter_map(destination).collect())
    }
}

/// `struct ifinfomsg`
fn interface_head(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[0] = family;
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..].copy_from_slice(&change.to_ne_bytes());
    head
}

/// `struct rtmsg`
fn route_head(table: u8, protocol: u8, kind: u8) -> [u8; 12] {
    let mut head = [0; 12];
    head[0] = libc::AF_INET as u8;
    (head[4], head[5], head[7]) = (table, protocol, kind);
    head
}

fn interface(reply: &[u8]) -> Option<Interface> {
    let (head, rest) = reply.split_at_checked(16)?;
    let index = number(&head[4..8])?;
    let name = text(attribute(rest, libc::IFLA_IFNAME)?);
    let mtu = attribute(rest, libc::IFLA_MTU).and_then(number)?;
    let works = attribute(rest, libc::IFLA_OPERSTATE).is_some_and(|state| state == [OPERATIONAL]);
    Some(Interface { index, name, mtu, works })
}

fn ip(value: &[u8]) -> Option<Ipv4Addr> {
    value.first_chunk().map(|octets: &[u8; 4]| (*octets).into())
}
