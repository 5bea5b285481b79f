//! The stream beneath: blocks, checksums, limits, the end.

use std::io::{self, Read};

use super::{EndMarker, TarReader};
use crate::layer::tar::header::{self, Block};
use crate::layer::tar::{BLOCK_BYTES, TarError};

impl<R: Read> TarReader<R> {
    /// The next header, its checksum right, or `None` at the end of the archive.
    pub(super) fn header_block(&mut self) -> Result<Option<Block>, TarError> {
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

    pub(super) fn whole_block(&mut self) -> Result<Block, TarError> {
        let mut block = [0; BLOCK_BYTES];
        self.read_exact_or_truncated(&mut block)?;
        Ok(block)
    }

    /// `false` if the stream ended before the first byte.
    pub(super) fn read_block(&mut self, block: &mut Block) -> Result<bool, TarError> {
        let count = self.read_some(block)?;
        if count > 0 {
            self.read_exact_or_truncated(&mut block[count..])?;
        }
        Ok(count > 0)
    }

    pub(super) fn read_exact_or_truncated(&mut self, mut buffer: &mut [u8]) -> Result<(), TarError> {
        while !buffer.is_empty() {
            let count = self.read_some(buffer)?;
            if count == 0 {
                return Err(TarError::Truncated { offset: self.offset });
            }
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    pub(super) fn skip_data(&mut self) -> Result<(), TarError> {
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

    pub(super) fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
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
