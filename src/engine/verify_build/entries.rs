//! What a layer holds: a sorted map of its entries, of file contents the digests alone.
//!
//! In: the tar of a layer, from whoever made it. Out: the map, or that it is too large to be held. A tar is read once and
//! as it comes; what is kept of it has a limit ([`KEPT_MAX_BYTES`]), whatever it says. Two maps are compared here; bytes
//! are looked at again by [`super::sample`], of the few files that are told of.

use std::collections::BTreeMap;
use std::io::{self, Read};

use oci::layer::Hashing;
use oci::layer::tar::{EndMarker, Entry, Kind, Limits, TarError, TarReader, printable};
use oci::model::Digest;

use super::difference::{Change, EntryDifference};

/// All paths, targets and attributes of one layer together: some million entries.
const KEPT_MAX_BYTES: usize = 256 << 20;
/// What an entry takes beside its texts.
const ENTRY_BYTES: usize = 200;
/// An attribute that is longer is shown by its digest.
const XATTR_SHOWN_BYTES: usize = 64;
/// Of a digest of bytes; those that differ differ in these.
const DIGITS: usize = 16;

/// The entries of a layer by path.
#[derive(Debug, Default, PartialEq)]
pub struct Entries {
    by_path: BTreeMap<Vec<u8>, Known>,
    /// There were more than can be held.
    pub cut: bool,
}

/// What is kept of an entry.
#[derive(Debug, PartialEq)]
struct Known {
    /// What it is, with target or device number.
    kind: &'static str,
    target: Option<String>,
    /// Length and digest of a file's bytes.
    bytes: Option<(u64, Digest)>,
    mode: u32,
    owner: (u32, u32),
    time: (i64, u32),
    /// By name: the value as it is shown.
    xattrs: BTreeMap<String, String>,
    /// The how-manieth of the archive.
    place: usize,
}

/// Reads a layer.
///
/// # Errors
/// When it is no tar that is read in one way only.
pub fn read(tar: impl Read) -> Result<Entries, TarError> {
    let mut reader = TarReader::new(tar, Limits::default(), EndMarker::Optional);
    let (mut entries, mut kept, mut place) = (Entries::default(), 0, 0);
    while let Some(entry) = reader.next()? {
        let (path, known, bytes) = keep(entry, &mut reader, place)?;
        kept += bytes;
        if kept > KEPT_MAX_BYTES {
            entries.cut = true;
            break;
        }
        entries.by_path.insert(path, known);
        place += 1;
    }
    Ok(entries)
}

fn keep<R: Read>(entry: Entry, reader: &mut TarReader<R>, place: usize) -> Result<(Vec<u8>, Known, usize), TarError> {
    let path = plain(&entry.path).to_vec();
    let mut bytes = None;
    let (kind, target) = match &entry.kind {
        Kind::File { .. } => {
            bytes = Some(digest(reader).map_err(|source| TarError::Io { act: "read", offset: 0, source })?);
            ("file", None)
        }
        Kind::HardLink { target } => ("hard link", Some(printable(plain(target)))),
        Kind::Symlink { target } => ("symbolic link", Some(printable(target))),
        Kind::Directory => ("directory", None),
        Kind::CharDevice { major, minor } => ("character device", Some(format!("{major}:{minor}"))),
        Kind::BlockDevice { major, minor } => ("block device", Some(format!("{major}:{minor}"))),
        Kind::Fifo => ("pipe", None),
    };
    let xattrs = entry.xattrs.iter().map(|xattr| (printable(&xattr.name), value(&xattr.value)));
    let xattrs: BTreeMap<String, String> = xattrs.collect();
    let texts = xattrs.iter().map(|(name, value)| name.len() + value.len() + ENTRY_BYTES).sum::<usize>();
    let kept = ENTRY_BYTES + path.len() + target.as_ref().map_or(0, String::len) + texts;
    let known = Known {
        kind,
        target,
        bytes,
        mode: entry.mode,
        owner: (entry.uid, entry.gid),
        time: (entry.mtime.seconds, entry.mtime.nanoseconds),
        xattrs,
        place,
    };
    Ok((path, known, kept))
}

/// A path without `./` in front and a slash at the end: all mean the same.
pub fn plain(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path == b"." { b"" } else { path }
}

fn digest(from: &mut impl Read) -> io::Result<(u64, Digest)> {
    let mut hashing = Hashing::new(io::sink());
    io::copy(from, &mut hashing)?;
    let (_, digest, length) = hashing.finish();
    Ok((length, digest))
}

fn value(bytes: &[u8]) -> String {
    match bytes.len() {
        ..=XATTR_SHOWN_BYTES => printable(bytes),
        length => format!("{length} bytes, sha256:{}", Digest::of(bytes).hex()),
    }
}

