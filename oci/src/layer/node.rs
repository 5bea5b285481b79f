//! Makes one file in an open directory and gives it its attributes.
//!
//! Nothing here ever opens or changes what was there before: files are made with O_EXCL, and attributes are set through
//! a descriptor, or by calls that do not follow links. The order matters: chown takes set-uid bits and capabilities
//! away, so owner, mode, xattrs, time.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Uid, chmod, chownat, fchmod, fchown, futimens, makedev,
    mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::descent::modified_at;
use super::error::LayerError;
use super::tar::{Entry, Extent, TarError, Time, Xattr};
use super::xattr::{self, Of, XattrNamespace};

/// What a file is like beside its content.
pub(super) struct Attributes<'a> {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timespec,
    pub xattrs: &'a [Xattr],
}

impl<'a> Attributes<'a> {
    pub fn of_entry(entry: &'a Entry, (uid, gid): (u32, u32)) -> Self {
        Self { mode: entry.mode, uid, gid, mtime: timespec(entry.mtime), xattrs: &entry.xattrs }
    }

    pub fn of_stat(stat: &Stat, xattrs: &'a [Xattr]) -> Self {
        let mtime = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
        Self { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime, xattrs }
    }

    /// Of an open file or directory. Returns how many xattrs were left out.
    pub fn set(&self, fd: BorrowedFd<'_>, namespace: Keep, path: &[u8]) -> Result<u64, LayerError> {
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        fchown(fd, uid, gid)
            .map_err(|errno| LayerError::stdio("set the owner of", path)(unmapped(errno, self.uid, self.gid)))?;
        fchmod(fd, Mode::from_raw_mode(self.mode)).map_err(LayerError::io("set the mode of", path))?;
        let dropped = self.set_xattrs(Of::Open(fd), namespace, path)?;
        futimens(fd, &modified_at(self.mtime)).map_err(LayerError::io("set the time of", path))?;
        Ok(dropped)
    }

    /// Of what cannot be opened: links, devices, pipes.
    fn set_named(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        link: bool,
        keep: Keep,
        path: &[u8],
    ) -> Result<u64, LayerError> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        chownat(dir, name, uid, gid, nofollow)
            .map_err(|errno| LayerError::stdio("set the owner of", path)(unmapped(errno, self.uid, self.gid)))?;
        if !link {
            // fchmodat cannot be told not to follow before Linux 6.6.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = openat(dir, name, flags, Mode::empty()).map_err(LayerError::io("open", path))?;
            chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(self.mode))
                .map_err(LayerError::io("set the mode of", path))?;
        }
        let dropped = self.set_xattrs(Of::Named(dir, name), keep, path)?;
        utimensat(dir, name, &modified_at(self.mtime), nofollow).map_err(LayerError::io("set the time of", path))?;
        Ok(dropped)
    }

    fn set_xattrs(&self, of: Of<'_>, keep: Keep, path: &[u8]) -> Result<u64, LayerError> {
        let mut dropped = 0;
        for Xattr { name, value } in self.xattrs {
            if keep.keeps(name) {
                xattr::set(of, name, value).map_err(LayerError::io("set an xattr of", path))?;
            } else {
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}

/// Why an owner cannot be set: a user namespace has only the ids that are mapped into it.
fn unmapped(errno: Errno, uid: u32, gid: u32) -> io::Error {
    match (errno, XattrNamespace::here()) {
        (Errno::INVAL, XattrNamespace::User) => io::Error::other(format!(
            "the user namespace that rbuild runs in has no ids {uid}:{gid}; `rbuild doctor` says which it has, and how to get \
             more"
        )),
        _ => errno.into(),
    }
}

/// Which of the xattrs that travel can be kept here.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    /// All.
    All,
    /// All but `trusted.*`, which only the first user namespace may set, as only it may make devices.
    Unprivileged,
}

impl Keep {
    pub fn with(namespace: XattrNamespace) -> Self {
        match namespace {
            XattrNamespace::Trusted => Self::All,
            XattrNamespace::User => Self::Unprivileged,
        }
    }

    fn keeps(self, name: &[u8]) -> bool {
        xattr::travels(name) && (matches!(self, Self::All) || !name.starts_with(b"trusted."))
    }
}

pub(super) fn timespec(time: Time) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds as _ }
}

/// A new empty file, readable by nobody else until it has its attributes; `None` if anything has that name.
pub(super) fn create_file_unless(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<Option<File>, LayerError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(Errno::EXIST) => Ok(None),
        Err(errno) => Err(LayerError::io("create", path)(errno)),
    }
}

