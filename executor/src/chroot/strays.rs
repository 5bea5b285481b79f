//! Everything that descends from a step: ended and reaped, however it hid.
//!
//! In: nothing but this process, which is the nearest subreaper above the step: whoever loses its parent becomes its
//! child. Out: it has no children. Only children are killed: as long as they are not waited for, their numbers are
//! nobody else's. What a killed child leaves becomes a child in turn.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

use crate::sandbox::trouble::{Trouble, with};

/// Makes this process the one that inherits orphans of its descendants.
pub(super) fn adopt() -> Result<(), Errno> {
    set_child_subreaper(Some(getpid()))
}

/// Kills until nobody is left.
pub(super) fn end_all() -> Result<(), Trouble> {
    loop {
        for child in children()? {
            match kill_process(child, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    return Err(with(format_args!("end the process {} of the step", child.as_raw_nonzero()))(errno));
                }
            }
        }
        // Each of them has been killed, or is dead: one will be waited for.
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(()),
            Err(errno) => return Err(with("wait for what the step has left")(errno)),
        }
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
    }
}

/// The children of this process. `/proc/…/children` is not in every kernel.
fn children() -> Result<Vec<Pid>, Trouble> {
    let own = getpid().as_raw_nonzero().get();
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // It may be gone by now.
        let Ok(stat) = std::fs::read(entry.path().join("stat")) else { continue };
        if parent(&stat) == Some(own) {
            children.extend(Pid::from_raw(pid));
        }
    }
    Ok(children)
}

/// The fourth field of proc_pid_stat(5). The second one is a name in parentheses, which may hold anything.
fn parent(stat: &[u8]) -> Option<i32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    std::str::from_utf8(&stat[end + 1..]).ok()?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parent;

    #[test]
    fn a_parent_is_found_behind_whatever_name() {
        for (line, expected) in [
            ("12 (sh) S 7 12 12 0", Some(7)),
            ("12 (a b) S 7 12", Some(7)),
            ("12 (x) S 1) R 9 12", Some(9)),
            ("12 (\n) 3 4) S 8 1", Some(8)),
            ("12 (sh", None),
            ("12 (sh) S", None),
            ("", None),
        ] {
            assert_eq!(parent(line.as_bytes()), expected, "{line}");
        }
    }
}
