//! Finds many byte strings in a stream, in one pass, whatever pieces it comes in.
//!
//! In: patterns, then bytes. Out: where patterns end, and up to where no later match can reach back: what lies before
//! that may be let go. The automaton is Aho and Corasick's; its state is the longest end of the stream that begins a
//! pattern, so the length of that end (the depth of the state) is all that must be held back.

use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton as _, StateID};
use aho_corasick::nfa::noncontiguous::NFA;

/// Patterns, compiled.
pub(super) struct Matcher {
    nfa: NFA,
    /// By state: how many bytes lead to it.
    depths: Vec<u32>,
    start: StateID,
}

/// Where a stream stands.
#[derive(Clone, Copy)]
pub(super) struct Position {
    state: StateID,
    /// Bytes so far.
    pub at: u64,
}

/// A pattern that ends where the stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Which pattern: the longest that ends here.
    pub pattern: usize,
    /// Where it begins.
    pub start: u64,
}

impl Matcher {
    /// Of non-empty patterns; `None` of none.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let patterns: Vec<&[u8]> = patterns.into_iter().filter(|pattern| !pattern.is_empty()).collect();
        if patterns.is_empty() {
            return None;
        }
        // Without a prefilter every byte makes a step. The sizes of secrets are bounded, so the number of states is.
        let nfa =
            NFA::builder().prefilter(false).build(&patterns).expect("a few MiB of patterns fit into an automaton");
        let start = nfa.start_state(Anchored::No).expect("it is searched from anywhere");
        let mut depths = Vec::new();
        for pattern in &patterns {
            let mut state = start;
            for (index, byte) in pattern.iter().enumerate() {
                // Along a pattern every step goes one deeper: there is no deeper state than its own beginning.
                state = nfa.next_state(Anchored::No, state, *byte);
                if depths.len() <= state.as_usize() {
                    depths.resize(state.as_usize() + 1, 0);
                }
                depths[state.as_usize()] = index as u32 + 1;
            }
        }
        Some(Self { nfa, depths, start })
    }

    /// Where a stream begins.
    pub fn begin(&self) -> Position {
        Position { state: self.start, at: 0 }
    }

    /// Takes one byte.
    pub fn step(&self, position: &mut Position, byte: u8) -> Option<Found> {
        position.state = self.nfa.next_state(Anchored::No, position.state, byte);
        position.at += 1;
        if !self.nfa.is_match(position.state) {
            return None;
        }
        let count = self.nfa.match_len(position.state);
        let longest = (0..count).map(|index| self.nfa.match_pattern(position.state, index));
        let pattern = longest.max_by_key(|pattern| self.nfa.pattern_len(*pattern)).expect("it is a match");
        let start = position.at - self.nfa.pattern_len(pattern) as u64;
        Some(Found { pattern: pattern.as_usize(), start })
    }

    /// Up to where no later match can reach back.
    pub fn settled(&self, position: &Position) -> u64 {
        position.at - u64::from(self.depths.get(position.state.as_usize()).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every pattern that ends anywhere, and that what is settled is never reached back into.
    fn check(patterns: &[Vec<u8>], text: &[u8]) {
        let matcher = Matcher::new(patterns.iter().map(Vec::as_slice)).expect("patterns");
        let mut position = matcher.begin();
        let mut settled = 0;
        for (at, byte) in text.iter().enumerate() {
            let found = matcher.step(&mut position, *byte);
            let ends = |pattern: &&Vec<u8>| text[..=at].ends_with(pattern);
            let longest = patterns.iter().filter(ends).map(Vec::len).max();
            assert_eq!(found.map(|found| at + 1 - found.start as usize), longest, "{patterns:?} in {text:?} at {at}");
            assert!(found.is_none_or(|found| found.start >= settled), "{patterns:?} in {text:?} at {at}");
            let held = (0..=text[..=at].len()).find(|from| {
                let tail = &text[*from..=at];
                tail.is_empty() || patterns.iter().any(|pattern| pattern.starts_with(tail))
            });
            settled = matcher.settled(&position);
            assert_eq!(Some(settled as usize), held, "no more is held than begins a pattern: {patterns:?} in {text:?}");
        }
    }

    #[test]
    fn overlapping_patterns_are_all_found() {
        let list = |patterns: &[&str]| patterns.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
        check(&list(&["he", "she", "hers", "his"]), b"ushers this");
        check(&list(&["aaaa", "aa"]), b"aaaaaaab");
        check(&list(&["abcde", "bcd", "cdef"]), b"abcdefabcdabcde");
        assert!(Matcher::new([&b""[..]]).is_none());
    }

    proptest! {
        #[test]
        fn any_patterns_are_found_in_any_text(
            patterns in prop::collection::vec(prop::collection::vec(0u8..3, 1..6), 1..5),
            text in prop::collection::vec(0u8..3, 0..60),
        ) {
            check(&patterns, &text);
        }
    }
}
