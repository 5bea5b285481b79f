//! Handlers that exist for steps alone: a user namespace with a binfmt_misc of its own, in which emulators are registered.
//! Linux 6.7.
//!
//! In: a user namespace and emulators. Out: a descriptor; while it is open, processes in that namespace run the programs
//! of those architectures, and every program that these start, wherever their root directory is: the kernel opens the
//! emulator once, at the registration (`F`). Nothing outside the namespace changes. The file system is never attached
//! anywhere, so no step can reach it, and none can register.
//!
//! For processes with one thread: the step's helper ([`crate::sandbox`]), and the process that tries it once per build
//! (this binary as [`ARGV0`]).

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::arch::{ALL, Arch, STATUS};
use super::find::Emulator;
use super::native;
use crate::sandbox::mount::file_system;
use crate::sandbox::plan::INERT;
use crate::sandbox::trouble::{Trouble, with};
use crate::sandbox::{self, sys as processes, wire};
use crate::sys;
use crate::userns::{IdMap, make};

/// The name by which the binary knows that it is to try.
const ARGV0: &str = "rbuild-emulate";
/// What the kernel takes. Linux, fs/binfmt_misc.c, `MAX_REGISTER_LENGTH`.
const LINE_MAX_BYTES: usize = 1920;
/// `P`: programs keep their first word. `O` and `C`: set-uid bits of programs count. `F`: the emulator is opened now.
const FLAGS: &str = "POCF";
/// How a process ends that could not do its part; it has said why.
const FAILED: i32 = 1;
/// Of a process that never became the trial program.
const NOT_EXECUTED: i32 = 127;

/// What is written to `register` for an emulator.
fn line(arch: &Arch, path: &OsStr) -> Result<Vec<u8>, String> {
    let shown = path.to_string_lossy().into_owned();
    let path = path.as_bytes();
    // The first byte is what parts are separated by.
    let separator = *[b':', b';', b'|', b'!']
        .iter()
        .find(|one| !path.contains(one))
        .ok_or_else(|| format!("`{shown}` has every separator in its name"))?;
    let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>().into_bytes();
    let name = format!("rbuild-{}", arch.qemu).into_bytes();
    let parts = [Vec::new(), name, b"M".to_vec(), Vec::new(), escaped(&arch.header()), escaped(&arch.mask())];
    let line = [parts.join(&separator), path.to_vec(), FLAGS.into()].join(&separator);
    match line.len() > LINE_MAX_BYTES || path.contains(&b'\n') {
        true => Err(format!("`{shown}` is no name that can be registered")),
        false => Ok(line),
    }
}

/// Gives the user namespace a binfmt_misc with these emulators, which lasts as long as the descriptor.
pub(crate) fn register(users: BorrowedFd<'_>, emulators: &[Emulator]) -> Result<OwnedFd, Trouble> {
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair?;
    // Whoever has gone into a namespace does not come back, so another process goes.
    match sys::fork_single_threaded(0)? {
        None => {
            let told = match registered(users, emulators) {
                Ok(tree) => wire::send(&theirs, &[0], &[tree.as_fd()]),
                Err(trouble) => wire::send(
                    &theirs,
                    &[&[1], trouble.errno.to_le_bytes().as_slice(), trouble.detail.as_bytes()].concat(),
                    &[],
                ),
            };
            processes::exit_now(told.map_or(FAILED, |()| 0))
        }
        Some(pid) => {
            drop(theirs);
            let mut packet = vec![0; wire::PACKET_MAX_BYTES];
            let received = wire::receive(&ours, &mut packet);
            processes::wait_for(pid)?;
            let (count, descriptors) = received?;
            match (packet.get(..count).unwrap_or_default(), descriptors.into_iter().next()) {
                ([0], Some(tree)) => Ok(tree),
                ([1, a, b, c, d, detail @ ..], _) => Err(Trouble {
                    errno: i32::from_le_bytes([*a, *b, *c, *d]),
                    detail: String::from_utf8_lossy(detail).into_owned(),
                }),
                _ => Err("the process that registers emulators died".to_owned().into()),
            }
        }
    }
}

/// Does it, in a process of its own.
fn registered(users: BorrowedFd<'_>, emulators: &[Emulator]) -> Result<OwnedFd, Trouble> {
    move_into_link_name_space(users, Some(LinkNameSpaceType::User)).map_err(with("enter the user namespace"))?;
    // Only who may mount may make file systems.
    sys::unshare_mounts()
        .map_err(|error| Trouble { detail: format!("make a mount namespace: {error}"), ..error.into() })?;
    let tree = file_system("binfmt_misc", &[], INERT).map_err(explained)?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let register = rustix::fs::openat(&tree, "register", flags, Mode::empty()).map_err(with("open `register`"))?;
    for emulator in emulators {
        let arch =
            ALL.iter().find(|arch| arch.qemu == emulator.arch).ok_or_else(|| "an unknown architecture".to_owned())?;
        let line = line(arch, emulator.path.as_os_str())?;
        rustix::io::write(&register, &line).map_err(with(format_args!("register `{}`", emulator.path.display())))?;
    }
    Ok(tree)
}

