//! Which hierarchies of control groups there are, and where in them this process is.
//!
//! A machine may have version 2 alone, a hierarchy of version 1 per controller, or both: then a controller is in one of
//! them.

use std::io;
use std::path::{Path, PathBuf};

use super::mountinfo::{Mount, mounts};

/// Of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy per controller.
    One,
    /// One hierarchy for all.
    Two,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlGroups {
    /// Those of version 1 that have a controller, and that of version 2 if there is one.
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
    /// Whether it is there indeed. A mount may show a part of the hierarchy, and this process be elsewhere in it, as in
    /// a container that kept its outer path; then `own` is the top of what is shown.
    pub shows_own: bool,
    /// Of version 1: all its controllers.
    pub controllers: Vec<String>,
    /// Whether the mount refuses writes.
    pub readonly: bool,
}

impl Hierarchy {
    /// Of version 1: whether it has the controller of this name.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// A group of it as a host path.
    pub fn dir(&self, group: &str) -> PathBuf {
        self.mount.join(group.trim_start_matches('/'))
    }

    /// This process's group and those above it, up to the top of what is mounted, as host paths.
    pub fn own_and_above(&self) -> impl Iterator<Item = PathBuf> {
        Path::new(self.own.trim_matches('/')).ancestors().map(|group| self.mount.join(group))
    }
}

impl ControlGroups {
    /// What this process has, as if `root` were the root directory.
    ///
    /// # Errors
    /// When one of the two files cannot be read; it is named.
    pub fn beneath(root: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let read = |path: &str| {
            let path = root.join(path);
            std::fs::read_to_string(&path).map_err(|error| (path, error))
        };
        Ok(Self::parse(&read("proc/self/mountinfo")?, &read("proc/self/cgroup")?))
    }

    /// Understands both texts.
    pub fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for hierarchy in mounts(mountinfo).filter_map(|mount| hierarchy(mount, cgroup)) {
            let same =
                |known: &Hierarchy| known.version == hierarchy.version && known.controllers == hierarchy.controllers;
            // Mounted twice: where we are in it, and one that can be written to, is worth more.
            let worth = |one: &Hierarchy| (one.shows_own, !one.readonly);
            match hierarchies.iter_mut().find(|known| same(known)) {
                Some(known) if worth(known) < worth(&hierarchy) => *known = hierarchy,
                Some(_) => {}
                None => hierarchies.push(hierarchy),
            }
        }
        Self { hierarchies }
    }

    /// Only those in which this process sees its own group.
    pub fn that_show_own(mut self) -> Self {
        self.hierarchies.retain(|hierarchy| hierarchy.shows_own);
        self
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

/// A line of `/proc/self/cgroup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership<'a> {
    /// `cpu,cpuacct`, `name=systemd`; of version 2 nothing.
    pub controllers: &'a str,
    /// The group, beneath the top that this process's namespace knows.
    pub path: &'a str,
}

impl Membership<'_> {
    /// Whether it is that of version 2.
    pub fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Whether it is that of a hierarchy with one of these controllers.
    fn has_one_of(&self, controllers: &[String]) -> bool {
        self.controllers.split(',').any(|name| controllers.iter().any(|controller| controller == name))
    }
}

/// The groups that a process is in; a line that is none is passed over.
pub fn memberships(cgroup: &str) -> impl Iterator<Item = Membership<'_>> {
    cgroup.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some(Membership { controllers: fields.next()?, path: fields.next()? })
    })
}

