//! Writes tar so that the same entries always give the same bytes.
//!
//! ustar; a PAX header stands before an entry only if something does not fit or there are xattrs. No user or group
//! names, no access or change times; modification times are cut to whole seconds, as other image builders do. The order
//! of entries is the caller's.

use std::io::{self, Write};

use super::header::{self, Block, Field};
use super::pax::Records;
use super::{BLOCK_BYTES, Entry, Kind, TarError, printable};

const ZEROS: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

/// Writes entries one after the other. Nothing is complete before [`TarWriter::finish`].
pub struct TarWriter<W> {
    out: W,
    offset: u64,
    data_left: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    /// An archive on `out`, which is best buffered.
    pub fn new(out: W) -> Self {
        Self { out, offset: 0, data_left: 0, padding: 0 }
    }

    /// Begins an entry. A file's bytes follow, exactly as many as its size, through [`io::Write`].
    pub fn begin(&mut self, entry: &Entry) -> Result<(), TarError> {
        self.end_entry()?;
        let malformed = |reason| TarError::Malformed { offset: self.offset, path: printable(&entry.path), reason };
        let (mut block, overrides) = header_of(entry).map_err(|reason| malformed(reason.to_owned()))?;
        if !overrides.is_empty() {
            let mut records = Records::default();
            overrides.iter().for_each(|(key, value)| records.add(key, value));
            self.put_extended_header(&entry.path, &records)?;
        }
        seal(&mut block);
        self.put(&block)?;
        if let Kind::File { size, .. } = entry.kind {
            self.data_left = size;
            self.padding = padding(size);
        }
        Ok(())
    }

    /// Writes the end marker and gives `out` back, flushed, with the length of the archive in bytes.
    pub fn finish(mut self) -> Result<(W, u64), TarError> {
        self.end_entry()?;
        self.put(&ZEROS)?;
        let offset = self.offset;
        self.out.flush().map_err(|source| TarError::Io { act: "write", offset, source })?;
        Ok((self.out, offset))
    }

    fn end_entry(&mut self) -> Result<(), TarError> {
        if self.data_left > 0 {
            let reason = format!("{} bytes of its data were not written", self.data_left);
            return Err(TarError::Malformed { offset: self.offset, path: String::new(), reason });
        }
        let padding = std::mem::take(&mut self.padding);
        self.put(&ZEROS[..padding])
    }

