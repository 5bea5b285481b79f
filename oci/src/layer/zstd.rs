//! zstd in parallel, with bytes that do not depend on how many threads made them.
//!
//! libzstd's multi-threaded mode cuts its input into jobs of a size that depends on the level alone, so any number of
//! workers gives the same bytes; zero workers (its plain mode) would give others and is never used. The size of a job
//! is set here, which bounds memory: about twice that per worker. Deliberately absent: reading, see
//! [`super::decompress`].

use std::io::{self, Write};

use zstd::zstd_safe::CParameter;

/// As long as the window of the usual levels (2 MiB at level 3), so that little is lost between jobs.
pub const JOB_BYTES: u32 = 2 << 20;
/// Four workers at level 3 compress faster than most disks read, in 40 MiB.
const WORKERS_MAX: u32 = 4;

/// Compresses what is written to it. Nothing is complete before [`ZstdEncoder::finish`].
pub struct ZstdEncoder<W: Write> {
    inner: zstd::stream::write::Encoder<'static, W>,
}

impl<W: Write> ZstdEncoder<W> {
    /// `level` is 1 to 22. `threads` changes speed only.
    pub fn new(out: W, level: i32, threads: usize) -> io::Result<Self> {
        let mut inner = zstd::stream::write::Encoder::new(out, level)?;
        let workers = u32::try_from(threads).unwrap_or(WORKERS_MAX).clamp(1, WORKERS_MAX);
        inner.multithread(workers)?;
        inner.set_parameter(CParameter::JobSize(JOB_BYTES))?;
        Ok(Self { inner })
    }

    /// Writes what is left and gives `out` back.
    pub fn finish(self) -> io::Result<W> {
        let mut out = self.inner.finish()?;
        out.flush()?;
        Ok(out)
    }
}

impl<W: Write> Write for ZstdEncoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    /// Flushes nothing: a flush would end a block, and the output is to depend on the input alone.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_depend_on_input_and_level_alone() {
        let input: Vec<u8> = (0..9_000_000u32).map(|i| (i.wrapping_mul(2654435761) >> (i % 24)) as u8).collect();
        let encode = |threads, write_size| {
            let mut encoder = ZstdEncoder::new(Vec::new(), 3, threads).unwrap();
            for piece in input.chunks(write_size) {
                encoder.write_all(piece).unwrap();
                encoder.flush().unwrap();
            }
            encoder.finish().unwrap()
        };
        let one = encode(1, 1 << 20);
        assert!(encode(2, 100_001) == one && encode(8, 4096) == one);
        assert!(zstd::decode_all(&one[..]).unwrap() == input);
    }
}
