//! Which ids of the machine are those of steps. Pure; [`Machine::read`] reads what the machine says.
//!
//! In: the texts of `/etc/subuid`, `/etc/subgid`, `/etc/passwd` and `/etc/group`, and what the settings ask for. Out: an
//! [`IdMap`] of 65,536 ids at least, from 0 on: `nobody` is 65534 in every image.

use serde::{Deserialize, Serialize};

use super::UsernsError;
use crate::rootless::ids::{Extent, Range, count, extents, identity, subordinate};

/// Images use ids up to this one.
pub const IDS_MIN: u32 = 65536;
/// Whose subordinate ids are taken, the first that has enough: podman's order but for our own name.
const OWNERS: [&str; 3] = ["rbuild", "root", "containers"];
/// Where ranges of our own begin: above what `useradd` gives away (up to 600,100,000), what systemd gives to containers
/// (up to 0x6fffffff) and what sssd gives to users of a domain (up to 2,000,200,000).
const OWN_FIRST: u32 = 0x7800_0000;
/// systemd's range for foreign images begins here.
const OWN_END: u32 = 0x7ffe_0000;
/// Below are accounts of the machine itself, whatever a file says.
const FIRST_MIN: u32 = 65536;

/// The ids of a user namespace, for users and for groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<Extent>,
    /// Of groups.
    pub gids: Vec<Extent>,
}

impl IdMap {
    /// `count` ids from `first` on, of users and groups alike, are 0 and following.
    pub fn of(range: Range) -> Self {
        Self { uids: extents(&[range]), gids: extents(&[range]) }
    }

    /// Every id that there is here is itself.
    ///
    /// # Errors
    /// When the kernel does not say which there are.
    pub fn identity() -> std::io::Result<Self> {
        let map = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).map(|text| identity(&text));
        Ok(Self { uids: map("uid_map")?, gids: map("gid_map")? })
    }

    /// Whether every id is itself.
    pub fn is_identity(&self) -> bool {
        self.uids.iter().chain(&self.gids).all(|extent| extent.inside == extent.outside)
    }

    /// What a user of the namespace is outside.
    pub fn user(&self, id: u32) -> Option<u32> {
        outside(&self.uids, id)
    }

    /// What a group of the namespace is outside.
    pub fn group(&self, id: u32) -> Option<u32> {
        outside(&self.gids, id)
    }
}

impl std::fmt::Display for IdMap {
    /// In words: `65536 ids from 2013265920`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = self.uids.first().map_or(0, |extent| extent.outside);
        write!(f, "{} ids from {first}", count(&self.uids).min(count(&self.gids)))
    }
}

fn outside(map: &[Extent], id: u32) -> Option<u32> {
    let of = |extent: &Extent| id.checked_sub(extent.inside).filter(|n| *n < extent.count);
    map.iter().find_map(|extent| of(extent).map(|n| extent.outside + n))
}

/// What the machine says of ids.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// `/etc/subuid`.
    pub subuid: String,
    /// `/etc/subgid`.
    pub subgid: String,
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

impl Machine {
    /// This one. A file that is not there gives nothing to anybody.
    ///
    /// # Errors
    /// When one is there and cannot be read: it might give away what we would take.
    pub fn read() -> Result<Self, UsernsError> {
        let read = |path: &str| match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            text => text
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(UsernsError::io(format!("read `{path}`"))),
        };
        Ok(Self {
            subuid: read("/etc/subuid")?,
            subgid: read("/etc/subgid")?,
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
        })
    }

    /// Every range that is somebody's, and accounts as ranges of one.
    fn taken(&self) -> Vec<Range> {
        let given = [&self.subuid, &self.subgid].into_iter().flat_map(|text| text.lines()).filter_map(|line| {
            let mut fields = line.split(':').skip(1);
            let (first, count) = (fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?);
            Some(Range { first, count })
        });
        let accounts = [&self.passwd, &self.group].into_iter().flat_map(|text| text.lines()).filter_map(|line| {
            let first = line.split(':').nth(2)?.trim().parse().ok()?;
            Some(Range { first, count: 1 })
        });
        given.chain(accounts).collect()
    }
}

fn overlap(one: Range, other: Range) -> bool {
    let end = |range: Range| u64::from(range.first) + u64::from(range.count);
    u64::from(one.first) < end(other) && u64::from(other.first) < end(one)
}

/// The ids of steps: those that were `asked` for, else subordinate ids of `rbuild`, `root` or `containers`, else the first
/// 65,536 from 2013265920 on that nobody has. Pure.
///
/// # Errors
/// When what was asked for holds an account or too little, or nothing is left.
pub fn choose(asked: Option<Range>, machine: &Machine) -> Result<IdMap, UsernsError> {
    if let Some(range) = asked {
        return check(range, machine).map(|()| IdMap::of(range));
    }
    let of_owner = |owner: &&str| {
        // Accounts of these names need not exist, and -1 is no id: only the name counts.
        let uid = if *owner == "root" { 0 } else { u32::MAX };
        let map = |text: &str| {
            let ranges = subordinate(text, Some(owner), uid).into_iter().filter(|range| range.first >= FIRST_MIN);
            Some(extents(&ranges.collect::<Vec<_>>())).filter(|map| count(map) >= IDS_MIN.into())
        };
        Some(IdMap { uids: map(&machine.subuid)?, gids: map(&machine.subgid)? })
    };
    if let Some(map) = OWNERS.iter().find_map(of_owner) {
        return Ok(map);
    }
    let taken = machine.taken();
    let mut own = (OWN_FIRST..OWN_END).step_by(IDS_MIN as usize).map(|first| Range { first, count: IDS_MIN });
    let free = own.find(|range| !taken.iter().any(|other| overlap(*range, *other)));
    free.map(IdMap::of).ok_or(UsernsError::NoIds)
}

