//! gzip in parallel, with bytes that do not depend on how many threads made them.
//!
//! Bytes come in, one gzip member goes out (RFC 1952). The input is cut into chunks of a fixed size; each is deflated
//! on its own with the last 32 KiB before it as dictionary and ends on a byte boundary (a sync flush), so that the
//! pieces in order are one deflate stream, and the checksums of the pieces combine to that of the whole. That is the
//! scheme of pigz. A chunk of noise, as files are that are compressed or encrypted already, is stored as it is: it would
//! not become smaller, and finding that out by deflating takes longer than anything else. Only a small window of chunks is in flight, so memory does not grow with the input. The header
//! holds no time, no name, and the unknown operating system. Deliberately absent: reading, see [`super::decompress`].
//!
//! Changing [`CHUNK_BYTES`], the deflate library or anything else that moves the output means changing
//! [`super::codec::Codec::encoder_version`].

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};

use super::help::{Crew, Help, Queue};

/// Large enough that a restarted deflate costs little, small enough that 16 threads need 16 MiB.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// As far back as deflate can refer.
const DICTIONARY_BYTES: usize = 32 * 1024;
/// More threads than this outrun any disk or registry.
const THREADS_MAX: usize = 16;

/// Compresses what is written to it. Nothing is complete before [`GzipEncoder::finish`].
pub struct GzipEncoder<W: Write> {
    out: W,
    level: u32,
    threads: usize,
    /// The chunk being filled; never full between two calls.
    chunk: Vec<u8>,
    dictionary: Vec<u8>,
    checksum: Hasher,
    total_bytes: u64,
    begun: bool,
    workers: Option<Workers>,
    help: Help,
    in_flight: VecDeque<Receiver<io::Result<Piece>>>,
}

/// A chunk on its way to a worker.
#[derive(Debug)]
pub(super) struct Chunk {
    pub bytes: Vec<u8>,
    pub dictionary: Vec<u8>,
    /// Nothing follows it in its stream.
    pub last: bool,
}

/// A chunk on its way back.
#[derive(Debug)]
pub(super) struct Piece {
    pub deflated: Vec<u8>,
    pub checksum: Hasher,
}

impl<W: Write> GzipEncoder<W> {
    /// `level` is 0 to 9. `threads` changes speed only; with 1, all is done on the caller's thread.
    pub fn new(out: W, level: u32, threads: usize) -> Self {
        Self {
            out,
            level: level.min(9),
            threads: threads.clamp(1, THREADS_MAX),
            chunk: Vec::with_capacity(CHUNK_BYTES),
            dictionary: Vec::new(),
            checksum: Hasher::new(),
            total_bytes: 0,
            begun: false,
            workers: None,
            help: Help::default(),
            in_flight: VecDeque::new(),
        }
    }

    /// The same, to be helped.
    pub fn helped_by(self, help: &Help) -> Self {
        Self { help: help.clone(), ..self }
    }