/// What differs, by path as it stands in the archive, `max` at most; and how many more.
pub fn compare(first: &Entries, second: &Entries, max: usize) -> (Vec<(Vec<u8>, EntryDifference)>, usize) {
    let (mut found, mut more) = (Vec::new(), 0);
    let mut tell = |path: &[u8], changes: Vec<Change>| match changes.is_empty() {
        true => {}
        false if found.len() < max => found.push(told(path, changes)),
        false => more += 1,
    };
    let only = |known: &Known, is_first: bool| {
        let what = Some(known.kind.to_owned());
        let (first, second) = if is_first { (what, None) } else { (None, what) };
        vec![Change { what: "file".into(), first, second }]
    };
    for (path, one) in &first.by_path {
        match second.by_path.get(path) {
            Some(two) => tell(path, changes(one, two)),
            None => tell(path, only(one, true)),
        }
    }
    for (path, two) in second.by_path.iter().filter(|(path, _)| !first.by_path.contains_key(*path)) {
        tell(path, only(two, false));
    }
    if found.is_empty() {
        found.extend(order(first, second));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    (found, more)
}

fn told(path: &[u8], changes: Vec<Change>) -> (Vec<u8>, EntryDifference) {
    (path.to_vec(), EntryDifference { path: printable(path), changes, ..EntryDifference::default() })
}

fn changes(one: &Known, two: &Known) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut note = |what: &str, first: Option<String>, second: Option<String>| {
        if first != second {
            changes.push(Change { what: what.to_owned(), first, second });
        }
    };
    note("type", Some(one.kind.into()), Some(two.kind.into()));
    if one.kind == two.kind {
        let bytes = |known: &Known| {
            known.bytes.map(|(length, digest)| format!("{length} bytes, sha256:{}", &digest.hex()[..DIGITS]))
        };
        note("bytes", bytes(one), bytes(two));
        note("target", one.target.clone(), two.target.clone());
    }
    note("mode", Some(format!("{:04o}", one.mode)), Some(format!("{:04o}", two.mode)));
    let owner = |known: &Known| Some(format!("{}:{}", known.owner.0, known.owner.1));
    note("owner", owner(one), owner(two));
    note("time", Some(time(one.time)), Some(time(two.time)));
    let mut names: Vec<&String> = one.xattrs.keys().chain(two.xattrs.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        note(&format!("xattr {name}"), one.xattrs.get(name).cloned(), two.xattrs.get(name).cloned());
    }
    changes
}

/// UTC; a fraction where there is one.
fn time((seconds, nanoseconds): (i64, u32)) -> String {
    let nanoseconds = i32::try_from(nanoseconds).unwrap_or(0);
    jiff::Timestamp::new(seconds, nanoseconds).map_or_else(|_| format!("{seconds} s"), |time| time.to_string())
}

/// The same entries in another order: the first that stands elsewhere.
fn order(first: &Entries, second: &Entries) -> Option<(Vec<u8>, EntryDifference)> {
    let sorted = |entries: &Entries| {
        let mut all: Vec<(usize, Vec<u8>)> =
            entries.by_path.iter().map(|(path, known)| (known.place, path.clone())).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, path)| path).collect::<Vec<_>>()
    };
    let (one, two) = (sorted(first), sorted(second));
    let (at, path) = one.iter().enumerate().find(|(at, path)| two.get(*at) != Some(*path))?;
    let other = two.iter().position(|other| other == path)?;
    let shown = |place: usize| Some(format!("entry {} of the archive", place + 1));
    let changes = vec![Change { what: "order".into(), first: shown(at), second: shown(other) }];
    Some(told(path, changes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tar of files: path, content, mode, owner, time.
    fn layer(files: &[(&str, &str, u32, u64, u64)]) -> Entries {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content, mode, owner, time) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            header.set_uid(*owner);
            header.set_gid(0);
            header.set_mtime(*time);
            tar.append_data(&mut header, path, content.as_bytes()).expect("memory");
        }
        read(&tar.into_inner().expect("memory")[..]).expect("a tar")
    }

    #[test]
    fn what_differs_of_an_entry_is_told_property_by_property() {
        let first = [("a", "1", 0o644, 0, 0), ("b", "2", 0o644, 0, 0)];
        let check = |second: &[(&str, &str, u32, u64, u64)], expected: &[&str]| {
            let (found, more) = compare(&layer(&first), &layer(second), 20);
            let shown = found.iter().flat_map(|(_, entry)| {
                let changes = entry.changes.iter();
                changes.map(|change| {
                    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
                    format!("{}: {} {} {}", entry.path, change.what, text(&change.first), text(&change.second))
                })
            });
            assert_eq!((shown.collect::<Vec<_>>(), more), (expected.iter().map(|&text| text.to_owned()).collect(), 0));
        };
        let b = first[1];
        check(&first, &[]);
        check(&[("./a", "1", 0o644, 0, 0), b], &[]);
        check(
            &[("a", "1", 0o4755, 7, 60), b],
            &["a: mode 0644 4755", "a: owner 0:0 7:0", "a: time 1970-01-01T00:00:00Z 1970-01-01T00:01:00Z"],
        );
        check(&[b], &["a: file file -"]);
        check(&[first[0], b, ("c", "", 0, 0, 0)], &["c: file - file"]);
        check(&[b, first[0]], &["a: order entry 1 of the archive entry 2 of the archive"]);
        // Of two of one name the later counts, as whoever unpacks the layer has it.
        check(&[("a", "9", 0o644, 0, 0), first[0], b], &[]);
        let (found, more) = compare(&layer(&first), &layer(&[]), 1);
        assert_eq!((found.len(), more), (1, 1));
    }
}
