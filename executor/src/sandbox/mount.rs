//! Mounts by descriptor: made detached, attached to a place that is already open.
//!
//! Every function answers with a descriptor of a mount that is nowhere yet; [`attach`] puts it somewhere. No path of
//! the image ever reaches the kernel's mount calls as text. Overlays are [`mount_here`]'s; the rest needs the mount API
//! of Linux 5.12.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::beneath::open_beneath;
use super::plan::Flags;
use super::spec::{Bind, BindSource, Overlay, RootFs};
use super::sys;
use super::userns::Mapping;
use crate::snapshot::SnapshotError;
use crate::snapshot::overlay::{MountApi, OverlaySpec, mount_here};

/// The stage holds generated files of at most a few kilobytes each.
const STAGE_SIZE: &str = "16m";
/// The directory of the stage that nobody writes to: what masks of directories show.
pub const EMPTY: &str = "empty";

/// Why a mount could not be made: the kernel's number, and its words when it has some.
#[derive(Debug)]
pub struct MountError {
    /// The number.
    pub errno: Errno,
    /// What was done, and what the kernel logged about it.
    pub words: String,
}

impl MountError {
    pub(super) fn new(words: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let words = words.into();
        move |errno| Self { errno, words }
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.words.is_empty() { write!(f, "{}", self.errno) } else { write!(f, "{}: {}", self.words, self.errno) }
    }
}

impl From<Errno> for MountError {
    fn from(errno: Errno) -> Self {
        Self { errno, words: String::new() }
    }
}

/// A new file system of a kind that needs no device.
pub fn file_system(kind: &str, options: &[(String, String)], flags: Flags) -> Result<OwnedFd, MountError> {
    file_system_with(kind, &[], options, flags)
}

/// As [`file_system`], with options that have no value.
pub fn file_system_with(
    kind: &str,
    switches: &[&str],
    options: &[(String, String)],
    flags: Flags,
) -> Result<OwnedFd, MountError> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for name in switches {
        fsconfig_set_flag(&context, *name).map_err(|e| logged(&context, name, e))?;
    }
    for (name, value) in options {
        fsconfig_set_string(&context, name.as_str(), value.as_str()).map_err(|e| logged(&context, name, e))?;
    }
    fsconfig_create(&context).map_err(|e| logged(&context, "create", e))?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes(flags))?)
}

/// The kernel's own words about a failed file system, which are more than its number.
fn logged(context: impl AsFd, what: &str, errno: Errno) -> MountError {
    let mut words = what.to_owned();
    let mut line = [0; 256];
    // Reading a file system context gives one message at a time; ENODATA ends it. A failed read is no news.
    while let Ok(count @ 1..) = rustix::io::read(&context, &mut line) {
        words.push_str(": ");
        words.push_str(String::from_utf8_lossy(&line[..count]).trim_end().trim_start_matches("e "));
    }
    MountError { errno, words }
}

