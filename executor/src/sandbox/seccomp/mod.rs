//! The filter of system calls: what a step may ask of the kernel at all.
//!
//! In come the capabilities that a step has; the kernel refuses the rest from then on, for the step and for all that it
//! starts. Reading order: [`facts`] (the rules, by name), [`numbers`] (what the names are called by), [`program`] (both
//! as a program for the kernel), and in here its installation. Deliberately absent: anything about one step's wishes;
//! whoever wants no filter plans none.
//!
//! The filter is installed while the process still holds CAP_SYS_ADMIN in its user namespace: then the kernel asks for
//! no `no_new_privs`, which would take from set-uid programs what users of containers expect. Without it the kernel
//! refuses, and the step does not run.
//!
//! A number newer than all that the rules know is answered with ENOSYS: C libraries then fall back to older calls. EPERM
//! would break every new one of them. On i386, `socketcall` hides a socket's family in memory, so the rule for families
//! holds for `socket` alone there, as everywhere in the field.

mod facts;
#[cfg(test)]
mod interpreter;
mod numbers;
mod program;
#[cfg(test)]
mod tests;

pub use program::Insn;

use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::sys;
use super::trouble::{Trouble, with};

/// The program for steps that have these capabilities, on this machine; empty when nothing is known of the machine.
///
/// Made once per process and set of capabilities: it costs as much as a few mounts. The builder makes it and the plan
/// takes it along.
pub fn compiled(capabilities: &[String]) -> Vec<Insn> {
    static KNOWN: Mutex<Vec<(Vec<String>, Vec<Insn>)>> = Mutex::new(Vec::new());
    // A list that a panic left behind is still a list of whole programs.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, program)) = known.iter().find(|(of, _)| of == capabilities) {
        return program.clone();
    }
    let program = program::program(std::env::consts::ARCH, capabilities).unwrap_or_default();
    known.push((capabilities.to_vec(), program.clone()));
    program
}

/// Installs the filter. There is no way back.
pub fn install(program: &[Insn]) -> Result<(), Trouble> {
    if program.is_empty() {
        return Err(format!("there is no table of system calls for `{}`", std::env::consts::ARCH).into());
    }
    sys::install_filter(program).map_err(|error| match Errno::from_io_error(&error) {
        Some(errno @ Errno::ACCESS) => with("it takes CAP_SYS_ADMIN, which this process lacks")(errno),
        Some(errno @ (Errno::INVAL | Errno::NOSYS)) => {
            with("this kernel has no filters of system calls (CONFIG_SECCOMP_FILTER)")(errno)
        }
        _ => error.into(),
    })
}
