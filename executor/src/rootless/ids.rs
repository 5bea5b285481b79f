//! Which ids a user may map, and the map that is made of them. Pure.
//!
//! In: the texts of `/etc/subuid` and `/etc/subgid` (subuid(5)). Out: extents of a user namespace's map. Inside, 0 is
//! the user; from 1 on come the subordinate ids, in the order of the file, as in every rootless builder, so that ids
//! mean the same to all of them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Extents of one map (Linux, `UID_GID_MAP_MAX_EXTENTS`).
const EXTENTS_MAX: usize = 340;

/// Subordinate ids of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first id, as the machine has it.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// A line of a map: `count` ids from `inside` on are those from `outside` on, one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// As the namespace has them.
    pub inside: u32,
    /// As the namespace around it has them.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The ranges of a user in a text like `/etc/subuid`: lines of its name or its number. What is no range is passed over,
/// as newuidmap(1) does, which has the last word.
pub fn subordinate(text: &str, user: Option<&str>, uid: u32) -> Vec<Range> {
    let number = uid.to_string();
    let of_user = |owner: &str| owner == number || user.is_some_and(|user| user == owner);
    let range = |line: &str| {
        let (owner, numbers) = line.split_once(':')?;
        let (first, count) = numbers.split_once(':')?;
        let range = Range { first: first.trim().parse().ok()?, count: count.trim().parse().ok()? };
        // -1 is no id.
        let fits = range.count > 0 && range.first.checked_add(range.count).is_some();
        (of_user(owner.trim()) && fits).then_some(range)
    };
    text.lines().filter_map(range).collect()
}

/// The map of `own` to 0 and of what follows to the ranges.
pub fn map(own: u32, ranges: &[Range]) -> Vec<Extent> {
    followed(vec![Extent { inside: 0, outside: own, count: 1 }], ranges)
}

/// The map of 0 and what follows to the ranges.
pub fn extents(ranges: &[Range]) -> Vec<Extent> {
    followed(Vec::new(), ranges)
}

/// Adds the ranges to a map without gaps. One that overlaps an earlier one is left out: the kernel would refuse the whole
/// map.
fn followed(mut map: Vec<Extent>, ranges: &[Range]) -> Vec<Extent> {
    let mut next = map.iter().map(|extent| extent.count).sum::<u32>();
    for range in ranges {
        let overlaps = map.iter().any(|known| {
            let (start, end) = (u64::from(range.first), u64::from(range.first) + u64::from(range.count));
            let (from, to) = (u64::from(known.outside), u64::from(known.outside) + u64::from(known.count));
            start < to && from < end
        });
        let Some(after) = next.checked_add(range.count) else { break };
        if overlaps || map.len() == EXTENTS_MAX {
            continue;
        }
        map.push(Extent { inside: next, outside: range.first, count: range.count });
        next = after;
    }
    map
}

/// The map of a namespace beneath one whose map is this text: every id is itself. Without its last one, so that it
/// cannot be taken for the map of the machine's first namespace.
pub fn identity(parent: &str) -> Vec<Extent> {
    let extent = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (inside, _, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(Extent { inside, outside: inside, count: if count == u32::MAX { count - 1 } else { count } })
    };
    parent.lines().filter_map(extent).collect()
}

/// How many ids a map has.
pub fn count(map: &[Extent]) -> u64 {
    map.iter().map(|extent| u64::from(extent.count)).sum()
}

/// The words after the process id that newuidmap(1) and newgidmap(1) take.
pub fn arguments(map: &[Extent]) -> Vec<String> {
    map.iter().flat_map(|e| [e.inside, e.outside, e.count]).map(|number| number.to_string()).collect()
}

/// What is written to `/proc/PID/uid_map`. user_namespaces(7)
pub fn text(map: &[Extent]) -> String {
    let mut text = String::new();
    for Extent { inside, outside, count } in map {
        writeln!(text, "{inside} {outside} {count}").expect("memory takes everything");
    }
    text
}

/// Whether `id` means something in a namespace whose map is this text.
pub fn is_mapped(map: &str, id: u32) -> bool {
    identity(map).iter().any(|extent| id >= extent.inside && id - extent.inside < extent.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: &str, expected: &str) {
        let ranges = subordinate(file, Some("alice"), 1000);
        assert_eq!(arguments(&map(1000, &ranges)).join(" "), expected, "of {file:?}");
    }

    #[test]
    fn the_user_is_0_and_its_ranges_follow_in_the_order_of_the_file() {
        check("", "0 1000 1");
        check("alice:100000:65536\n", "0 1000 1 1 100000 65536");
        check("bob:100000:65536\nalice:165536:65536", "0 1000 1 1 165536 65536");
        check("1000:300000:10\nalice:200000:5\n", "0 1000 1 1 300000 10 11 200000 5");
        check(" alice : 7 : 8 \n", "0 1000 1 1 7 8");
    }

    #[test]
    fn what_is_no_range_or_would_spoil_the_map_is_passed_over() {
        check("alice\nalice:1\nalice:x:3\nalice:5:-1\n# alice:1:2\nalice:100:0\n", "0 1000 1");
        check("alice:4294967290:10\nalice:4294967200:10\n", "0 1000 1 1 4294967200 10");
        check("alice:999:2\nalice:2000:5\n", "0 1000 1 1 2000 5");
        check("alice:2000:5\nalice:2004:5\nalice:2005:5\n", "0 1000 1 1 2000 5 6 2005 5");
        check("alicea:1:2\nalic:1:2\n10000:1:2\n", "0 1000 1");
        check("alice:2000:4294960000\nalice:10:8\n", "0 1000 1 1 2000 4294960000 4294960001 10 8");
    }

    #[test]
    fn no_map_has_more_lines_than_the_kernel_takes() {
        let file: String = (0..1000).map(|n| format!("alice:{}:10\n", 100_000 + n * 10)).collect();
        let map = map(1000, &subordinate(&file, Some("alice"), 1000));
        assert_eq!((map.len(), count(&map)), (340, 1 + 339 * 10));
    }

    #[test]
    fn a_namespace_of_root_keeps_the_ids_of_its_parent_but_is_told_from_the_first() {
        let check = |parent: &str, expected: &str| assert_eq!(text(&identity(parent)), expected, "of {parent:?}");
        check("         0          0 4294967295\n", "0 0 4294967294\n");
        check("0 100000 65536\n", "0 0 65536\n");
        check("0 1000 1\n1 100000 65536\n", "0 0 1\n1 1 65536\n");
        check("", "");
    }

    #[test]
    fn an_id_is_mapped_or_not() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        for (id, expected) in [(0, true), (1, true), (65536, true), (65537, false), (u32::MAX, false)] {
            assert_eq!(is_mapped(map, id), expected, "{id}");
        }
        assert!(!is_mapped("0 1000 1\n", 5));
    }
}
