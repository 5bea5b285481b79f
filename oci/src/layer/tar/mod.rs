//! tar: ustar with PAX records, and on reading GNU's extensions too.
//!
//! [`Entry`] is one member's metadata, the same for [`TarWriter`] and [`TarReader`]; its bytes stream beside it. Both
//! are our own, for the bytes of a layer decide its digest and the reading of a hostile one decides what is written
//! where. The `tar` crate loses binary xattrs; `tar-core` refuses negative times unless told to overlook every error,
//! applies a PAX `size` to a sparse member's map as well as its data, and reads on after a lone zero block where
//! others stop. It is our oracle in tests. Deliberately absent: files on disk (see [`super::diff`], [`super::apply`]).

mod header;
mod pax;
mod read;
mod sparse;
mod write;

pub use read::{EndMarker, Limits, TarReader};
pub use sparse::Extent;
pub use write::TarWriter;

use std::io;

/// Blocks of a tar, in bytes.
pub const BLOCK_BYTES: usize = 512;

/// One member without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name as it stands in the archive, but for a directory without the slash at the end. Any bytes but NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The twelve permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content last changed.
    pub mtime: Time,
    /// Extended attributes; the writer sorts them.
    pub xattrs: Vec<Xattr>,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its length in bytes, holes included.
        size: u64,
        /// Where its data lies, in ascending order, when the archive leaves holes out. The writer takes none.
        sparse: Option<Vec<Extent>>,
    },
    /// Another name of a member before it, or of a file that is there already.
    HardLink {
        /// That member's name.
        target: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// Its text.
        target: Vec<u8>,
    },
    /// A directory.
    Directory,
    /// A character device.
    CharDevice {
        /// Its driver.
        major: u32,
        /// Its unit.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its driver.
        major: u32,
        /// Its unit.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A point in time: seconds since 1970, rounded down, and nanoseconds on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

impl Time {
    /// A whole second.
    pub const fn at(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }
}

/// An extended attribute. Its value is any bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// With its namespace: `user.x`, `security.capability`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// What ends at that byte: what is shorter than a header is something else.
fn ended(offset: u64) -> String {
    match offset {
        ..512 => format!("that is no tar archive: it has {offset} bytes, and the shortest one 512"),
        _ => format!("the archive ends early, at byte {offset}"),
    }
}

/// Why an archive could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream beneath failed.
    #[error("cannot {act} the archive at byte {offset}: {source}")]
    Io {
        /// "read" or "write".
        act: &'static str,
        /// How far it came.
        offset: u64,
        /// Why not further.
        source: io::Error,
    },
    /// The bytes are no tar, or could be read in two ways.
    #[error("malformed archive at byte {offset}{}: {reason}", of(.path))]
    Malformed {
        /// Where the member's headers end.
        offset: u64,
        /// Which member, when its name is known.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// It ends in the middle, or without its end marker.
    #[error("{}", ended(*offset))]
    Truncated {
        /// Where.
        offset: u64,
    },
    /// It is larger than allowed.
    #[error("the archive at byte {offset}{} exceeds the limit of {limit} {what}", of(.path))]
    Limit {
        /// Where.
        offset: u64,
        /// Which member, when its name is known.
        path: String,
        /// Of what there is too much: "entries", "bytes in all", ….
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
}

fn of(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(", member `{path}`") }
}

/// Whether `block`, the first [`BLOCK_BYTES`] of something, is the header of a tar's member: its checksum is right. A
/// block of zeros, which ends an archive, is none.
pub fn is_header(block: &[u8]) -> bool {
    let Some(Ok(block)) = block.get(..BLOCK_BYTES).map(<&[u8; BLOCK_BYTES]>::try_from) else { return false };
    let (unsigned, signed) = header::checksums(block);
    let stated = header::number(header::CHECKSUM.of(block));
    block.iter().any(|byte| *byte != 0) && (stated == Some(unsigned) || stated == Some(signed))
}

/// A name for people: control characters and bytes that are no UTF-8 are escaped, so that no log can be forged.
pub fn printable(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '`' { text.extend(c.escape_default()) } else { text.push(c) }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}
