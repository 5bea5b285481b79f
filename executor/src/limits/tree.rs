//! Groups on the kernel's file systems: made and locked, emptied, removed, by descriptor of what they are in.
//!
//! A group is a directory; who made it holds a lock (flock) on it until it is removed, which says that its builder
//! lives. It can be removed when no process and no group is in it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// How names of groups of steps begin.
pub const PREFIX: &str = "rbuild-";
/// Longer than the kernel takes to bury what was killed. What stays longer is the next sweep's.
const BURIAL: Duration = Duration::from_secs(5);
/// Between two looks at a group whose processes are about to be gone; version 1 has nothing to wait for.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// Groups within groups: more is no work of ours.
const DEPTH_MAX: usize = 32;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory.
pub fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, DIRECTORY, Mode::empty())
}

/// Makes a group in `parent` under a fresh name, and locks it.
pub fn make(parent: &OwnedFd) -> io::Result<(String, OwnedFd)> {
    loop {
        let name = format!("{PREFIX}{}", random()?);
        match rustix::fs::mkdirat(parent, name.as_str(), Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => continue,
            made => made?,
        }
        // Between the two calls a sweep may take it for a dead one's.
        if let Some(dir) = lock(parent, &name)? {
            return Ok((name, dir));
        }
    }
}

/// Opens and locks a group that nobody holds; `None` when somebody does, or it is gone.
pub fn lock(parent: &OwnedFd, name: &str) -> io::Result<Option<OwnedFd>> {
    let dir = match rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        dir => dir?,
    };
    match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    let (held, named) = (rustix::fs::fstat(&dir)?, rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW));
    match named {
        Ok(named) if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) => Ok(Some(dir)),
        Ok(_) | Err(Errno::NOENT | Errno::NODEV) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Kills whatever is in the group and the groups beneath it, and removes them. Blocking, for five seconds at most.
pub fn remove(parent: &OwnedFd, name: &str) -> io::Result<()> {
    let until = Instant::now() + BURIAL;
    loop {
        match remove_once(parent, name, 0) {
            Err(Errno::BUSY | Errno::NOTEMPTY) if Instant::now() < until => std::thread::sleep(LOOK_INTERVAL),
            done => return done.map_err(Into::into),
        }
    }
}

fn remove_once(parent: &OwnedFd, name: &str, depth: usize) -> Result<(), Errno> {
    // Nearly always nothing is in it.
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) if depth < DEPTH_MAX => {}
        Err(errno) => return Err(errno),
    }
    let dir = match rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        dir => dir?,
    };
    kill(&dir)?;
    for child in groups(&dir)? {
        remove_once(&dir, &child, depth + 1)?;
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// Kills every process of the group; in version 2 those of the groups beneath it too.
fn kill(dir: &OwnedFd) -> Result<(), Errno> {
    // Linux 5.14; nothing can escape it.
    match write(dir, "cgroup.kill", "1") {
        Err(Errno::NOENT | Errno::OPNOTSUPP) => {}
        done => return done,
    }
    let listed = match read(dir, "cgroup.procs") {
        Err(Errno::OPNOTSUPP | Errno::NODEV) => return Ok(()),
        listed => listed?,
    };
    for id in listed.lines().filter_map(|line| line.parse().ok()) {
        // 0 stands for a process of a process namespace that is not ours.
        let Some(pid) = Pid::from_raw(id) else { continue };
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Names of the groups in a group.
pub fn groups(dir: &OwnedFd) -> Result<Vec<String>, Errno> {
    // Its own position, so that it can be listed again.
    let listed = rustix::fs::openat(dir, ".", DIRECTORY, Mode::empty())?;
    let mut space = Vec::with_capacity(8192);
    let mut entries = RawDir::new(listed, space.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_type() != rustix::fs::FileType::Directory {
            continue;
        }
        // Groups have names of any bytes; ours are text.
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// Opens a file of a group for writing.
pub fn open_file(dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Writes a file of a group: one call, which the kernel takes or refuses as a whole.
pub fn write(dir: &OwnedFd, name: &str, text: &str) -> Result<(), Errno> {
    let file = open_file(dir, name)?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}

/// Reads a file of a group.
pub fn read(dir: &OwnedFd, name: &str) -> Result<String, Errno> {
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Twelve letters that nobody else has.
fn random() -> io::Result<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0; 12];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plain directory behaves as a hierarchy does, but for files that appear in it.
    #[test]
    fn a_group_is_held_by_who_made_it_and_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let parent = open_dir(folder.path()).unwrap();
        let (name, held) = make(&parent).unwrap();
        assert!(name.starts_with(PREFIX) && name.len() == PREFIX.len() + 12, "{name}");
        assert!(lock(&parent, &name).unwrap().is_none(), "its maker lives");
        assert_eq!(groups(&parent).unwrap(), std::slice::from_ref(&name));
        drop(held);
        assert!(lock(&parent, &name).unwrap().is_some(), "its maker is dead");
        remove(&parent, &name).unwrap();
        assert!(lock(&parent, &name).unwrap().is_none(), "it is gone");
        remove(&parent, &name).unwrap();
        assert_eq!(groups(&parent).unwrap(), [""; 0]);
    }
}
