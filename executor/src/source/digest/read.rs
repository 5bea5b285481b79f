//! One entry of the context, read: what counts of it for a digest.
//!
//! In: a directory's descriptor and a name in it. Out: a [`NodeEntry`], of which every part was there at once: an entry
//! that looks otherwise afterwards has changed, and that is an error. FIFOs and devices are never opened.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, Stat};
use store::{NodeEntry, NodeKind, attributes_digest};

use crate::source::look::Look;
use crate::tree::copy::open_file;
use crate::tree::walk::Entry;
use crate::tree::{TreeError, attrs, data, shown};

/// An entry that was looked at: `path` is its path in the context, for messages.
pub(super) struct Looked<'a> {
    pub dir: BorrowedFd<'a>,
    pub name: &'a [u8],
    pub path: &'a [u8],
    pub stat: &'a Stat,
}

/// What an entry is. `what` is given for a directory, whose entries are somebody else's business; sockets are nobody's.
/// `stop` is asked before every piece that is read.
pub(super) fn read(
    looked: &Looked<'_>,
    what: Option<NodeKind>,
    stop: &dyn Fn() -> bool,
) -> Result<NodeEntry, TreeError> {
    let Looked { dir, name, path, stat } = *looked;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let what = match (what, kind) {
        (Some(what), _) => what,
        (None, FileType::RegularFile) => {
            let file = open_file(&Entry { dir, name, path, stat })?;
            let bytes = stat.st_size as u64;
            let sha256 = data::sha256(file.as_fd(), bytes, stop).map_err(TreeError::io("read", path))?;
            let ended = || if stop() { TreeError::Stopped } else { TreeError::Changed { path: shown(path) } };
            NodeKind::File { bytes, sha256: sha256.ok_or_else(ended)? }
        }
        (None, FileType::Symlink) => {
            let target =
                fs::readlinkat(dir, name, Vec::new()).map_err(TreeError::changed_if_gone("read link", path))?;
            NodeKind::Link(target.into_bytes())
        }
        (None, FileType::Fifo) => NodeKind::Fifo,
        (None, FileType::CharacterDevice) => NodeKind::CharacterDevice(stat.st_rdev),
        (None, FileType::BlockDevice) => NodeKind::BlockDevice(stat.st_rdev),
        (None, FileType::Directory | FileType::Socket | FileType::Unknown) => {
            let reason = "it is of no known kind";
            return Err(TreeError::Unrepresentable { path: shown(path), reason });
        }
    };
    let xattrs = attrs::xattrs(dir, name).map_err(TreeError::changed_if_gone("read attributes of", path))?;
    // By its name, not by a descriptor: what was read must still be what is there.
    let after = match name.is_empty() {
        true => fs::fstat(dir),
        false => fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW),
    };
    let after = Look::of(&after.map_err(TreeError::changed_if_gone("look at", path))?);
    let before = Look::of(stat);
    if !before.is_still(&after) {
        return Err(TreeError::Changed { path: shown(path) });
    }
    // A link's own mode means nothing; some file systems say something else than 0777.
    let mode = if kind == FileType::Symlink { 0o777 } else { before.permissions() };
    Ok(NodeEntry { name: name.to_vec(), mode, owner: (0, 0), attributes: attributes_digest(&xattrs), what })
}
