//! Single flights: of all builds on a store, in this process and others, one at a time works on a key.
//!
//! ```text
//! flights/<hex of the key>    flocked by the one who works on it; removed by it, or swept by the next start
//! ```
//!
//! The lock dies with its process, and whoever waited takes over. Nobody who has a flight waits for another one: a
//! step is claimed when all that it stands on is there.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use solver::key::Key;

use crate::layout::{Layout, flock_unless, try_flock};
use crate::{Store, StoreError};

/// The right to be the only one who works on a key; given back when dropped.
#[derive(Debug)]
pub struct Flight {
    layout: Arc<Layout>,
    name: String,
    /// Holds the lock.
    _file: OwnedFd,
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Before the lock goes: who waits for it then sees that its file is not the one of that name any more.
        if let Err(error) = self.layout.flights.remove_file(&self.name) {
            tracing::debug!(name = %self.name, %error, "the file of a flight is left to the next start");
        }
    }
}

impl Store {
    /// The right to work on `key`, unless somebody has it.
    pub(crate) fn try_flight(&self, key: &Key) -> Result<Option<Flight>, StoreError> {
        loop {
            let (name, file) = open(self.layout(), key)?;
            if !try_flock(&file, &self.layout().flights.join(&name))? {
                return Ok(None);
            }
            if is_still(self.layout(), &name, &file)? {
                return Ok(Some(Flight { layout: self.shared_layout(), name, _file: file }));
            }
        }
    }

    /// Waits for the right to work on `key`, as [`crate::flock_unless`] does; if it is given up, there is none.
    pub fn claim_unless(&self, key: &Key, given_up: &dyn Fn() -> bool) -> Result<Option<Flight>, StoreError> {
        loop {
            let (name, file) = open(self.layout(), key)?;
            let locked = flock_unless(&file, given_up);
            if !locked.map_err(|source| StoreError::io("lock", self.layout().flights.join(&name), source))? {
                return Ok(None);
            }
            if is_still(self.layout(), &name, &file)? {
                return Ok(Some(Flight { layout: self.shared_layout(), name, _file: file }));
            }
        }
    }
}

fn open(layout: &Layout, key: &Key) -> Result<(String, OwnedFd), StoreError> {
    let name = key.to_string();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&layout.flights, name.as_str(), flags, Mode::RUSR | Mode::WUSR)
        .map_err(|source| StoreError::io("open", layout.flights.join(&name), source))?;
    Ok((name, file))
}

/// Whether the name still leads to the file that was locked: its last holder may have removed it.
fn is_still(layout: &Layout, name: &str, file: &OwnedFd) -> Result<bool, StoreError> {
    let failed = |source| StoreError::io("look at", layout.flights.join(name), source);
    let opened = rustix::fs::fstat(file).map_err(failed)?;
    match rustix::fs::statat(&layout.flights, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(source) => Err(failed(source)),
    }
}

/// Removes the files of flights whose process is dead.
pub(crate) fn sweep(layout: &Layout) -> Result<(), StoreError> {
    for name in layout.flights.names()? {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&layout.flights, name.as_str(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP) => continue,
            Err(source) => return Err(StoreError::io("open", layout.flights.join(&name), source)),
        };
        if try_flock(&file, &layout.flights.join(&name))? && is_still(layout, &name, &file)? {
            layout.flights.remove_file(&name)?;
        }
    }
    Ok(())
}
