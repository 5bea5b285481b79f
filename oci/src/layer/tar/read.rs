//! Reads tar: ustar, PAX, GNU's long names, base-256 numbers and sparse files, and nothing doubtful.
//!
//! What two readers could read differently is refused: a malformed PAX record, a name given by two extensions, data
//! after a link's header, a lone block of zeros, a checksum that is off. Memory is bounded by [`Limits`], whatever the
//! archive claims; data are never held. Global PAX headers may hold comments; one that would change the members after
//! it is refused, for some readers apply it and others do not.

mod blocks;
mod overrides;

use std::io::Read;

use self::overrides::Overrides;
use super::header::{self, Block};
use super::{BLOCK_BYTES, Entry, Kind, TarError, Time, printable};
use crate::layer::Bounds;

/// How much of an archive is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Headers, extensions included.
    pub entries: u64,
    /// Bytes of a name or a link's target.
    pub name_bytes: usize,
    /// Bytes of one member's PAX and GNU extensions together.
    pub extension_bytes: usize,
    /// Bytes of one xattr's value.
    pub xattr_bytes: usize,
    /// Runs of data in one sparse file.
    pub sparse_extents: usize,
    /// Bytes of the whole stream, uncompressed; holes that the archive leaves out are free.
    pub total_bytes: u64,
}

/// Those of this process.
impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: Bounds::of_process().entries,
            // Depth 2,000 with names of 255 bytes.
            name_bytes: 1 << 20,
            // As Go's archive/tar, so that what others read is read.
            extension_bytes: 1 << 20,
            // The kernel's XATTR_SIZE_MAX.
            xattr_bytes: 64 << 10,
            sparse_extents: 64 << 10,
            // Above the largest layers that registries take, below what a bomb of 10 MiB can hold.
            total_bytes: 64 << 30,
        }
    }
}

/// Whether an archive must end with its end marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndMarker {
    /// Without it the archive was cut short.
    Required,
    /// Some programs leave it out; a digest tells whether the archive is whole.
    Optional,
}

/// Reads members one after the other: [`TarReader::next`], then their data through [`io::Read`].
pub struct TarReader<R> {
    input: R,
    limits: Limits,
    end_marker: EndMarker,
    offset: u64,
    entries: u64,
    data_left: u64,
    padding: u64,
    ended: bool,
}

/// What stood before a member's own header.
#[derive(Default)]
struct Extensions {
    pax: Option<Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    bytes: u64,
}

impl<R: Read> TarReader<R> {
    /// An archive on `input`, which is best buffered.
    pub fn new(input: R, limits: Limits, end_marker: EndMarker) -> Self {
        Self { input, limits, end_marker, offset: 0, entries: 0, data_left: 0, padding: 0, ended: false }
    }

