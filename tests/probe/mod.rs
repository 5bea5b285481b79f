//! The probe: a program without any library that a test puts into an image, to be told what a step sees and may do.
//!
//! `probe.c` says which sections there are. It is built once per state of its source, natively and, where the machine
//! has 32-bit processes, as one of those. Used by the tests of the sandbox and by the end-to-end tests.

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

/// What a probe told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts(Vec<(String, String)>);

impl Facts {
    /// Reads its output.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| line.split_once(' ').unwrap_or((line, "")));
        Self(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The value of `SECTION.NAME`, which must be there.
    #[track_caller]
    pub fn of(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("the probe told nothing of {name}: {self:?}")).1
    }

    /// Names and values of a section, in the order in which the probe told them.
    pub fn section<'a>(&'a self, section: &str) -> Vec<(&'a str, &'a str)> {
        let of_it = |(name, value): &'a (String, String)| {
            Some((name.strip_prefix(section)?.strip_prefix('.')?, value.as_str()))
        };
        self.0.iter().filter_map(of_it).collect()
    }
}
