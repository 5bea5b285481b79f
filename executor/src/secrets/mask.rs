//! What a step prints, without the secrets that this build has read.
//!
//! In: the bytes of its two streams, in any pieces. Out: the same to the next log, every secret as `***`, also where it
//! comes in several pieces. Of an ordinary line nothing is held back; of one whose end may begin a secret, that end,
//! until the next piece decides. Only what is printed as it is can be recognised: an encoded secret cannot.

use std::sync::{Mutex, PoisonError};

use solver::seam::{LogSink, Stream};

use super::Secret;
use super::matcher::{Matcher, Position};

/// What is printed instead.
const MASK: &[u8] = b"***";
/// Shorter secrets are parts of ordinary words, and masking would tell what they are.
const SECRET_MIN_BYTES: usize = 4;
/// Of secrets with several lines each line counts, if it says something.
const LINE_MIN_BYTES: usize = 8;

/// What is masked.
fn patterns(secrets: &[Secret]) -> Vec<&[u8]> {
    let mut patterns = Vec::new();
    for secret in secrets {
        let whole = secret.trimmed();
        if whole.len() >= SECRET_MIN_BYTES {
            patterns.push(whole);
        }
        if whole.contains(&b'\n') {
            let lines = whole.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            patterns.extend(lines.filter(|line| line.len() >= LINE_MIN_BYTES));
        }
    }
    patterns.sort_unstable();
    patterns.dedup();
    patterns
}

/// A log before the log.
pub(crate) struct Masked<'a> {
    log: &'a dyn LogSink,
    /// `None` when there is nothing to mask.
    matcher: Option<Matcher>,
    streams: [Mutex<Masking>; 2],
}

impl<'a> Masked<'a> {
    /// Masks `secrets` in what goes to `log`.
    pub fn new(log: &'a dyn LogSink, secrets: &[Secret]) -> Self {
        Self { log, matcher: Matcher::new(patterns(secrets)), streams: Default::default() }
    }

    /// Nothing more comes: what was held back was no secret.
    pub fn finish(self) {
        for (stream, masking) in [Stream::Stdout, Stream::Stderr].into_iter().zip(self.streams) {
            let masking = masking.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Some(rest) = masking.finish().filter(|rest| !rest.is_empty()) {
                self.log.write(stream, &rest);
            }
        }
    }
}

impl LogSink for Masked<'_> {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let Some(matcher) = &self.matcher else { return self.log.write(stream, bytes) };
        let index = usize::from(stream == Stream::Stderr);
        let out = self.streams[index].lock().unwrap_or_else(PoisonError::into_inner).take(matcher, bytes);
        if !out.is_empty() {
            self.log.write(stream, &out);
        }
    }

    fn progress(&self, name: &str, current_bytes: u64, total_bytes: Option<u64>, done: bool) {
        self.log.progress(name, current_bytes, total_bytes, done);
    }

    fn notice(&self, text: &str) {
        self.log.notice(text);
    }

    fn worked(&self, work: &solver::work::Work) {
        self.log.worked(work);
    }
}

/// One stream.
#[derive(Default)]
struct Masking {
    position: Option<Position>,
    /// Bytes that have not been let go.
    held: Vec<u8>,
    /// Where `held` begins in the stream.
    held_from: u64,
    /// Where the next mask begins and ends, in order, apart from each other; none ends before `held_from`.
    masks: Vec<(u64, u64)>,
    /// How far a mask reaches that has been printed.
    printed_until: u64,
}

impl Masking {
    fn take(&mut self, matcher: &Matcher, bytes: &[u8]) -> Vec<u8> {
        let position = self.position.get_or_insert_with(|| matcher.begin());
        for byte in bytes {
            if let Some(found) = matcher.step(position, *byte) {
                let (mut start, end) = (found.start, position.at);
                // A match ends later than all before it; it swallows those that it overlaps.
                while let Some((before, _)) = self.masks.pop_if(|(_, until)| *until > start) {
                    start = start.min(before);
                }
                self.masks.push((start, end));
            }
        }
        self.held.extend_from_slice(bytes);
        let settled = matcher.settled(position).max(self.held_from);
        self.let_go(settled)
    }

