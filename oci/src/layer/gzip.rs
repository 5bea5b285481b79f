//! gzip in parallel, with bytes that do not depend on how many threads made them.
//!
//! Bytes come in, gzip members go out ([`super::member`]), which are one stream for every reader. The input is cut into
//! blocks of a fixed size, each packed on its own. Only a small window of blocks is in flight, and their memory is used
//! again, so it does not grow with the input. Deliberately absent: reading, see [`super::decompress`].
//!
//! Changing [`BLOCK_BYTES`] means changing [`super::codec::Codec::encoder_version`].

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::help::{Crew, Help, Queue};
use super::member::{Members, Packer};

/// Nothing in a block refers to another: of blocks so large, that costs half a percent of size.
pub const BLOCK_BYTES: usize = 1 << 20;
/// More threads than this outrun any disk or registry.
const THREADS_MAX: usize = 16;
/// So many blocks more than threads are under way, so that none waits while the next is read.
const AHEAD_MAX: usize = 3;

/// Compresses what is written to it. Nothing is complete before [`GzipEncoder::finish`].
pub struct GzipEncoder<W: Write> {
    out: W,
    level: u32,
    threads: usize,
    /// Being filled; never full between two calls.
    block: Block,
    /// Nothing was packed yet.
    fresh: bool,
    /// With one thread, or for what never fills a block.
    packer: Option<Packer>,
    workers: Option<Workers>,
    help: Help,
    in_flight: VecDeque<Packing>,
    /// Memory to be used again.
    spare: Vec<Block>,
}

/// A block on its way to a worker, and on its way back.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub bytes: Vec<u8>,
    /// What became of them.
    pub packed: Vec<u8>,
}

impl Block {
    /// Packs what it holds.
    pub fn pack(&mut self, packer: &mut Packer, members: Members) -> io::Result<()> {
        self.packed.clear();
        packer.pack(&self.bytes, members, &mut self.packed)
    }
}

/// A block that comes back.
pub(super) type Packing = Receiver<io::Result<Block>>;

