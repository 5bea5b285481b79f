//! Runs one process in namespaces of its own: our minimal container runtime.
//!
//! In comes a [`ProcessSpec`] (plain data); out go the process's output, its exit, and the [`Stub`]s that its mounts
//! left in the root. Deliberately absent: snapshots, layers, caching, Dockerfile words, and any daemon.
//!
//! Three kinds of processes take part:
//!
//! ```text
//!  builder (threads, tokio)            A: helper, one for all steps     B: the step
//!  ────────────────────────            ────────────────────────────     ─────────────────────────────
//!  with the first step:
//!  posix_spawn own binary ───────────► init (no threads)
//!  run(): spec ─► plan
//!  a socket, in which plan,
//!  stdin, stdout wait ───────────────► clone(new namespaces) ────────► reads the plan
//!  ◄─── stubs, terminal, failed act ──────────────────────────────────┤ perform: act by act (socket closed by exec)
//!  ◄─── pidfd of B ────────────────────┤ waits for each B or for        exec: the command is PID 1
//!  ◄─── exit, usage ───────────────────┤ its socket to close ── KILL ─► all of its namespace dies
//! ```
//!
//! The multi-threaded builder never forks into Rust code: it spawns (vfork and exec at once). A is single-threaded,
//! so it may clone and let its copies B run ordinary code. Whoever dies takes the steps along: the builder's death
//! closes the sockets and A kills each B; A's death is B's parent-death signal, and the builder, which holds B's pidfd,
//! kills as well. B is PID 1 of its PID namespace, so its end is the end of everything in it, and the mount
//! namespace with all its mounts ends with the last process. Nothing goes from one step to another: A reads no plan and
//! no secret, it holds descriptors only, and a new B lets go of all that are not its own before its first act.
//!
//! Reading order: [`spec`] (what can be asked), [`policy`] (the default answers), [`plan`] (the acts, printable),
//! [`init`] and `perform` (the acts done), [`beneath`] (paths inside a hostile root), [`helper`] and [`run`] (the
//! builder's side).

mod ahead;
pub(crate) mod beneath;
mod cgroup;
mod driver;
mod error;
mod exe;
mod execute;
mod groups;
mod helper;
mod hide;
mod host;
pub(crate) mod init;
pub(crate) mod mount;
mod open_files;
mod output;
pub(crate) mod perform;
pub mod plan;
pub mod policy;
mod privilege;
mod run;
pub mod seccomp;
mod secret;
mod spare;
pub mod spec;
pub(crate) mod stub;
pub(crate) mod sys;
mod terminal;
pub(crate) mod trouble;
mod user;
mod userns;
pub(crate) mod wire;

pub use cgroup::ControlGroup;
pub use driver::{Driven, Driver};
pub use error::SandboxError;
pub use init::{ARGV0, init_if_asked};
pub(crate) use mount::{Stage, overlay};
pub use open_files::raise_open_files;
pub use plan::{Act, Plan};
pub use privilege::own_capabilities;
pub use run::{Exit, Finished, Io, Output, Settings, Stdin, Usage, run, run_with};
pub(crate) use secret::BACKLOG;
pub use secret::{AgentSocket, SecretFile, SecretVariable, agent_listener, handed_memory};
pub use spec::{
    Bind, BindSource, Descriptors, Handed, Limit, Mount, MountKind, Network, Overlay, ProcessSpec, RootFs, Tmpfs,
    WindowSize,
};
pub use stub::{Stub, StubKind, remove_stubs};
pub use terminal::Terminal;
pub(crate) use userns::{Mapping, own_files};
pub use userns::{Owned, UserNamespace};
