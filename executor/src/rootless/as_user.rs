//! Programs of the user's own (ssh, credential helpers), started as the user and not as the root of our user namespace.
//!
//! They ask who they are: ssh looks for its files in that user's home, what talks to the session's bus says its number.
//! So they run in a user namespace within ours, which has the user's own number for its only id and no rights at all.
//! This binary makes it, under the name [`ARGV0`], and becomes the program.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::user::{entered_by, own_binary};
use crate::sandbox::sys as processes;
use crate::sys;

/// The name by which the binary knows that it is to become a program as the user.
const ARGV0: &str = "rbuild-as-user";
/// As shells have it.
const NOT_EXECUTED: i32 = 126;

/// How a program is started as the user.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// What to execute.
    pub program: PathBuf,
    /// Under which name.
    pub arg0: &'static str,
    /// Arguments before the program's absolute path and its own.
    pub args: [OsString; 2],
}

/// The launcher of this process; `None` if it has not entered a user namespace, and programs are the user's anyway.
pub fn launcher() -> Option<Launcher> {
    let ((uid, gid), binary) = (entered_by()?, own_binary()?);
    let args = [uid, gid].map(|id| OsString::from(id.to_string()));
    Some(Launcher { program: format!("/proc/self/fd/{}", binary.as_raw_fd()).into(), arg0: ARGV0, args })
}

/// Becomes the program if this process was started for that, and then never returns.
pub fn become_if_asked() {
    let mut words = std::env::args_os();
    if words.next().is_some_and(|name| name == ARGV0) {
        let words: Vec<OsString> = words.collect();
        let error = become_program(&words);
        eprintln!("rbuild: cannot start a program as the user: {error}");
        processes::exit_now(NOT_EXECUTED)
    }
}

fn become_program(words: &[OsString]) -> io::Error {
    let [uid, gid, program, ..] = words else { return io::ErrorKind::InvalidInput.into() };
    let number =
        |word: &OsStr| word.to_str().and_then(|word| word.parse::<u32>().ok()).ok_or(io::ErrorKind::InvalidInput);
    let enter = || -> io::Result<()> {
        let (uid, gid) = (number(uid)?, number(gid)?);
        sys::unshare_user()?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} 0 1\n"))?;
        std::fs::write("/proc/self/gid_map", format!("{gid} 0 1\n"))
    };
    if let Err(error) = enter() {
        return error;
    }
    let text = |word: &OsStr| CString::new(word.as_bytes()).map_err(io::Error::from);
    let pair = |(name, value): (OsString, OsString)| text(&[name, value].join(OsStr::new("=")));
    let texts = || -> io::Result<_> {
        let args = words[2..].iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
        Ok((text(program)?, args, std::env::vars_os().map(pair).collect::<Result<Vec<_>, _>>()?))
    };
    match texts() {
        Ok((program, args, env)) => processes::execute(&program, &args, &env),
        Err(error) => error,
    }
}
