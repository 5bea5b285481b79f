//! From what is asked to what is done: a list of small named acts, built as data before anything happens.
//!
//! In comes a [`ProcessSpec`], out goes a [`Plan`]; nothing is touched. The list can be printed (one act per line),
//! travels to the helper as JSON, and is performed in order by `perform`. An act that fails ends the step, and its
//! printed line is part of the error. Where an act stands matters; the comments in [`plan`] say why.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cgroup::ControlGroup;
use super::groups;
use super::policy;
use super::seccomp::{self, Insn};
use super::secret::{AgentSocket, SecretFile, SecretVariable};
use super::spec::{
    Bind, BindSource, Handed, Limit, Mount, MountKind, Network as NetworkMode, Overlay, ProcessSpec, RootFs, Tmpfs,
    WindowSize,
};
use super::userns::UserNamespace;
use crate::emulate::Emulator;
use crate::userns::IdMap;

/// The acts of one step, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan(pub Vec<Act>);

/// One act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Starts the process in new namespaces. The helper's act; all others are the new process's own.
    Namespaces(Vec<Namespace>),
    /// Makes the user namespace that the process will end up in. The helper's act.
    UserNamespace(UserNamespace),
    /// Gives that namespace handlers of its own for programs of other architectures. The helper's act.
    Handlers(Vec<Emulator>),
    /// From now on what the process makes belongs to the root of its user namespace.
    FilesOfItsRoot(IdMap),
    /// Goes into a control group, and sees no other from then on.
    ControlGroup(ControlGroup),
    /// Asks the kernel to kill the process when the helper dies.
    DieWithHelper,
    /// Leaves the terminal and process group of whoever started the builder.
    NewSession,
    /// No mount made from now on reaches the host, nor the reverse.
    PrivateMounts,
    /// Goes to a network namespace that was prepared.
    JoinNetwork(Handed),
    /// Goes to the network namespace that came with the user namespace.
    JoinItsNetwork,
    /// Switches the loopback interface on.
    Loopback,
    /// Sets the host name.
    Hostname(String),
    /// Mounts a small memory file system, unreachable by path, for generated files and the empty directory of masks.
    Stage,
    /// Mounts the root over the host's.
    Root(RootFs),
    /// Mounts a kernel file system.
    FileSystem(FileSystem),
    /// Shows the step's own control groups at `/sys/fs/cgroup`.
    ControlGroups {
        /// Whether writes are refused.
        readonly: bool,
    },
    /// Makes a device node in `/dev`.
    Device {
        /// Name in `/dev`.
        name: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Binds a device node of the host into `/dev`, where nobody may make one.
    HostDevice {
        /// Name in `/dev`, here and there.
        name: String,
        /// Major number that it must have.
        major: u32,
        /// Minor number that it must have.
        minor: u32,
    },
    /// Binds the host's `/sys`, read-only.
    HostSys,
    /// Makes a link in `/dev`.
    DeviceLink {
        /// Name in `/dev`.
        name: String,
        /// Where it points.
        target: String,
    },
    /// Binds a generated file, read-only.
    GeneratedFile {
        /// Path inside the root.
        target: String,
        /// Its bytes, which are text.
        text: String,
    },
    /// Binds a tree.
    Bind {
        /// Path inside the root.
        target: String,
        /// What.
        bind: Bind,
    },
    /// Binds a file with a secret, read-only.
    SecretFile {
        /// Path inside the root.
        target: String,
        /// What.
        file: SecretFile,
    },
    /// Binds the socket of an ssh agent, which is handed to the builder.
    AgentSocket {
        /// Path inside the root.
        target: String,
        /// What.
        socket: AgentSocket,
    },
    /// Takes a secret that the command gets as a variable.
    SecretVariable(SecretVariable),
    /// Opens a terminal in the new `/dev/pts`, hands its controlling side to the builder, binds `/dev/console`.
    Terminal(WindowSize),
    /// Makes existing paths read-only.
    ReadOnly(String),
    /// Hides a path.
    Mask(String),
    /// Makes the new root the root and lets go of the host's.
    Pivot,
    /// Goes into a control group.
    JoinControlGroup(ControlGroup),
    /// Makes a directory the root, where nothing can be mounted.
    ChangeRoot(PathBuf),
    /// Sets a resource limit.
    Limit(Limit),
    /// Standard input, output and error.
    Stdio {
        /// Whether standard input is the descriptor that came with the plan; otherwise `/dev/null`, or the terminal.
        stdin: bool,
    },
    /// Becomes the root of its user namespace: from here on the machine's rights are gone.
    EnterUserNamespace {
        /// Whether its mounts and host name become the namespace's too, which only who may change them needs.
        owning: bool,
    },
    /// Goes to the working directory, making it when missing.
    WorkingDirectory(String),
    /// Takes all other capabilities from the bounding set.
    BoundCapabilities(Vec<String>),
    /// Filters system calls from now on, by this program.
    Filter(Vec<Insn>),
    /// Becomes the user, with its groups, and learns its `HOME`.
    User {
        /// As the image's accounts or numbers have it; empty is root.
        user: String,
        /// Whether its groups are set; otherwise it keeps the builder's.
        groups: bool,
    },
    /// Keeps these capabilities when the user is root, none otherwise; inheritable and ambient sets are emptied.
    Capabilities(Vec<String>),
    /// Marks every descriptor from 3 on to be closed by exec.
    CloseDescriptors,
    /// Becomes the command.
    Exec {
        /// The command.
        args: Vec<String>,
        /// Its environment, but for `HOME`.
        env: Vec<String>,
        /// The path of an emulator that runs it.
        through: Option<String>,
    },
}

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// Mounts.
    Mount,
    /// Process ids.
    Pid,
    /// Host name.
    Uts,
    /// System V IPC and message queues.
    Ipc,
    /// The view of control groups.
    Cgroup,
    /// Interfaces, addresses, ports.
    Network,
}