/// Why there is no such file system.
fn explained(error: sandbox::mount::MountError) -> Trouble {
    let errno = error.errno.raw_os_error();
    let detail = match error.errno {
        Errno::PERM => "this kernel has one binfmt_misc for all: namespaces have their own since Linux 6.7".to_owned(),
        Errno::NODEV => "this kernel has no binfmt_misc".to_owned(),
        _ => format!("make a binfmt_misc: {error}"),
    };
    Trouble { errno, detail }
}

/// Tries whether steps can have each of these emulators in such a namespace, by running a program of its architecture.
/// Says why not. Blocking.
pub(super) fn probe(helper: &sandbox::Settings, emulators: &[Emulator]) -> Result<(), String> {
    let words = serde_json::to_string(emulators).map_err(|error| format!("cannot name the emulators: {error}"))?;
    let mut command = Command::new(helper.helper_path());
    command.arg0(ARGV0).arg(words).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().map_err(|error| format!("cannot start the process that tries it: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Err(if said.is_empty() { format!("the process that tried it ended with {}", output.status) } else { said })
}

/// Tries it if this process was started for that, and then never returns.
pub(crate) fn become_probe_if_asked(name: &OsStr) {
    if name != ARGV0 {
        return;
    }
    let word = std::env::args_os().nth(1).unwrap_or_default();
    let tried = serde_json::from_slice::<Vec<Emulator>>(word.as_bytes())
        .map_err(|error| error.to_string())
        .and_then(|emulators| attempt(&emulators));
    if let Err(detail) = &tried {
        println!("{detail}");
    }
    std::process::exit(tried.map_or(FAILED, |()| 0))
}

fn attempt(emulators: &[Emulator]) -> Result<(), String> {
    let ids = IdMap::identity().map_err(|error| format!("read the ids of this process: {error}"))?;
    let made = make::make(&ids, false).map_err(|error| error.line())?;
    let _registered = register(made.user.as_fd(), emulators).map_err(|trouble| trouble.detail)?;
    for emulator in emulators {
        let Some(arch) = ALL.iter().find(|arch| arch.qemu == emulator.arch) else { continue };
        let program = native::program(arch).map_err(|error| format!("make a trial program: {error}"))?;
        let status = run_in(made.user.as_fd(), &program).map_err(|error| format!("run a trial program: {error}"))?;
        if status != STATUS {
            return Err(format!("`{}` does not run programs for {}", emulator.path.display(), arch.name));
        }
    }
    Ok(())
}

/// Runs a program in a user namespace and says how it ended.
fn run_in(users: BorrowedFd<'_>, program: &OwnedFd) -> std::io::Result<i32> {
    match sys::fork_single_threaded(0)? {
        None => {
            let path =
                CString::new(format!("/proc/self/fd/{}", program.as_raw_fd())).expect("a number has no zero byte");
            if move_into_link_name_space(users, Some(LinkNameSpaceType::User)).is_ok() {
                // It returns only the reason why not, and then the code says enough.
                let _ = processes::execute(&path, std::slice::from_ref(&path), &[]);
            }
            processes::exit_now(NOT_EXECUTED)
        }
        Some(pid) => {
            let status = processes::wait_for(pid)?.status;
            Ok(std::os::unix::process::ExitStatusExt::from_raw(status))
                .map(|status: std::process::ExitStatus| status.code().unwrap_or(FAILED))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_names_the_architecture_and_the_emulator_whatever_its_path() {
        let arm64 = ALL.iter().find(|arch| arch.name == "arm64").expect("it is known");
        let check = |path: &str, expected: Result<&str, &str>| {
            let made = line(arm64, OsStr::new(path)).map(|line| String::from_utf8(line).expect("it is text"));
            let told = |text: &str| {
                text.replace("\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00", "MAGIC")
                    .replace("\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\xfe\\xff\\xff\\xff", "MASK")
            };
            assert_eq!(
                made.as_deref().map(told).map_err(|error| error.as_str()),
                expected.map(str::to_owned),
                "{path}"
            );
        };
        check("/usr/bin/qemu-aarch64-static", Ok(":rbuild-aarch64:M::MAGIC:MASK:/usr/bin/qemu-aarch64-static:POCF"));
        check("/a:b", Ok(";rbuild-aarch64;M;;MAGIC;MASK;/a:b;POCF"));
        check("/a:;|!", Err("`/a:;|!` has every separator in its name"));
        check("/a\nb", Err("`/a\nb` is no name that can be registered"));
        assert!(line(arm64, OsStr::new(&"x".repeat(LINE_MAX_BYTES))).is_err());
    }
}