/// As the mount API has them.
pub fn attributes(flags: Flags) -> MountAttrFlags {
    let Flags { readonly, nosuid, nodev, noexec } = flags;
    [
        (readonly, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .fold(MountAttrFlags::empty(), |all, (_, flag)| all | flag)
}

/// Attaches a detached (or moves an attached) mount to the place `to`.
pub fn attach(mount: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    move_mount(mount, "", to, "", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
}

/// A second mount of what is at the open place `of`; of everything mounted below it too when `recursive`.
pub fn clone_of(of: impl AsFd, flags: Flags, recursive: bool) -> Result<OwnedFd, MountError> {
    let below = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH | below;
    let tree = open_tree(of, "", how).map_err(MountError::new("clone the mount"))?;
    let set = attributes(flags).bits();
    if set != 0 {
        sys::set_mount_attributes(&tree, set.into(), recursive)
            .map_err(|e| MountError::new("set flags")(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
    }
    Ok(tree)
}

/// A memory file system attached over the host's root in this mount namespace: in the namespace, as clones need, yet
/// on no path. It leaves with the host's root.
pub struct Stage {
    directory: OwnedFd,
    mounts: usize,
}

impl Stage {
    /// Makes it, and attaches it.
    pub fn new() -> Result<Self, MountError> {
        Self::of(stage()?)
    }

    /// Attaches what one is made of.
    pub fn of(directory: OwnedFd) -> Result<Self, MountError> {
        over_host_root(&directory)?;
        Ok(Self { directory, mounts: 0 })
    }

    /// Its root directory.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Opens something in it as a place.
    pub fn place(&self, name: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    /// Writes a file of mode 0644 into it and opens it as a place.
    pub fn file(&mut self, bytes: &[u8]) -> Result<OwnedFd, MountError> {
        let name = self.next_name();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name.as_str(), flags, Mode::from_raw_mode(0o644))?;
        io::Write::write_all(&mut std::fs::File::from(file), bytes)
            .map_err(|e| MountError::new("write")(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        Ok(self.place(&name)?)
    }

    /// Makes a directory in it, a mount point for what must be attached somewhere, and opens it as a place.
    pub fn directory(&mut self) -> Result<OwnedFd, MountError> {
        let name = self.next_name();
        rustix::fs::mkdirat(&self.directory, name.as_str(), Mode::from_raw_mode(0o700))?;
        Ok(self.place(&name)?)
    }

    fn next_name(&mut self) -> String {
        self.mounts += 1;
        self.mounts.to_string()
    }
}

/// What a [`Stage`] is made of, with its empty directory.
pub fn stage() -> Result<OwnedFd, MountError> {
    let options = [("size", STAGE_SIZE), ("mode", "0755")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    let directory = file_system("tmpfs", &options, Flags { nosuid: true, nodev: true, ..Flags::default() })?;
    rustix::fs::mkdirat(&directory, EMPTY, Mode::from_raw_mode(0o555))?;
    Ok(directory)
}

/// Stacks a mount on the host's root directory. Lookups of `/` keep finding the host's until the pivot.
pub fn over_host_root(mount: impl AsFd) -> Result<(), Errno> {
    move_mount(mount, "", rustix::fs::CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// The mount of a root file system.
pub fn root(root: &RootFs, stage: &mut Stage, mapping: Option<Mapping<'_>>) -> Result<OwnedFd, MountError> {
    match root {
        RootFs::Overlay(spec) => overlay(spec, Flags::default(), stage, mapping),
        RootFs::Tree { path } => stored(host_place(path)?, Flags::default(), mapping),
    }
}

/// The mount of a tree of the store, or of a part of one.
fn stored(place: OwnedFd, flags: Flags, mapping: Option<Mapping<'_>>) -> Result<OwnedFd, MountError> {
    match mapping {
        Some(mapping) => mapping.mount(place, flags),
        None => clone_of(place, flags, true),
    }
}

/// The mount of a bind.
pub fn bind(bind: &Bind, stage: &mut Stage, mapping: Option<Mapping<'_>>) -> Result<OwnedFd, MountError> {
    let flags = Flags { readonly: bind.readonly, ..Flags::default() };
    let whole = matches!(bind.subpath.as_str(), "" | "/");
    let source = match &bind.source {
        BindSource::Overlay(spec) => {
            let view = overlay(spec, flags, stage, mapping)?;
            if whole {
                return Ok(view);
            }
            // Only what is in the namespace can be cloned in part.
            let place = stage.directory()?;
            attach(&view, &place)?;
            view
        }
        BindSource::Path(path) | BindSource::Lent(path) | BindSource::Own(path) => host_place(path)?,
    };
    let part = if whole {
        source
    } else {
        open_beneath(&source, OsStr::new(&bind.subpath), OFlags::PATH, ResolveFlags::empty())
            .map_err(MountError::new(format!("`{}` in the source", bind.subpath)))?
    };
    match &bind.source {
        // Its layers are mapped already.
        BindSource::Overlay(_) => clone_of(part, Flags { nodev: mapping.is_some(), ..flags }, false),
        BindSource::Path(_) => clone_of(part, flags, true),
        BindSource::Lent(_) | BindSource::Own(_) => stored(part, flags, mapping),
    }
}

fn host_place(path: &Path) -> Result<OwnedFd, MountError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(MountError::new(format!("`{}`", path.display())))
}

/// The mount of an overlay, its layers id-mapped if asked for.
pub fn overlay(
    spec: &Overlay,
    flags: Flags,
    stage: &mut Stage,
    mapping: Option<Mapping<'_>>,
) -> Result<OwnedFd, MountError> {
    let mut place = |path: &Path| match mapping {
        Some(mapping) => mapping.attached(host_place(path)?, stage),
        None => host_place(path),
    };
    // Short names are relative to here; the plan names everything else absolutely.
    let layers = place(&spec.layers_dir)?;
    rustix::process::fchdir(&layers).map_err(MountError::new(format!("`{}`", spec.layers_dir.display())))?;
    let mut overlay = OverlaySpec { lowers: spec.lowers.clone(), upper: None, work: None };
    let mut held = Vec::new();
    if let Some(upper) = &spec.upper {
        let mut hold = |place: OwnedFd| {
            let name = format!("/proc/self/fd/{}", place.as_raw_fd());
            held.push(place);
            Some(name)
        };
        let [dir, work] = match mapping {
            None => [place(&upper.dir)?, place(&upper.work)?],
            // overlayfs wants both on one mount.
            Some(_) => {
                let above = upper.dir.parent().filter(|above| upper.work.parent() == Some(above));
                let above = place(above.ok_or(Errno::INVAL)?)?;
                let beneath = |path: &Path| {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    rustix::fs::openat(&above, path.file_name().unwrap_or_default(), flags, Mode::empty())
                        .map_err(MountError::new(format!("`{}`", path.display())))
                };
                [beneath(&upper.dir)?, beneath(&upper.work)?]
            }
        };
        (overlay.upper, overlay.work) = (hold(dir), hold(work));
    }
    let flags = Flags { nodev: flags.nodev || mapping.is_some(), ..flags };
    let mounted = mount_here(&overlay, attributes(flags), MountApi::detect());
    mounted.map_err(|error| match error {
        SnapshotError::Mount { what, kernel, source } => {
            let words = [what, kernel].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
            let hint = if mapping.is_some() { " of id-mapped layers, which takes Linux 5.19" } else { "" };
            MountError { errno: Errno::from_io_error(&source).unwrap_or(Errno::IO), words: format!("{words}{hint}") }
        }
        error => MountError { errno: Errno::INVAL, words: error.to_string() },
    })
}
