//! Becomes the command: its words, its variables, and where it is looked for.
//!
//! The last act of a step's set-up; what comes back is only why not.

use std::ffi::CString;
use std::io;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::trouble::Trouble;
use super::{policy, sys};
use crate::emulate::inject;

/// Becomes the command `args`, with the variables `env`, `HOME` where they do not have it, and `secrets`
/// (`NAME=value`), which win. With `through`, the path of an emulator, that runs it.
pub fn execute(
    args: &[String],
    env: &[String],
    home: &str,
    secrets: Vec<Vec<u8>>,
    through: Option<&str>,
) -> Result<(), Trouble> {
    let text = |text: &str| CString::new(text).map_err(|_| Trouble::from(format!("{text:?} holds a zero byte")));
    let program = args.first().ok_or_else(|| "no command".to_owned())?;
    let mut variables = env.iter().map(|pair| text(pair)).collect::<Result<Vec<_>, _>>()?;
    if !env.iter().any(|pair| pair.starts_with("HOME=")) {
        variables.push(text(&format!("HOME={home}"))?);
    }
    for pair in secrets {
        let name = pair.split_inclusive(|byte| *byte == b'=').next().unwrap_or_default();
        variables.retain(|known| !known.as_bytes().starts_with(name));
        variables.push(CString::new(pair).map_err(|_| "a secret variable holds a zero byte".to_owned())?);
    }
    let arguments = args.iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
    let path = env.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(policy::PATH);
    let candidates = if program.contains('/') {
        vec![program.clone()]
    } else {
        path.split(':').map(|directory| join(directory, program)).collect()
    };
    rustix::process::umask(Mode::from_raw_mode(policy::UMASK));
    let mut reason = io::Error::from(Errno::NOENT);
    for candidate in candidates {
        let error = match through {
            None => sys::execute(&text(&candidate)?, &arguments, &variables),
            Some(emulator) => match inject::words(emulator, &candidate, args) {
                Ok(words) => {
                    let words = words.iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
                    sys::execute(&text(emulator)?, &words, &variables)
                }
                Err(error) => error,
            },
        };
        match Errno::from_io_error(&error) {
            // As a shell does: the next directory may have it; "permission denied" is the better reason.
            Some(Errno::NOENT | Errno::NOTDIR) => {}
            Some(Errno::ACCESS) => reason = error,
            _ => return Err(error.into()),
        }
    }
    Err(reason.into())
}

/// An empty component of `PATH` is the working directory.
fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { format!("./{name}") } else { format!("{directory}/{name}") }
}