/// The same where nothing has that name.
pub(super) fn create_file(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<File, LayerError> {
    create_file_unless(dir, name, path)?.ok_or_else(|| LayerError::io("create", path)(Errno::EXIST))
}

/// A new symlink with its attributes.
pub(super) fn create_symlink(
    dir: BorrowedFd<'_>,
    name: &[u8],
    target: &[u8],
    attributes: &Attributes<'_>,
    keep: Keep,
    path: &[u8],
) -> Result<u64, LayerError> {
    symlinkat(target, dir, name).map_err(LayerError::io("create the link", path))?;
    attributes.set_named(dir, name, true, keep, path)
}

/// A new device or pipe with its attributes. The device 0:0 would be a whiteout. `None`: it is a device, which only the
/// machine's first user namespace may make.
pub(super) fn create_special(
    dir: BorrowedFd<'_>,
    name: &[u8],
    (kind, major, minor): (FileType, u32, u32),
    attributes: &Attributes<'_>,
    keep: Keep,
    path: &[u8],
) -> Result<Option<u64>, LayerError> {
    if kind == FileType::CharacterDevice && (major, minor) == (0, 0) {
        return Err(LayerError::refused(path, "a character device 0:0 means a deletion to overlayfs"));
    }
    if matches!(keep, Keep::Unprivileged) && kind != FileType::Fifo {
        return Ok(None);
    }
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(dir, name, kind, mode, makedev(major, minor)).map_err(LayerError::io("create the device", path))?;
    attributes.set_named(dir, name, false, keep, path).map(Some)
}

/// A whiteout as overlayfs has it.
pub(super) fn create_whiteout(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), LayerError> {
    mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
        .map_err(LayerError::io("create the whiteout of", path))
}

/// A run of zeros at least this long, and aligned to it, becomes a hole.
const HOLE_BYTES: usize = 64 * 1024;
static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

/// Fills a new file from `data`: `size` bytes, of which the archive holds only `sparse` if that is given.
pub(super) fn fill(
    file: &mut File,
    data: &mut dyn Read,
    size: u64,
    sparse: Option<&[Extent]>,
    path: &[u8],
) -> Result<(), LayerError> {
    let whole = [Extent { offset: 0, length: size }];
    let mut end = 0;
    for extent in sparse.unwrap_or(&whole) {
        end = fill_extent(file, data, extent, end, path)?;
    }
    // Most files are as long as what was written last.
    if end == size { Ok(()) } else { file.set_len(size).map_err(LayerError::stdio("write", path)) }
}

/// Writes one extent into a file that stands at `position`, and returns where it stands then.
fn fill_extent(
    file: &mut File,
    data: &mut dyn Read,
    extent: &Extent,
    mut position: u64,
    path: &[u8],
) -> Result<u64, LayerError> {
    let failed = |source| LayerError::stdio("write", path)(source);
    let mut buffer = [0; HOLE_BYTES];
    let (mut at, end) = (extent.offset, extent.offset + extent.length);
    while at < end {
        // Up to the next multiple of the length of a hole.
        let wanted = (HOLE_BYTES as u64 - at % HOLE_BYTES as u64).min(end - at) as usize;
        read_full(data, &mut buffer[..wanted])?;
        if wanted < HOLE_BYTES || buffer != ZEROS {
            if at != position {
                file.seek(SeekFrom::Start(at)).map_err(failed)?;
            }
            file.write_all(&buffer[..wanted]).map_err(failed)?;
            position = at + wanted as u64;
        }
        at += wanted as u64;
    }
    Ok(position)
}

/// An error of the archive comes out as such.
fn read_full(data: &mut dyn Read, buffer: &mut [u8]) -> Result<(), LayerError> {
    data.read_exact(buffer).map_err(|error| {
        let error = match error.downcast::<TarError>() {
            Ok(tar) => tar,
            Err(source) => TarError::Io { act: "read", offset: 0, source },
        };
        LayerError::Tar(error)
    })
}

/// Copies a file that lies beneath, with its holes.
pub(super) fn copy_data(from: &mut File, to: &mut File, size: u64, path: &[u8]) -> Result<(), LayerError> {
    let mut short = Short { inner: from, path };
    fill(to, &mut short, size, None, path)
}

/// Makes an end of file that comes too early an error that says what it means.
struct Short<'a> {
    inner: &'a mut File,
    path: &'a [u8],
}

impl Read for Short<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer)? {
            0 if !buffer.is_empty() => {
                Err(io::Error::other(LayerError::Changed { path: super::error::shown(self.path) }))
            }
            count => Ok(count),
        }
    }
}

/// Opens a directory that was just made, or was there, without following.
pub(super) fn open_directory(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<OwnedFd, LayerError> {
    openat(dir, name, super::walk::DIRECTORY, Mode::empty()).map_err(LayerError::io("open", path))
}

/// Marks a directory opaque.
pub(super) fn make_opaque(fd: &OwnedFd, namespace: XattrNamespace, path: &[u8]) -> Result<(), LayerError> {
    let result: Result<(), Errno> = xattr::set(Of::Open(fd.as_fd()), namespace.opaque().as_bytes(), b"y");
    result.map_err(LayerError::io("mark as opaque", path))
}
