//! What the helper is asked to do: from what the sandbox would be asked for, to things that are put into a directory and
//! acts of a process in it. Pure, but for [`Own::here`].
//!
//! Of the sandbox's acts those are left that need neither a mount nor a namespace; they mean what they mean there.
//! Deliberately absent, because they would take CAP_SYS_ADMIN: a filter of system calls, masked and read-only paths.

use std::path::PathBuf;

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::lacks;
use crate::sandbox::plan::{self, Act, Plan};
use crate::sandbox::spec::{Bind, BindSource, MountKind, ProcessSpec, RootFs};
use crate::sandbox::{AgentSocket, SandboxError};

/// A step, as the helper gets it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// The directory that becomes the root; writes go to it.
    pub tree: PathBuf,
    /// An empty directory on the same file system.
    pub aside: PathBuf,
    /// What is put into the tree, in this order.
    pub puts: Vec<Put>,
    /// What the step's process does.
    pub plan: Plan,
}

/// Something in the tree for as long as the step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Put {
    /// Where, in the image.
    pub target: String,
    /// What.
    pub thing: Thing,
}

/// What is put somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Thing {
    /// An empty directory, at a place that no link leads to.
    Reserved,
    /// The same with devices.
    Devices,
    /// An empty directory, whose content goes with the step.
    Empty {
        /// Its permission bits.
        mode: u32,
    },
    /// A file that is not the image's.
    Text(String),
    /// A directory that outlives the step: moved there and back.
    Lent {
        /// Where it belongs.
        home: PathBuf,
        /// Path in it.
        subpath: String,
    },
    /// A copy of a directory that outlives the step.
    Copied {
        /// The original.
        of: PathBuf,
        /// Path in it.
        subpath: String,
    },
    /// What was made for this step: moved there, and gone with it.
    Own(PathBuf),
    /// The socket of an agent.
    Agent(AgentSocket),
}

impl std::fmt::Display for Put {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match &self.thing {
            Thing::Reserved | Thing::Empty { .. } => "an empty directory",
            Thing::Devices => "devices",
            Thing::Text(_) => "a generated file",
            Thing::Lent { .. } => "a cache",
            Thing::Copied { .. } => "a copy of a cache",
            Thing::Own(_) => "a bind",
            Thing::Agent(_) => "an ssh agent",
        };
        write!(f, "put {what} at {:?}", self.target)
    }
}

/// What this process may do, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    permitted: CapabilitySet,
    bounding: CapabilitySet,
    hostname: String,
}

impl Own {
    /// That of this process.
    pub fn here() -> std::io::Result<Self> {
        let permitted = rustix::thread::capabilities(None)?.permitted;
        let mut bounding = CapabilitySet::empty();
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            match rustix::thread::capability_is_in_bounding_set(one) {
                Ok(true) => bounding |= one,
                Ok(false) => {}
                // Beyond the last that this kernel knows.
                Err(rustix::io::Errno::INVAL) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { permitted, bounding, hostname })
    }

    /// What of `names` a step keeps. Without CAP_KILL nobody may change its user: it could not be ended any more.
    fn kept(&self, names: &[String]) -> CapabilitySet {
        let asked = names.iter().filter_map(|name| CapabilitySet::from_name(name));
        let kept = asked.fold(CapabilitySet::empty(), |all, one| all | one) & self.permitted;
        match kept.contains(CapabilitySet::KILL) {
            true => kept,
            false => kept - CapabilitySet::SETUID - CapabilitySet::SETGID,
        }
    }
}

