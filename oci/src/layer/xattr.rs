//! Extended attributes of files, and which of them are part of an image.
//!
//! `user.*`, `trusted.*`, `security.capability` and the POSIX ACLs travel in layers. What overlayfs notes for itself
//! (`trusted.overlay.*`, `user.overlay.*`) never does, in either direction: an archive could otherwise redirect lookups
//! or uncover what lies beneath. Labels of security modules (`security.selinux`, …) belong to the machine.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr, lgetxattr, llistxattr, lsetxattr};
use rustix::io::Errno;

use super::tar::Xattr;

/// Where overlayfs keeps its notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XattrNamespace {
    /// `trusted.overlay.*`: needs CAP_SYS_ADMIN in the first user namespace.
    Trusted,
    /// `user.overlay.*`: with the mount option `userxattr`, or where nothing is mounted at all.
    User,
}

impl XattrNamespace {
    /// The xattr that makes a directory opaque; its value is `y`.
    pub fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }

    /// The one that this process can write: `user.*` in every user namespace but the machine's first, and there without
    /// CAP_SYS_ADMIN. Found out by the first call and kept: whoever enters another user namespace, or gives up that
    /// capability and goes on, does so before.
    pub fn here() -> Self {
        static HERE: OnceLock<XattrNamespace> = OnceLock::new();
        *HERE.get_or_init(|| {
            let read = |path: &str| std::fs::read_to_string(path).ok();
            let name = std::fs::read_link("/proc/self/ns/user").ok();
            let name = name.as_deref().and_then(std::path::Path::to_str);
            // What cannot be asked for is taken to be there.
            let may = rustix::thread::capabilities(None)
                .map_or(true, |own| own.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
            let first = in_first_namespace(name, read("/proc/self/uid_map").as_deref());
            if first && may { Self::Trusted } else { Self::User }
        })
    }
}

/// What the kernel calls its first user namespace (`PROC_USER_INIT_INO`).
const FIRST_NAMESPACE: &str = "user:[4026531837]";

/// Whether a process is in the machine's first user namespace, by its namespace's name or, where there is none, by its
/// ids being those of the machine. Without /proc it is taken to be.
fn in_first_namespace(name: Option<&str>, uid_map: Option<&str>) -> bool {
    match (name, uid_map) {
        (Some(name), _) => name == FIRST_NAMESPACE,
        (None, Some(map)) => map.split_whitespace().eq(["0", "0", "4294967295"]),
        (None, None) => true,
    }
}

/// Whether an xattr is part of an image.
pub(super) fn travels(name: &[u8]) -> bool {
    let overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    let kept = name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default");
    kept && !overlay
}

/// A file whose xattrs are wanted: an open one, or a name in a directory for what cannot be opened (links, devices).
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    Open(BorrowedFd<'a>),
    Named(BorrowedFd<'a>, &'a [u8]),
}

impl Of<'_> {
    /// There is no `getxattrat` before Linux 6.13. The path goes through a descriptor, and the calls that take it do
    /// not follow its last component.
    fn path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
        [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat()
    }

    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => flistxattr(fd, buffer),
            Self::Named(dir, name) => llistxattr(Self::path(*dir, name), buffer),
        }
    }

    fn get(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => fgetxattr(fd, name, buffer),
            Self::Named(dir, file) => lgetxattr(Self::path(*dir, file), name, buffer),
        }
    }

    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Named(dir, file) => lsetxattr(Self::path(*dir, file), name, value, XattrFlags::empty()),
        }
    }
}

/// All xattrs that travel, sorted by name.
pub(super) fn read(of: Of<'_>) -> io::Result<Vec<Xattr>> {
    let names = match grown(|buffer| of.list(buffer)) {
        Ok(names) => names,
        // A file system without xattrs.
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| travels(name)) {
        match grown(|buffer| of.get(name, buffer)) {
            Ok(value) => xattrs.push(Xattr { name: name.to_vec(), value }),
            // Taken away since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// Whether overlayfs takes a directory as opaque, by the mark of one of these namespaces.
pub(super) fn is_opaque(dir: BorrowedFd<'_>, namespaces: &[XattrNamespace]) -> io::Result<bool> {
    for namespace in namespaces {
        let mut value = [0; 1];
        match Of::Open(dir).get(namespace.opaque().as_bytes(), &mut value) {
            Ok(1) if value == *b"y" => return Ok(true),
            // Another value is longer or different, and means nothing to us.
            Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

pub(super) fn set(of: Of<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    of.set(name, value)
}

/// Calls with a buffer until it is large enough. The kernel allows 64 KiB; most need less than 256 bytes.
fn grown(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut size = 256;
    loop {
        let mut buffer = vec![0; size];
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if size < 64 << 10 => size = 64 << 10,
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::in_first_namespace;

    #[test]
    fn the_first_user_namespace_is_known_by_its_name_or_by_its_ids() {
        let all = Some("         0          0 4294967295\n");
        for (name, map, expected) in [
            (Some("user:[4026531837]"), all, true),
            (Some("user:[4026532211]"), all, false),
            (Some("user:[4026532211]"), Some("0 1000 1\n1 100000 65536\n"), false),
            (None, all, true),
            (None, Some("0 1000 1\n"), false),
            (None, None, true),
        ] {
            assert_eq!(in_first_namespace(name, map), expected, "{name:?} {map:?}");
        }
    }
}
