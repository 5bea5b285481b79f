//! What of `/proc` and `/sys` a step must not see or change: covered, or made read-only, and then looked at again.
//!
//! In: paths and patterns of the plan, all of which are optional. A file is covered by the null device, a directory by
//! an empty one of the stage. Deliberately absent: which paths ([`super::policy`]).

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::beneath::{Root, file_type};
use super::mount::{self, Stage};
use super::plan::Flags;
use super::trouble::Trouble;

/// Makes a path and all that is mounted below it read-only.
pub fn make_read_only(root: &Root, path: &str) -> Result<(), Trouble> {
    let place = match root.place_without_links(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        place => place?,
    };
    let flags = Flags { readonly: true, nosuid: true, nodev: true, noexec: true };
    mount::attach(mount::clone_of(&place, flags, true)?, &place)?;
    let seen = rustix::fs::fstatvfs(root.place_without_links(path)?)?;
    if !seen.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Err(format!("`{path}` is still writable").into());
    }
    Ok(())
}

/// What paths are covered with, as mounts that have their flags already: a clone has them too.
pub struct Covers {
    null: OwnedFd,
    empty: OwnedFd,
}

impl Covers {
    /// From the null device and the stage's empty directory.
    pub fn new(null: OwnedFd, stage: &mut Stage) -> Result<Self, Trouble> {
        let flags = Flags { readonly: true, nosuid: true, nodev: false, noexec: true };
        let ready = |place: OwnedFd, flags, at: OwnedFd| {
            let cover = mount::clone_of(place, flags, false)?;
            // Only what is in the namespace can be cloned.
            mount::attach(&cover, at)?;
            Ok::<_, Trouble>(cover)
        };
        let empty = stage.place(mount::EMPTY)?;
        Ok(Self {
            null: ready(null, flags, stage.file(&[])?)?,
            empty: ready(empty, Flags { nodev: true, ..flags }, stage.directory()?)?,
        })
    }
}

/// Covers every path that `pattern` matches.
pub fn mask(root: &Root, covers: &Covers, pattern: &str) -> Result<(), Trouble> {
    let Some((before, after)) = pattern.split_once('*') else { return cover(root, covers, pattern) };
    let (directory, prefix) = before.rsplit_once('/').unwrap_or(("/", before));
    let (suffix, rest) = after.split_once('/').map_or((after, ""), |(suffix, rest)| (suffix, rest));
    let listed = match root.open(directory, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        listed => listed?,
    };
    for entry in rustix::fs::Dir::new(listed)? {
        let entry = entry?;
        // Names that are not text match no pattern of ours.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name.len() >= prefix.len() + suffix.len() && name.starts_with(prefix) && name.ends_with(suffix) {
            mask(root, covers, &format!("{directory}/{name}/{rest}"))?;
        }
    }
    Ok(())
}

fn cover(root: &Root, covers: &Covers, path: &str) -> Result<(), Trouble> {
    let place = match root.place_without_links(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        place => place?,
    };
    let cover = if file_type(&place)? == FileType::Directory { &covers.empty } else { &covers.null };
    mount::attach(mount::clone_of(cover, Flags::default(), false)?, &place)?;
    let (seen, cover) = (rustix::fs::fstat(root.place_without_links(path)?)?, rustix::fs::fstat(cover)?);
    if (seen.st_dev, seen.st_ino) != (cover.st_dev, cover.st_ino) {
        return Err(format!("`{path}` is still visible").into());
    }
    Ok(())
}
