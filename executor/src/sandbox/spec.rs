//! What can be asked of the sandbox, as plain data.
//!
//! Host paths in here are the builder's own (its store, its user's volumes) and trusted; every path that is meant
//! inside the root is hostile and is resolved beneath it by descriptor. Next: [`super::plan`].

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cgroup::ControlGroup;
use super::policy;
use super::secret::{AgentSocket, SecretFile, SecretVariable};
use crate::emulate::Emulator;
use crate::rootless::Surroundings;
use crate::userns::IdMap;

/// A process and all that it may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Its root file system.
    pub root: RootFs,
    /// The command; never empty. A name without `/` is looked up in `PATH`.
    pub args: Vec<String>,
    /// `NAME=value`, exactly what the process gets; only `HOME` is added when absent.
    pub env: Vec<String>,
    /// Variables whose values travel beside the spec; they win over those of `env`.
    pub secret_env: Vec<SecretVariable>,
    /// Absolute path inside the root; made (0755, root's) when missing.
    pub cwd: String,
    /// `user[:group]`, names or numbers, resolved in the root; empty is root.
    pub user: String,
    /// Host name.
    pub hostname: String,
    /// Network.
    pub network: Network,
    /// Mounts beside the standard ones; parents are mounted before children whatever the order here.
    pub mounts: Vec<Mount>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size_bytes: u64,
    /// Resource limits; what is not named is inherited.
    pub limits: Vec<Limit>,
    /// Extra lines of `/etc/hosts`: (name, address).
    pub extra_hosts: Vec<(String, String)>,
    /// Text of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Capabilities by kernel name without `CAP_`; see [`policy::CAPABILITIES`].
    pub capabilities: Vec<String>,
    /// Whether system calls are filtered; see [`super::seccomp`].
    pub filter: bool,
    /// Whether `/sys` and the control groups may be written to, as far as the capabilities allow.
    pub kernel_writable: bool,
    /// Paths that are hidden; see [`policy::MASKED`]. A missing path is skipped.
    pub masked: Vec<String>,
    /// Paths that are made read-only; see [`policy::READ_ONLY`]. A missing path is skipped.
    pub read_only: Vec<String>,
    /// Whether the process gets a terminal of its own, and its first size.
    pub terminal: Option<WindowSize>,
    /// Whether its standard input is one that the builder hands over; otherwise `/dev/null`.
    pub stdin: bool,
    /// The ids of a user namespace of its own; `None`: it is in the builder's.
    pub user_namespace: Option<IdMap>,
    /// Emulators that are handlers in that namespace alone; see [`crate::emulate`]. None without one.
    pub emulators: Vec<Emulator>,
    /// The path of an emulator inside that runs the command.
    pub through: Option<String>,
    /// What the builder's user namespace lets the set-up do; [`super::run`] knows.
    pub surroundings: Surroundings,
    /// The control group that it is put into; `None`: it stays in the builder's.
    pub group: Option<ControlGroup>,
}

impl ProcessSpec {
    /// `args` as root in `root`, with the default policy, no network, an empty environment.
    pub fn new(root: RootFs, args: Vec<String>) -> Self {
        let owned = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
        Self {
            root,
            args,
            env: Vec::new(),
            secret_env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            hostname: policy::HOSTNAME.into(),
            network: Network::None,
            mounts: Vec::new(),
            shm_size_bytes: policy::SHM_SIZE_BYTES,
            limits: Vec::new(),
            extra_hosts: Vec::new(),
            resolv_conf: String::new(),
            capabilities: owned(policy::CAPABILITIES),
            filter: true,
            kernel_writable: false,
            masked: owned(policy::MASKED),
            read_only: owned(policy::READ_ONLY),
            terminal: None,
            stdin: false,
            user_namespace: None,
            emulators: Vec::new(),
            through: None,
            surroundings: Surroundings::default(),
            group: None,
        }
    }
}

/// Which of the [`Descriptors`] that travel with a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed(usize);

impl Handed {
    /// Stands for one where nothing is handed: in plans that are only shown.
    pub fn shown() -> Self {
        Self(0)
    }

    /// Finds it among what arrived.
    pub fn among(self, arrived: &[OwnedFd]) -> Option<BorrowedFd<'_>> {
        arrived.get(self.0).map(OwnedFd::as_fd)
    }
}

/// Descriptors that travel with a spec to the helper, which holds them until the step is dead, whoever else dies
/// meanwhile. The step's set-up may use them; its command gets none of them.
#[derive(Default)]
pub struct Descriptors<'a>(pub(super) Vec<BorrowedFd<'a>>);

impl<'a> Descriptors<'a> {
    /// Adds a lock, which only has to be held.
    pub fn hold(&mut self, lock: BorrowedFd<'a>) {
        self.0.push(lock);
    }

    /// Adds one that an act needs.
    pub fn hand(&mut self, descriptor: BorrowedFd<'a>) -> Handed {
        self.0.push(descriptor);
        Handed(self.0.len() - 1)
    }
}

/// A root file system. It is mounted inside the step's mount namespace and vanishes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootFs {
    /// Layers under a writable directory.
    Overlay(Overlay),
    /// A tree of the store; writes go to it.
    Tree {
        /// Host path.
        path: PathBuf,
    },
}

/// An overlay of the store's layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Host path of the directory that `lowers` are names in.
    pub layers_dir: PathBuf,
    /// Names of layers, the topmost first. May be empty when there is an upper.
    pub lowers: Vec<String>,
    /// Where writes go; `None` is a read-only view.
    pub upper: Option<Upper>,
}

/// The writable part of an overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    /// Host path of the upper directory; afterwards it is the diff.
    pub dir: PathBuf,
    /// Host path of overlayfs's scratch directory, on the same file system.
    pub work: PathBuf,
}

/// Which network the process is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The builder's own.
    Host,
    /// Loopback only.
    None,
    /// A namespace that was prepared, and travels with the spec.
    Joined(Handed),
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the root. Missing parts are made and reported as stubs.
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
}

/// What a mount is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A tree from elsewhere.
    Bind(Bind),
    /// Memory.
    Tmpfs(Tmpfs),
    /// A file with a secret.
    Secret(SecretFile),
    /// The socket of an ssh agent.
    Agent(AgentSocket),
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Where it comes from.
    pub source: BindSource,
    /// Path inside the source, resolved beneath it; empty or `/` is all of it.
    pub subpath: String,
    /// Whether writes are refused.
    pub readonly: bool,
}

/// Where a bind mount comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindSource {
    /// A view of other layers; with an upper for writes that are thrown away.
    Overlay(Overlay),
    /// A host path that is not the store's: a device, or a volume that the user names. Mounts below it come along.
    Path(PathBuf),
    /// A directory of the store that outlives the step. Its owners are those of an image, whatever user namespace the
    /// process is in; those of [`Self::Own`] too.
    Lent(PathBuf),
    /// What was made in the store for this step alone, and goes with it.
    Own(PathBuf),
}

/// A memory file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Limit in bytes; 0 is the kernel's default (half of the memory).
    pub size_bytes: u64,
    /// Permission bits of its root directory.
    pub mode: u32,
}

/// One resource limit. `-1` is unlimited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// `nofile`, `nproc`, …: the names of setrlimit(2) in small letters without `RLIMIT_`.
    pub name: String,
    /// What counts now.
    pub soft: i64,
    /// Up to where the process may raise it.
    pub hard: i64,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}
