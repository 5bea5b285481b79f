//! What an entry is beside its bytes: owner, mode, times, extended attributes.
//!
//! In: a directory's descriptor and a name in it. Out: attributes, read or set, never through a link. The names that
//! belong to content are decided here ([`belongs_to_content`]); overlayfs's own marks never do.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{self, AtFlags, Gid, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// Largest value and list of names that the kernel has.
const XATTR_MAX_BYTES: usize = 65536;

/// The mark of a directory that hides everything beneath it, as overlayfs in this user namespace has it.
pub(crate) fn opaque() -> &'static str {
    oci::layer::XattrNamespace::here().opaque()
}

/// Extended attributes by name.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Whether an extended attribute is content: `user.*`, `trusted.*`, POSIX ACLs and file capabilities are; overlayfs's
/// marks, labels of security modules and the kernel's own are not.
pub(crate) fn belongs_to_content(name: &[u8]) -> bool {
    if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        return false;
    }
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

/// Path of an entry for the calls that take no directory descriptor. The last component is a plain name and the calls
/// used do not follow it, so nothing on the way can be swapped.
fn entry_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(if name.is_empty() { b"." } else { name });
    path
}

/// The content attributes of an entry. A file system without extended attributes has none.
pub(crate) fn xattrs(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Xattrs, Errno> {
    let path = entry_path(dir, name);
    let mut found = Xattrs::new();
    // Nearly no entry has any: ask for the length before making room.
    let length = match fs::llistxattr_query(path.as_slice()) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(found),
        Ok(length) => length,
        Err(errno) => return Err(errno),
    };
    let mut names = Vec::with_capacity(length.max(256));
    match fs::llistxattr(path.as_slice(), rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        // It grew since it was asked for.
        Err(Errno::RANGE) => {
            names.reserve(XATTR_MAX_BYTES);
            fs::llistxattr(path.as_slice(), rustix::buffer::spare_capacity(&mut names))?;
        }
        Err(errno) => return Err(errno),
    }
    for attribute in names.split(|b| *b == 0).filter(|name| belongs_to_content(name)) {
        if let Some(value) = xattr_of_path(&path, attribute)? {
            found.insert(attribute.to_vec(), value);
        }
    }
    Ok(found)
}

/// One attribute of an entry, whatever its name.
pub(crate) fn xattr(dir: BorrowedFd<'_>, name: &[u8], attribute: &str) -> Result<Option<Vec<u8>>, Errno> {
    xattr_of_path(&entry_path(dir, name), attribute.as_bytes())
}

fn xattr_of_path(path: &[u8], attribute: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = Vec::with_capacity(256);
    match fs::lgetxattr(path, attribute, rustix::buffer::spare_capacity(&mut value)) {
        Ok(_) => Ok(Some(value)),
        Err(Errno::RANGE) => {
            value.reserve(XATTR_MAX_BYTES);
            fs::lgetxattr(path, attribute, rustix::buffer::spare_capacity(&mut value))?;
            Ok(Some(value))
        }
        // NODATA: it has none of that name. NOTSUP: nothing here has any.
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sets one attribute of an entry.
pub(crate) fn set_xattr(dir: BorrowedFd<'_>, name: &[u8], attribute: &[u8], value: &[u8]) -> Result<(), Errno> {
    fs::lsetxattr(entry_path(dir, name), attribute, value, XattrFlags::empty())
}

/// Removes one attribute of an entry; an absent one is fine.
pub(crate) fn remove_xattr(dir: BorrowedFd<'_>, name: &[u8], attribute: &[u8]) -> Result<(), Errno> {
    match fs::lremovexattr(entry_path(dir, name), attribute) {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Whether a directory hides what lies beneath it.
pub(crate) fn is_opaque(dir: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    Ok(xattr(dir, name, opaque())?.is_some_and(|value| value == b"y"))
}

/// Whether an open file has extended attributes, whatever kind. Nearly none has, and this needs no path.
pub(crate) fn has_xattrs(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    match fs::flistxattr_query(file) {
        Ok(length) => Ok(length > 0),
        Err(Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Changes the owner of an open file.
pub(crate) fn chown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Changes the owner of an entry.
pub(crate) fn chown_at(dir: BorrowedFd<'_>, name: &[u8], uid: u32, gid: u32) -> Result<(), Errno> {
    fs::chownat(dir, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets the modification time of an entry.
pub(crate) fn set_times_at(dir: BorrowedFd<'_>, name: &[u8], times: &Timestamps) -> Result<(), Errno> {
    fs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Both times of a file at this moment.
pub(crate) fn times(seconds: i64, nanoseconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Timestamps { last_access: time, last_modification: time }
}

/// A moment in nanoseconds since 1970.
pub(crate) fn times_at(nanoseconds: i64) -> Timestamps {
    const SECOND: i64 = 1_000_000_000;
    times(nanoseconds.div_euclid(SECOND), nanoseconds.rem_euclid(SECOND))
}

/// The times of an entry that was looked at.
// The types differ between architectures.
#[allow(clippy::unnecessary_cast)]
pub(crate) fn times_of(stat: &fs::Stat) -> Timestamps {
    times(stat.st_mtime as i64, stat.st_mtime_nsec as i64)
}

/// Gives `to` the mode, owner, times and content attributes of `from`, both open directories.
pub(crate) fn copy_dir_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = fs::fstat(from)?;
    chown(to, stat.st_uid, stat.st_gid)?;
    fs::fchmod(to, fs::Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for (name, value) in xattrs(from, b"")? {
        set_xattr(to, b"", &name, &value)?;
    }
    fs::futimens(to.as_fd(), &times_of(&stat))
}
