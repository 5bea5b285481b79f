//! Reads tar: ustar, PAX, GNU's long names, base-256 numbers and sparse files, and nothing doubtful.
//!
//! What two readers could read differently is refused: a malformed PAX record, a name given by two extensions, data
//! after a link's header, a lone block of zeros, a checksum that is off. Memory is bounded by [`Limits`], whatever the
//! archive claims; data are never held. Global PAX headers may hold comments; one that would change the members after
//! it is refused, for some readers apply it and others do not.

use std::io::{self, Read};

use super::header::{self, Block};
use super::pax::{self, decimal};
use super::sparse::{self, Extent, PaxSparse};
use super::{BLOCK_BYTES, Entry, Kind, TarError, Time, Xattr, printable};

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

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Ten times the largest image layers in use.
            entries: 4_000_000,
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

/// What the PAX records of a member say.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<Xattr>,
    sparse: PaxSparse,
    sparse_name: Option<Vec<u8>>,
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

    fn overrides(&self, bytes: &[u8]) -> Result<Overrides, TarError> {
        let mut over = Overrides::default();
        for record in pax::records(bytes) {
            let (key, value) = record.map_err(|reason| self.malformed(reason))?;
            let bad = || self.malformed(&format!("the PAX record `{}` has no proper value", printable(key)));
            let number = || decimal(value).ok_or_else(bad);
            match key {
                b"path" => over.path = Some(value.to_vec()),
                b"linkpath" => over.link = Some(value.to_vec()),
                b"size" => over.size = Some(number()?),
                b"uid" => over.uid = Some(number()?),
                b"gid" => over.gid = Some(number()?),
                b"mtime" => over.mtime = Some(pax::time(value).ok_or_else(bad)?),
                b"GNU.sparse.name" => over.sparse_name = Some(value.to_vec()),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.add_xattr(&mut over.xattrs, name, value)?;
                    } else if let Some(rest) = key.strip_prefix(b"GNU.sparse.") {
                        let known = over.sparse.take(rest, value, 2 * self.limits.sparse_extents);
                        if !known.map_err(|reason| self.malformed(reason))? {
                            return Err(bad());
                        }
                    }
                    // Everything else says nothing about the file: comments, access times, names of users.
                }
            }
        }
        if [&over.path, &over.link, &over.sparse_name].into_iter().flatten().any(|text| text.is_empty()) {
            return Err(self.malformed("a PAX record gives an empty name"));
        }
        Ok(over)
    }

    fn add_xattr(&self, xattrs: &mut Vec<Xattr>, name: &[u8], value: &[u8]) -> Result<(), TarError> {
        if name.is_empty() {
            return Err(self.malformed("an xattr has no name"));
        }
        if value.len() > self.limits.xattr_bytes {
            return Err(self.limit("bytes of an xattr", self.limits.xattr_bytes as u64));
        }
        // POSIX: of records with the same key the last counts.
        xattrs.retain(|xattr| xattr.name != name);
        xattrs.push(Xattr { name: name.to_vec(), value: value.to_vec() });
        Ok(())
    }

    /// A sparse file by PAX: its length, its runs, and how many bytes of its data are the map.
    fn pax_sparse(
        &mut self,
        path: &[u8],
        sparse: &PaxSparse,
        stored: u64,
    ) -> Result<Option<(u64, Vec<Extent>, u64)>, TarError> {
        if !sparse.is_any() {
            return Ok(None);
        }
        let fail = |reader: &Self, reason: &str| reader.malformed_member(path, reason);
        let real_size = sparse.real_size.ok_or_else(|| fail(self, "a sparse file has no length"))?;
        let (numbers, map_bytes) = match (sparse.major, sparse.minor) {
            (Some(1), Some(0)) if sparse.map.is_empty() => self.map_in_data(path, stored)?,
            (None, None) | (Some(0), Some(0 | 1)) => (sparse.map.clone(), 0),
            _ => return Err(fail(self, "its sparse format is not known")),
        };
        debug_assert_eq!(sparse.map_is_in_data(), map_bytes > 0);
        let extents = sparse::extents(&numbers, real_size, stored - map_bytes).map_err(|reason| fail(self, reason))?;
        Ok(Some((real_size, extents, map_bytes)))
    }

    /// PAX 1.0: how many runs, then offset and length of each, a line per number, filled up to a whole block.
    fn map_in_data(&mut self, path: &[u8], stored: u64) -> Result<(Vec<u64>, u64), TarError> {
        let (mut numbers, mut wanted, mut line, mut map_bytes) = (Vec::new(), None, Vec::new(), 0u64);
        while wanted != Some(numbers.len()) {
            if map_bytes + BLOCK_BYTES as u64 > stored {
                return Err(self.malformed_member(path, "its sparse map is longer than its data"));
            }
            let block = self.whole_block()?;
            map_bytes += BLOCK_BYTES as u64;
            for byte in block {
                if wanted == Some(numbers.len()) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(self.malformed_member(path, "its sparse map holds something else than numbers"));
                    }
                    continue;
                }
                let number = decimal(&line)
                    .ok_or_else(|| self.malformed_member(path, "its sparse map holds something else than numbers"))?;
                line.clear();
                match wanted {
                    None if number > self.limits.sparse_extents as u64 => {
                        return Err(self.limit("runs of a sparse file", self.limits.sparse_extents as u64));
                    }
                    None => wanted = Some(2 * number as usize),
                    Some(_) => numbers.push(number),
                }
            }
        }
        Ok((numbers, map_bytes))
    }

    /// GNU's old format: four runs in the header, 21 in each block that follows.
    fn old_sparse(&mut self, path: &[u8], block: &Block, stored: u64) -> Result<(u64, Vec<Extent>), TarError> {
        let fail = |reader: &Self, reason: &str| reader.malformed_member(path, reason);
        let real_size = sparse::old_real_size(block).map_err(|reason| fail(self, reason))?;
        let mut numbers = Vec::new();
        sparse::old_pairs(header::GNU_SPARSE.of(block), &mut numbers).map_err(|reason| fail(self, reason))?;
        let mut extended = block[header::GNU_EXTENDED] != 0;
        while extended {
            if numbers.len() / 2 > self.limits.sparse_extents {
                return Err(self.limit("runs of a sparse file", self.limits.sparse_extents as u64));
            }
            let before = numbers.len();
            let more = self.whole_block()?;
            sparse::old_pairs(header::GNU_MORE_PAIRS.of(&more), &mut numbers).map_err(|reason| fail(self, reason))?;
            if numbers.len() == before {
                return Err(fail(self, "a block of its sparse map is empty"));
            }
            extended = more[header::GNU_MORE_EXTENDED] != 0;
        }
        let extents = sparse::extents(&numbers, real_size, stored).map_err(|reason| fail(self, reason))?;
        Ok((real_size, extents))
    }

    fn check_global(&self, bytes: &[u8]) -> Result<(), TarError> {
        for record in pax::records(bytes) {
            let (key, _) = record.map_err(|reason| self.malformed(reason))?;
            let changes_members = [b"path".as_slice(), b"linkpath", b"size", b"uid", b"gid", b"mtime"].contains(&key)
                || key.starts_with(b"SCHILY.xattr.")
                || key.starts_with(b"GNU.sparse.");
            if changes_members {
                let reason = format!("a global PAX header sets `{}`, which not all readers apply", printable(key));
                return Err(self.malformed(&reason));
            }
        }
        Ok(())
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

    /// The next header, its checksum right, or `None` at the end of the archive.
    fn header_block(&mut self) -> Result<Option<Block>, TarError> {
        let mut block = [0; BLOCK_BYTES];
        if !self.read_block(&mut block)? {
            if self.offset > 0 && self.end_marker == EndMarker::Required {
                return Err(TarError::Truncated { offset: self.offset });
            }
            return Ok(None);
        }
        if block == [0; BLOCK_BYTES] {
            // One block of zeros and the end of the stream is as good as two.
            if self.read_block(&mut block)? && block != [0; BLOCK_BYTES] {
                return Err(self.malformed("a lone block of zeros stands between members"));
            }
            return Ok(None);
        }
        let (unsigned, signed) = header::checksums(&block);
        match header::number(header::CHECKSUM.of(&block)) {
            Some(sum) if sum == unsigned || sum == signed => Ok(Some(block)),
            _ => Err(self.malformed("the checksum of a header is wrong: this is no tar archive, or it is damaged")),
        }
    }

    fn whole_block(&mut self) -> Result<Block, TarError> {
        let mut block = [0; BLOCK_BYTES];
        self.read_exact_or_truncated(&mut block)?;
        Ok(block)
    }

    /// `false` if the stream ended before the first byte.
    fn read_block(&mut self, block: &mut Block) -> Result<bool, TarError> {
        let count = self.read_some(block)?;
        if count > 0 {
            self.read_exact_or_truncated(&mut block[count..])?;
        }
        Ok(count > 0)
    }

    fn read_exact_or_truncated(&mut self, mut buffer: &mut [u8]) -> Result<(), TarError> {
        while !buffer.is_empty() {
            let count = self.read_some(buffer)?;
            if count == 0 {
                return Err(TarError::Truncated { offset: self.offset });
            }
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let mut left = self.data_left + self.padding;
        if left == 0 {
            return Ok(());
        }
        (self.data_left, self.padding) = (0, 0);
        let mut buffer = [0; 16 * 1024];
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            self.read_exact_or_truncated(&mut buffer[..count])?;
            left -= count as u64;
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.input.read(buffer) {
                Ok(count) => {
                    self.offset += count as u64;
                    if self.offset > self.limits.total_bytes {
                        return Err(self.limit("bytes in all", self.limits.total_bytes));
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A decompressor that runs out of input says so in its own way.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(TarError::Truncated { offset: self.offset });
                }
                Err(source) => return Err(TarError::Io { act: "read", offset: self.offset, source }),
            }
        }
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

/// The data of the member that [`TarReader::next`] returned last; of a sparse file, its runs one after the other.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(buffer.len());
        if limit == 0 {
            return Ok(0);
        }
        match self.read_some(&mut buffer[..limit]) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::InvalidData, TarError::Truncated { offset: self.offset })),
            Ok(count) => {
                self.data_left -= count as u64;
                Ok(count)
            }
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}
