//! Things taken out of a tree again, when nothing of the step is left.
//!
//! In: what was put there ([`super::put`]). Out: the tree as if it had never been there, the last put first. What is lent
//! goes home from wherever the step has moved it. A place whose directory the step has removed stays gone with it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::io::Errno;

use super::put::{Lent, Placed, Placer, copying, is_same, path_of};
use crate::sandbox::remove_stubs;
use crate::sandbox::stub::{modified, set_modified};
use crate::sandbox::trouble::{Trouble, with};
use crate::tree::copy;

impl Placer<'_> {
    /// Takes everything back. All of it is tried; the first trouble is told.
    pub fn take_back(&mut self) -> Result<(), Trouble> {
        let mut result = Ok(());
        while let Some(placed) = self.placed.pop() {
            let taken = take(&placed, self.aside()).map_err(|trouble| {
                let name = placed.name.to_string_lossy();
                Trouble { detail: format!("take `{name}` out of the tree: {}", trouble.detail), ..trouble }
            });
            result = result.and(taken);
        }
        let stubs = std::mem::take(&mut self.stubs);
        result.and(remove_stubs(self.root().as_fd(), &stubs).map_err(Trouble::from))
    }
}

fn take(placed: &Placed, aside: &OwnedFd) -> Result<(), Trouble> {
    let after = modified(&placed.parent)?;
    if let Some(lent) = &placed.lent {
        send_home(lent, placed)?;
    }
    let name = placed.name.as_bytes();
    copy::remove(placed.parent.as_fd(), name, name).map_err(copying)?;
    match rustix::fs::renameat(aside, &placed.aside, &placed.parent, &placed.name) {
        // The step has removed the directory.
        Err(Errno::NOENT) => return Ok(()),
        moved => moved.map_err(with("put back what was there"))?,
    }
    // A change of the step's own is later than what was there before.
    Ok(set_modified(&placed.parent, after)?)
}

/// Moves what was lent to where it belongs, over the empty directory that stands there for it.
fn send_home(lent: &Lent, placed: &Placed) -> Result<(), Trouble> {
    if is_same(&lent.directory, &lent.home, &lent.name)? {
        return Ok(());
    }
    if is_same(&lent.directory, &placed.parent, &placed.name)? {
        rustix::fs::renameat(&placed.parent, &placed.name, &lent.home, &lent.name)
            .map_err(with("send the cache home"))?;
        return Ok(());
    }
    if rustix::fs::fstat(&lent.directory)?.st_nlink == 0 {
        // The step has removed it, which of a mount it could not: it is empty, and what stands in for it is too.
        return Ok(());
    }
    // The step has moved it. Nobody is left who could do so again.
    let path = path_of(&lent.directory)?;
    rustix::fs::renameat(rustix::fs::CWD, &path, &lent.home, &lent.name).map_err(with("send the cache home"))?;
    match is_same(&lent.directory, &lent.home, &lent.name)? {
        true => Ok(()),
        false => Err("another directory was found in place of the cache".to_owned().into()),
    }
}