    /// POSIX pax, "pax Extended Header": a member of its own, of type `x`, whose data are the records.
    fn put_extended_header(&mut self, path: &[u8], records: &Records) -> Result<(), TarError> {
        let bytes = records.as_bytes();
        let mut block = [0; BLOCK_BYTES];
        // Its name is for readers that know no PAX; those that do ignore it.
        let base = path.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or(b"root");
        let name = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
        header::NAME.put(&mut block, &name);
        for (field, value) in [
            (header::MODE, 0o644),
            (header::UID, 0),
            (header::GID, 0),
            (header::SIZE, bytes.len() as u64),
            (header::MTIME, 0),
        ] {
            field.put_octal(&mut block, value).ok_or_else(|| TarError::Limit {
                offset: self.offset,
                path: printable(path),
                what: "bytes of metadata",
                limit: 8 << 30,
            })?;
        }
        block[header::TYPE] = b'x';
        seal(&mut block);
        self.put(&block)?;
        self.put(bytes)?;
        self.put(&ZEROS[..padding(bytes.len() as u64)])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        let offset = self.offset;
        self.out.write_all(bytes).map_err(|source| TarError::Io { act: "write", offset, source })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// Takes the bytes of the entry begun last; more than its size is an error.
impl<W: Write> Write for TarWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(bytes.len());
        if limit == 0 && !bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more data than the size of the tar member"));
        }
        let count = self.out.write(&bytes[..limit])?;
        self.data_left -= count as u64;
        self.offset += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Keys and values of PAX records, sorted by key.
type Overrides = Vec<(Vec<u8>, Vec<u8>)>;

/// The ustar header of an entry, unsealed, and what does not fit into it.
fn header_of(entry: &Entry) -> Result<(Block, Overrides), &'static str> {
    if entry.path.is_empty() || entry.path.contains(&0) {
        return Err("a member needs a name without NUL");
    }
    let (flag, size, link, device) = match &entry.kind {
        Kind::File { size, sparse: None } => (b'0', *size, None, None),
        Kind::File { sparse: Some(_), .. } => return Err("sparse maps are read, but never written"),
        Kind::HardLink { target } => (b'1', 0, Some(target), None),
        Kind::Symlink { target } => (b'2', 0, Some(target), None),
        Kind::CharDevice { major, minor } => (b'3', 0, None, Some((*major, *minor))),
        Kind::BlockDevice { major, minor } => (b'4', 0, None, Some((*major, *minor))),
        Kind::Directory => (b'5', 0, None, None),
        Kind::Fifo => (b'6', 0, None, None),
    };
    let mut block: Block = [0; BLOCK_BYTES];
    let mut overrides = Overrides::new();
    let mut number = |field: Field, key: &str, value: i128| {
        let fits = u64::try_from(value).is_ok_and(|value| field.put_octal(&mut block, value).is_some());
        if !fits {
            overrides.push((key.into(), value.to_string().into_bytes()));
            // A header must hold some number; zero fits every field.
            field.put_octal(&mut block, 0).expect("zero fits");
        }
    };
    number(header::MODE, "mode", i128::from(entry.mode & 0o7777));
    number(header::UID, "uid", i128::from(entry.uid));
    number(header::GID, "gid", i128::from(entry.gid));
    number(header::SIZE, "size", i128::from(size));
    number(header::MTIME, "mtime", i128::from(entry.mtime.seconds));
    if let Some((major, minor)) = device {
        number(header::DEV_MAJOR, "SCHILY.devmajor", i128::from(major));
        number(header::DEV_MINOR, "SCHILY.devminor", i128::from(minor));
    }

    let mut path = entry.path.clone();
    if entry.kind == Kind::Directory && path.last() != Some(&b'/') {
        path.push(b'/');
    }
    match split_path(&path) {
        Some((prefix, name)) => {
            header::PREFIX.put(&mut block, prefix);
            header::NAME.put(&mut block, name);
        }
        None => {
            header::NAME.put(&mut block, &path[..path.len().min(header::NAME.len)]);
            overrides.push((b"path".to_vec(), path));
        }
    }
    if let Some(link) = link {
        if link.is_empty() || link.contains(&0) {
            return Err("a link needs a target without NUL");
        }
        header::LINK.put(&mut block, &link[..link.len().min(header::LINK.len)]);
        if link.len() > header::LINK.len {
            overrides.push((b"linkpath".to_vec(), link.clone()));
        }
    }
    for xattr in &entry.xattrs {
        if xattr.name.is_empty() || xattr.name.contains(&b'=') || xattr.name.contains(&0) {
            return Err("the name of an xattr holds `=`, which tar cannot say");
        }
        overrides.push(([b"SCHILY.xattr.", xattr.name.as_slice()].concat(), xattr.value.clone()));
    }
    overrides.sort();
    block[header::TYPE] = flag;
    Ok((block, overrides))
}

/// Magic, version and checksum: what every header ends with.
fn seal(block: &mut Block) {
    header::MAGIC.put(block, header::USTAR_MAGIC);
    let (sum, _) = header::checksums(block);
    header::CHECKSUM.put(block, format!("{sum:06o}\0 ").as_bytes());
}

/// Splits a name between the two fields that ustar has for it; `None` if it fits no way.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= header::NAME.len {
        return Some((&[], path));
    }
    // The slash itself is not stored; the rest must be neither empty nor too long.
    let first = path.len().checked_sub(header::NAME.len + 1)?;
    let last = header::PREFIX.len.min(path.len() - 2);
    (first..=last).find(|at| path[*at] == b'/' && *at > 0).map(|at| (&path[..at], &path[at + 1..]))
}

/// Bytes from the end of data to the next block.
fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK_BYTES as u64) - size) as usize
}
