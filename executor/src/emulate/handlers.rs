//! What this machine has registered for programs of other architectures: binfmt_misc, as it can be read.
//!
//! In: the files of `/proc/sys/fs/binfmt_misc`, one per handler. Out: the [`Handler`] that the kernel would take for an
//! architecture. Linux, admin-guide/binfmt-misc.rst. Deliberately absent: registering ([`super::private`]).
//!
//! A handler with the flag `F` was opened when it was registered, and works in every root directory; of any other the
//! kernel opens the path, in the root directory of the step.

use std::io;
use std::path::{Path, PathBuf};

use super::arch::{Arch, TELLING};

/// Where the kernel shows them.
pub const DIRECTORY: &str = "/proc/sys/fs/binfmt_misc";
/// A file has five short lines.
const FILE_MAX_BYTES: u64 = 8 << 10;

/// What is registered for an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// Its name there.
    pub name: String,
    /// The emulator.
    pub interpreter: PathBuf,
    /// Whether it was opened once for all (`F`).
    pub fixed: bool,
}

/// A handler, and for which programs it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    handler: Handler,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

/// The handler of `arch`; of several, one that works everywhere. Where binfmt_misc is not mounted or not for us to read,
/// nothing is known.
///
/// # Errors
/// When what is there cannot be read.
pub fn registered(directory: &Path, arch: &Arch) -> io::Result<Option<Handler>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        entries => entries?,
    };
    let mut found: Vec<Handler> = Vec::new();
    for entry in entries {
        // Names that are not text are none of an emulator's package.
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let text = match name.as_str() {
            "register" => continue,
            name => read(&directory.join(name))?,
        };
        if name == "status" {
            if text.trim() == "disabled" {
                return Ok(None);
            }
            continue;
        }
        found.extend(parse(&name, &text).filter(|entry| entry.takes(&arch.header())).map(|entry| entry.handler));
    }
    found.sort_by(|one, other| (!one.fixed, &one.name).cmp(&(!other.fixed, &other.name)));
    Ok(found.into_iter().next())
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;

    let mut bytes = Vec::new();
    match std::fs::File::open(path) {
        // Taken away meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        file => drop(file?.take(FILE_MAX_BYTES).read_to_end(&mut bytes)?),
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file of the directory. `None` for one that is switched off, or goes by the ends of names.
fn parse(name: &str, text: &str) -> Option<Entry> {
    let after = |word: &str| text.lines().find_map(|line| line.strip_prefix(word)).map(str::trim);
    if text.lines().next()? != "enabled" {
        return None;
    }
    let magic = bytes(after("magic ")?)?;
    let mask = after("mask ").map_or_else(|| Some(vec![0xff; magic.len()]), bytes)?;
    let handler = Handler {
        name: name.to_owned(),
        interpreter: after("interpreter ")?.into(),
        fixed: after("flags:").is_some_and(|flags| flags.contains('F')),
    };
    let offset = after("offset ").map_or(Some(0), |number| number.parse().ok())?;
    (mask.len() == magic.len()).then_some(Entry { handler, offset, magic, mask })
}

impl Entry {
    /// Whether the kernel would take it for a program that begins like this.
    fn takes(&self, header: &[u8; TELLING]) -> bool {
        // Without an offset and with some of what tells architectures apart: a handler for all ELF files is none.
        let told = self.offset == 0 && self.magic.len() >= TELLING;
        // Beyond the header everything is different from program to program.
        let asked = self.magic.iter().zip(&self.mask).enumerate();
        told && asked
            .map(|(index, (magic, mask))| (magic & mask, mask, header.get(index)))
            .all(|(magic, mask, byte)| byte.map_or(*mask == 0, |byte| byte & mask == magic))
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::arch::ALL;
    use super::*;

    /// As Debian registers them.
    const ARM64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";
    const S390X: &str = "enabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: OC\noffset 0\n\
        magic 7f454c4602020100000000000000000000020016\nmask ffffffffffffff00fffffffffffffffffffeffff\n";

    fn found(files: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().expect("there is room");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("it can be written");
        }
        let one = |arch| registered(dir.path(), arch).expect("it can be read");
        let shown = ALL.iter().filter_map(one).map(|handler| {
            format!("{} {}{}", handler.name, handler.interpreter.display(), if handler.fixed { " F" } else { "" })
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn handlers_are_found_by_what_programs_begin_with() {
        let off = ARM64.replace("enabled", "disabled");
        let jar = "enabled\ninterpreter /usr/bin/jexec\nflags: \noffset 0\nmagic 504b0304\n";
        let extension = "enabled\ninterpreter /bin/x\nflags: \nextension .x\n";
        let all_elf = "enabled\ninterpreter /bin/any\nflags: F\noffset 0\nmagic 7f454c46\n";
        let elsewhere = ARM64.replace("offset 0", "offset 4");
        let (arm64, s390x) = ("a /usr/libexec/qemu-binfmt/aarch64-binfmt-P F", "s /usr/bin/qemu-s390x-static");
        let check = |files: &[(&str, &str)], expected: &str| assert_eq!(found(files), expected, "{files:?}");
        check(&[], "");
        check(&[("a", ARM64), ("register", "x"), ("status", "enabled\n")], arm64);
        check(&[("s", S390X), ("a", ARM64), ("j", jar), ("x", extension)], &format!("{arm64}, {s390x}"));
        check(&[("a", ARM64), ("status", "disabled\n")], "");
        check(&[("a", &off), ("j", jar), ("e", all_elf), ("o", &elsewhere)], "");
        // One that works everywhere is preferred, whatever its name.
        let plain = ARM64.replace("POCF", "OC").replace("aarch64-binfmt-P", "other");
        check(&[("0", &plain), ("a", ARM64)], arm64);
        for broken in
            ["", "enabled\n", "enabled\nmagic zz\ninterpreter /x\n", "enabled\nmagic 7f\nmask ffff\ninterpreter /x"]
        {
            check(&[("b", broken)], "");
        }
    }

    #[test]
    fn without_binfmt_misc_nothing_is_known() {
        assert_eq!(registered(Path::new("/nonexistent"), &ALL[0]).expect("that is no error"), None);
    }
}
