//! What collection reads of leases and uses; see [`crate::lease`], which writes them.
//!
//! Out: what running processes rely on, what ended ones used. [`Window`] is the time in which something may be taken.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;

use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::Errno;

use crate::StoreError;
use crate::layout::{Layout, try_flock};
use crate::lease::{Kind, Names, USES, WINDOW, flock, open_in_root, open_lease};

/// The time in which things may be taken. While it lasts, nobody touches.
#[derive(Debug)]
pub(crate) struct Window {
    _file: File,
}

impl Window {
    pub(crate) fn open(layout: &Layout) -> Result<Self, StoreError> {
        let file = open_in_root(layout, WINDOW)?;
        flock(&file, FlockOperation::LockExclusive, &layout.root.join(WINDOW))?;
        Ok(Self { _file: file })
    }
}

/// Everything that running processes rely on.
pub(crate) fn held(layout: &Layout) -> Result<Names, StoreError> {
    let mut held = Names::new();
    for lines in lease_files(layout)? {
        held.extend(lines.lines().filter_map(thing));
    }
    Ok(held)
}

/// What ended processes used since [`fold_uses`].
pub(crate) fn used_since(layout: &Layout) -> Result<Names, StoreError> {
    let (_, text) = read_uses(layout)?;
    Ok(parse_uses(&text).0.into_iter().map(|(kind, name, _)| (kind, name)).collect())
}

/// The file, locked, and what it says.
fn read_uses(layout: &Layout) -> Result<(File, String), StoreError> {
    let path = layout.root.join(USES);
    let mut file = open_in_root(layout, USES)?;
    flock(&file, FlockOperation::LockExclusive, &path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|source| StoreError::io("read", path, source))?;
    Ok((file, String::from_utf8_lossy(&text).into_owned()))
}

/// What ended processes used, each thing with the time of its last use, in the order of these uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses(pub(crate) Vec<(Kind, String, i64)>);

/// Gives what ended processes used to `fold`, and forgets it when that went well. Dying in between, it is given again.
pub(crate) fn fold_uses(layout: &Layout, fold: impl FnOnce(Uses) -> Result<(), StoreError>) -> Result<(), StoreError> {
    let (file, text) = read_uses(layout)?;
    if text.is_empty() {
        return Ok(());
    }
    fold(parse_uses(&text))?;
    file.set_len(0).map_err(|source| StoreError::io("empty", layout.root.join(USES), source))
}

/// Bytes of [`fold_uses`]'s file.
pub(crate) fn uses_bytes(layout: &Layout) -> Result<u64, StoreError> {
    match rustix::fs::statat(&layout.root, USES, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(stat.st_size.unsigned_abs()),
        Err(Errno::NOENT) => Ok(0),
        Err(source) => Err(StoreError::io("look at", layout.root.join(USES), source)),
    }
}

fn parse_uses(text: &str) -> Uses {
    let mut at = 0;
    let mut uses: Vec<(Kind, String, i64)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("at ").and_then(|time| time.parse().ok()), thing(line)) {
            (Some(time), _) => at = time,
            (None, Some((kind, name))) => uses.push((kind, name, at)),
            // Torn by a full disk or the death of its writer.
            (None, None) => tracing::debug!(line, "an odd line in `{USES}`"),
        }
    }
    // The last mention is the one that counts.
    let mut seen = HashSet::new();
    uses.reverse();
    uses.retain(|(kind, name, _)| seen.insert((*kind, name.clone())));
    uses.reverse();
    Uses(uses)
}

/// The thing of a line. A line that a killed process left half is a shorter name, or none: it names nothing that is.
fn thing(line: &str) -> Option<(Kind, String)> {
    let (kind, name) = line.split_once(' ')?;
    Some((kind.parse().ok()?, name.to_owned()))
}

/// The lines of all leases whose processes live.
fn lease_files(layout: &Layout) -> Result<Vec<String>, StoreError> {
    let mut files = Vec::new();
    for name in layout.leases.names()? {
        let Some(mut file) = open_lease(layout, &name)? else { continue };
        let path = layout.leases.join(&name);
        if try_flock(&file, &path)? {
            // Its process is dead; what it used stays in the file until the next start.
            continue;
        }
        let mut lines = Vec::new();
        file.read_to_end(&mut lines).map_err(|source| StoreError::io("read", path, source))?;
        files.push(String::from_utf8_lossy(&lines).into_owned());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_use_counts_and_torn_lines_name_nothing() {
        let text = "\nat 5\nlayer a\nkey b\n\n\nat 9\nlayer a\nlay\nblob\nodd thing\n";
        let use_of = |kind, name: &str, at| (kind, name.to_owned(), at);
        assert_eq!(parse_uses(text), Uses(vec![use_of(Kind::Key, "b", 5), use_of(Kind::Layer, "a", 9)]));
    }
}
