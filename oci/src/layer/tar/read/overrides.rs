//! What PAX records, global headers and sparse maps say of a member.

use std::io::Read;

use super::TarReader;
use crate::layer::tar::header::{self, Block};
use crate::layer::tar::pax::{self, decimal};
use crate::layer::tar::sparse::{self, Extent, PaxSparse};
use crate::layer::tar::{BLOCK_BYTES, TarError, Time, Xattr, printable};

/// What the PAX records of a member say.
#[derive(Default)]
pub(super) struct Overrides {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    pub xattrs: Vec<Xattr>,
    pub sparse: PaxSparse,
    pub sparse_name: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    pub(super) fn overrides(&self, bytes: &[u8]) -> Result<Overrides, TarError> {
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

    pub(super) fn add_xattr(&self, xattrs: &mut Vec<Xattr>, name: &[u8], value: &[u8]) -> Result<(), TarError> {
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
    pub(super) fn pax_sparse(
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
    pub(super) fn map_in_data(&mut self, path: &[u8], stored: u64) -> Result<(Vec<u64>, u64), TarError> {
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
    pub(super) fn old_sparse(
        &mut self,
        path: &[u8],
        block: &Block,
        stored: u64,
    ) -> Result<(u64, Vec<Extent>), TarError> {
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

    pub(super) fn check_global(&self, bytes: &[u8]) -> Result<(), TarError> {
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
}