/// What the helper is asked to do for `spec`.
///
/// # Errors
/// When it asks for what cannot be had.
pub(crate) fn task(spec: &ProcessSpec, own: &Own) -> Result<Task, SandboxError> {
    lacks::refuse(spec)?;
    let malformed = |detail: &str| SandboxError::Act { act: "chroot".into(), detail: detail.into(), errno: None };
    let RootFs::Overlay(overlay) = &spec.root else { return Err(malformed("its root is no tree of layers")) };
    let upper = overlay.upper.as_ref().ok_or_else(|| malformed("its root cannot be written to"))?;
    let put = |target: &str, thing| Put { target: target.into(), thing };
    let mut puts = vec![put("/proc", Thing::Reserved), put("/sys", Thing::Reserved), put("/dev", Thing::Devices)];
    puts.push(put("/etc/hosts", Thing::Text(plan::hosts(&own.hostname, &spec.extra_hosts))));
    puts.push(put("/etc/resolv.conf", Thing::Text(spec.resolv_conf.clone())));
    let mut lent = Vec::new();
    for mount in plan::parents_first(&spec.mounts) {
        let thing = match &mount.kind {
            MountKind::Bind(Bind { source: BindSource::Own(path), subpath, .. })
                if matches!(subpath.as_str(), "" | "/") =>
            {
                Thing::Own(path.clone())
            }
            MountKind::Bind(Bind { source: BindSource::Lent(home), subpath, readonly: true }) => {
                Thing::Copied { of: home.clone(), subpath: subpath.clone() }
            }
            MountKind::Bind(Bind { source: BindSource::Lent(home), subpath, readonly: false }) => {
                if lent.contains(&home) {
                    return Err(malformed(
                        "it has one cache mount in two places, and without mounts it is in one alone",
                    ));
                }
                lent.push(home);
                Thing::Lent { home: home.clone(), subpath: subpath.clone() }
            }
            MountKind::Tmpfs(tmpfs) => Thing::Empty { mode: tmpfs.mode },
            MountKind::Agent(socket) => Thing::Agent(socket.clone()),
            MountKind::Bind(_) | MountKind::Secret(_) => return Err(malformed("a mount of another kind")),
        };
        puts.push(put(&mount.target, thing));
    }
    Ok(Task { tree: upper.dir.clone(), aside: upper.work.clone(), puts, plan: acts(spec, own, upper.dir.clone()) })
}

