//! Beneath which group of version 2 the groups of steps are made. [`choose`] is pure; [`look`] reads.
//!
//! A group of version 2 that limits its children holds no processes itself (cgroup-v2.rst, "No Internal Process
//! Constraint"). The builder's own group holds at least the builder, so:
//!
//! 1. The hierarchy's real root is exempt: groups are made in it.
//! 2. A group in which the builder is alone is given to us (a service, `systemd-run --scope`, a container): the builder
//!    moves into a leaf of it, and the steps go beside that.
//! 3. A group above that passes the controllers on already (a slice) takes the steps, if none of the groups that they
//!    leave by that has limits which they would evade.
//! 4. The root that a container sees, with other processes: they move to the leaf too, since nothing else can be done.
//!
//! 2 and 4 are done only for limits that were asked for. Without any, 3 or the builder's own group take the steps as
//! far as that changes nothing.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use super::settings::Controller;
use crate::machine::Hierarchy;

/// Where the builder goes when the group becomes that of the steps. No step's group has this name.
pub const LEAF: &str = "rbuild.builder";

/// What is seen of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its path beneath the mount.
    pub path: String,
    /// Whether it is the root of the hierarchy itself, not only of what we see of it.
    pub is_root: bool,
    /// Whether groups can be made in it and processes moved through it.
    pub writable: bool,
    /// What it could give its children.
    pub available: BTreeSet<Controller>,
    /// What it gives them.
    pub enabled: BTreeSet<Controller>,
    /// Whether it limits memory or processors.
    pub limited: bool,
    /// Whether processes beside the builder are in it.
    pub others: bool,
}

/// Where groups are made, and what is to be done before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The place in the chain.
    pub level: usize,
    /// Controllers to be passed on.
    pub enable: BTreeSet<Controller>,
    /// Whether the group's processes go into [`LEAF`] first.
    pub evacuate: bool,
}

/// Why there is no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody can give this controller.
    Missing(Controller),
    /// Groups cannot be made.
    NotWritable,
    /// The group holds other processes, and nobody above passes the controllers on.
    Busy,
}

/// `chain` begins with the builder's own group and goes up to the mount's root.
pub fn choose(chain: &[Seen], needed: &BTreeSet<Controller>) -> Result<Choice, Refusal> {
    let own = chain.first().ok_or(Refusal::NotWritable)?;
    let as_it_is = |level| Choice { level, enable: BTreeSet::new(), evacuate: false };
    // What may be left, and passes on what is needed or at least something.
    let above = || {
        let reach = chain.iter().position(|seen| seen.limited).unwrap_or(chain.len());
        let mut above = chain.iter().enumerate().take(reach + 1).skip(1);
        above.find(|(_, seen)| seen.writable && seen.enabled.is_superset(needed) && !seen.enabled.is_empty())
    };
    if needed.is_empty() {
        return match above() {
            _ if own.is_root && own.writable => Ok(as_it_is(0)),
            Some((level, _)) => Ok(as_it_is(level)),
            None if own.writable => Ok(as_it_is(0)),
            None => Err(Refusal::NotWritable),
        };
    }
    // Whoever was moved there by an earlier builder need not move again.
    if let (true, Some((level, _))) = (own.path.ends_with(LEAF), above()) {
        return Ok(as_it_is(level));
    }
    let can = own.writable && own.available.is_superset(needed);
    let enable: BTreeSet<_> = own.available.difference(&own.enabled).copied().collect();
    if can && (own.is_root || !own.others) {
        return Ok(Choice { level: 0, enable, evacuate: !own.is_root });
    }
    if let Some((level, _)) = above() {
        return Ok(as_it_is(level));
    }
    if can && chain.len() == 1 {
        return Ok(Choice { level: 0, enable, evacuate: true });
    }
    let offered = |controller: &&Controller| chain.iter().any(|seen| seen.available.contains(controller));
    if let Some(missing) = needed.iter().find(|controller| !offered(controller)) {
        return Err(Refusal::Missing(*missing));
    }
    Err(if own.writable { Refusal::Busy } else { Refusal::NotWritable })
}

/// The group at `path` and those above it, up to the mount's root.
pub fn look(hierarchy: &Hierarchy, path: &str) -> io::Result<Vec<Seen>> {
    let mut chain = Vec::new();
    let mut path = path.trim_end_matches('/');
    loop {
        chain.push(seen(hierarchy, if path.is_empty() { "/" } else { path })?);
        match path.rsplit_once('/') {
            Some((above, _)) => path = above,
            None => return Ok(chain),
        }
    }
}

