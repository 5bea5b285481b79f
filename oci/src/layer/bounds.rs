//! How much may come out of what comes in: bombs end here.
//!
//! A few kilobytes may unpack to gigabytes, or to millions of files. What counts is what holds for the whole process, like
//! the kernel's own limits: it is said once, before anything is read ([`limit_process`]), and whoever decompresses or
//! unpacks anything is bounded by it without being told. So no way in can be forgotten: images that are pulled or
//! loaded, archives that are added or imported, contexts, caches.
//!
//! Compressed bytes may become [`Bounds::free_bytes`], and more as long as that is less than [`RATIO_MAX`] times their
//! own number. Deliberately absent: memory of decompressors ([`super::decompress`]), sizes of names and headers
//! ([`super::tar::Limits`]).

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Real layers are rarely tenfold their blobs; gzip makes at most a thousandfold of zeros.
pub const RATIO_MAX: u64 = 200;

/// What holds for everything that this process unpacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes that anything compressed may unpack to, however small it is.
    pub free_bytes: u64,
    /// Headers of one archive, extensions included.
    pub entries: u64,
}

impl Bounds {
    /// Unless somebody says otherwise.
    pub const DEFAULT: Self = Self {
        free_bytes: 4 << 30,
        // Ten times the largest image layers in use.
        entries: 4_000_000,
    };

    /// Those of this process.
    pub fn of_process() -> Self {
        OF_PROCESS.get().copied().unwrap_or(Self::DEFAULT)
    }

    /// What so many compressed bytes may unpack to.
    fn most(&self, compressed: u64) -> u64 {
        compressed.saturating_mul(RATIO_MAX).max(self.free_bytes)
    }
}

static OF_PROCESS: OnceLock<Bounds> = OnceLock::new();

/// Says what holds for this process; the first who says so stays.
pub fn limit_process(bounds: Bounds) {
    OF_PROCESS.get_or_init(|| bounds);
}

/// Something that unpacks to more than it may.
#[derive(Debug, thiserror::Error)]
#[error(
    "its {compressed} bytes unpack to more than {most}, which makes it a bomb (`unpack_max_size` in config.toml allows \
     more)"
)]
pub struct Bomb {
    compressed: u64,
    most: u64,
}

/// Compressed bytes on their way to a decompressor, counted.
pub(super) struct Counted<R> {
    input: R,
    bytes: Arc<AtomicU64>,
}

impl<R: BufRead> Counted<R> {
    /// The bytes of `input`, and what counts them.
    pub(super) fn new(input: R) -> (Self, Arc<AtomicU64>) {
        let bytes = Arc::<AtomicU64>::default();
        (Self { input, bytes: bytes.clone() }, bytes)
    }

    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.count(amount);
        self.input.consume(amount);
    }
}

/// What a decompressor gives, as long as it is no bomb.
pub(super) struct Bounded<R> {
    pub(super) output: R,
    pub(super) bounds: Bounds,
    /// How many compressed bytes there are, where that is known before they are read; else 0.
    pub(super) size: u64,
    /// Compressed bytes that were read.
    pub(super) read: Arc<AtomicU64>,
    pub(super) given: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.output.read(buffer)?;
        self.given += count as u64;
        if self.given > self.bounds.free_bytes {
            let compressed = self.size.max(self.read.load(Ordering::Relaxed));
            let most = self.bounds.most(compressed);
            if self.given > most {
                return Err(io::Error::new(io::ErrorKind::InvalidData, Bomb { compressed, most }));
            }
        }
        Ok(count)
    }
}