/// A kernel file system and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// `proc`, `tmpfs`, ….
    pub kind: String,
    /// Path inside the root.
    pub target: String,
    /// Options of the file system.
    pub options: Vec<(String, String)>,
    /// Flags of the mount.
    pub flags: Flags,
    /// Whether `target` must be a directory of the image itself, not one that a link leads to.
    pub no_links: bool,
}

/// Flags of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags {
    /// Refuses writes.
    pub readonly: bool,
    /// Ignores set-uid bits and file capabilities.
    pub nosuid: bool,
    /// Ignores device nodes.
    pub nodev: bool,
    /// Refuses to execute.
    pub noexec: bool,
}

/// The group of terminals, in every distribution.
const TTY_GROUP: u32 = 5;

/// nosuid, nodev, noexec: for file systems that hold neither programs nor devices.
pub const INERT: Flags = Flags { readonly: false, nosuid: true, nodev: true, noexec: true };

/// Builds the acts for `spec`. Pure.
pub fn plan(spec: &ProcessSpec) -> Plan {
    use Namespace::*;
    let mut namespaces = vec![Mount, Pid, Uts, Ipc];
    // The namespace's root is the group that the process is in when it is made: with a group, after entering that.
    if spec.group.is_none() {
        namespaces.push(Cgroup);
    }
    // It belongs to the user namespace, where there is one.
    if spec.network == NetworkMode::None && spec.user_namespace.is_none() {
        namespaces.push(Network);
    }
    let users = spec.user_namespace.as_ref();
    let mut acts: Vec<_> =
        users.map(|ids| Act::UserNamespace(UserNamespace::of(ids, spec.network))).into_iter().collect();
    if !spec.emulators.is_empty() {
        acts.push(Act::Handlers(spec.emulators.clone()));
    }
    acts.push(Act::Namespaces(namespaces));
    acts.extend(spec.group.clone().map(Act::ControlGroup));
    // Before it asks to die with the helper, which the kernel forgets when ids change.
    acts.extend(users.filter(|ids| !ids.is_identity()).cloned().map(Act::FilesOfItsRoot));
    acts.extend([Act::DieWithHelper, Act::NewSession, Act::PrivateMounts]);
    match spec.network {
        NetworkMode::Host => {}
        NetworkMode::None if users.is_some() => acts.extend([Act::JoinItsNetwork, Act::Loopback]),
        NetworkMode::None => acts.push(Act::Loopback),
        // Before `/sys` is mounted, which shows the network of whoever mounts it.
        NetworkMode::Joined(namespace) => acts.push(Act::JoinNetwork(namespace)),
    }
    acts.push(Act::Hostname(spec.hostname.clone()));
    // The stage before the root: both are stacked on the host's root, and the root must be on top to be pivoted to.
    acts.push(Act::Stage);
    acts.push(Act::Root(spec.root.clone()));
    acts.extend(standard_mounts(spec));
    acts.push(generated("/etc/hosts", hosts(&spec.hostname, &spec.extra_hosts)));
    acts.push(generated("/etc/resolv.conf", spec.resolv_conf.clone()));
    acts.extend(parents_first(&spec.mounts).into_iter().map(|mount| match &mount.kind {
        MountKind::Bind(bind) => Act::Bind { target: mount.target.clone(), bind: bind.clone() },
        MountKind::Tmpfs(tmpfs) => Act::FileSystem(memory(&mount.target, tmpfs)),
        MountKind::Secret(file) => Act::SecretFile { target: mount.target.clone(), file: file.clone() },
        MountKind::Agent(socket) => Act::AgentSocket { target: mount.target.clone(), socket: socket.clone() },
    }));
    acts.extend(spec.terminal.map(Act::Terminal));
    // Read-only before masks: a mask below a read-only path must stay on top.
    acts.extend(spec.read_only.iter().cloned().map(Act::ReadOnly));
    acts.extend(spec.masked.iter().cloned().map(Act::Mask));
    acts.push(Act::Pivot);
    acts.extend(spec.limits.iter().cloned().map(Act::Limit));
    acts.push(Act::Stdio { stdin: spec.stdin });
    let may_mount = spec.capabilities.iter().any(|name| name == "SYS_ADMIN");
    acts.extend(users.map(|_| Act::EnterUserNamespace { owning: may_mount }));
    // As root, which may enter any directory; the bounding set needs SETPCAP, which the user may not have.
    acts.push(Act::WorkingDirectory(spec.cwd.clone()));
    acts.push(Act::BoundCapabilities(spec.capabilities.clone()));
    if spec.filter {
        // While CAP_SYS_ADMIN is there: without it the kernel would want `no_new_privs`. All later acts are calls that
        // the filter lets through, and from here on the image's own files are read.
        acts.push(Act::Filter(seccomp::compiled(&spec.capabilities)));
    }
    acts.push(Act::User { user: spec.user.clone(), groups: spec.surroundings.setgroups });
    acts.push(Act::Capabilities(spec.capabilities.clone()));
    // Again: the kernel forgets it when ids or capabilities change.
    acts.push(Act::DieWithHelper);
    acts.extend(spec.secret_env.iter().cloned().map(Act::SecretVariable));
    acts.push(Act::CloseDescriptors);
    acts.push(Act::Exec { args: spec.args.clone(), env: spec.env.clone(), through: spec.through.clone() });
    Plan(acts)
}

