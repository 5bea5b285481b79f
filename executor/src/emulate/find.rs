//! Emulators that are installed: where, and whether they can be used in somebody else's root directory.
//!
//! In: `PATH`. Out: an [`Emulator`], which is one file that needs no other. Deliberately absent: what it is used for
//! ([`super::private`], [`super::inject`]).

use std::ffi::OsStr;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use super::arch::Arch;

/// Where programs are when nobody says so.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Of a program header: what names the program's own interpreter.
const PT_INTERP: u32 = 3;
/// Programs have about ten; more than so many say nothing.
const HEADERS_MAX: u16 = 256;

/// A program that runs programs of an architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulator {
    /// The architecture, as QEMU has it.
    pub arch: String,
    /// Where it is.
    pub path: PathBuf,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// One that can be used.
    Here(Emulator),
    /// Only this one, which needs shared libraries that a step's root directory has not.
    Shared(PathBuf),
    /// None.
    None,
}

/// Looks for the emulator of `arch` in the directories of `path`, a value of `PATH`.
///
/// # Errors
/// When a file cannot be read.
pub fn find(arch: &Arch, path: Option<&OsStr>) -> io::Result<Found> {
    let mut shared = None;
    let directories: Vec<PathBuf> = std::env::split_paths(path.unwrap_or(OsStr::new(PATH))).collect();
    for name in arch.emulators() {
        for directory in directories.iter().filter(|directory| directory.is_absolute()) {
            let file = directory.join(&name);
            if !file.is_file() || rustix::fs::access(&file, Access::EXEC_OK).is_err() {
                continue;
            }
            // Its true name: a link may lead where only the host has something.
            let file = file.canonicalize()?;
            match is_static(&file)? {
                true => return Ok(Found::Here(Emulator { arch: arch.qemu.to_owned(), path: file })),
                false => shared = shared.or(Some(file)),
            }
        }
    }
    Ok(shared.map_or(Found::None, Found::Shared))
}

/// Whether an executable of this machine needs no interpreter of its own, and so no shared libraries.
///
/// # Errors
/// When it cannot be read.
pub fn is_static(path: &Path) -> io::Result<bool> {
    let mut file = std::fs::File::open(path)?;
    let mut header = [0; 64];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    // A script, say, or a program of 32 bits: nothing that we would use.
    if !header.starts_with(b"\x7fELF\x02") {
        return Ok(false);
    }
    let little = header[5] == 1;
    let half = |at: usize| {
        let bytes = [header[at], header[at + 1]];
        if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) }
    };
    let offset: [u8; 8] = header[32..40].try_into().expect("eight bytes are eight");
    let offset = if little { u64::from_le_bytes(offset) } else { u64::from_be_bytes(offset) };
    let (size, count) = (half(54), half(56));
    if count > HEADERS_MAX || size < 4 {
        return Ok(false);
    }
    for index in 0..u64::from(count) {
        let Some(at) = offset.checked_add(index * u64::from(size)) else { return Ok(false) };
        file.seek(SeekFrom::Start(at))?;
        let mut kind = [0; 4];
        match file.read_exact(&mut kind) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        if (if little { u32::from_le_bytes(kind) } else { u32::from_be_bytes(kind) }) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::arch::ALL;
    use super::*;

    #[test]
    fn an_emulator_is_found_in_path_if_it_needs_no_other_file() {
        let dir = tempfile::tempdir().expect("there is room");
        let arch = ALL.iter().find(|arch| arch.name == "s390x").expect("it is known");
        let found = || match find(arch, Some(dir.path().as_os_str())).expect("all can be read") {
            Found::Here(emulator) => emulator.path.file_name().expect("it is a file").to_string_lossy().into_owned(),
            Found::Shared(path) => format!("shared {}", path.file_name().expect("it is a file").to_string_lossy()),
            Found::None => String::new(),
        };
        let put = |name: &str, bytes: &[u8], mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).expect("it can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        let (fixed, own) = (ALL[0].program(), fs::read("/proc/self/exe").expect("this test is a program"));
        assert!(
            !is_static(Path::new("/proc/self/exe")).expect("it can be read"),
            "tests are linked to shared libraries"
        );
        assert_eq!(found(), "");
        put("qemu-s390x-static", &fixed, 0o644);
        assert_eq!(found(), "", "it cannot be executed");
        put("qemu-s390x", &own, 0o755);
        assert_eq!(found(), "shared qemu-s390x");
        put("buildkit-qemu-s390x", b"#!/bin/sh\n", 0o755);
        assert_eq!(found(), "shared qemu-s390x");
        put("qemu-s390x-static", &fixed, 0o755);
        assert_eq!(found(), "qemu-s390x-static");
        for broken in [&b"\x7fELF"[..], &fixed[..66], b""] {
            put("qemu-s390x-static", broken, 0o755);
            assert_eq!(found(), "shared qemu-s390x-static", "{}", broken.len());
        }
        assert_eq!(find(arch, Some(OsStr::new("relative:/nonexistent"))).expect("nothing is read"), Found::None);
    }
}