/// A mount, if it is one of a hierarchy that this process is in.
fn hierarchy(mount: Mount<'_>, cgroup: &str) -> Option<Hierarchy> {
    let (version, controllers) = match mount.kind {
        "cgroup2" => (Version::Two, Vec::new()),
        "cgroup" => {
            // Options hold flags beside the controllers; a line of ours tells which is which.
            let names = memberships(cgroup).flat_map(|own| own.controllers.split(','));
            let names = names.filter(|name| !name.is_empty() && !name.contains('='));
            let mut names: Vec<_> = names.filter(|name| mount.options().any(|option| option == *name)).collect();
            names.sort_unstable();
            (Version::One, names.into_iter().map(String::from).collect())
        }
        _ => return None,
    };
    if version == Version::One && controllers.is_empty() {
        return None;
    }
    let own = memberships(cgroup).find(|own| match version {
        Version::Two => own.is_unified(),
        Version::One => own.has_one_of(&controllers),
    })?;
    let own = match mount.root.as_str() {
        "/" => Some(own.path),
        root => own.path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    let own = own.filter(|own| own.split('/').all(|part| part != ".."));
    Some(Hierarchy {
        version,
        mount: mount.place.into(),
        own: own.filter(|own| !own.is_empty()).unwrap_or("/").to_owned(),
        shows_own: own.is_some(),
        controllers,
        readonly: mount.readonly,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `version mount own controllers` per hierarchy, and ` ro`, ` elsewhere`.
    fn check(mountinfo: &[&str], cgroup: &[&str], expected: &[&str]) {
        let machine = ControlGroups::parse(&mountinfo.join("\n"), &cgroup.join("\n"));
        let shown = |hierarchy: &Hierarchy| {
            let version = if hierarchy.version == Version::One { "v1" } else { "v2" };
            let readonly = if hierarchy.readonly { " ro" } else { "" };
            let elsewhere = if hierarchy.shows_own { "" } else { " elsewhere" };
            let names: String = hierarchy.controllers.iter().map(|name| format!(" {name}")).collect();
            format!("{version} {} {}{names}{readonly}{elsewhere}", hierarchy.mount.display(), hierarchy.own)
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
        let expected = [
            "v1 /sys/fs/cgroup/memory /job/1 memory",
            "v1 /sys/fs/cgroup/cpu,cpuacct / cpu cpuacct",
            "v1 /sys/fs/cgroup/devices / devices",
        ];
        check(&one, &own, &expected);
        // Both: version 2 without controllers.
        let mixed = [one[0], "41 24 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"];
        let expected = ["v1 /sys/fs/cgroup/memory /job/1 memory", "v2 /sys/fs/cgroup/unified /s"];
        check(&mixed, &["4:memory:/job/1", "0::/s"], &expected);
        check(&one, &["0::/s"], &[]);
        // A mount of a part.
        let part = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw";
        check(&[part], &["0::/docker/abc/x"], &["v2 /sys/fs/cgroup /x ro"]);
        check(&[part], &["0::/docker/abc"], &["v2 /sys/fs/cgroup / ro"]);
        check(&[part], &["0::/docker/abcd"], &["v2 /sys/fs/cgroup / ro elsewhere"]);
        check(&[part, TWO], &["0::/elsewhere"], &["v2 /sys/fs/cgroup /elsewhere"]);
        check(&[TWO], &["0::/../other"], &["v2 /sys/fs/cgroup / elsewhere"]);
        // Mounted twice, once to be written to; a blank in the path.
        let again = "50 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw";
        check(&[readonly, again], &["0::/"], &["v2 /my groups /"]);
        check(&["x", " - ", "1 2 3 - cgroup2"], &["0::/", "::", "x"], &[]);
    }

    #[test]
    fn groups_are_named_from_the_own_one_up_to_the_top() {
        let own = |mountinfo, cgroup| {
            let groups = ControlGroups::parse(mountinfo, cgroup);
            groups.unified().expect("it is mounted").own_and_above().collect::<Vec<_>>()
        };
        let mount = "1 2 0:3 / /m rw - cgroup2 cgroup2 rw";
        assert_eq!(own(mount, "0::/a/b"), ["/m/a/b", "/m/a", "/m"].map(PathBuf::from));
        assert_eq!(own(mount, "0::/"), ["/m"].map(PathBuf::from));
    }
}
