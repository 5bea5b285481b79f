//! Directory trees by descriptor: every look into an image, a layer or a build context goes through here.
//!
//! In: a descriptor of a tree's root and paths of strangers. Out: entries, bytes and attributes, never anything outside
//! that root. Deliberately absent: path strings of the host; what a copy or a layer means. Next: [`resolve`] (paths),
//! [`walk`] (whole trees), [`attrs`] (owner, mode, times, extended attributes), [`data`] (bytes), [`copy`] (entries),
//! [`usage`] (room on disk).

pub(crate) mod attrs;
pub(crate) mod copy;
pub(crate) mod data;
pub(crate) mod mirror;
pub(crate) mod resolve;
pub(crate) mod usage;
pub(crate) mod walk;

use std::io;

pub(crate) use resolve::{Found, NewDir, Place, Root};

/// Why a tree could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The kernel refused something.
    #[error("cannot {act} `{path}`")]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what, relative to the tree's root.
        path: String,
        /// The refusal.
        source: io::Error,
    },
    /// Nothing is there.
    #[error("`{path}` does not exist")]
    NotFound {
        /// The path as asked for.
        path: String,
    },
    /// Something else stands where a directory is needed.
    #[error("`{path}` is not a directory")]
    NotADirectory {
        /// The path as asked for.
        path: String,
    },
    /// Links lead to links without end.
    #[error("`{path}` leads through more than {limit} symbolic links")]
    LinkLoop {
        /// The path as asked for.
        path: String,
        /// How many are followed.
        limit: usize,
    },
    /// A tree deeper than anything real.
    #[error("`{path}` is nested deeper than {limit} directories")]
    TooDeep {
        /// Beginning of the path.
        path: String,
        /// How deep a tree may be.
        limit: usize,
    },
    /// A thing that no layer can hold.
    #[error("`{path}` cannot be in an image: {reason}")]
    Unrepresentable {
        /// What, relative to the tree's root.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file stands where a directory is to be copied.
    #[error("cannot copy a directory to `{path}`: something else is there")]
    CannotReplaceWithDirectory {
        /// Where, in the destination.
        path: String,
    },
    /// A directory stands where a file is to be copied.
    #[error("cannot replace the directory `{path}` with a file")]
    CannotReplaceDirectory {
        /// Where, in the destination.
        path: String,
    },
    /// Another file system, or another part of one, is mounted where files are to be removed.
    #[error("`{path}` is a mount point: nothing in there is removed")]
    MountPoint {
        /// Where, in the destination.
        path: String,
    },
    /// Whoever asked for it wants it no longer.
    #[error("stopped")]
    Stopped,
    /// Somebody changed the tree under our hands.
    #[error("`{path}` changed while it was read")]
    Changed {
        /// What changed, relative to the tree's root.
        path: String,
    },
}

/// The kernel's words, and what they nearly always mean in a user namespace.
fn words(errno: rustix::io::Errno) -> io::Error {
    let user_namespace = || oci::layer::XattrNamespace::here() == oci::layer::XattrNamespace::User;
    if errno == rustix::io::Errno::INVAL && user_namespace() {
        let meaning = "owners are only the ids that the user namespace has, see `rbuild doctor`";
        return io::Error::other(format!("{errno}: {meaning}"));
    }
    errno.into()
}

impl TreeError {
    /// Turns a refusal into an error that says what was tried on what.
    pub(crate) fn io(act: &'static str, path: &[u8]) -> impl FnOnce(rustix::io::Errno) -> TreeError {
        // Only a refusal costs something.
        move |errno| TreeError::Io { act, path: shown(path), source: words(errno) }
    }

    /// The same for what was looked at before: if it is gone or has become another kind of thing, it has changed.
    pub(crate) fn changed_if_gone(act: &'static str, path: &[u8]) -> impl FnOnce(rustix::io::Errno) -> TreeError {
        use rustix::io::Errno;
        move |errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL | Errno::STALE => {
                TreeError::Changed { path: shown(path) }
            }
            errno => TreeError::io(act, path)(errno),
        }
    }

    /// Whether it says that nothing is there.
    pub(crate) fn is_not_found(&self) -> bool {
        match self {
            TreeError::NotFound { .. } => true,
            TreeError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// A path for human eyes: control characters and bytes that are no UTF-8 are escaped, so that a file name cannot forge
/// a line of the log; an empty path is the root.
pub(crate) fn shown(path: &[u8]) -> String {
    /// Enough to recognise a path; a hostile one may be megabytes long.
    const SHOWN_MAX_BYTES: usize = 1024;
    if path.is_empty() {
        return "/".into();
    }
    let cut = &path[..path.len().min(SHOWN_MAX_BYTES)];
    let mut text = String::with_capacity(cut.len());
    for chunk in cut.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if cut.len() < path.len() {
        text.push('…');
    }
    text
}

/// `parent/name`, or `name` below the root.
pub(crate) fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() && !parent.ends_with(b"/") && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
