//! Packet rules: one nf_tables table at a time, made whole, as data.
//!
//! In come chains of rules, out goes a [`Table`]. An owned one vanishes with the socket that made it, so whatever ends
//! the process takes its rules along (Linux 5.12). Deliberately absent: which rules there are to be
//! ([`super::bridge`], [`super::router`]), and any program: the kernel is asked directly, so that nothing has to be
//! installed. Numbers are those of `linux/netfilter/nf_tables.h`.

use std::io;
use std::net::Ipv4Addr;

use super::netlink::{APPEND, Message, NEW, Socket, attribute, attributes, text};
use super::pool::Subnet;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const IPV4: u8 = libc::NFPROTO_IPV4 as u8;
/// `NFT_TABLE_F_OWNER`
const OWNED: u32 = 2;
/// `NFTA_LIST_ELEM`
const ELEMENT: u16 = 1;
const REGISTER: u32 = libc::NFT_REG_1 as u32;
const DROP: u32 = libc::NF_DROP as u32;

/// Where in a packet's way a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// On the way through this machine.
    Forward = 2,
    /// On the way out.
    Postrouting = 4,
}

/// Rules at one place.
pub struct Chain {
    /// Its name in the table.
    pub name: &'static str,
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// Where.
    pub hook: Hook,
    /// Lower ones see a packet earlier.
    pub priority: i32,
    /// The rules; a packet that none of them ends is let through.
    pub rules: Vec<Vec<Part>>,
}

/// A part of a rule: a condition, or what happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// It came in through this interface.
    From(String),
    /// It goes out through this interface.
    To(String),
    /// It does not go out through this interface.
    NotTo(String),
    /// It does not go out through an interface whose name begins so.
    NotToAny(&'static str),
    /// It comes from there.
    Source(Subnet),
    /// It does not come from there.
    NotSource(Ipv4Addr),
    /// It goes there.
    Destination(Ipv4Addr),
    /// It belongs to no connection that is known.
    Unasked,
    /// Counts.
    Count,
    /// Ends: it is thrown away.
    Drop,
    /// Ends: its sender is told that nobody listens.
    Refuse,
    /// Its sender becomes this machine.
    Masquerade,
}

/// A table that was made.
pub struct Table {
    socket: Socket,
    name: String,
}

impl Table {
    /// Makes a table of this thread's network namespace, with all that is in it, or nothing.
    pub fn add(name: &str, owned: bool, chains: &[Chain]) -> io::Result<Self> {
        let mut socket = Socket::netfilter()?;
        let flags = if owned { OWNED } else { 0 };
        let mut messages = vec![message(NEW_TABLE, NEW).text(1, name).big(2, flags)];
        for chain in chains {
            messages.push(
                message(NEW_CHAIN, NEW)
                    .text(1, name)
                    .text(3, chain.name)
                    .nest(4, |hook| hook.big(1, chain.hook as u32).big(2, chain.priority as u32))
                    .text(7, chain.kind),
            );
            for rule in &chain.rules {
                messages.push(
                    message(NEW_RULE, APPEND)
                        .text(1, name)
                        .text(2, chain.name)
                        .nest(4, |list| rule.iter().fold(list, |list, part| part.write(list))),
                );
            }
        }
        batch(&mut socket, messages)?;
        Ok(Self { socket, name: name.into() })
    }

    /// How many packets the counters of a chain have seen, the first counter first.
    pub fn counts(&mut self, chain: &str) -> io::Result<Vec<u64>> {
        let rules = self.socket.dump(message(GET_RULE, 0).text(1, &self.name).text(2, chain))?;
        let of_rule = |rule: &Vec<u8>| {
            let list = attribute(rule.get(4..)?, 4)?;
            attributes(list).find_map(|(_, part)| {
                let is_counter = attribute(part, 1).map(text).as_deref() == Some("counter");
                let packets = attribute(attribute(part, 2).filter(|_| is_counter)?, 2)?;
                packets.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
            })
        };
        Ok(rules.iter().filter_map(of_rule).collect())
    }

    /// Removes it.
    pub fn remove(mut self) -> io::Result<()> {
        batch(&mut self.socket, vec![message(DELETE_TABLE, 0).text(1, &self.name)])
    }
}

/// Removes the table of this name.
pub fn remove(name: &str) -> io::Result<()> {
    batch(&mut Socket::netfilter()?, vec![message(DELETE_TABLE, 0).text(1, name)])
}