    /// Everything before `until`, and what is masked in any case: what may still come overlaps at most with that.
    fn let_go(&mut self, mut until: u64) -> Vec<u8> {
        let mut out = Vec::new();
        // A mask that was printed may reach into what is held.
        let mut at = self.held_from.max(self.printed_until);
        let due = self.masks.iter().take_while(|(start, _)| *start <= until).count();
        for (start, end) in self.masks.drain(..due) {
            // Otherwise it goes on where one that is printed ends.
            if start >= self.printed_until {
                out.extend_from_slice(&self.held[(at - self.held_from) as usize..(start - self.held_from) as usize]);
                out.extend_from_slice(MASK);
            }
            self.printed_until = end;
            (at, until) = (end, until.max(end));
        }
        out.extend_from_slice(&self.held[(at - self.held_from) as usize..(until - self.held_from) as usize]);
        self.held.drain(..(until - self.held_from) as usize);
        self.held_from = until;
        out
    }

    fn finish(mut self) -> Option<Vec<u8>> {
        let end = self.position?.at;
        Some(self.let_go(end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<u8>>);

    impl LogSink for Log {
        fn write(&self, _: Stream, bytes: &[u8]) {
            self.0.lock().expect("one thread").extend_from_slice(bytes);
        }

        fn progress(&self, _: &str, _: u64, _: Option<u64>, _: bool) {}
        fn notice(&self, _: &str) {}
    }

    fn masked(secrets: &[&str], pieces: &[&[u8]]) -> (Vec<String>, String) {
        let secrets: Vec<Secret> = secrets.iter().map(|text| Secret::new("s", text.as_bytes().to_vec())).collect();
        let log = Log::default();
        let masked = Masked::new(&log, &secrets);
        let mut steps = Vec::new();
        for piece in pieces {
            masked.write(Stream::Stdout, piece);
            steps.push(String::from_utf8_lossy(&log.0.lock().expect("one thread")).into_owned());
        }
        masked.finish();
        (steps, String::from_utf8_lossy(&log.0.into_inner().expect("one thread")).into_owned())
    }

    #[test]
    fn secrets_are_masked_in_whatever_pieces_they_come() {
        let check = |secrets: &[&str], text: &str, expected: &str| {
            for size in [1, 2, 3, 7, text.len().max(1)] {
                let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                assert_eq!(masked(secrets, &pieces).1, expected, "{text:?} in pieces of {size}");
            }
        };
        check(&["hunter2"], "a hunter2 b hunter2\n", "a *** b ***\n");
        check(&["hunter2\n"], "x=hunter2;\n", "x=***;\n");
        check(&["hunter2"], "hunterhunter2hunter", "hunter***hunter");
        check(&["hunter2"], "hunter2hunter2", "******");
        check(&["aaaa"], "aaaaaaaaab", "***b");
        check(&["abcdefgh", "cdef"], "abcdefg cdef abcdefgh", "ab***g *** ***");
        check(&["abcdef", "defghi"], "abcdefghi.", "***.");
        check(&["abc"], "abc", "abc");
        check(&[""], "abc", "abc");
        check(
            &["first line\nshort\nsecond line\r\n"],
            "> first line\n> short\n> second line\n",
            "> ***\n> short\n> ***\n",
        );
        check(&["first line\nsecond line"], "first line\nsecond line", "***");
    }

    #[test]
    fn only_what_may_begin_a_secret_waits() {
        let check = |pieces: &[&str], expected: &[&str]| {
            let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
            assert_eq!(masked(&["hunter2"], &pieces).0, expected);
        };
        check(&["an ordinary line\n"], &["an ordinary line\n"]);
        check(&["prompt? hunt", "er2", "!"], &["prompt? ", "prompt? ***", "prompt? ***!"]);
        check(&["hunt", "ed\n"], &["", "hunted\n"]);
    }

    proptest! {
        #[test]
        fn nothing_secret_is_left_and_nothing_else_is_lost(
            secrets in prop::collection::vec("[ab]{4,6}", 1..3),
            text in "[abc]{0,80}",
            size in 1usize..9,
        ) {
            let list: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let (_, out) = masked(&list, &pieces);
            // By definition: every byte that lies in an occurrence is covered.
            let mut covered = vec![false; text.len()];
            for secret in &secrets {
                for at in 0..text.len() {
                    if text[at..].starts_with(secret.as_str()) {
                        covered[at..at + secret.len()].fill(true);
                    }
                }
            }
            let kept: String = text.chars().zip(&covered).filter(|(_, covered)| !**covered).map(|(c, _)| c).collect();
            prop_assert_eq!(out.replace('*', ""), kept);
            prop_assert!(secrets.iter().all(|secret| !out.contains(secret.as_str())));
        }
    }
}