fn acts(spec: &ProcessSpec, own: &Own, tree: PathBuf) -> Plan {
    let kept = own.kept(&spec.capabilities);
    let names: Vec<String> = kept.iter_names().map(|(name, _)| name.to_owned()).collect();
    let mut acts = Vec::new();
    acts.extend(spec.group.clone().map(Act::JoinControlGroup));
    acts.extend([Act::DieWithHelper, Act::NewSession, Act::ChangeRoot(tree)]);
    acts.extend(spec.limits.iter().cloned().map(Act::Limit));
    acts.push(Act::Stdio { stdin: true });
    acts.push(Act::WorkingDirectory(spec.cwd.clone()));
    // It takes CAP_SETPCAP, which a container that was given no more than it needs may lack.
    if !kept.contains(own.bounding) {
        acts.push(Act::BoundCapabilities(names.clone()));
    }
    let groups = spec.surroundings.setgroups && kept.contains(CapabilitySet::SETGID);
    acts.extend([Act::User { user: spec.user.clone(), groups }, Act::Capabilities(names), Act::DieWithHelper]);
    acts.extend(spec.secret_env.iter().cloned().map(Act::SecretVariable));
    acts.push(Act::CloseDescriptors);
    acts.push(Act::Exec { args: spec.args.clone(), env: spec.env.clone(), through: None });
    Plan(acts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::spec::{Mount, Network, Overlay, Tmpfs, Upper};
    use crate::sandbox::{Handed, SecretFile, policy};

    const FLOOR: [CapabilitySet; 4] =
        [CapabilitySet::SYS_CHROOT, CapabilitySet::CHOWN, CapabilitySet::FOWNER, CapabilitySet::DAC_OVERRIDE];

    fn set(names: &[&str]) -> CapabilitySet {
        names
            .iter()
            .filter_map(|name| CapabilitySet::from_name(name))
            .fold(CapabilitySet::empty(), |all, one| all | one)
    }

    fn own(permitted: CapabilitySet) -> Own {
        Own { permitted, bounding: permitted, hostname: "pod".into() }
    }

    fn spec() -> ProcessSpec {
        let upper = Some(Upper { dir: "/s/fs".into(), work: "/s/work".into() });
        let root = RootFs::Overlay(Overlay { layers_dir: "/s/layers".into(), lowers: Vec::new(), upper });
        ProcessSpec { network: Network::Host, ..ProcessSpec::new(root, vec!["make".into()]) }
    }

    fn bind(target: &str, source: BindSource, readonly: bool) -> Mount {
        Mount { target: target.into(), kind: MountKind::Bind(Bind { source, subpath: String::new(), readonly }) }
    }

    #[test]
    fn a_step_gets_the_usual_capabilities_as_far_as_they_are_there() {
        let kept = |permitted| own(permitted).kept(&spec().capabilities);
        let usual = set(policy::CAPABILITIES);
        assert_eq!(kept(usual), usual);
        assert_eq!(kept(CapabilitySet::all()), usual);
        let floor = FLOOR.into_iter().fold(CapabilitySet::empty(), |all, one| all | one);
        assert_eq!(kept(floor), floor);
        // Whoever became another user could not be ended.
        assert_eq!(kept(usual - CapabilitySet::KILL), usual - set(&["KILL", "SETUID", "SETGID"]));
    }

    #[test]
    fn the_bounding_set_is_left_alone_where_it_holds_no_more() {
        let bounds =
            |own: Own| acts(&spec(), &own, "/".into()).0.iter().any(|act| matches!(act, Act::BoundCapabilities(_)));
        let usual = set(policy::CAPABILITIES);
        assert!(!bounds(own(usual)));
        assert!(!bounds(own(set(&["CHOWN", "KILL"]))));
        assert!(bounds(own(usual | CapabilitySet::SYS_ADMIN)));
        assert!(bounds(Own { bounding: CapabilitySet::all(), ..own(usual) }));
    }

    #[test]
    fn mounts_become_things_that_are_put_parents_first() {
        let mut wanted = spec();
        wanted.mounts = vec![
            bind("/a/b/c", BindSource::Own("/s/view".into()), true),
            bind("/a", BindSource::Lent("/s/cache".into()), false),
            bind("/r", BindSource::Lent("/s/other".into()), true),
            Mount { target: "/t".into(), kind: MountKind::Tmpfs(Tmpfs { size_bytes: 0, mode: 0o1777 }) },
        ];
        let puts = task(&wanted, &own(CapabilitySet::all())).expect("all can be had").puts;
        let shown: Vec<_> = puts.iter().map(|put| put.to_string()).collect();
        assert_eq!(
            shown,
            [
                "put an empty directory at \"/proc\"",
                "put an empty directory at \"/sys\"",
                "put devices at \"/dev\"",
                "put a generated file at \"/etc/hosts\"",
                "put a generated file at \"/etc/resolv.conf\"",
                "put a cache at \"/a\"",
                "put a copy of a cache at \"/r\"",
                "put an empty directory at \"/t\"",
                "put a bind at \"/a/b/c\"",
            ]
        );
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_what_to_do() {
        use super::super::Lack;
        let check = |change: &dyn Fn(&mut ProcessSpec), expected: Lack| {
            let mut wanted = spec();
            change(&mut wanted);
            match task(&wanted, &own(CapabilitySet::all())) {
                Err(SandboxError::NotOnThisRung { lack }) => assert_eq!(lack, expected),
                other => panic!("{expected:?}: {other:?}"),
            }
            assert!(!expected.hint().is_empty());
        };
        let secret = SecretFile { bytes: Handed::shown(), uid: 0, gid: 0, mode: 0o400 };
        let secret = Mount { target: "/s".into(), kind: MountKind::Secret(secret) };
        check(&|spec| spec.filter = false, Lack::Insecure);
        check(&|spec| spec.network = Network::None, Lack::NoNetwork);
        check(&|spec| spec.mounts = vec![secret.clone()], Lack::SecretFile);
        check(&|spec| spec.hostname = "other".into(), Lack::Hostname);
        check(&|spec| spec.shm_size_bytes = 1, Lack::ShmSize);
        check(&|spec| spec.mounts = vec![bind("/v", BindSource::Path("/home".into()), false)], Lack::Volume);
        let twice = |spec: &mut ProcessSpec| {
            spec.mounts = ["/a", "/b"].map(|target| bind(target, BindSource::Lent("/c".into()), false)).to_vec();
        };
        let mut wanted = spec();
        twice(&mut wanted);
        let refused = task(&wanted, &own(CapabilitySet::all())).expect_err("it is in one place alone").to_string();
        assert!(refused.contains("one cache mount in two places"), "{refused}");
    }
}