/// The chains of this namespace that let nothing through this machine which no rule of theirs allows: `table/chain`.
pub fn closed_chains() -> io::Result<Vec<String>> {
    let any = Message::new(kind(GET_CHAIN), 0, &[0, 0, 0, 0]);
    let chains = Socket::netfilter()?.dump(any)?;
    let closed = |chain: &Vec<u8>| {
        let (head, rest) = chain.split_at_checked(4)?;
        let hook = attribute(attribute(rest, 4)?, 1)?;
        let policy = attribute(rest, 5)?;
        let is_ip = matches!(head[0], IPV4 | INET);
        let is_closed = is_ip && hook == (Hook::Forward as u32).to_be_bytes() && policy == DROP.to_be_bytes();
        is_closed.then(|| Some(format!("{}/{}", text(attribute(rest, 1)?), text(attribute(rest, 3)?))))?
    };
    Ok(chains.iter().filter_map(closed).collect())
}

const INET: u8 = libc::NFPROTO_INET as u8;

fn kind(of: u16) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | of
}

/// `struct nfgenmsg` with the family.
fn message(of: u16, flags: u16) -> Message {
    Message::new(kind(of), flags, &[IPV4, 0, 0, 0])
}

fn batch(socket: &mut Socket, messages: Vec<Message>) -> io::Result<()> {
    let bound = |of: i32| Message::new(of as u16, 0, &[0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8]);
    socket.batch(bound(libc::NFNL_MSG_BATCH_BEGIN), messages, bound(libc::NFNL_MSG_BATCH_END))
}

/// Where the addresses stand in an IPv4 packet.
const SOURCE_AT: u32 = 12;
const DESTINATION_AT: u32 = 16;

impl Part {
    fn write(&self, list: Message) -> Message {
        match self {
            Part::From(name) => same(interface(list, libc::NFT_META_IIFNAME), &padded(name)),
            Part::To(name) => same(interface(list, libc::NFT_META_OIFNAME), &padded(name)),
            Part::NotTo(name) => differs(interface(list, libc::NFT_META_OIFNAME), &padded(name)),
            Part::NotToAny(prefix) => differs(interface(list, libc::NFT_META_OIFNAME), prefix.as_bytes()),
            Part::Source(subnet) => {
                let mask = Subnet::around(Ipv4Addr::BROADCAST, subnet.prefix()).at(0).octets();
                same(masked(address(list, SOURCE_AT), &mask), &subnet.at(0).octets())
            }
            Part::NotSource(from) => differs(address(list, SOURCE_AT), &from.octets()),
            Part::Destination(to) => same(address(list, DESTINATION_AT), &to.octets()),
            Part::Unasked => {
                let list = expression(list, "ct", |ct| ct.big(1, REGISTER).big(2, libc::NFT_CT_STATE as u32));
                // Bits of `established` and `related`; the state is of this machine's byte order.
                same(masked(list, &6u32.to_ne_bytes()), &[0; 4])
            }
            Part::Count => expression(list, "counter", |counter| counter),
            Part::Drop => expression(list, "immediate", |immediate| {
                let verdict = |data: Message| data.nest(2, |verdict| verdict.big(1, DROP));
                immediate.big(1, libc::NFT_REG_VERDICT as u32).nest(2, verdict)
            }),
            // ICMP: destination unreachable, port unreachable.
            Part::Refuse => expression(list, "reject", |reject| reject.big(1, 0).put(2, &[3])),
            Part::Masquerade => expression(list, "masq", |masquerade| masquerade),
        }
    }
}

fn expression(list: Message, name: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    list.nest(ELEMENT, |element| element.text(1, name).nest(2, fill))
}

fn interface(list: Message, key: i32) -> Message {
    expression(list, "meta", |meta| meta.big(1, REGISTER).big(2, key as u32))
}

fn address(list: Message, offset: u32) -> Message {
    let network_header = libc::NFT_PAYLOAD_NETWORK_HEADER as u32;
    expression(list, "payload", |payload| payload.big(1, REGISTER).big(2, network_header).big(3, offset).big(4, 4))
}

fn masked(list: Message, mask: &[u8; 4]) -> Message {
    expression(list, "bitwise", |bitwise| {
        let data = |value: &[u8; 4]| {
            let value = *value;
            move |data: Message| data.put(1, &value)
        };
        bitwise.big(1, REGISTER).big(2, REGISTER).big(3, 4).nest(4, data(mask)).nest(5, data(&[0; 4]))
    })
}

fn same(list: Message, value: &[u8]) -> Message {
    compare(list, libc::NFT_CMP_EQ, value)
}

fn differs(list: Message, value: &[u8]) -> Message {
    compare(list, libc::NFT_CMP_NEQ, value)
}

fn compare(list: Message, how: i32, value: &[u8]) -> Message {
    expression(list, "cmp", |cmp| cmp.big(1, REGISTER).big(2, how as u32).nest(3, |data| data.put(1, value)))
}

/// A name as the kernel has it, so that a longer one does not fit too.
fn padded(name: &str) -> [u8; libc::IFNAMSIZ] {
    let mut padded = [0; libc::IFNAMSIZ];
    for (to, from) in padded.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    padded
}
