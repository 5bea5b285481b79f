//! ADD of a local archive: told by its content, unpacked beneath `dest`.
//!
//! In: an open file of the source. Out: whether it was an archive, and then its members in the tree. An archive is a
//! tar, plain or compressed with gzip, bzip2, xz or zstd, whose first block is a tar header; anything else is copied
//! like any file. Decompression happens in this process: no program is run. Deliberately absent: zip.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use oci::layer::{ExtractOptions, XattrNamespace, decompress, decompress_sized, extract_archive};

use super::FileError;
use crate::tree::{NewDir, Root, TreeError, shown};

/// One tar block.
const BLOCK_BYTES: usize = 512;
/// Where a header keeps its checksum; counted as spaces.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Unpacks `file` beneath `dest` if it is an archive, and returns whether it is. `owner` is of everything in it, instead
/// of what the archive says.
pub(crate) fn unpack(
    file: &File,
    path: &[u8],
    root: &Root,
    dest: &str,
    new: &NewDir,
    owner: Option<(u32, u32)>,
) -> Result<bool, FileError> {
    if !is_archive(file, path)? {
        return Ok(false);
    }
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| FileError::Archive { path: shown(path), source };
    let place = root.make_dirs(dest.as_bytes(), new).map_err(|error| failed(error.into()))?;
    // Without links: found once, it is not looked for again.
    let dest = String::from_utf8(place.path).map_err(|error| failed(error.into()))?;
    let size = file.metadata().map_err(|error| failed(error.into()))?.len();
    let (_, tar) = decompress_sized(BufReader::new(file), size).map_err(|error| failed(error.into()))?;
    let options = ExtractOptions { owner, ..ExtractOptions::new(XattrNamespace::here()) };
    extract_archive(tar, root.fd(), &dest, &options).map_err(|error| failed(error.into()))?;
    Ok(true)
}

/// Whether the file begins like an archive. Leaves it at its start.
fn is_archive(mut file: &File, path: &[u8]) -> Result<bool, FileError> {
    let failed = |source| FileError::tree("read the source")(TreeError::Io { act: "read", path: shown(path), source });
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    // What cannot be decompressed is no archive but a file like any other.
    let read = match decompress(BufReader::new(file)) {
        Ok((_, tar)) => tar.take(BLOCK_BYTES as u64).read_to_end(&mut block).is_ok(),
        Err(error) => {
            tracing::debug!(path = %shown(path), %error, "not an archive");
            false
        }
    };
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(read && is_header(&block))
}

fn is_header(block: &[u8]) -> bool {
    if block.len() < BLOCK_BYTES || block.iter().all(|byte| *byte == 0) {
        return false;
    }
    let digits: String = block[CHECKSUM]
        .iter()
        .map(|byte| char::from(*byte))
        .skip_while(|c| *c == ' ')
        .take_while(char::is_ascii_digit)
        .collect();
    let Ok(stated) = i64::from_str_radix(&digits, 8) else { return false };
    // Old archivers added signed bytes.
    let sum = |value: fn(u8) -> i64| {
        let bytes = block.iter().enumerate();
        bytes.map(|(i, byte)| if CHECKSUM.contains(&i) { i64::from(b' ') } else { value(*byte) }).sum::<i64>()
    };
    stated == sum(i64::from) || stated == sum(|byte| i64::from(byte.cast_signed()))
}
