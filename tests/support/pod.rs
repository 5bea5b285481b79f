//! A pod without privileges: root with some capabilities, to which mounts and namespaces are refused.
//!
//! `pod.c` makes one of the process that it is; gcc builds it once per state of its source.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Context, Outcome, Store, bases, room, temp_dir};

const SOURCE: &str = include_str!("pod.c");
/// The 14 capabilities of a container, as a mask.
pub const USUAL: u64 = 0xa804_25fb;

/// A store in a pod.
pub struct Pod {
    /// Where it is.
    pub store: Store,
    /// Capabilities, as a mask.
    pub capabilities: u64,
}

impl Pod {
    /// With the capabilities of a container, and nothing in the store.
    pub fn new() -> Self {
        Self { store: Store::new(), capabilities: USUAL }
    }

    /// Its store holds `busybox:latest`.
    pub fn with_busybox() -> Self {
        let pod = Self::new();
        Outcome::of(&mut pod.rbuild(&["import", &bases::busybox().display().to_string(), "busybox:latest"])).ok();
        pod
    }

    /// `rbuild ARGS…` in the pod, by the rung `chroot` unless the arguments or the environment say otherwise.
    pub fn rbuild(&self, args: &[&str]) -> Command {
        let mut command = self.enclosed(&self.store.command(args));
        command.env("RBUILD_ISOLATION", "chroot");
        command
    }

    /// A build in the pod, not yet started.
    pub fn build_command(&self, context: &Context, args: &[&str]) -> Command {
        let mut command = self.enclosed(&self.store.build_command(context, args));
        command.env("RBUILD_ISOLATION", "chroot");
        command
    }

    /// A build in the pod, to its end.
    pub fn build(&self, context: &Context, args: &[&str]) -> Outcome {
        Outcome::of(&mut self.build_command(context, args))
    }

    /// The command, in the pod.
    fn enclosed(&self, plain: &Command) -> Command {
        let mut command = Command::new(program());
        command.arg(format!("{:x}", self.capabilities)).arg(plain.get_program()).args(plain.get_args());
        command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(plain.get_current_dir().expect("every command has one")).stdin(Stdio::null());
        command
    }
}

fn program() -> PathBuf {
    let state = SOURCE.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3) // FNV-1a
    });
    let path = room().join(format!("pod-{state:016x}"));
    if !path.exists() {
        // Several tests build it at once; each its own, and a rename is all or nothing.
        let beside = temp_dir();
        let (own, source) = (beside.path().join("pod"), beside.path().join("pod.c"));
        std::fs::write(&source, SOURCE).expect("the directory is new");
        Outcome::of(Command::new("gcc").args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&own).arg(&source)).ok();
        std::fs::rename(&own, &path).expect("both are in the room");
    }
    path
}
