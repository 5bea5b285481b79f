//! `--chown`: names of users and groups, as the tree itself knows them.
//!
//! In: an [`Owner`] as written and the root of the tree that is changed. Out: numbers. `/etc/passwd` and `/etc/group`
//! are hostile: resolved beneath the root, read only when they are regular files of a bounded size.

use std::io::Read as _;
use std::os::fd::AsFd;

use rustix::fs::{self, FileType, Mode, OFlags};
use solver::op::{Owner, UserRef};

use crate::tree::{Root, TreeError};

/// What other builders take too; a real file has some kilobytes.
const DATABASE_MAX_BYTES: u64 = 10 << 20;

/// Why an owner cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// No line of that name.
    #[error("`{file}` of the image has no {kind} `{name}`")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Where it was looked up.
        file: &'static str,
    },
    /// The file is no plain file, or too large.
    #[error("cannot look up names in `{file}` of the image: {reason}")]
    Unusable {
        /// Which file.
        file: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot look up names in `{file}` of the image: {source}")]
    Tree {
        /// Which file.
        file: &'static str,
        /// Why not.
        source: TreeError,
    },
}

/// Numbers of an owner; `None` is 0:0.
pub(crate) fn resolve_or_root(owner: Option<&Owner>, root: &Root) -> Result<(u32, u32), OwnerError> {
    owner.map_or(Ok((0, 0)), |owner| resolve(owner, root))
}

/// Numbers of an owner. A group that is not given is the user's number.
pub(crate) fn resolve(owner: &Owner, root: &Root) -> Result<(u32, u32), OwnerError> {
    let number = |reference: &UserRef, kind, file| match reference {
        UserRef::Id(id) => Ok(*id),
        UserRef::Name(name) => look_up(name, kind, file, root),
    };
    let uid = number(&owner.user, "user", "/etc/passwd")?;
    let gid = match &owner.group {
        Some(group) => number(group, "group", "/etc/group")?,
        None => uid,
    };
    Ok((uid, gid))
}

fn look_up(name: &str, kind: &'static str, file: &'static str, root: &Root) -> Result<u32, OwnerError> {
    let unknown = || OwnerError::Unknown { kind, name: name.to_owned(), file };
    let Some(text) = read(file, root)? else { return Err(unknown()) };
    // Both files have the name first and the number third.
    let number = text.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let matches = fields.next() == Some(name.as_bytes());
        let number = fields.nth(1)?;
        matches.then(|| std::str::from_utf8(number).ok()?.parse().ok()).flatten()
    });
    number.ok_or_else(unknown)
}

fn read(file: &'static str, root: &Root) -> Result<Option<Vec<u8>>, OwnerError> {
    let failed = |source| OwnerError::Tree { file, source };
    let unusable = |reason| Err(OwnerError::Unusable { file, reason });
    let place = match root.resolve(file.as_bytes()) {
        Ok(place) => place,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let Some(stat) = &place.stat else { return Ok(None) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return unusable("it is not a regular file");
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = fs::openat(place.dir.as_fd(), place.name.as_slice(), flags, Mode::empty())
        .map_err(|errno| failed(TreeError::io("open", &place.path)(errno)))?;
    let mut text = Vec::new();
    std::fs::File::from(fd)
        .take(DATABASE_MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|source| failed(TreeError::Io { act: "read", path: file.into(), source }))?;
    if text.len() as u64 > DATABASE_MAX_BYTES {
        return unusable("it is larger than 10 MiB");
    }
    Ok(Some(text))
}
