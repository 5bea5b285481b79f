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

/// Numbers of an owner. A group that is not given is the one that `/etc/passwd` has for a name, and the same number
/// for a number.
pub(crate) fn resolve(owner: &Owner, root: &Root) -> Result<(u32, u32), OwnerError> {
    let (uid, own_group) = match &owner.user {
        UserRef::Id(id) => (*id, *id),
        // The name is the first field of a line, its numbers the third and the fourth.
        UserRef::Name(name) => look_up(name, "user", "/etc/passwd", root, |fields| {
            Some((number(fields.nth(1)?)?, number(fields.next()?)?))
        })?,
    };
    let gid = match &owner.group {
        None => own_group,
        Some(UserRef::Id(id)) => *id,
        Some(UserRef::Name(name)) => look_up(name, "group", "/etc/group", root, |fields| number(fields.nth(1)?))?,
    };
    Ok((uid, gid))
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// What `value` makes of the fields after the name, in the first line of that name that it can read.
fn look_up<T>(
    name: &str,
    kind: &'static str,
    file: &'static str,
    root: &Root,
    value: impl Fn(&mut dyn Iterator<Item = &[u8]>) -> Option<T>,
) -> Result<T, OwnerError> {
    let unknown = || OwnerError::Unknown { kind, name: name.to_owned(), file };
    let Some(text) = read(file, root)? else { return Err(unknown()) };
    let found = text.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let matches = fields.next() == Some(name.as_bytes());
        if matches { value(&mut fields) } else { None }
    });
    found.ok_or_else(unknown)
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
