//! An emulator in front of a step's command, where the kernel knows no handler and gives none to a namespace.
//!
//! In: the command. Out: the same command as words of the emulator, which is bound into `/dev`, where no layer is.
//!
//! QEMU emulates one process and what it forks. A program that an emulated one executes is given to the kernel, which
//! does not know it: so a shell's own commands work, and every other program fails with "Exec format error" (but for
//! BuildKit's `buildkit-qemu-…`, whose QEMU is patched to go along). That is why this way is the last one, and told.

use std::io::{self, Read as _};

use rustix::io::Errno;

use super::find::Emulator;

/// A script's first line; the kernel looks at as much. Linux, `BINPRM_BUF_SIZE`.
const LINE_MAX_BYTES: u64 = 256;

/// Where the emulator is in a step.
pub fn place(emulator: &Emulator) -> String {
    format!("/dev/.rbuild_qemu_{}", emulator.arch)
}

/// The words by which the emulator at `emulator` runs `program`, a path, with `args`, whose first is what the program is
/// called. What the kernel does for scripts is done here, for an emulator does not.
///
/// # Errors
/// As the kernel would refuse to execute it: it is not there, or no program.
pub fn words(emulator: &str, program: &str, args: &[String]) -> io::Result<Vec<String>> {
    rustix::fs::access(program, rustix::fs::Access::EXEC_OK)?;
    let file = std::fs::File::open(program)?;
    if !file.metadata()?.is_file() {
        return Err(Errno::ACCESS.into());
    }
    let mut begin = Vec::new();
    file.take(LINE_MAX_BYTES).read_to_end(&mut begin)?;
    let mut words = vec![emulator.to_owned(), "-0".to_owned()];
    let called = args.first().map_or(program, String::as_str);
    match script(&begin) {
        None => words.extend([called.to_owned(), program.to_owned()]),
        Some((interpreter, argument)) => {
            words.extend([interpreter.clone(), interpreter]);
            words.extend(argument);
            words.push(program.to_owned());
        }
    }
    words.extend(args.iter().skip(1).cloned());
    Ok(words)
}

/// The program that a script begins with, and its one argument.
fn script(begin: &[u8]) -> Option<(String, Option<String>)> {
    let line = begin.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim();
    let (interpreter, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let argument = Some(rest.trim().to_owned()).filter(|rest| !rest.is_empty());
    (!interpreter.is_empty()).then(|| (interpreter.to_owned(), argument))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_command_becomes_words_of_the_emulator_and_keeps_its_name() {
        let dir = tempfile::tempdir().expect("there is room");
        let put = |name: &str, text: &str, mode| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("it can be written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
            path.to_str().expect("it is text").to_owned()
        };
        let check = |program: &str, expected: &str| {
            let args = ["called", "a b", "c"].map(str::to_owned);
            let made = words("/dev/q", program, &args).map(|words| words.join("|").replace(program, "PROGRAM"));
            assert_eq!(made.unwrap_or_else(|error| error.kind().to_string()), expected);
        };
        check(&put("elf", "\x7fELF", 0o755), "/dev/q|-0|called|PROGRAM|a b|c");
        check(&put("sh", "#!/bin/sh\necho", 0o755), "/dev/q|-0|/bin/sh|/bin/sh|PROGRAM|a b|c");
        check(
            &put("env", "#! /usr/bin/env  python3 -u \n", 0o755),
            "/dev/q|-0|/usr/bin/env|/usr/bin/env|python3 -u|PROGRAM|a b|c",
        );
        check(&put("none", "#!\n", 0o755), "/dev/q|-0|called|PROGRAM|a b|c");
        check(&put("no", "\x7fELF", 0o644), "permission denied");
        check("/nonexistent", "entity not found");
        check(dir.path().to_str().expect("it is text"), "permission denied");
    }
}
