//! Which hierarchies of control groups there are, and where in them this process is. Pure.
//!
//! In: the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`; proc(5), cgroups(7). Out: a [`Machine`]. A machine
//! may have version 2 alone, a hierarchy of version 1 per controller, or both: then a controller is in one of them.

use std::path::PathBuf;

use super::settings::{Controller, Version};

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Those of version 1 that have one of our controllers, and that of version 2 if there is one.
    pub hierarchies: Vec<Hierarchy>,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Which files are in it.
    pub version: Version,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Where this process is beneath that: `/`, `/user.slice/x`.
    pub own: String,
    /// Of version 1: all its controllers, also those that are not ours.
    pub controllers: Vec<String>,
    /// Whether the mount refuses writes.
    pub readonly: bool,
}

impl Hierarchy {
    /// Of version 1: whether it has this controller.
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers.iter().any(|name| name == controller.name())
    }

    /// A group of it as a host path.
    pub fn dir(&self, group: &str) -> PathBuf {
        self.mount.join(group.trim_start_matches('/'))
    }
}

impl Machine {
    /// Understands both texts. What cannot be understood is left out.
    pub fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for hierarchy in mountinfo.lines().filter_map(|line| mounted(line, cgroup)) {
            let same =
                |known: &Hierarchy| known.version == hierarchy.version && known.controllers == hierarchy.controllers;
            match hierarchies.iter_mut().find(|known| same(known)) {
                // Mounted twice: one that can be written to is worth more.
                Some(known) if known.readonly && !hierarchy.readonly => *known = hierarchy,
                Some(_) => {}
                None => hierarchies.push(hierarchy),
            }
        }
        Self { hierarchies }
    }

    /// That of version 2.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::Two)
    }

    /// Those of version 1.
    pub fn legacy(&self) -> impl Iterator<Item = &Hierarchy> {
        self.hierarchies.iter().filter(|hierarchy| hierarchy.version == Version::One)
    }
}

/// A line of mountinfo, if it is one of a hierarchy that is of use.
fn mounted(line: &str, cgroup: &str) -> Option<Hierarchy> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, place, flags) = (unescape(fields.next()?), unescape(fields.next()?), fields.next()?);
    let mut fields = file_system.split(' ');
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    let (version, controllers) = match kind {
        "cgroup2" => (Version::Two, Vec::new()),
        "cgroup" => {
            let own = cgroup.lines().filter_map(|line| line.split(':').nth(1));
            // Options hold flags beside the controllers; a line of ours tells which is which.
            let names = own.flat_map(|list| list.split(',')).filter(|name| !name.is_empty() && !name.contains('='));
            let mut names: Vec<_> = names.filter(|name| options.split(',').any(|option| option == *name)).collect();
            names.sort_unstable();
            (Version::One, names.into_iter().map(String::from).collect())
        }
        _ => return None,
    };
    if version == Version::One && !controllers.iter().any(|name: &String| Controller::named(name).is_some()) {
        return None;
    }
    let path = cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (list, path) = (fields.next()?, fields.next()?);
        let is_it = match version {
            Version::Two => list.is_empty(),
            Version::One => list.split(',').any(|name| controllers.iter().any(|controller| controller == name)),
        };
        is_it.then_some(path)
    })?;
    // A mount may show a part of the hierarchy: what is beneath its root. A group outside of it cannot be seen.
    let own = match root.as_str() {
        "/" => path,
        root => path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/'))?,
    };
    if own.split('/').any(|part| part == "..") {
        return None;
    }
    let own = if own.is_empty() { "/" } else { own };
    let readonly = flags.split(',').any(|flag| flag == "ro");
    Some(Hierarchy { version, mount: place.into(), own: own.to_owned(), controllers, readonly })
}

/// mountinfo writes blanks and the like as `\040`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => out.push(code.into()),
            None => out.push('\\'),
        }
        rest = if code.is_some() { &after[3..] } else { after };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `version mount own controllers` per hierarchy.
    fn check(mountinfo: &[&str], cgroup: &[&str], expected: &[&str]) {
        let machine = Machine::parse(&mountinfo.join("\n"), &cgroup.join("\n"));
        let shown = |hierarchy: &Hierarchy| {
            let version = if hierarchy.version == Version::One { "v1" } else { "v2" };
            let readonly = if hierarchy.readonly { " ro" } else { "" };
            let names: String = hierarchy.controllers.iter().map(|name| format!(" {name}")).collect();
            format!("{version} {} {}{names}{readonly}", hierarchy.mount.display(), hierarchy.own)
        };
        let found: Vec<_> = machine.hierarchies.iter().map(shown).collect();
        assert_eq!(found, expected, "{mountinfo:?} {cgroup:?}");
    }

    #[test]
    fn machines_of_all_kinds_are_understood() {
        const TWO: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        check(&[], &[], &[]);
        check(&["23 1 8:1 / / rw - ext4 /dev/sda rw"], &["0::/"], &[]);
        check(&[TWO], &["0::/user.slice/a"], &["v2 /sys/fs/cgroup /user.slice/a"]);
        check(&[TWO], &["0::/"], &["v2 /sys/fs/cgroup /"]);
        let readonly = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw";
        check(&[readonly], &["0::/"], &["v2 /sys/fs/cgroup / ro"]);
        let one = [
            "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
            "32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
            "33 24 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
            "34 24 0:30 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices",
        ];
        let own = ["5:devices:/", "4:memory:/job/1", "3:cpu,cpuacct:/", "1:name=systemd:/s"];
        let expected = ["v1 /sys/fs/cgroup/memory /job/1 memory", "v1 /sys/fs/cgroup/cpu,cpuacct / cpu cpuacct"];
        check(&one, &own, &expected);
        // Both: version 2 without controllers.
        let mixed = [one[0], "41 24 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"];
        let expected = ["v1 /sys/fs/cgroup/memory /job/1 memory", "v2 /sys/fs/cgroup/unified /s"];
        check(&mixed, &["4:memory:/job/1", "0::/s"], &expected);
        // A mount of a part.
        let part = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw";
        check(&[part], &["0::/docker/abc/x"], &["v2 /sys/fs/cgroup /x ro"]);
        check(&[part], &["0::/docker/abc"], &["v2 /sys/fs/cgroup / ro"]);
        check(&[part], &["0::/docker/abcd"], &[]);
        check(&[TWO], &["0::/../other"], &[]);
        // Mounted twice, once to be written to; a blank in the path.
        let again = "50 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw";
        check(&[readonly, again], &["0::/"], &["v2 /my groups /"]);
        check(&["x", " - ", "1 2 3 - cgroup2"], &["0::/", "::", "x"], &[]);
    }
}
