//! GNU's four ways to leave the holes of a file out of an archive: `oldgnu` (type `S`), and PAX 0.0, 0.1 and 1.0. GNU
//! tar manual, "Storing Sparse Files". All are read; none is written.

use super::header::{self, Block};
use super::pax::decimal;

/// A run of data in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// What PAX records say of a sparse file.
#[derive(Default)]
pub(super) struct PaxSparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub real_size: Option<u64>,
    /// 0.0: offsets and lengths by turns; 0.1: all in one.
    pub map: Vec<u64>,
}

impl PaxSparse {
    /// Takes one `GNU.sparse.…` record, `key` without that beginning. `Ok(false)` if it is none of ours.
    pub fn take(&mut self, key: &[u8], value: &[u8], numbers_max: usize) -> Result<bool, &'static str> {
        let number = || decimal(value).ok_or("a GNU.sparse record is not a number");
        match key {
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"realsize" | b"size" => self.real_size = Some(number()?),
            // How many runs there are: the map says it too.
            b"numblocks" => drop(number()?),
            b"offset" | b"numbytes" => {
                let offset_is_next = self.map.len().is_multiple_of(2);
                if offset_is_next != (key == b"offset") {
                    return Err("GNU.sparse offsets and lengths do not come by turns");
                }
                self.map.push(number()?);
            }
            b"map" => {
                self.map = value
                    .split(|byte| *byte == b',')
                    .map(|part| decimal(part).ok_or("GNU.sparse.map holds something else than numbers"))
                    .take(numbers_max + 1)
                    .collect::<Result<_, _>>()?;
            }
            _ => return Ok(false),
        }
        if self.map.len() > numbers_max {
            return Err("a sparse file has too many runs of data");
        }
        Ok(true)
    }

    /// Whether the map stands at the beginning of the data (format 1.0).
    pub fn map_is_in_data(&self) -> bool {
        self.major == Some(1)
    }

    /// Whether there is anything sparse here.
    pub fn is_any(&self) -> bool {
        self.major.is_some() || self.real_size.is_some() || !self.map.is_empty()
    }
}

/// Pairs numbers up and checks that the runs ascend, end within the file and hold `stored` bytes in all.
pub(super) fn extents(numbers: &[u64], real_size: u64, stored: u64) -> Result<Vec<Extent>, &'static str> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("a sparse map has an offset without a length");
    }
    let (mut end, mut sum) = (0u64, 0u64);
    let mut extents = Vec::with_capacity(pairs.len());
    for [offset, length] in pairs.iter().copied() {
        if offset < end {
            return Err("the runs of a sparse file overlap");
        }
        end = offset.checked_add(length).filter(|end| *end <= real_size).ok_or("a sparse run leaves its file")?;
        sum += length;
        if length > 0 {
            extents.push(Extent { offset, length });
        }
    }
    if sum != stored {
        return Err("the runs of a sparse file are not as long as its data");
    }
    Ok(extents)
}

/// The pairs of the old format, from a header or an extension block, up to the first empty one.
pub(super) fn old_pairs(pairs: &[u8], numbers: &mut Vec<u64>) -> Result<(), &'static str> {
    for pair in pairs.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        for field in [&pair[..12], &pair[12..]] {
            let number = header::number(field).and_then(|number| u64::try_from(number).ok());
            numbers.push(number.ok_or("a sparse header holds something else than numbers")?);
        }
    }
    Ok(())
}

/// The file's length in the old format.
pub(super) fn old_real_size(block: &Block) -> Result<u64, &'static str> {
    header::number(header::GNU_REAL_SIZE.of(block))
        .and_then(|number| u64::try_from(number).ok())
        .ok_or("a sparse header has no proper length")
}
