//! Bytes become gzip members, each deflated on its own: RFC 1952, RFC 1951.
//!
//! In: a piece of a stream, and a level. Out: a member of it, or as many as it takes; members behind one another are one
//! stream for every reader (RFC 1952, 2.2). libdeflate deflates, with the whole piece before it, which is what makes it
//! fast; it can neither go on where another piece ended nor end in the middle of a stream, so a piece is a member. What
//! it does depends on no processor: of its parts only decompression and checksums, which are not used, choose their code
//! when the program runs. It parses nothing: whatever the bytes are, they are bytes to it, and nothing is inflated by it.
//!
//! Noise, as files are that are compressed or encrypted already, is stored as it is, by grains: it would not become
//! smaller, and finding that out by deflating takes longer than anything else. Stored blocks end on a byte, so deflated
//! ones may follow in the same member; the reverse takes another member.
//!
//! The header holds no time, no name, and the unknown operating system. Deliberately absent: threads ([`super::gzip`]),
//! reading ([`super::decompress`]).
//!
//! Whatever moves the bytes changes [`super::codec::Codec::encoder_version`] too.

use std::io;

use libdeflater::{CompressionLvl, Compressor};

/// The highest level: beyond it libdeflate takes ten times as long for some percent.
pub(super) const LEVEL_MAX: u32 = 9;
/// What is stored or deflated as a whole; twice what deflate looks back, so that what repeats itself does so in it.
const GRAIN_BYTES: usize = 64 * 1024;
/// Of a grain: enough to see that it is text or a program.
const PROBE_BYTES: usize = 4 * 1024;
/// RFC 1951, 3.2.4.
const STORED_BLOCK_MAX_BYTES: usize = 0xffff;

/// How many members a piece may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Members {
    /// Exactly one: somebody will begin to read there.
    One,
    /// As many as noise in the midst of it takes.
    AsNeeded,
}

/// Makes members, on the caller's thread.
pub(super) struct Packer {
    level: u32,
    deflater: Compressor,
}

impl Packer {
    /// `level` is 0, which stores, to [`LEVEL_MAX`].
    pub fn new(level: u32) -> Self {
        let level = level.min(LEVEL_MAX);
        let libdeflate = CompressionLvl::new(level.cast_signed()).expect("libdeflate has levels 0 to 12");
        Self { level, deflater: Compressor::new(libdeflate) }
    }

    /// Appends the members of a piece to `out`; of an empty one, an empty member.
    pub fn pack(&mut self, bytes: &[u8], members: Members, out: &mut Vec<u8>) -> io::Result<()> {
        let grains: Vec<bool> = bytes.chunks(GRAIN_BYTES).map(|grain| self.level == 0 || is_noise(grain)).collect();
        let end_of = |from: usize, noise: bool| from + grains[from..].iter().take_while(|is| **is == noise).count();
        let part =
            |from: usize, to: usize| &bytes[bytes.len().min(from * GRAIN_BYTES)..bytes.len().min(to * GRAIN_BYTES)];
        let mut at = 0;
        loop {
            let stored = end_of(at, true);
            let deflated = if members == Members::One { grains.len() } else { end_of(stored, false) };
            self.member(part(at, stored), part(stored, deflated), out)?;
            at = deflated;
            if at == grains.len() {
                return Ok(());
            }
        }
    }

    fn member(&mut self, stored: &[u8], deflated: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(&header(self.level));
        store(stored, deflated.is_empty(), out);
        // Nothing at all is a block too.
        if stored.is_empty() || !deflated.is_empty() {
            let begun = out.len();
            out.resize(begun + self.deflater.deflate_compress_bound(deflated.len()), 0);
            let count = self.deflater.deflate_compress(deflated, &mut out[begun..]).map_err(io::Error::other)?;
            out.truncate(begun + count);
        }
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(stored);
        checksum.update(deflated);
        out.extend_from_slice(&checksum.finalize().to_le_bytes());
        // RFC 1952, "ISIZE": the input size modulo 2^32.
        out.extend_from_slice(&((stored.len() + deflated.len()) as u32).to_le_bytes());
        Ok(())
    }
}

/// RFC 1952, 2.3: deflate, no flags, no time, a hint about the level, unknown operating system.
fn header(level: u32) -> [u8; 10] {
    let level_hint = match level {
        LEVEL_MAX => 2,
        0 | 1 => 4,
        _ => 0,
    };
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, level_hint, 255]
}