    /// Writes what is left and the trailer, and gives `out` back.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_header()?;
        self.drain(0)?;
        let last = self.take_chunk(true);
        let piece = deflate_whole(self.level, &last)?;
        self.emit(piece)?;
        let checksum = std::mem::take(&mut self.checksum).finalize();
        self.out.write_all(&checksum.to_le_bytes())?;
        // RFC 1952, "ISIZE": the input size modulo 2^32.
        self.out.write_all(&(self.total_bytes as u32).to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn write_header(&mut self) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            self.out.write_all(&header(self.level))?;
        }
        Ok(())
    }

    fn take_chunk(&mut self, last: bool) -> Chunk {
        let fresh = Vec::with_capacity(if last { 0 } else { CHUNK_BYTES });
        let bytes = std::mem::replace(&mut self.chunk, fresh);
        self.total_bytes += bytes.len() as u64;
        let next_dictionary = bytes[bytes.len().saturating_sub(DICTIONARY_BYTES)..].to_vec();
        Chunk { dictionary: std::mem::replace(&mut self.dictionary, next_dictionary), bytes, last }
    }

    fn send_full_chunk(&mut self) -> io::Result<()> {
        self.write_header()?;
        let chunk = self.take_chunk(false);
        if self.threads == 1 {
            let piece = deflate_whole(self.level, &chunk)?;
            return self.emit(piece);
        }
        let workers = match &mut self.workers {
            Some(workers) => workers,
            none => none.insert(Workers::start(self.threads, self.level, &self.help)?),
        };
        self.in_flight.push_back(workers.deflate(chunk)?);
        self.drain(2 * self.threads)
    }

    /// Writes finished pieces in order until at most `in_flight_max` are under way.
    fn drain(&mut self, in_flight_max: usize) -> io::Result<()> {
        while self.in_flight.len() > in_flight_max {
            // The queue is not empty: its length is above a limit of at least 0.
            let Some(reply) = self.in_flight.pop_front() else { break };
            let piece = reply.recv().map_err(|_| worker_died())??;
            self.emit(piece)?;
        }
        Ok(())
    }

    fn emit(&mut self, piece: Piece) -> io::Result<()> {
        self.checksum.combine(&piece.checksum);
        self.out.write_all(&piece.deflated)
    }
}

impl<W: Write> Write for GzipEncoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.chunk.len();
        let taken = room.min(bytes.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK_BYTES {
            self.send_full_chunk()?;
        }
        Ok(taken)
    }

    /// Flushes nothing: chunks are of a fixed size so that the output depends on the input alone.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// RFC 1952, 2.3: deflate, no flags, no time, a hint about the level, unknown operating system.
pub(super) fn header(level: u32) -> [u8; 10] {
    let level_hint = match level {
        9 => 2,
        0 | 1 => 4,
        _ => 0,
    };
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, level_hint, 255]
}

/// One chunk, on the caller's thread.
pub(super) fn deflate_whole(level: u32, chunk: &Chunk) -> io::Result<Piece> {
    let level = if level > STORED && is_noise(&chunk.bytes)? { STORED } else { level };
    deflate(Compress::new(Compression::new(level), false), chunk)
}

/// The level that does not compress.
const STORED: u32 = 0;
/// The one that costs least.
const QUICK: u32 = 1;
/// Twice what deflate looks back, so that what repeats itself does so in it. Less is never taken for noise.
const SAMPLE_BYTES: usize = 64 * 1024;

/// Whether bytes cannot become smaller, as far as their numbers and a quick try at the middle tell. Whole numbers only:
/// every machine finds the same.
fn is_noise(bytes: &[u8]) -> io::Result<bool> {
    if bytes.len() < SAMPLE_BYTES || !is_even(bytes) {
        return Ok(false);
    }
    let middle = (bytes.len() - SAMPLE_BYTES) / 2;
    let sample = Chunk { bytes: bytes[middle..][..SAMPLE_BYTES].to_vec(), dictionary: Vec::new(), last: true };
    let tried = deflate(Compress::new(Compression::new(QUICK), false), &sample)?;
    // Half a percent less is not worth its time.
    Ok(tried.deflated.len() >= SAMPLE_BYTES - SAMPLE_BYTES / 200)
}

/// Whether all bytes are about equally frequent: two of them are the same in 1 of 256 cases, or 3 % more often. Text and
/// programs are far from that.
fn is_even(bytes: &[u8]) -> bool {
    let mut counts = [[0u32; 256]; 4];
    let mut quads = bytes.chunks_exact(4);
    for quad in &mut quads {
        // Four tables: one would wait for its own last addition wherever bytes repeat.
        counts[0][usize::from(quad[0])] += 1;
        counts[1][usize::from(quad[1])] += 1;
        counts[2][usize::from(quad[2])] += 1;
        counts[3][usize::from(quad[3])] += 1;
    }
    quads.remainder().iter().for_each(|byte| counts[0][usize::from(*byte)] += 1);
    let count = |byte: usize| counts.iter().map(|table| u128::from(table[byte])).sum::<u128>();
    let same: u128 = (0..256).map(|byte| count(byte) * count(byte)).sum();
    let all = bytes.len() as u128;
    same * 256 * 100 <= all * all * 103
}

