//! The 512 bytes before every member: where each field lies and how numbers stand in it. POSIX pax, "ustar Interchange
//! Format"; GNU tar manual, "Basic Tar Format".

use super::BLOCK_BYTES;

/// A header block.
pub(super) type Block = [u8; BLOCK_BYTES];

/// Where a field lies.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub at: usize,
    pub len: usize,
}

pub(super) const NAME: Field = Field { at: 0, len: 100 };
pub(super) const MODE: Field = Field { at: 100, len: 8 };
pub(super) const UID: Field = Field { at: 108, len: 8 };
pub(super) const GID: Field = Field { at: 116, len: 8 };
pub(super) const SIZE: Field = Field { at: 124, len: 12 };
pub(super) const MTIME: Field = Field { at: 136, len: 12 };
pub(super) const CHECKSUM: Field = Field { at: 148, len: 8 };
pub(super) const TYPE: usize = 156;
pub(super) const LINK: Field = Field { at: 157, len: 100 };
pub(super) const MAGIC: Field = Field { at: 257, len: 8 };
pub(super) const DEV_MAJOR: Field = Field { at: 329, len: 8 };
pub(super) const DEV_MINOR: Field = Field { at: 337, len: 8 };
pub(super) const PREFIX: Field = Field { at: 345, len: 155 };
/// GNU, old sparse format: four (offset, length) pairs of 12 bytes each.
pub(super) const GNU_SPARSE: Field = Field { at: 386, len: 96 };
/// GNU, old sparse format: whether a block of 21 more pairs follows.
pub(super) const GNU_EXTENDED: usize = 482;
/// GNU, old sparse format: the file's length.
pub(super) const GNU_REAL_SIZE: Field = Field { at: 483, len: 12 };
/// In an extension block: 21 pairs, then whether another follows.
pub(super) const GNU_MORE_PAIRS: Field = Field { at: 0, len: 504 };
pub(super) const GNU_MORE_EXTENDED: usize = 504;

pub(super) const USTAR_MAGIC: &[u8; 8] = b"ustar\x0000";
pub(super) const GNU_MAGIC: &[u8; 8] = b"ustar  \0";

impl Field {
    pub fn of<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        &block[self.at..self.at + self.len]
    }

    /// Bytes up to the first NUL.
    pub fn text<'a>(&self, block: &'a Block) -> &'a [u8] {
        let bytes = self.of(block);
        &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())]
    }

    pub fn put(&self, block: &mut Block, bytes: &[u8]) {
        block[self.at..self.at + bytes.len()].copy_from_slice(bytes);
    }

    /// Octal digits and a NUL. `None` if the number does not fit; then nothing is written.
    pub fn put_octal(&self, block: &mut Block, number: u64) -> Option<()> {
        let width = self.len - 1;
        let text = format!("{number:0width$o}");
        (text.len() == width).then(|| self.put(block, text.as_bytes()))
    }
}

/// Reads a number: octal between spaces and NULs, or GNU's base 256 (first bit set), two's complement. `None` for
/// anything else, and for what does not fit.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first()? {
        first if first & 0x80 != 0 => {
            // The second bit is the sign; the rest is big-endian.
            let negative = first & 0x40 != 0;
            let mut value: i128 = if negative { -1 } else { 0 };
            for (index, byte) in field.iter().enumerate() {
                let byte = if index == 0 { (byte & 0x3f) | if negative { 0xc0 } else { 0 } } else { *byte };
                value = value.checked_shl(8)? | i128::from(byte);
                if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                    return None;
                }
            }
            i64::try_from(value).ok()
        }
        _ => {
            let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
            let rest = &field[start..];
            let end = rest.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(rest.len());
            let (digits, padding) = rest.split_at(end);
            if !padding.iter().all(|byte| matches!(byte, 0 | b' ')) {
                return None;
            }
            digits.iter().try_fold(0i64, |value, digit| match digit {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

/// The sum of a header's bytes, its own field counted as spaces: (of unsigned bytes, of signed bytes). Old programs
/// wrote the latter.
pub(super) fn checksums(block: &Block) -> (i64, i64) {
    block.iter().enumerate().fold((0, 0), |(unsigned, signed), (at, byte)| {
        let in_field = (CHECKSUM.at..CHECKSUM.at + CHECKSUM.len).contains(&at);
        let byte = if in_field { b' ' } else { *byte };
        (unsigned + i64::from(byte), signed + i64::from(byte as i8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_spelling_or_refused() {
        let check = |field: &[u8], want: Option<i64>| assert_eq!(number(field), want, "{field:?}");
        check(b"0000644\0", Some(0o644));
        check(b"   644 \0", Some(0o644));
        check(b"77777777777\0", Some((1 << 33) - 1));
        check(b"777777777777", Some((1 << 36) - 1));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"        ", Some(0));
        check(b"0000648\0", None);
        check(b"-000644\0", None);
        check(b"0644\0x\0\0", None);
        check(b"\x80\0\0\0\0\0\0\x10", Some(16));
        check(b"\x80\0\0\0\x02\0\0\0\0\0\0\0", Some(1 << 57));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1));
        check(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None);
        check(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None);
    }
}