/// RFC 1951, 3.2.4: blocks of bytes as they are; `ends`: nothing follows in the member.
fn store(bytes: &[u8], ends: bool, out: &mut Vec<u8>) {
    let blocks = bytes.chunks(STORED_BLOCK_MAX_BYTES);
    let count = blocks.len();
    for (at, block) in blocks.enumerate() {
        let length = block.len() as u16;
        out.push((ends && at + 1 == count).into());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
}

/// Whether bytes cannot become smaller, as far as their numbers and what repeats itself tell. Whole numbers only: every
/// machine finds the same. Less than a grain is never taken for noise.
fn is_noise(grain: &[u8]) -> bool {
    // Numbers of noise itself differ by 6 % more than those of all bytes in so short a probe.
    grain.len() == GRAIN_BYTES
        && is_even(&grain[(GRAIN_BYTES - PROBE_BYTES) / 2..][..PROBE_BYTES], 112)
        && is_even(grain, 103)
        && !repeats_itself(grain)
}

/// Whether all bytes are about equally frequent: two of them are the same in 1 of 256 cases, or in at most so many
/// percent of that. Text and programs are far from it.
fn is_even(bytes: &[u8], percent_max: u64) -> bool {
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
    let count = |byte: usize| counts.iter().map(|table| u64::from(table[byte])).sum::<u64>();
    let same: u64 = (0..256).map(|byte| count(byte) * count(byte)).sum();
    let all = bytes.len() as u64;
    same * 256 * 100 <= all * all * percent_max
}

/// Whether deflate would find much that stood there before: more than half a percent of some places. These are chosen by
/// the four bytes that stand at them, so that two places with the same bytes are chosen both, or neither.
fn repeats_itself(grain: &[u8]) -> bool {
    let mut seen = [0u32; 4096];
    let (mut chosen, mut again) = (0, 0);
    for window in grain.windows(4) {
        let four = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
        // 2^32 divided by the golden ratio: its multiples spread evenly. One in 32 begins with five zeros.
        let spread = four.wrapping_mul(0x9e37_79b1);
        if spread >> 27 == 0 {
            let place = &mut seen[(spread >> 15) as usize];
            chosen += 1;
            again += usize::from(*place == four);
            *place = four;
        }
    }
    // So few are chosen only where few different things stand.
    chosen < grain.len() / 64 || again * 200 > chosen
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const NOISE_SEED: u64 = 7;

    fn noise(count: usize) -> Vec<u8> {
        let mut state = NOISE_SEED;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..count).map(|_| next()).collect()
    }

    fn packed(bytes: &[u8], level: u32, members: Members) -> Vec<u8> {
        let mut out = Vec::new();
        Packer::new(level).pack(bytes, members, &mut out).unwrap();
        out
    }

    /// What the members hold, and how many they are.
    fn unpacked(packed: &[u8]) -> (Vec<u8>, usize) {
        let (mut whole, mut count, mut rest) = (Vec::new(), 0, packed);
        while !rest.is_empty() {
            let mut one = flate2::bufread::GzDecoder::new(rest);
            one.read_to_end(&mut whole).unwrap();
            rest = one.into_inner();
            count += 1;
        }
        (whole, count)
    }

    /// Like a program, the same on every machine: words of a dictionary, instructions with operands, and what stood there
    /// before, near and far.
    fn program() -> Vec<u8> {
        const BYTES: usize = 6 << 20;
        let mut chance = noise(BYTES).into_iter().cycle();
        let mut below =
            move |limit: usize| (0..3).fold(0, |number, _| number << 8 | usize::from(chance.next().unwrap())) % limit;
        let words: Vec<Vec<u8>> =
            (0..4000).map(|_| (0..3 + below(10)).map(|_| b'a' + below(26).min(below(26)) as u8).collect()).collect();
        let mut program = Vec::with_capacity(BYTES + 512);
        while program.len() < BYTES {
            match below(8) {
                0..4 => program.extend_from_slice(&words[below(words.len()).min(below(words.len()))]),
                4..7 => {
                    program.extend_from_slice(&[0x48 + below(4) as u8, 0x80 + below(16) as u8, below(64) as u8, 0]);
                }
                _ => {
                    let from = program.len() - below(program.len().clamp(1, 1 << 20));
                    let to = program.len().min(from + 8 + below(200));
                    program.extend_from_within(from..to);
                }
            }
        }
        program.truncate(BYTES);
        program
    }

    #[test]
    fn noise_is_stored_and_nothing_else() {
        let check = |what: &str, bytes: &[u8], stored: bool| {
            let grains: Vec<bool> = bytes.chunks_exact(GRAIN_BYTES).map(is_noise).collect();
            assert!(grains.iter().all(|noise| *noise == stored), "{what}: {grains:?}");
            let packed = packed(bytes, 6, Members::AsNeeded);
            assert!(unpacked(&packed).0 == bytes, "{what}");
            // Five bytes for each 65,535 that are stored, 18 for each member.
            let most = if stored { bytes.len() + bytes.len() / 8192 + 64 } else { bytes.len() * 9 / 10 };
            assert!(packed.len() <= most, "{what}: {} of {}", packed.len(), bytes.len());
        };
        let random = noise(1 << 20);
        check("noise", &random, true);
        check("a program", &program(), false);
        check("text", &b"the quick brown fox jumps over ".repeat(40_000), false);
        check("noise that repeats itself", &random[..30_000].repeat(40), false);
        check("bytes that count up", &(0..=255).cycle().take(1 << 19).collect::<Vec<u8>>(), false);
        check("noise of letters", &random.iter().map(|byte| byte & 0x7f).collect::<Vec<u8>>(), false);
        let few: Vec<u8> = random.iter().flat_map(|byte| [*byte, byte ^ 0x5a, byte.wrapping_mul(77), !byte]).collect();
        check("256 words of four bytes", &few, false);
        assert!(!is_noise(&random[..GRAIN_BYTES - 1]), "too short to say");
    }

    #[test]
    fn most_of_what_is_compressed_already_is_stored() {
        for (what, bytes) in [
            ("deflated", packed(&program(), 6, Members::AsNeeded)),
            ("zstd", zstd::encode_all(&program()[..], 3).unwrap()),
        ] {
            let noisy = bytes.chunks_exact(GRAIN_BYTES).filter(|grain| is_noise(grain)).count();
            let all = bytes.len() / GRAIN_BYTES;
            assert!(all > 4 && noisy * 10 >= all * 7, "{what}: {noisy} of {all} grains");
            // What is lost by not deflating them.
            let stored = packed(&bytes, 6, Members::AsNeeded).len();
            assert!(stored * 1000 <= bytes.len() * 1001, "{what}: {stored} of {}", bytes.len());
        }
    }

    #[test]
    fn noise_in_the_midst_takes_another_member_where_there_may_be_one() {
        let text = b"words ".repeat(20_000);
        let (text, noise) = (&text[..GRAIN_BYTES], noise(3 * GRAIN_BYTES));
        let small = &text[..77];
        for (what, parts, expected) in [
            ("nothing", &[][..], 1),
            ("less than a grain", &[small], 1),
            ("text", &[text, text, small], 1),
            ("noise", &[&noise], 1),
            ("noise, then text", &[&noise, text, small], 1),
            ("text, then noise", &[text, &noise], 2),
            ("by turns", &[text, &noise, text, &noise, small], 3),
        ] {
            let bytes = parts.concat();
            for (members, expected) in [(Members::AsNeeded, expected), (Members::One, 1)] {
                let packed = packed(&bytes, 6, members);
                let (back, count) = unpacked(&packed);
                assert!(back == bytes, "{what}");
                assert_eq!(count, expected, "{what}, {members:?}");
            }
        }
    }

    #[test]
    fn every_level_reads_back_and_says_which_it_is() {
        let bytes = [program(), noise(GRAIN_BYTES + 5), vec![0; 1 << 20]].concat();
        let counts: Vec<usize> = (0..=LEVEL_MAX)
            .map(|level| {
                let packed = packed(&bytes, level, Members::AsNeeded);
                let hint = [4, 4, 0, 0, 0, 0, 0, 0, 0, 2][level as usize];
                assert_eq!(packed[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, hint, 255]);
                assert!(unpacked(&packed).0 == bytes, "level {level}");
                packed.len()
            })
            .collect();
        // Neighbours may be as good as one another; what is stored, quick, usual and small may not.
        let apart = [counts[0], counts[1], counts[5], counts[9]];
        assert!(apart.is_sorted_by(|larger, smaller| larger > smaller), "{counts:?}");
    }

    #[test]
    fn what_was_packed_before_changes_no_byte() {
        let (program, noise) = (program(), noise(1 << 20));
        let pieces =
            [&program[..1 << 20], &noise, &program[2 << 20..3 << 20], &program[..100], b"", &program[1 << 20..]];
        let mut used = Packer::new(6);
        for _ in 0..2 {
            for piece in pieces {
                let mut out = Vec::new();
                used.pack(piece, Members::AsNeeded, &mut out).unwrap();
                assert!(out == packed(piece, 6, Members::AsNeeded));
            }
        }
    }
}