fn worker_died() -> io::Error {
    io::Error::other("a compression thread ended early; this is a bug in rbuild")
}

/// With a new deflater for every chunk, which costs 1 % of it: one that was used before, and reset, finds other matches
/// behind a dictionary, so the bytes would depend on who did what before.
fn deflate(mut deflater: Compress, chunk: &Chunk) -> io::Result<Piece> {
    if !chunk.dictionary.is_empty() {
        deflater.set_dictionary(&chunk.dictionary).map_err(io::Error::other)?;
    }
    let flush = if chunk.last { FlushCompress::Finish } else { FlushCompress::Sync };
    // Bytes that cannot be compressed grow by 5 per 16 KiB; the flush adds a few.
    let mut deflated = Vec::with_capacity(chunk.bytes.len() + chunk.bytes.len() / 1024 + 64);
    loop {
        let consumed = deflater.total_in() as usize;
        let status = deflater.compress_vec(&chunk.bytes[consumed..], &mut deflated, flush).map_err(io::Error::other)?;
        let room_left = deflated.capacity() > deflated.len();
        let all_in = deflater.total_in() as usize == chunk.bytes.len();
        if status == Status::StreamEnd || (!chunk.last && all_in && room_left) {
            break;
        }
        deflated.reserve(CHUNK_BYTES / 4);
    }
    let mut checksum = Hasher::new();
    checksum.update(&chunk.bytes);
    Ok(Piece { deflated, checksum })
}

type Job = (Chunk, SyncSender<io::Result<Piece>>);

/// Threads that deflate chunks; they end when this is dropped.
pub(super) struct Workers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of one encoder share.
#[derive(Debug)]
struct Deflating {
    queue: Queue<Job>,
    level: u32,
}

impl Crew for Deflating {
    fn work(&self, helps: bool) {
        while let Some((chunk, reply)) = self.queue.next(helps) {
            // The encoder may be gone by now, after an error of its own; then nobody wants the piece.
            if reply.send(deflate_whole(self.level, &chunk)).is_err() {
                return;
            }
        }
    }

    fn relieve(&self) {
        self.queue.relieve();
    }
}

