//! The bytes of files: copied as extents where the file system can, as ranges where the kernel can, read and written
//! otherwise; holes stay holes.
//!
//! In: two open files. Out: equal bytes, or whether they are equal. Memory is one buffer whatever the size.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, SeekFrom};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Large enough to amortise the call, small enough for the cache.
const BUFFER_BYTES: usize = 128 * 1024;
/// Below this, trying the clever ways costs more than copying.
const SMALL_BYTES: u64 = 32 * 1024;

/// Copies `length` bytes from the start of `from` to the start of the new file `to`. Returns false when `from` turned
/// out shorter.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: u64, sparse: bool) -> Result<bool, Errno> {
    if length == 0 {
        return Ok(true);
    }
    if length > SMALL_BYTES && fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(true);
    }
    let mut buffer = Vec::new();
    if !sparse {
        return copy_range(from, to, 0, length, &mut buffer);
    }
    let mut at = 0;
    while at < length {
        let start = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start.min(length),
            // No data behind here.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = fs::seek(from, SeekFrom::Hole(start))?.min(length);
        if end > start && !copy_range(from, to, start, end - start, &mut buffer)? {
            return Ok(false);
        }
        at = end.max(start + 1);
    }
    fs::ftruncate(to, length)?;
    Ok(true)
}

fn copy_range(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    start: u64,
    length: u64,
    buffer: &mut Vec<u8>,
) -> Result<bool, Errno> {
    let (mut read_at, mut write_at) = (start, start);
    let end = start + length;
    // The kernel's own copy: it may refuse at any time (other file system, old kernel), then the plain loop goes on
    // from where it stopped.
    while length > SMALL_BYTES && read_at < end {
        let chunk = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), chunk) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::IO) => break,
            Err(errno) => return Err(errno),
        }
    }
    let mut at = read_at;
    if at < end {
        // Most files are small, and room for them is made again for each.
        let most = usize::try_from(end - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        buffer.resize(buffer.len().max(most), 0);
    }
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let got = read_some(from, &mut buffer[..want], at)?;
        if got == 0 {
            return Ok(false);
        }
        write_all(to, &buffer[..got], at)?;
        at += got as u64;
    }
    Ok(true)
}

/// Whether two files of the same length hold the same bytes.
pub(crate) fn equal(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool, Errno> {
    let (mut a, mut b) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut at = 0;
    loop {
        let got = read_some(one, &mut a, at)?;
        if got == 0 {
            return Ok(read_some(other, &mut b[..1], at)? == 0);
        }
        let mut compared = 0;
        while compared < got {
            let more = read_some(other, &mut b[compared..got], at + compared as u64)?;
            if more == 0 || a[compared..compared + more] != b[compared..compared + more] {
                return Ok(false);
            }
            compared += more;
        }
        at += got as u64;
    }
}

/// SHA-256 of the first `length` bytes of a file; `None` when it turned out shorter, or `stop` said so, which is asked
/// before every piece.
pub(crate) fn sha256(file: BorrowedFd<'_>, length: u64, stop: &dyn Fn() -> bool) -> Result<Option<[u8; 32]>, Errno> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(length).unwrap_or(BUFFER_BYTES))];
    let mut at = 0;
    while at < length {
        let most = buffer.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
        match if stop() { 0 } else { read_some(file, &mut buffer[..most], at)? } {
            0 => return Ok(None),
            got => {
                hash.update(&buffer[..got]);
                at += got as u64;
            }
        }
    }
    Ok(Some(hash.finalize().into()))
}

/// One read at an offset; 0 is the end.
pub(crate) fn read_some(fd: BorrowedFd<'_>, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
    rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut *buffer, at))
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::pwrite(fd, bytes, at))? {
            0 => return Err(Errno::NOSPC),
            written => {
                bytes = &bytes[written..];
                at += written as u64;
            }
        }
    }
    Ok(())
}
