//! Groups that dead builders left are removed, whatever is still in them killed.
//!
//! A group whose lock is free has no builder any more: the kernel let go of the lock when that died. Its processes are
//! dead too, or about to be; what lives all the same is killed first.

use std::path::Path;

use super::tree::{self, PREFIX};

/// Removes what dead builders left in the group at `parent`. What cannot be removed is left to the next start, for it
/// harms nobody.
pub fn sweep(parent: &Path) {
    let left = |what: &str, error: &dyn std::fmt::Display| {
        tracing::debug!(parent = %parent.display(), what, %error, "a control group of a dead builder stays");
    };
    let dir = match tree::open_dir(parent) {
        Ok(dir) => dir,
        Err(errno) => return left("", &errno),
    };
    let names = match tree::groups(&dir) {
        Ok(names) => names,
        Err(errno) => return left("", &errno),
    };
    for name in names.iter().filter(|name| name.starts_with(PREFIX)) {
        // Held while it is removed, so that two sweeps do not meet in it.
        match tree::lock(&dir, name) {
            Ok(None) => {}
            Ok(Some(_held)) => match tree::remove(&dir, name) {
                Ok(()) => {
                    tracing::debug!(parent = %parent.display(), name, "removed the control group of a dead builder")
                }
                Err(error) => left(name, &error),
            },
            Err(error) => left(name, &error),
        }
    }
}