impl Workers {
    pub(super) fn start(count: usize, level: u32, help: &Help) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let crew = Arc::new(Deflating { queue: Queue::new(queue), level });
        let mut workers = Self { jobs: Some(jobs), threads: Vec::with_capacity(count) };
        for _ in 0..count {
            let crew = crew.clone();
            let thread = std::thread::Builder::new().name("rbuild-gzip".into()).spawn(move || crew.work(false))?;
            workers.threads.push(thread);
        }
        help.offer(&crew, count);
        Ok(workers)
    }

    pub(super) fn deflate(&self, chunk: Chunk) -> io::Result<Receiver<io::Result<Piece>>> {
        let (reply, piece) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(worker_died)?;
        jobs.send((chunk, reply)).map_err(|_| worker_died())?;
        Ok(piece)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a compression thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn gzip(bytes: &[u8], level: u32, threads: usize, write_size: usize) -> Vec<u8> {
        let mut encoder = GzipEncoder::new(Vec::new(), level, threads);
        for piece in bytes.chunks(write_size) {
            encoder.write_all(piece).unwrap();
        }
        encoder.finish().unwrap()
    }

    /// Half text, half noise, so that both stored and packed blocks come out.
    fn sample(size: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        (0..size).map(|i| if (i / 5000) % 2 == 0 { b"the quick brown fox "[i % 20] } else { noise() }).collect()
    }

    #[test]
    fn bytes_depend_on_input_and_level_alone() {
        for size in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 21 * CHUNK_BYTES + 777] {
            let input = sample(size);
            for level in [1, 6] {
                let one = gzip(&input, level, 1, 1 << 20);
                for threads in 2..=8 {
                    assert!(gzip(&input, level, threads, 1000 * threads + 1) == one, "{size} bytes, {threads} threads");
                }
                let mut back = Vec::new();
                flate2::read::GzDecoder::new(&one[..]).read_to_end(&mut back).unwrap();
                assert!(back == input, "{size} bytes, level {level}");
                assert_eq!(&one[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, if level == 1 { 4 } else { 0 }, 255]);
            }
        }
    }

    #[test]
    fn help_that_comes_half_way_changes_no_byte() {
        let input = sample(40 * CHUNK_BYTES + 7);
        let expected = gzip(&input, 6, 1, 1 << 20);
        for at in [0, 1, 3, 20, 40] {
            let help = Help::default();
            let mut encoder = GzipEncoder::new(Vec::new(), 6, 2).helped_by(&help);
            for (number, piece) in input.chunks(CHUNK_BYTES).enumerate() {
                if number == at {
                    help.come();
                }
                encoder.write_all(piece).unwrap();
            }
            assert!(encoder.finish().unwrap() == expected, "at {at}");
        }
    }

    #[test]
    fn bytes_of_programs_depend_on_input_and_level_alone() {
        // What repeats itself far back: in a program more than in what a test makes up.
        let mut input = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        input.truncate(24 * CHUNK_BYTES + 1);
        let one = gzip(&input, 6, 1, 1 << 20);
        for threads in [2, 3, 5, 2, 3, 5] {
            assert!(gzip(&input, 6, threads, 1 << 16) == one, "{threads} threads");
        }
    }

    #[test]
    fn noise_is_stored_and_nothing_else() {
        let mut state = 7u64;
        let mut noise = |count: usize| -> Vec<u8> {
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            };
            (0..count).map(|_| next()).collect()
        };
        let random = noise(4 * CHUNK_BYTES);
        let check = |what: &str, bytes: &[u8], stored: bool| {
            assert_eq!(is_noise(&bytes[..CHUNK_BYTES]).unwrap(), stored, "{what}");
            let packed = gzip(bytes, 6, 2, 1 << 20);
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{what}");
            // Five bytes for each 65,535 that are stored, five for the end of a chunk, 18 for the file.
            let most = if stored { bytes.len() + bytes.len() / 8192 + 64 } else { bytes.len() * 9 / 10 };
            assert!(packed.len() <= most, "{what}: {} of {}", packed.len(), bytes.len());
        };
        check("noise", &random, true);
        let mut program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        program.truncate(24 * CHUNK_BYTES);
        check("a program", &program, false);
        check("a deflated program", &gzip(&program, 6, 2, 1 << 20), true);
        check("text", &b"the quick brown fox jumps over ".repeat(40_000), false);
        check("noise that repeats itself", &random[..30_000].repeat(40), false);
        check("bytes that count up", &(0..=255).cycle().take(CHUNK_BYTES * 2).collect::<Vec<u8>>(), false);
        check("noise of letters", &random.iter().map(|byte| byte & 0x7f).collect::<Vec<u8>>(), false);
        assert!(!is_noise(&random[..SAMPLE_BYTES - 1]).unwrap(), "too short to say");
    }

    #[test]
    fn every_level_reads_back() {
        let input = sample(2 * CHUNK_BYTES + 5);
        for level in 0..=9 {
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&gzip(&input, level, 3, 4096)[..]).read_to_end(&mut back).unwrap();
            assert!(back == input, "level {level}");
        }
    }

    #[test]
    fn an_error_of_the_destination_ends_it_and_all_threads() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut encoder = GzipEncoder::new(Full(CHUNK_BYTES), 6, 4);
        let error = encoder.write_all(&sample(40 * CHUNK_BYTES)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