/// Parents before children, else the parent would hide the child. The sort is stable.
pub(crate) fn parents_first(mounts: &[Mount]) -> Vec<&Mount> {
    let mut mounts: Vec<_> = mounts.iter().collect();
    mounts.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    mounts
}

/// `/proc`, `/sys`, `/dev` and what is in it.
fn standard_mounts(spec: &ProcessSpec) -> Vec<Act> {
    let mount = |kind: &str, target: &str, options: &[(&str, &str)], flags| {
        Act::FileSystem(FileSystem {
            kind: kind.into(),
            target: target.into(),
            options: options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            flags,
            no_links: true,
        })
    };
    let device_flags = Flags { nosuid: true, ..Flags::default() };
    let pty_flags = Flags { nosuid: true, noexec: true, ..Flags::default() };
    let mut acts = vec![
        mount("proc", "/proc", &[], INERT),
        // The kernel shows a new sysfs only to the owner of the network that it would show.
        match shows_host_sys(spec) {
            false => mount("sysfs", "/sys", &[], Flags { readonly: !spec.kernel_writable, ..INERT }),
            true => Act::HostSys,
        },
        Act::ControlGroups { readonly: !spec.kernel_writable },
        mount("tmpfs", "/dev", &[("mode", "755"), ("size", "65536k")], device_flags),
    ];
    let bound = spec.surroundings.user_namespace;
    acts.extend(policy::DEVICES.iter().map(|&(name, major, minor)| match bound {
        false => Act::Device { name: name.into(), major, minor },
        true => Act::HostDevice { name: name.into(), major, minor },
    }));
    acts.extend(
        policy::DEVICE_LINKS.iter().map(|&(name, target)| Act::DeviceLink { name: name.into(), target: target.into() }),
    );
    let mut pty_options = vec![("ptmxmode", "0666"), ("mode", "0620")];
    let tty_group =
        spec.user_namespace.as_ref().map_or(Some(TTY_GROUP), |ids| ids.group(TTY_GROUP)).map(|id| id.to_string());
    let tty_group = tty_group.as_deref().filter(|_| spec.surroundings.tty_group);
    pty_options.extend(tty_group.map(|group| ("gid", group)));
    acts.push(mount("devpts", "/dev/pts", &pty_options, pty_flags));
    let shm = spec.shm_size_bytes.to_string();
    acts.push(mount("tmpfs", "/dev/shm", &[("mode", "1777"), ("size", &shm)], INERT));
    acts.push(mount("mqueue", "/dev/mqueue", &[], INERT));
    acts
}

