//! What a power loss may take, and how that is known afterwards.
//!
//! Data stands before the index: a tree or blob is in its place before a row names it, so the death of a process
//! loses nothing that was recorded. A power loss may: the index can reach the disk before the files do. Therefore
//! every row carries a [`Stamp`]: the boot it was written in and a generation, a counter that every sync raises.
//! [`crate::Store::sync`] writes the whole file system out and then appends to the file `synced`:
//!
//! ```text
//! 0b8c3a0e-… 17        all that was recorded in this boot up to generation 17 is on disk
//! ```
//!
//! In the boot that a row was written in, nothing was lost and the row counts. In any other, it counts only if that
//! file covers it; the first process of a new boot drops the others, with a notice. The file is appended to with one
//! write and synced itself; a torn last line covers nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::layout::{Folder, fresh_name};

const SYNCED_FILE: &str = "synced";
/// Names this boot of the kernel; survives everything but a reboot.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// When a row was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) boot: String,
    pub(crate) generation: i64,
}

/// The boot this process runs in.
pub(crate) fn current_boot() -> Result<String, StoreError> {
    let text = std::fs::read_to_string(BOOT_ID_FILE).map_err(|source| StoreError::io("read", BOOT_ID_FILE, source))?;
    Ok(text.trim().to_owned())
}

/// Up to which generation each boot is on disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Synced(HashMap<String, i64>);

impl Synced {
    /// Reads the file; none is as good as an empty one.
    pub(crate) fn read(root: &Folder) -> Result<Self, StoreError> {
        let path = root.join(SYNCED_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            // A damaged line covers nothing; nor does a damaged file.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok(Self::default()),
            Err(source) => Err(StoreError::io("read", path, source)),
        }
    }

    fn parse(text: &str) -> Self {
        let mut boots = HashMap::new();
        for line in text.split_inclusive('\n') {
            let Some((boot, generation)) = line.strip_suffix('\n').and_then(|line| line.split_once(' ')) else {
                tracing::debug!(line, "torn line in `{SYNCED_FILE}`");
                continue;
            };
            if let Ok(generation) = generation.parse::<i64>() {
                let known = boots.entry(boot.to_owned()).or_insert(generation);
                *known = generation.max(*known);
            }
        }
        Self(boots)
    }

    /// Whether what bears this stamp is still whole, seen from `boot`.
    pub(crate) fn covers(&self, stamp: &Stamp, boot: &str) -> bool {
        stamp.boot == boot || self.0.get(&stamp.boot).is_some_and(|generation| stamp.generation <= *generation)
    }

    /// One line per boot, so that the file does not grow for ever. Called when nobody else appends.
    pub(crate) fn compact(&self, root: &Folder) -> Result<(), StoreError> {
        let mut lines: Vec<String> = self.0.iter().map(|(boot, generation)| format!("{boot} {generation}\n")).collect();
        lines.sort();
        let aside = format!("{SYNCED_FILE}.{}", fresh_name()?);
        write_file(root, &aside, lines.concat().as_bytes(), true)?;
        rustix::fs::renameat(root, aside.as_str(), root, SYNCED_FILE)
            .map_err(|source| StoreError::io("rename", root.join(&aside), source))
    }
}

/// Writes out everything on the file system of the store.
pub(crate) fn sync_file_system(root: &Folder) -> Result<(), StoreError> {
    rustix::fs::syncfs(root).map_err(|source| StoreError::io("sync the file system of", &root.path, source))
}

/// Notes that everything up to `stamp` is on disk, on disk.
pub(crate) fn note_synced(root: &Folder, stamp: &Stamp) -> Result<(), StoreError> {
    let path = root.join(SYNCED_FILE);
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(root, SYNCED_FILE, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|source| StoreError::io("open", &path, source))?;
    let mut file = File::from(fd);
    file.write_all(format!("{} {}\n", stamp.boot, stamp.generation).as_bytes())
        .map_err(|source| StoreError::io("write", &path, source))?;
    file.sync_all().map_err(|source| StoreError::io("sync", &path, source))
}

/// Writes a new file of the store, 0600, and syncs it if asked to.
pub(crate) fn write_file(folder: &Folder, name: &str, bytes: &[u8], sync: bool) -> Result<(), StoreError> {
    let path = folder.join(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|source| StoreError::io("make", &path, source))?;
    let mut file = File::from(fd);
    file.write_all(bytes).map_err(|source| StoreError::io("write", &path, source))?;
    if sync {
        file.sync_all().map_err(|source| StoreError::io("sync", &path, source))?;
    }
    Ok(())
}

/// Whether a file exists, without following links; used for the few files that are addressed by path.
pub(crate) fn exists(path: &Path) -> Result<bool, StoreError> {
    match rustix::fs::lstat(path) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(source) => Err(StoreError::io("look at", path, source)),
    }
}
