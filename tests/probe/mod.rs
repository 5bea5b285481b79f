//! The probe: a program without any library that a test puts into an image, to be told what a step sees and may do.
//!
//! `probe.c` says which sections there are, `facts.rs` reads what they say. It is built once per state of its source,
//! natively and, where the machine has 32-bit processes, as one of those. Used by the tests of the sandbox and by the
//! end-to-end tests.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const SOURCE: &str = include_str!("probe.c");

/// As what a probe is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// As every program of this machine.
    Native,
    /// As a 32-bit process, which calls the kernel by other numbers.
    Narrow,
}

impl Width {
    /// Those that this machine runs.
    pub fn all() -> &'static [Self] {
        if cfg!(target_arch = "x86_64") { &[Self::Native, Self::Narrow] } else { &[Self::Native] }
    }
}

/// The program; built if it is not there yet.
pub fn program(width: Width) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let state = SOURCE.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3) // FNV-1a
    });
    let path = directory.join(format!("probe-{width:?}-{state:016x}"));
    if !path.exists() {
        // Several tests build it at once; each its own, and a rename is all or nothing.
        let own = directory.join(format!("probe-{width:?}-{}", std::process::id()));
        let mut gcc = Command::new("gcc");
        gcc.args([
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-static",
            "-nostdlib",
            "-ffreestanding",
            "-fno-pie",
            "-no-pie",
        ]);
        gcc.arg("-fno-stack-protector");
        // The kernel's headers serve both widths; the search path of the narrow one lacks them.
        gcc.arg(format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH));
        if width == Width::Narrow {
            gcc.arg("-m32");
        }
        gcc.args(["-x", "c", "-"]).arg("-o").arg(&own).stdin(Stdio::piped());
        let mut running = gcc.spawn().expect("gcc is installed");
        running.stdin.take().expect("it is piped").write_all(SOURCE.as_bytes()).expect("gcc reads its input");
        assert!(running.wait().expect("gcc ends").success(), "{gcc:?}");
        std::fs::rename(&own, &path).expect("both are in one directory");
    }
    path
}