/// Whether `/sys` is the host's: in a user namespace, a new one comes only with a network of its own.
fn shows_host_sys(spec: &ProcessSpec) -> bool {
    spec.surroundings.user_namespace && spec.network == NetworkMode::Host
}

fn memory(target: &str, tmpfs: &Tmpfs) -> FileSystem {
    let mut options = vec![("mode".to_owned(), format!("{:o}", tmpfs.mode))];
    if tmpfs.size_bytes > 0 {
        options.push(("size".into(), tmpfs.size_bytes.to_string()));
    }
    let flags = Flags { nosuid: true, nodev: true, ..Flags::default() };
    FileSystem { kind: "tmpfs".into(), target: target.into(), options, flags, no_links: false }
}

fn generated(target: &str, text: String) -> Act {
    Act::GeneratedFile { target: target.into(), text }
}

/// Text of `/etc/hosts`.
pub(crate) fn hosts(hostname: &str, extra: &[(String, String)]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

impl fmt::Display for Plan {
    /// One act per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|act| writeln!(f, "{act}"))
    }
}

impl fmt::Display for Act {
    /// One line. Values of the environment are left out: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Namespaces(kinds) => {
                f.write_str("new namespaces")?;
                kinds.iter().try_for_each(|kind| write!(f, " {}", format!("{kind:?}").to_lowercase()))
            }
            Act::UserNamespace(wanted) => write!(f, "{wanted}"),
            Act::Handlers(emulators) => {
                f.write_str("handlers of its own:")?;
                emulators.iter().try_for_each(|emulator| write!(f, " {} by {:?}", emulator.arch, emulator.path))
            }
            Act::FilesOfItsRoot(_) => f.write_str("make files as root of the user namespace"),
            Act::JoinItsNetwork => f.write_str("join the network of the user namespace"),
            Act::EnterUserNamespace { owning } => {
                write!(f, "enter the user namespace{}", if *owning { ", with mounts and host name" } else { "" })
            }
            Act::ControlGroup(_) => f.write_str("enter the control group, new namespace cgroup"),
            Act::JoinControlGroup(_) => f.write_str("enter the control group"),
            Act::ChangeRoot(path) => write!(f, "change the root to {path:?}"),
            Act::DieWithHelper => f.write_str("die with the helper"),
            Act::NewSession => f.write_str("new session"),
            Act::PrivateMounts => f.write_str("make all mounts private"),
            Act::JoinNetwork(_) => f.write_str("join the prepared network"),
            Act::Loopback => f.write_str("loopback up"),
            Act::Hostname(name) => write!(f, "host name {name:?}"),
            Act::Stage => f.write_str("stage for generated files"),
            Act::Root(RootFs::Overlay(overlay)) => write!(f, "root {}", Layers(overlay)),
            Act::Root(RootFs::Tree { path }) => write!(f, "root {path:?}"),
            Act::FileSystem(fs) => {
                write!(f, "mount {} on {:?}{}", fs.kind, fs.target, Words(fs.flags))?;
                fs.options.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
            }
            Act::ControlGroups { readonly } => {
                write!(f, "control groups on {:?} {}", groups::PLACE, if *readonly { "ro" } else { "rw" })
            }
            Act::Device { name, major, minor } => write!(f, "device /dev/{name} {major}:{minor}"),
            Act::HostDevice { name, major, minor } => write!(f, "the host's /dev/{name} {major}:{minor}"),
            Act::HostSys => f.write_str("the host's /sys ro nosuid nodev noexec"),
            Act::DeviceLink { name, target } => write!(f, "link /dev/{name} to {target}"),
            Act::GeneratedFile { target, text } => write!(f, "generated file on {target:?} ({} bytes)", text.len()),
            Act::Bind { target, bind } => {
                write!(f, "bind on {target:?} ")?;
                match &bind.source {
                    BindSource::Overlay(overlay) => write!(f, "{}", Layers(overlay))?,
                    BindSource::Path(path) | BindSource::Lent(path) | BindSource::Own(path) => write!(f, "{path:?}")?,
                }
                if !matches!(bind.subpath.as_str(), "" | "/") {
                    write!(f, " at {:?}", bind.subpath)?;
                }
                f.write_str(if bind.readonly { " ro" } else { " rw" })
            }
            Act::SecretFile { target, file } => {
                write!(f, "secret on {target:?} owner {}:{} mode {:o}", file.uid, file.gid, file.mode)
            }
            Act::AgentSocket { target, socket } => {
                write!(f, "ssh agent on {target:?} owner {}:{} mode {:o}", socket.uid, socket.gid, socket.mode)
            }
            Act::SecretVariable(variable) => write!(f, "secret variable {}", variable.name),
            Act::Terminal(size) => write!(f, "terminal {}x{}", size.columns, size.rows),
            Act::ReadOnly(path) => write!(f, "read-only {path:?}"),
            Act::Mask(path) => write!(f, "mask {path:?}"),
            Act::Pivot => f.write_str("pivot to the root"),
            Act::Limit(limit) => write!(f, "limit {} {}:{}", limit.name, limit.soft, limit.hard),
            Act::Stdio { stdin: true } => f.write_str("standard input from the builder"),
            Act::Stdio { stdin: false } => f.write_str("no standard input"),
            Act::WorkingDirectory(path) => write!(f, "working directory {path:?}"),
            Act::BoundCapabilities(names) => write!(f, "bound capabilities {}", names.join(" ")),
            Act::Filter(program) => write!(f, "filter system calls by {} instructions", program.len()),
            Act::User { user, groups } => {
                if user.is_empty() {
                    f.write_str("user root")?
                } else {
                    write!(f, "user {user:?}")?
                }
                f.write_str(if *groups { "" } else { ", groups as they are" })
            }
            Act::Capabilities(names) => write!(f, "capabilities {}", names.join(" ")),
            Act::CloseDescriptors => f.write_str("close descriptors"),
            Act::Exec { args, env, through } => {
                write!(f, "exec {args:?}")?;
                through.iter().try_for_each(|emulator| write!(f, " through {emulator:?}"))?;
                f.write_str(" with")?;
                env.iter().try_for_each(|pair| write!(f, " {}", pair.split('=').next().unwrap_or_default()))
            }
        }
    }
}

struct Layers<'a>(&'a Overlay);

impl fmt::Display for Layers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "overlay of {} layers in {:?}", self.0.lowers.len(), self.0.layers_dir)?;
        self.0.upper.as_ref().map_or(Ok(()), |upper| write!(f, " under {:?}", upper.dir))
    }
}

struct Words(Flags);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flags { readonly, nosuid, nodev, noexec } = self.0;
        let words = [(readonly, " ro"), (nosuid, " nosuid"), (nodev, " nodev"), (noexec, " noexec")];
        words.iter().filter(|(set, _)| *set).try_for_each(|(_, word)| f.write_str(word))
    }
}