    /// The next member, or `None` after the last. Data of the one before that were not read are skipped.
    #[allow(clippy::should_implement_trait, reason = "an iterator cannot say that data are read between two calls")]
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_data()?;
        let mut extensions = Extensions::default();
        loop {
            let Some(block) = self.header_block()? else {
                if extensions.bytes > 0 {
                    return Err(self.malformed("an extension header describes no member"));
                }
                self.ended = true;
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(self.limit("entries", self.limits.entries));
            }
            let recognised = header::MAGIC.of(&block).starts_with(b"ustar");
            let size = self.number(&block, header::SIZE, "size")?;
            match block[header::TYPE] {
                b'x' | b'X' if recognised => {
                    let bytes = self.extension(size, &mut extensions)?;
                    self.set_once(&mut extensions.pax, bytes)?;
                }
                b'g' => {
                    let bytes = self.extension(size, &mut Extensions::default())?;
                    self.check_global(&bytes)?;
                }
                b'L' if recognised => {
                    let bytes = self.extension(size, &mut extensions)?;
                    let name = self.long_text(bytes)?;
                    self.set_once(&mut extensions.long_name, name)?;
                }
                b'K' if recognised => {
                    let bytes = self.extension(size, &mut extensions)?;
                    let name = self.long_text(bytes)?;
                    self.set_once(&mut extensions.long_link, name)?;
                }
                _ => return self.member(&block, size, extensions).map(Some),
            }
        }
    }

    /// Reads what follows the last member to the end of the stream, so that whoever checks a digest beneath sees all
    /// of it.
    pub fn drain(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 16 * 1024];
        loop {
            if self.read_some(&mut buffer)? == 0 {
                return Ok(());
            }
        }
    }

    /// The stream beneath.
    pub fn get_ref(&self) -> &R {
        &self.input
    }

    /// The stream beneath; who reads from it takes bytes of the archive away.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Gives the stream back.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn member(&mut self, block: &Block, size: u64, extensions: Extensions) -> Result<Entry, TarError> {
        let over = match &extensions.pax {
            Some(bytes) => self.overrides(bytes)?,
            None => Overrides::default(),
        };
        let path = self.path(block, &extensions, &over)?;
        let fail = |reader: &Self, reason: &str| reader.malformed_member(&path, reason);
        let link = match (over.link, extensions.long_link) {
            (Some(_), Some(_)) => return Err(fail(self, "PAX and GNU extensions both give its target")),
            (Some(link), None) | (None, Some(link)) => link,
            (None, None) => header::LINK.text(block).to_vec(),
        };
        let stored = over.size.unwrap_or(size);
        if i64::try_from(stored).is_err() {
            return Err(fail(self, "its size is out of range"));
        }
        let trailing_slash = path.ends_with(b"/");
        let device = |reader: &Self| -> Result<(u32, u32), TarError> {
            let one = |field, what| reader.number(block, field, what).map(u32::try_from);
            match (one(header::DEV_MAJOR, "device")?, one(header::DEV_MINOR, "device")?) {
                (Ok(major), Ok(minor)) => Ok((major, minor)),
                _ => Err(fail(reader, "its device number is out of range")),
            }
        };
        let mut sparse = None;
        let kind = match block[header::TYPE] {
            // Before ustar, a slash at the end made a directory.
            b'0' | 0 | b'7' if trailing_slash && !over.sparse.is_any() => Kind::Directory,
            b'0' | 0 | b'7' => {
                sparse = self.pax_sparse(&path, &over.sparse, stored)?;
                let (size, sparse) = match &sparse {
                    Some((real_size, extents, _)) => (*real_size, Some(extents.clone())),
                    None => (stored, None),
                };
                Kind::File { size, sparse }
            }
            b'S' if header::MAGIC.of(block) == header::GNU_MAGIC => {
                let (real_size, extents) = self.old_sparse(&path, block, stored)?;
                Kind::File { size: real_size, sparse: Some(extents) }
            }
            b'1' => Kind::HardLink { target: link },
            b'2' => Kind::Symlink { target: link },
            b'3' => device(self).map(|(major, minor)| Kind::CharDevice { major, minor })?,
            b'4' => device(self).map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => {
                return Err(fail(self, &format!("its type `{}` is not supported", flag.escape_ascii())));
            }
        };
        match &kind {
            Kind::File { .. } => {
                let map_bytes = sparse.as_ref().map_or(0, |(_, _, map_bytes)| *map_bytes);
                self.data_left = stored - map_bytes;
                self.padding = stored.next_multiple_of(BLOCK_BYTES as u64) - stored;
            }
            Kind::HardLink { target } | Kind::Symlink { target } if target.is_empty() || target.contains(&0) => {
                return Err(fail(self, "a link needs a target without NUL"));
            }
            _ if stored > 0 => return Err(fail(self, "only a file may have data")),
            _ => {}
        }
        if !matches!(kind, Kind::File { .. }) && over.sparse.is_any() {
            return Err(fail(self, "only a file can be sparse"));
        }
        let id = |reader: &Self, over: Option<u64>, field, what| -> Result<u32, TarError> {
            let value = match over {
                Some(value) => value,
                None => reader.number(block, field, what)?,
            };
            // The largest means "leave as it is" to chown(2).
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| fail(reader, "its owner is out of range"))
        };
        let uid = id(self, over.uid, header::UID, "owner")?;
        let gid = id(self, over.gid, header::GID, "group")?;
        let mode = (self.number(block, header::MODE, "mode")? & 0o7777) as u32;
        let mtime = match over.mtime {
            Some(time) => time,
            None => {
                Time::at(header::number(header::MTIME.of(block)).ok_or_else(|| fail(self, "its time is not a number"))?)
            }
        };
        let mut path = path;
        if kind == Kind::Directory {
            while path.len() > 1 && path.ends_with(b"/") {
                path.pop();
            }
        }
        Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs: over.xattrs })
    }

    fn path(&self, block: &Block, extensions: &Extensions, over: &Overrides) -> Result<Vec<u8>, TarError> {
        let path = match (&over.sparse_name, &over.path, &extensions.long_name) {
            (_, Some(_), Some(_)) => return Err(self.malformed("PAX and GNU extensions both give a name")),
            (Some(path), _, _) | (None, Some(path), None) | (None, None, Some(path)) => path.clone(),
            (None, None, None) => {
                let name = header::NAME.text(block);
                let mut prefix: &[u8] = b"";
                if header::MAGIC.of(block) == header::USTAR_MAGIC {
                    prefix = header::PREFIX.text(block);
                    if &block[508..] == b"tar\0" {
                        // star's variant: two times stand at the end of this field.
                        prefix = &prefix[..prefix.len().min(131)];
                    }
                }
                if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
            }
        };
        if path.is_empty() || path.contains(&0) {
            return Err(self.malformed("a member needs a name without NUL"));
        }
        if path.len() > self.limits.name_bytes {
            return Err(self.limit("bytes of a name", self.limits.name_bytes as u64));
        }
        Ok(path)
    }

    /// The data of an extension header, counted into `extensions`.
    fn extension(&mut self, size: u64, extensions: &mut Extensions) -> Result<Vec<u8>, TarError> {
        extensions.bytes = extensions.bytes.saturating_add(size);
        if size == 0 {
            return Err(self.malformed("an extension header is empty"));
        }
        if extensions.bytes > self.limits.extension_bytes as u64 {
            return Err(self.limit("bytes of extension headers", self.limits.extension_bytes as u64));
        }
        let mut bytes = vec![0; size as usize];
        self.read_exact_or_truncated(&mut bytes)?;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        self.skip_data()?;
        Ok(bytes)
    }

    /// A GNU long name: text, then NULs only.
    fn long_text(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>, TarError> {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        if end == 0 || bytes[end..].iter().any(|byte| *byte != 0) {
            return Err(self.malformed("a GNU long name is empty or holds NUL"));
        }
        bytes.truncate(end);
        Ok(bytes)
    }

    fn set_once(&self, slot: &mut Option<Vec<u8>>, bytes: Vec<u8>) -> Result<(), TarError> {
        match slot.replace(bytes) {
            None => Ok(()),
            Some(_) => Err(self.malformed("two extension headers of one kind describe one member")),
        }
    }

    /// A number that cannot be negative.
    fn number(&self, block: &Block, field: header::Field, what: &str) -> Result<u64, TarError> {
        header::number(field.of(block))
            .and_then(|number| u64::try_from(number).ok())
            .ok_or_else(|| self.malformed(&format!("the {what} in a header is not a number")))
    }

    fn malformed(&self, reason: &str) -> TarError {
        self.malformed_member(b"", reason)
    }

    fn malformed_member(&self, path: &[u8], reason: &str) -> TarError {
        TarError::Malformed { offset: self.offset, path: printable(path), reason: reason.to_owned() }
    }

    fn limit(&self, what: &'static str, limit: u64) -> TarError {
        TarError::Limit { offset: self.offset, path: String::new(), what, limit }
    }
}