impl<W: Write> GzipEncoder<W> {
    /// `level` is 0 to 9. `threads` changes speed only; with 1, all is done on the caller's thread.
    pub fn new(out: W, level: u32, threads: usize) -> Self {
        Self {
            out,
            level,
            threads: threads.clamp(1, THREADS_MAX),
            block: Block::default(),
            fresh: true,
            packer: None,
            workers: None,
            help: Help::default(),
            in_flight: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// The same, to be helped.
    pub fn helped_by(self, help: &Help) -> Self {
        Self { help: help.clone(), ..self }
    }

    /// Writes what is left, and gives `out` back.
    pub fn finish(mut self) -> io::Result<W> {
        // Nothing at all is a member too.
        if self.fresh || !self.block.bytes.is_empty() {
            match self.workers {
                None => self.pack_here()?,
                Some(_) => self.send()?,
            }
        }
        self.drain(0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pack_here(&mut self) -> io::Result<()> {
        self.fresh = false;
        let packer = self.packer.get_or_insert_with(|| Packer::new(self.level));
        self.block.pack(packer, Members::AsNeeded)?;
        self.block.bytes.clear();
        self.out.write_all(&self.block.packed)
    }

    fn send(&mut self) -> io::Result<()> {
        self.fresh = false;
        let workers = match &mut self.workers {
            Some(workers) => workers,
            none => none.insert(Workers::start(self.threads, self.level, Members::AsNeeded, &self.help)?),
        };
        let next = self.spare.pop().unwrap_or_default();
        self.in_flight.push_back(workers.pack(std::mem::replace(&mut self.block, next))?);
        self.drain(self.threads + AHEAD_MAX.min(self.threads))
    }

    /// Writes finished blocks in order until at most `in_flight_max` are under way.
    fn drain(&mut self, in_flight_max: usize) -> io::Result<()> {
        while self.in_flight.len() > in_flight_max {
            // The queue is not empty: its length is above a limit of at least 0.
            let Some(packing) = self.in_flight.pop_front() else { break };
            let mut block = packing.recv().map_err(|_| worker_died())??;
            self.out.write_all(&block.packed)?;
            block.bytes.clear();
            self.spare.push(block);
        }
        Ok(())
    }
}

impl<W: Write> Write for GzipEncoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let block = &mut self.block.bytes;
        let taken = bytes.len().min(BLOCK_BYTES - block.len());
        if block.capacity() == 0 {
            block.reserve_exact(BLOCK_BYTES);
        }
        block.extend_from_slice(&bytes[..taken]);
        if block.len() == BLOCK_BYTES {
            if self.threads == 1 { self.pack_here()? } else { self.send()? }
        }
        Ok(taken)
    }

    /// Flushes nothing: blocks are of a fixed size so that the output depends on the input alone.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn worker_died() -> io::Error {
    io::Error::other("a compression thread ended early; this is a bug in rbuild")
}

type Job = (Block, SyncSender<io::Result<Block>>);

/// Threads that pack blocks; they end when this is dropped.
pub(super) struct Workers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of one encoder share.
#[derive(Debug)]
struct Deflating {
    queue: Queue<Job>,
    level: u32,
    members: Members,
}

impl Crew for Deflating {
    fn work(&self, helps: bool) {
        let mut packer = Packer::new(self.level);
        while let Some((mut block, reply)) = self.queue.next(helps) {
            let packed = block.pack(&mut packer, self.members).map(|()| block);
            // The encoder may be gone by now, after an error of its own; then nobody wants the block.
            if reply.send(packed).is_err() {
                return;
            }
        }
    }

    fn relieve(&self) {
        self.queue.relieve();
    }
}

impl Workers {
    pub(super) fn start(count: usize, level: u32, members: Members, help: &Help) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let crew = Arc::new(Deflating { queue: Queue::new(queue), level, members });
        let mut workers = Self { jobs: Some(jobs), threads: Vec::with_capacity(count) };
        for _ in 0..count {
            let crew = crew.clone();
            let thread = std::thread::Builder::new().name("rbuild-gzip".into()).spawn(move || crew.work(false))?;
            workers.threads.push(thread);
        }
        help.offer(&crew, count);
        Ok(workers)
    }

    pub(super) fn pack(&self, block: Block) -> io::Result<Packing> {
        let (reply, packing) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(worker_died)?;
        jobs.send((block, reply)).map_err(|_| worker_died())?;
        Ok(packing)
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
        for size in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 9 * BLOCK_BYTES + 777] {
            let input = sample(size);
            for level in [1, 6] {
                let one = gzip(&input, level, 1, 1 << 20);
                for threads in 2..=8 {
                    assert!(gzip(&input, level, threads, 1000 * threads + 1) == one, "{size} bytes, {threads} threads");
                }
                let mut back = Vec::new();
                flate2::read::MultiGzDecoder::new(&one[..]).read_to_end(&mut back).unwrap();
                assert!(back == input, "{size} bytes, level {level}");
                assert_eq!(&one[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, if level == 1 { 4 } else { 0 }, 255]);
            }
        }
    }

    #[test]
    fn help_that_comes_half_way_changes_no_byte() {
        let input = sample(16 * BLOCK_BYTES + 7);
        let expected = gzip(&input, 6, 1, 1 << 20);
        for at in [0, 1, 3, 10, 16] {
            let help = Help::default();
            let mut encoder = GzipEncoder::new(Vec::new(), 6, 2).helped_by(&help);
            for (number, piece) in input.chunks(BLOCK_BYTES).enumerate() {
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
        input.truncate(6 * BLOCK_BYTES + 1);
        let one = gzip(&input, 6, 1, 1 << 20);
        for threads in [2, 3, 5, 2, 3, 5] {
            assert!(gzip(&input, 6, threads, 1 << 16) == one, "{threads} threads");
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
        let mut encoder = GzipEncoder::new(Full(BLOCK_BYTES), 6, 4);
        let error = encoder.write_all(&sample(16 * BLOCK_BYTES)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
