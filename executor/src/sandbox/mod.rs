//! Runs one process in namespaces of its own: our minimal container runtime.
//!
//! In comes a [`ProcessSpec`] (plain data); out go the process's output, its exit, and the [`Stub`]s that its mounts
//! left in the root. Deliberately absent: snapshots, layers, caching, Dockerfile words, and any daemon.
//!
//! Three processes take part:
//!
//! ```text
//!  builder (threads, tokio)            A: helper                       B: the step
//!  ────────────────────────            ─────────────────────           ─────────────────────────────
//!  run(): spec ─► plan
//!  posix_spawn own binary ───────────► init::main (no threads)
//!  plan, stdin over a socket ────────► reads the plan
//!                                      clone(new namespaces) ────────► perform: act by act
//!  ◄─── stubs, terminal, failed act ──────────────────────────────────┤ (same socket, closed by exec)
//!  ◄─── pidfd of B ────────────────────┤ waits for B or for           exec: the command is PID 1
//!  ◄─── exit, usage ───────────────────┤ the socket to close ─ KILL ─► all of its namespace dies
//! ```
//!
//! The multi-threaded builder never forks into Rust code: it spawns (vfork and exec at once). A is single-threaded,
//! so it may clone and let its copy B run ordinary code. Whoever dies takes the step along: the builder's death
//! closes the socket and A kills B; A's death is B's parent-death signal, and the builder, which holds B's pidfd,
//! kills as well. B is PID 1 of its PID namespace, so its end is the end of everything in it, and the mount
//! namespace with all its mounts ends with the last process.
//!
//! Reading order: [`spec`] (what can be asked), [`policy`] (the default answers), [`plan`] (the acts, printable),
//! [`init`] and `perform` (the acts done), [`beneath`] (paths inside a hostile root), [`run`] (the builder's side).

mod beneath;
mod cgroup;
mod error;
mod exe;
mod groups;
mod host;
mod init;
mod mount;
mod open_files;
mod output;
mod perform;
pub mod plan;
pub mod policy;
mod privilege;
mod run;
pub mod seccomp;
mod secret;
pub mod spec;
mod stub;
pub(crate) mod sys;
mod terminal;
mod trouble;
mod user;
pub(crate) mod wire;

pub use cgroup::ControlGroup;
pub use error::SandboxError;
pub use init::{ARGV0, init_if_asked};
pub use open_files::raise_open_files;
pub use plan::{Act, Plan};
pub use privilege::own_capabilities;
pub use run::{Exit, Finished, Io, Output, Settings, Stdin, Usage, run, run_with};
pub use secret::{AgentSocket, SecretFile, SecretVariable, agent_listener, handed_memory};
pub use spec::{
    Bind, BindSource, Descriptors, Handed, Limit, Mount, MountKind, Network, Overlay, ProcessSpec, RootFs, Tmpfs,
    WindowSize,
};
pub use stub::{Stub, StubKind, remove_stubs};