fn check(range: Range, machine: &Machine) -> Result<(), UsernsError> {
    let refused = |reason: String| {
        let range = format!("{}:{}", range.first, range.count);
        Err(UsernsError::Range { range, reason })
    };
    if range.count < IDS_MIN {
        return refused(format!("images use {IDS_MIN} of them"));
    }
    if range.first < FIRST_MIN {
        return refused(format!("ids below {FIRST_MIN} are those of the machine itself"));
    }
    // -1 is no id.
    if range.first.checked_add(range.count).is_none() {
        return refused("there are none that large".into());
    }
    for (file, text) in [("/etc/passwd", &machine.passwd), ("/etc/group", &machine.group)] {
        for line in text.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.trim().parse().ok())) else {
                continue;
            };
            if overlap(range, Range { first: id, count: 1 }) {
                return refused(format!("`{name}` of `{file}` has one of them, {id}"));
            }
        }
    }
    Ok(())
}

/// A range as settings have it: `FIRST:COUNT`.
///
/// # Errors
/// For everything else. What it holds is judged by [`choose`].
pub fn range(text: &str) -> Result<Range, String> {
    let numbers = text.split_once(':').and_then(|(first, count)| {
        Some(Range { first: first.trim().parse().ok()?, count: count.trim().parse().ok()? })
    });
    numbers
        .ok_or_else(|| format!("`{text}` is not a range of ids like `2013265920:65536`: the first one, and how many"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootless::ids::text;

    fn machine(subuid: &str, subgid: &str) -> Machine {
        Machine {
            subuid: subuid.into(),
            subgid: subgid.into(),
            passwd: "root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/:\nfar:x:2013265921:5::/:\n".into(),
            group: "root:x:0:\nodd\n".into(),
        }
    }

    #[track_caller]
    fn check(subuid: &str, subgid: &str, expected: &str) {
        let told = match choose(None, &machine(subuid, subgid)) {
            Ok(map) => format!("{}/{}", text(&map.uids).replace('\n', ";"), text(&map.gids).replace('\n', ";")),
            Err(error) => error.to_string(),
        };
        assert_eq!(told, expected, "{subuid:?} {subgid:?}");
    }

    #[test]
    fn ids_are_those_of_an_owner_who_has_enough_else_some_that_nobody_has() {
        // `far` has an account in the first range of our own.
        let own = "0 2013331456 65536;/0 2013331456 65536;";
        check("", "", own);
        check("root:100000:65536", "root:200000:65536", "0 100000 65536;/0 200000 65536;");
        check("0:100000:65536", "root:200000:65536", "0 100000 65536;/0 200000 65536;");
        check(
            "root:100000:65536\nrbuild:300000:65536",
            "root:1000000:65536\nrbuild:400000:70000",
            "0 300000 65536;/0 400000 70000;",
        );
        check("containers:100000:65536", "containers:100000:65536", "0 100000 65536;/0 100000 65536;");
        check(
            "root:100000:40000\nroot:200000:30000",
            "root:100000:65536",
            "0 100000 40000;40000 200000 30000;/0 100000 65536;",
        );
        // Too few, of one kind alone, or the machine's own.
        check("root:100000:65535", "root:100000:65536", own);
        check("root:100000:65536", "", own);
        check("root:0:65536\nroot:1000:65536", "root:100000:65536", own);
        check("bob:100000:65536", "bob:100000:65536", own);
    }

    #[test]
    fn nothing_that_somebody_has_is_taken() {
        check("bob:2013331456:1", "", "0 2013396992 65536;/0 2013396992 65536;");
        check("bob:2013331455:3", "eve:2013400000:65536", "0 2013528064 65536;/0 2013528064 65536;");
        check(
            "bob:2013265920:134086656",
            "",
            "there are no ids to spare for user namespaces: `/etc/subuid` and `/etc/subgid` give all of them away",
        );
    }

    #[test]
    fn a_range_of_the_settings_is_taken_whole_or_refused() {
        let check = |asked: &str, expected: &str| {
            let chosen = range(asked).map_err(|error| error.to_string());
            let chosen = chosen.and_then(|range| {
                choose(Some(range), &machine("root:100000:65536", "root:100000:65536"))
                    .map_err(|error| error.to_string())
            });
            match chosen {
                Ok(map) => assert_eq!(map.to_string(), expected, "{asked}"),
                Err(error) => assert!(error.contains(expected), "{asked}: {error}"),
            }
        };
        check("3000000000:65536", "65536 ids from 3000000000");
        check(" 500000 : 200000 ", "200000 ids from 500000");
        check("500000:65535", "images use 65536 of them");
        check("1000:65536", "those of the machine itself");
        check("4294900000:67296", "none that large");
        check("2013265900:65536", "`far` of `/etc/passwd` has one of them, 2013265921");
        check("500000", "is not a range of ids");
        check("a:b", "is not a range of ids");
    }

    #[test]
    fn an_id_is_found_outside() {
        let map = IdMap {
            uids: extents(&[Range { first: 100, count: 10 }, Range { first: 500, count: 5 }]),
            gids: Vec::new(),
        };
        for (id, expected) in
            [(0, Some(100)), (9, Some(109)), (10, Some(500)), (14, Some(504)), (15, None), (u32::MAX, None)]
        {
            assert_eq!(map.user(id), expected, "{id}");
        }
        assert_eq!(map.group(0), None);
    }
}
