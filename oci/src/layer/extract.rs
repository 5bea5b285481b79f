//! An ordinary archive is unpacked into a root file system, as `ADD archive.tar /somewhere` asks for.
//!
//! The root is one whole tree, usually a detached overlay mount. Links in the root are followed on the way to a member
//! (`lib -> /usr/lib` leads to `usr/lib` in that root) and never out of it. What stands in a
//! member's place is replaced, a link too, as every builder does; only a directory stays where a directory comes, and
//! gets its attributes. Names that begin with `.wh.` are refused: in an image they would become deletions.
//! Deliberately absent: decompression (see [`super::decompress`]).

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::io::{BufReader, Read};
use std::os::fd::BorrowedFd;

use super::WHITEOUT_PREFIX;
use super::descent::{Descent, Times};
use super::error::LayerError;
use super::node::Keep;
use super::path::components;
use super::tar::{EndMarker, Entry, Kind, Limits, TarReader};
use super::view::{Implied, View};
use super::xattr::XattrNamespace;

/// How an archive is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct ExtractOptions {
    /// Owner and group of everything, instead of what the archive says.
    pub owner: Option<(u32, u32)>,
    /// With [`XattrNamespace::User`], `trusted.*` of the archive is left out, for it cannot be set.
    pub xattr_namespace: XattrNamespace,
    /// How much is taken.
    pub limits: Limits,
}

impl ExtractOptions {
    /// The archive's owners and the usual limits.
    pub fn new(xattr_namespace: XattrNamespace) -> Self {
        Self { owner: None, xattr_namespace, limits: Limits::default() }
    }
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtractFacts {
    /// Members of the archive.
    pub entries: u64,
    /// Length of the archive in bytes.
    pub tar_bytes: u64,
    /// The latest time of a member, in whole seconds since 1970; `None` for an empty archive.
    pub newest: Option<i64>,
    /// Xattrs that are no part of an image, or cannot be kept here.
    pub xattrs_dropped: u64,
    /// Devices, with [`XattrNamespace::User`]: only the machine's first user namespace may make them.
    pub devices_dropped: u64,
}

/// Unpacks an archive beneath `dest`, a path in `root`, which is made if it is missing. After an error a part of the
/// archive is there.
pub fn extract_archive(
    tar: impl Read,
    root: BorrowedFd<'_>,
    dest: &str,
    options: &ExtractOptions,
) -> Result<ExtractFacts, LayerError> {
    let times = Times::Listed(HashSet::new(), RandomState::new());
    let nothing: &[BorrowedFd<'_>] = &[];
    let mut view = View::new(Descent::new(root, times, None)?, &nothing, None, Keep::with(options.xattr_namespace));
    let implied = Implied { owner: options.owner.unwrap_or((0, 0)), mtime: None };
    let dest = view.make_directory_by_steps(dest.as_bytes(), implied)?;
    let mut reader = TarReader::new(BufReader::with_capacity(128 * 1024, tar), options.limits, EndMarker::Required);
    let mut facts = ExtractFacts::default();
    while let Some(entry) = reader.next()? {
        facts.entries += 1;
        facts.newest = facts.newest.max(Some(entry.mtime.seconds));
        member(&mut view, &dest, entry, options, &mut reader)?;
    }
    facts.tar_bytes = reader.offset();
    facts.xattrs_dropped = view.xattrs_dropped;
    facts.devices_dropped = view.devices_dropped.len() as u64;
    view.descent.finish()?;
    Ok(facts)
}

fn member(
    view: &mut View<'_>,
    dest: &[super::path::Component],
    mut entry: Entry,
    options: &ExtractOptions,
    data: &mut TarReader<impl Read>,
) -> Result<(), LayerError> {
    let inner = components(&entry.path)?;
    if inner.iter().any(|part| part.starts_with(WHITEOUT_PREFIX)) {
        return Err(LayerError::refused(&entry.path, "in an image, a name that begins with `.wh.` means a deletion"));
    }
    if let Kind::HardLink { target } = &mut entry.kind {
        // Targets are relative to where the archive is unpacked. Their names are checked where they are used.
        *target = [super::path::joined(dest).as_slice(), target].join(&b'/');
    }
    let mut path: Vec<_> = dest.iter().chain(&inner).cloned().collect();
    let owner = options.owner.unwrap_or((entry.uid, entry.gid));
    // The entry `./` is the destination itself. Its attributes are those of the root file system, not of the archive.
    let (Some(name), false) = (path.pop(), inner.is_empty()) else {
        return match entry.kind {
            Kind::Directory => Ok(()),
            _ => Err(LayerError::refused(&entry.path, "the destination is a directory")),
        };
    };
    // What the archive does not say belongs to root, as everywhere.
    let implied = Implied { owner: options.owner.unwrap_or((0, 0)), mtime: None };
    let at = view.make_directory(&path, implied, &entry.path)?;
    view.put(&entry, owner, &at, &name, data)
}