fn seen(hierarchy: &Hierarchy, path: &str) -> io::Result<Seen> {
    let dir = hierarchy.dir(path);
    let text = |name: &str| match std::fs::read_to_string(dir.join(name)) {
        // The real root has no files about itself.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some),
    };
    let set = |name: &str| -> io::Result<BTreeSet<Controller>> {
        Ok(text(name)?.unwrap_or_default().split_whitespace().filter_map(Controller::named).collect())
    };
    let limited = |name: &str| -> io::Result<bool> {
        Ok(text(name)?.is_some_and(|text| !matches!(text.split_whitespace().next(), None | Some("max"))))
    };
    let own_id = std::process::id().to_string();
    let others = match text("cgroup.procs") {
        Ok(list) => list.unwrap_or_default().lines().any(|id| id != own_id),
        // A group of threads does not tell; nothing can be done with it.
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => true,
        Err(error) => return Err(error),
    };
    Ok(Seen {
        path: path.to_owned(),
        is_root: text("cgroup.type")?.is_none(),
        writable: !hierarchy.readonly && writable(&dir) && writable(&dir.join("cgroup.procs")),
        available: set("cgroup.controllers")?,
        enabled: set("cgroup.subtree_control")?,
        limited: limited("memory.max")? || limited("cpu.max")? || limited("cpuset.cpus")?,
        others,
    })
}

/// As the rights that count say, and not those of whoever started a set-uid program.
pub fn writable(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group as `flags: available > enabled`; flags are `root`, `rw`, `limited`, `others`, `leaf`.
    fn group(text: &str) -> Seen {
        let (flags, controllers) = text.split_once(':').unwrap();
        let (available, enabled) = controllers.split_once('>').unwrap();
        let set = |text: &str| text.split_whitespace().filter_map(Controller::named).collect();
        let flag = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        Seen {
            path: if flag("leaf") { format!("/x/{LEAF}") } else { String::new() },
            is_root: flag("root"),
            writable: flag("rw"),
            available: set(available),
            enabled: set(enabled),
            limited: flag("limited"),
            others: flag("others"),
        }
    }

    fn check(chain: &[&str], needed: &str, expected: &str) {
        let groups: Vec<_> = chain.iter().map(|text| group(text)).collect();
        let wanted = needed.split_whitespace().filter_map(Controller::named).collect();
        let shown = match choose(&groups, &wanted) {
            Ok(Choice { level, enable, evacuate }) => {
                let enable: String = enable.iter().map(|controller| format!(" +{controller}")).collect();
                format!("{level}{enable}{}", if evacuate { " evacuate" } else { "" })
            }
            Err(Refusal::Missing(controller)) => format!("no {controller}"),
            Err(Refusal::NotWritable) => "not writable".into(),
            Err(Refusal::Busy) => "busy".into(),
        };
        assert_eq!(shown, expected, "{chain:?} needs {needed}");
    }

    #[test]
    fn the_real_root_takes_steps_itself() {
        check(&["root rw others: memory cpu pids > memory pids"], "memory", "0 +cpu");
        check(&["root rw others: memory pids > memory pids"], "memory pids", "0");
        check(&["root rw others: memory >"], "", "0");
        check(&["root rw others: >"], "memory", "no memory");
        check(&["root others: memory > memory"], "memory", "not writable");
    }

    #[test]
    fn a_group_of_the_builders_own_is_given_to_steps_when_limits_ask_for_it() {
        check(&["rw: memory pids >", "rw root: memory pids > memory pids"], "memory", "0 +memory +pids evacuate");
        check(&["rw limited: memory pids >", "rw root: memory > memory"], "memory", "0 +memory +pids evacuate");
        // A container's root, alone and with its shell.
        check(&["rw: memory >"], "memory", "0 +memory evacuate");
        check(&["rw others: memory >"], "memory", "0 +memory evacuate");
        check(&["others: memory >"], "memory", "not writable");
        // Nothing is asked: nothing is changed.
        check(&["rw: memory >"], "", "0");
        check(&["rw others: memory >"], "", "0");
        check(&["others: memory >"], "", "not writable");
        check(&[], "", "not writable");
    }

    #[test]
    fn a_group_above_takes_steps_if_no_limit_is_evaded() {
        let session =
            ["rw others: memory pids >", "rw: memory pids > memory pids", "rw root: memory pids > memory pids"];
        check(&session, "memory", "1");
        check(&session, "", "1");
        check(&session, "cpu", "no cpu");
        let user = ["others: memory pids >", ": memory pids > memory pids", "root: memory pids cpu > memory pids cpu"];
        check(&user, "memory", "not writable");
        check(&user, "", "not writable");
        // The service has a limit of its own.
        let service = ["rw others limited: memory >", "rw: memory > memory", "rw root: memory > memory"];
        check(&service, "memory", "busy");
        check(&service, "", "0");
        // Two up, over a group that may be left, and over one that may not.
        check(&["rw others: cpu >", "rw: cpu memory > memory", "rw root: cpu memory > cpu memory"], "cpu", "2");
        check(&["rw others: cpu >", "rw limited: cpu memory > memory", "rw root: cpu > cpu"], "cpu", "busy");
        // After the builder went into its leaf, or beside another builder that did.
        check(&["rw leaf: memory >", "rw: memory > memory"], "memory", "1");
        check(&["rw leaf others: memory >", "rw: memory > memory"], "memory", "1");
    }
}
