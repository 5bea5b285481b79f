//! Which programs this machine's processor and kernel run by themselves.
//!
//! In: a platform. Out: whether nothing has to be emulated. What the names tell is told by them; of a processor's other
//! mode (386 on amd64, arm on arm64), which kernels may lack, a program of a few instructions is run. Deliberately
//! absent: programs of other architectures, whose runs would prove a handler.

use std::io;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use oci::model::Platform;
use rustix::fs::{MemfdFlags, Mode, OFlags};

use super::arch::{Arch, STATUS};

/// What levels of amd64 add, by the names of `/proc/cpuinfo`. x86-64 psABI, "Microarchitecture levels".
const LEVELS: [(&str, &[&str]); 3] = [
    ("v2", &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]),
    ("v3", &["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"]),
    ("v4", &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

/// Whether a platform's programs run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Native {
    /// They do.
    Yes,
    /// They begin, but may use instructions that the processor lacks: the first of these.
    Weaker(&'static str),
    /// They do not.
    No,
}

/// Whether programs for `wanted` run on `own`, the platform of this machine. `flags` are those of its processor, `try_out`
/// is asked for another mode of it.
pub fn runs(
    wanted: &Platform,
    own: &Platform,
    flags: impl FnOnce() -> String,
    mut try_out: impl FnMut() -> bool,
) -> Native {
    if wanted.os != own.os {
        return Native::No;
    }
    match (wanted.architecture.as_str(), own.architecture.as_str()) {
        ("amd64", "amd64") if !wanted.variant.is_empty() => {
            lacking(&wanted.variant, &flags()).map_or(Native::Yes, Native::Weaker)
        }
        (wanted, own) if wanted == own => Native::Yes,
        ("386", "amd64") | ("arm", "arm64") if try_out() => Native::Yes,
        _ => Native::No,
    }
}

/// What a level of amd64 needs and a processor with these flags lacks.
fn lacking(level: &str, flags: &str) -> Option<&'static str> {
    let wanted = LEVELS.iter().position(|(name, _)| *name == level)?;
    let needed = LEVELS[..=wanted].iter().flat_map(|(_, needed)| needed.iter());
    needed.copied().find(|needed| !flags.split_whitespace().any(|flag| flag == *needed))
}

/// The flags of the first processor; none where the kernel does not say.
pub fn processor_flags() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    flags.map_or_else(String::new, |(_, flags)| flags.to_owned())
}

/// Whether a program of this architecture runs here, by running one. Blocking, for a millisecond.
///
/// # Errors
/// When that cannot be found out.
pub fn try_out(arch: &Arch) -> io::Result<bool> {
    let file = program(arch)?;
    let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Whatever the refusal is: this kernel does not run it.
    Ok(command.status().is_ok_and(|status| status.code() == Some(STATUS)))
}

/// The trial program of an architecture as a file in memory. It stays open when others are executed, for a handler may
/// open it by its path.
pub(super) fn program(arch: &Arch) -> io::Result<std::os::fd::OwnedFd> {
    let memory = |flags| rustix::fs::memfd_create("trial", flags);
    let written = match memory(MemfdFlags::CLOEXEC | MemfdFlags::EXEC) {
        // Before Linux 6.3 all may be executed.
        Err(rustix::io::Errno::INVAL) => memory(MemfdFlags::CLOEXEC),
        made => made,
    }?;
    let mut written = std::fs::File::from(written);
    io::Write::write_all(&mut written, &arch.program())?;
    // What somebody can write to is not executed.
    let path = format!("/proc/self/fd/{}", written.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_here_is_told_by_names_flags_and_trials() {
        let v3 = "fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 abm avx avx2 bmi1 bmi2 f16c fma movbe xsave";
        let check = |wanted: &str, own: &str, flags: &str, trial: bool, expected: Native| {
            let platform = |text: &str| text.parse::<Platform>().unwrap_or_else(|error| panic!("{error}"));
            let found = runs(&platform(wanted), &platform(own), || flags.to_owned(), || trial);
            assert_eq!(found, expected, "{wanted} on {own}");
        };
        check("linux/amd64", "linux/amd64", "", false, Native::Yes);
        check("linux/amd64/v2", "linux/amd64", v3, false, Native::Yes);
        check("linux/amd64/v3", "linux/amd64", v3, false, Native::Yes);
        check("linux/amd64/v4", "linux/amd64", v3, false, Native::Weaker("avx512f"));
        check("linux/amd64/v2", "linux/amd64", "fpu cx16", false, Native::Weaker("lahf_lm"));
        check("linux/arm64/v9", "linux/arm64", "", false, Native::Yes);
        check("linux/386", "linux/amd64", "", true, Native::Yes);
        check("linux/386", "linux/amd64", "", false, Native::No);
        check("linux/arm/v7", "linux/arm64", "", true, Native::Yes);
        check("linux/arm/v7", "linux/amd64", "", true, Native::No);
        check("linux/arm64", "linux/amd64", v3, true, Native::No);
        check("windows/amd64", "linux/amd64", v3, true, Native::No);
    }

    #[test]
    fn the_machines_own_trial_program_runs() {
        let own = Arch::of(&Platform::native()).expect("tests run on a machine that has one");
        assert!(try_out(own).expect("a file in memory can be made"));
    }
}
