//! Addresses: the pool of the user's config, the block of it that a build takes, and who has which address in that.
//!
//! ```text
//! 10.89.7.0/24      a build's block, the pool's if that is smaller
//!   .0/30           between the host (.1) and the build's router (.2)
//!   .128/25         the steps: .129 is their gateway, the others are theirs
//! ```
//! Everything here is arithmetic.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A build takes this much of the pool.
const BLOCK_PREFIX: u8 = 24;
/// Private ranges that other tools use rarely; the first that is free is taken.
const USUAL: [(Ipv4Addr, u8); 3] =
    [(Ipv4Addr::new(10, 89, 0, 0), 16), (Ipv4Addr::new(172, 29, 0, 0), 16), (Ipv4Addr::new(192, 168, 208, 0), 20)];
/// A pool of the user's: not the whole world, and not too small for a few steps.
const POOL_PREFIXES: std::ops::RangeInclusive<u8> = 8..=27;

/// Addresses with a common beginning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subnet {
    base: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The one of `prefix` bits that `address` is in.
    pub fn around(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { base: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    /// The address at a place; the first is 0.
    pub fn at(self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | place)
    }

    /// How many bits its addresses have in common.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        let common = mask(self.prefix.min(other.prefix));
        self.base.to_bits() & common == other.base.to_bits() & common
    }

    /// Whether `address` is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.overlaps(Self::around(address, 32))
    }

    fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// Where builds take their blocks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool(Subnet);

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let parsed = parts.and_then(|(base, prefix)| Some((base.parse().ok()?, prefix.parse::<u8>().ok()?)));
        let (base, prefix) =
            parsed.ok_or_else(|| format!("`{text}` is no range of IPv4 addresses like `10.89.0.0/16`"))?;
        if !POOL_PREFIXES.contains(&prefix) {
            let (largest, smallest) = POOL_PREFIXES.into_inner();
            return Err(format!("`{text}`: a pool has between /{largest} and /{smallest}"));
        }
        let subnet = Subnet::around(base, prefix);
        if subnet.base != base {
            return Err(format!("`{text}` does not begin at its first address: `{subnet}`"));
        }
        Ok(Self(subnet))
    }
}

impl Pool {
    /// The pools of a user who says nothing.
    pub fn usual() -> Vec<Self> {
        USUAL.map(|(base, prefix)| Self(Subnet::around(base, prefix))).to_vec()
    }

    /// The blocks of the pool, in order.
    pub fn blocks(self) -> impl Iterator<Item = Block> {
        let prefix = self.0.prefix.max(BLOCK_PREFIX);
        let step = 1u64 << (32 - prefix);
        (0..self.0.size() / step).map(move |n| Block(Subnet::around(self.0.at((n * step) as u32), prefix)))
    }
}

/// What one build has of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block(Subnet);

impl Block {
    /// All of it.
    pub fn subnet(self) -> Subnet {
        self.0
    }

    /// Between host and router.
    pub fn transit(self) -> Subnet {
        Subnet::around(self.0.base, 30)
    }

    /// The host's address there.
    pub fn host(self) -> Ipv4Addr {
        self.0.at(1)
    }

    /// The router's address there.
    pub fn router(self) -> Ipv4Addr {
        self.0.at(2)
    }

    /// The steps' part.
    pub fn steps(self) -> Subnet {
        Subnet::around(self.0.at((self.0.size() / 2) as u32), self.0.prefix + 1)
    }

    /// What is not the steps'; the transit is in it.
    pub fn other_half(self) -> Subnet {
        Subnet::around(self.0.base, self.0.prefix + 1)
    }

    /// What the steps send to when nothing else says where.
    pub fn gateway(self) -> Ipv4Addr {
        self.steps().at(1)
    }

    /// The addresses of steps, one each.
    pub fn step_addresses(self) -> impl ExactSizeIterator<Item = Ipv4Addr> + Clone {
        let steps = self.steps();
        // Without the gateway, and without the last one, which is everybody's.
        (2..steps.size() as u32 - 1).map(move |place| steps.at(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_read_or_refused_with_the_reason() {
        let check = |text: &str, expected: &str| {
            let found = text.parse::<Pool>().map_or_else(|reason| reason, |pool| pool.to_string());
            assert!(found.contains(expected), "{text}: {found}");
        };
        check("10.89.0.0/16", "10.89.0.0/16");
        check("192.168.5.32/27", "192.168.5.32/27");
        check("10.89.0.1/16", "does not begin at its first address: `10.89.0.0/16`");
        check("10.0.0.0/7", "between /8 and /27");
        check("10.0.0.0/28", "between /8 and /27");
        check("10.0.0.0", "no range of IPv4 addresses");
        check("fd00::/64", "no range of IPv4 addresses");
    }

    #[test]
    fn builds_take_blocks_that_do_not_overlap_and_steps_addresses_in_them() {
        let check = |pool: &str, blocks: usize, second: &str, steps: &str, of_steps: &[&str]| {
            let pool: Pool = pool.parse().expect("a pool");
            let all: Vec<_> = pool.blocks().collect();
            assert_eq!(all.len(), blocks);
            for pair in all.windows(2) {
                assert!(!pair[0].subnet().overlaps(pair[1].subnet()));
            }
            let last = all.last().expect("one at least");
            assert_eq!(all.get(1).unwrap_or(last).subnet().to_string(), second);
            assert_eq!(last.steps().to_string(), steps);
            let addresses: Vec<_> = last.step_addresses().collect();
            let ends = [addresses.first(), addresses.last()].map(|address| address.expect("some").to_string());
            assert_eq!([&last.gateway().to_string(), &ends[0], &ends[1]], of_steps);
            assert!(!last.transit().overlaps(last.steps()));
            assert!(last.transit().contains(last.host()) && last.transit().contains(last.router()));
        };
        check(
            "10.89.0.0/16",
            256,
            "10.89.1.0/24",
            "10.89.255.128/25",
            &["10.89.255.129", "10.89.255.130", "10.89.255.254"],
        );
        check(
            "192.168.5.32/27",
            1,
            "192.168.5.32/27",
            "192.168.5.48/28",
            &["192.168.5.49", "192.168.5.50", "192.168.5.62"],
        );
    }

    #[test]
    fn subnets_overlap_when_one_is_in_the_other() {
        let subnet = |text: &str| {
            let (base, prefix) = text.split_once('/').expect("a subnet");
            Subnet::around(base.parse().expect("an address"), prefix.parse().expect("a number"))
        };
        let check = |one, other, expected| assert_eq!(subnet(one).overlaps(subnet(other)), expected, "{one} {other}");
        check("10.0.0.0/8", "10.89.3.0/24", true);
        check("10.89.3.0/24", "10.0.0.0/8", true);
        check("10.89.2.0/24", "10.89.3.0/24", false);
        check("0.0.0.0/0", "10.89.3.0/24", true);
    }
}
