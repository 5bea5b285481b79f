//! zstd in parallel, with bytes that do not depend on how many threads made them.
//!
//! libzstd's multi-threaded mode cuts its input into jobs of a size that depends on the level alone, so any number of
//! workers gives the same bytes; zero workers (its plain mode) would give others and is never used. The size of a job
//! is set here, which bounds memory: about twice that per worker. Deliberately absent: reading, see
//! [`super::decompress`].

use std::io::{self, Write};

use zstd::zstd_safe::{CParameter, Strategy};

/// As long as the window of the usual levels (2 MiB at level 3), so that little is lost between jobs.
pub const JOB_BYTES: u32 = 2 << 20;
/// The level that is meant where nobody names one.
pub const USUAL_LEVEL: i32 = 3;
/// What the usual level is here: libzstd's 3 with the match finder of 1, which has as large a table as 3, so that it finds
/// nearly as much. Layers of programs become 2 % larger, and take three quarters of the time.
const USUAL: [CParameter; 3] =
    [CParameter::Strategy(Strategy::ZSTD_fast), CParameter::HashLog(17), CParameter::MinMatch(5)];
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
        for parameter in USUAL.into_iter().filter(|_| level == USUAL_LEVEL) {
            inner.set_parameter(parameter)?;
        }
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

    #[test]
    fn the_usual_level_is_nearly_as_small_as_libzstds() {
        // A program, as most of what is in layers.
        let mut program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        program.truncate(8 << 20);
        let mut encoder = ZstdEncoder::new(Vec::new(), USUAL_LEVEL, 2).unwrap();
        encoder.write_all(&program).unwrap();
        let (ours, theirs) =
            (encoder.finish().unwrap().len(), zstd::encode_all(&program[..], USUAL_LEVEL).unwrap().len());
        assert!(ours * 100 <= theirs * 104, "{ours} bytes are over 4 % more than {theirs}");
    }
}
