//! What everything looked like when a selection was digested, for who copies it: by path in the source.
//!
//! In: a [`Listing`]. Out: of a path what it [looked like](Seen), and of all that were [met](Met) on the way whether one is
//! missing. Nothing of the listing is held twice, and of what was met one bit.

use std::sync::Arc;

use rustix::fs::Stat;
use store::NodeEntry;

use super::Listing;
use crate::source::counted::CountedRef;
use crate::source::look::Look;
use crate::tree::joined;

/// What was digested, by path in the source.
#[derive(Debug)]
pub(crate) struct Looks {
    listing: Arc<Listing>,
    /// Numbers of its directories by path, with the number of the first thing of each. A path may come more than once:
    /// links may lead several matches into each other.
    by_path: Vec<(usize, usize)>,
    /// Numbers of its matched directories by path.
    matched: Vec<usize>,
    /// How many things there are.
    things: usize,
}

/// An entry when it was digested.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    look: Look,
    /// What it was, if its look does not prove that it still is.
    unproven: Option<CountedRef<'a>>,
}

impl Seen<'_> {
    /// Whether it looks now as it did.
    pub fn is_still(&self, stat: &Stat) -> bool {
        self.look.is_still(&Look::of(stat))
    }

    /// What a copy of it has to be compared with, because it may have changed and look the same.
    pub fn unproven(&self) -> Option<NodeEntry> {
        self.unproven.as_ref().map(CountedRef::entry)
    }
}

/// Which things were met.
#[derive(Debug, Default)]
pub(crate) struct Met(Vec<u64>);

impl Met {
    fn add(&mut self, number: usize) {
        let word = number / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % 64);
    }

    fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    /// Adds what somebody else met.
    pub fn extend(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }
}

impl Looks {
    /// Those of a listing.
    pub(in crate::source) fn of(listing: Arc<Listing>) -> Self {
        let mut things = 0;
        let mut by_path = Vec::with_capacity(listing.directories.len());
        for (number, directory) in listing.directories.iter().enumerate() {
            by_path.push((number, things));
            things += directory.entries.len() + directory.sockets.len();
        }
        by_path.sort_by_key(|(number, _)| listing.directories[*number].path.as_slice());
        let mut matched: Vec<usize> = (0..listing.matched_paths.len()).collect();
        matched.sort_by_key(|number| listing.matched_paths[*number].as_slice());
        things += matched.len();
        Self { listing, by_path, matched, things }
    }

    /// How many things were looked at.
    pub fn len(&self) -> usize {
        self.things
    }

    /// What was at `path`.
    pub fn get(&self, path: &[u8]) -> Option<Seen<'_>> {
        self.places(path).next().map(|(seen, _)| seen)
    }

    /// The same; notes that it was met.
    pub fn meet(&self, path: &[u8], met: &mut Met) -> Option<Seen<'_>> {
        let mut first = None;
        for (seen, number) in self.places(path) {
            met.add(number);
            first.get_or_insert(seen);
        }
        first
    }

    /// The first path, in the order of their bytes, of those that nobody met.
    pub fn missing(&self, met: &Met) -> Option<Vec<u8>> {
        let directories = self.by_path.iter().flat_map(|(number, first)| {
            let directory = &self.listing.directories[*number];
            let names = directory.entries.iter().map(|one| one.name());
            let names = names.chain(directory.sockets.iter().map(|(name, _)| name.as_slice()));
            let unmet = names.zip(*first..).filter(|(_, number)| !met.has(*number));
            unmet.map(|(name, _)| joined(&directory.path, name))
        });
        let matched = self.listing.matched_paths.iter().zip(self.first_matched()..);
        let matched = matched.filter(|(_, number)| !met.has(*number)).map(|(path, _)| path.clone());
        directories.chain(matched).min()
    }

    /// The number of the first matched directory.
    fn first_matched(&self) -> usize {
        self.things - self.matched.len()
    }

    /// All that is known of a path: of a matched directory first that it counts itself.
    fn places(&self, path: &[u8]) -> impl Iterator<Item = (Seen<'_>, usize)> {
        let listing = &*self.listing;
        let path_of = |number: &usize| listing.matched_paths[*number].as_slice();
        let start = self.matched.partition_point(|number| path_of(number) < path);
        let matched = self.matched[start..].iter().take_while(move |number| path_of(number) == path);
        let matched = matched.map(|number| {
            let one = listing.matched.get(*number);
            (Seen { look: one.look(), unproven: Some(one) }, self.first_matched() + number)
        });
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        let start = self.by_path.partition_point(|(number, _)| listing.directories[*number].path.as_slice() < above);
        let directories = self.by_path[start..].iter().map(|(number, first)| (&listing.directories[*number], *first));
        let directories = directories.take_while(move |(directory, _)| directory.path == above);
        matched.chain(directories.filter_map(move |(directory, first)| {
            if let Some(number) = directory.entries.find(name) {
                let one = directory.entries.get(number);
                // The look of a directory says nothing of its attributes.
                let is_proven = one.certain() && !one.look().is_dir();
                return Some((Seen { look: one.look(), unproven: (!is_proven).then_some(one) }, first + number));
            }
            let number = directory.sockets.iter().position(|(socket, _)| socket == name)?;
            let look = directory.sockets[number].1;
            Some((Seen { look, unproven: None }, first + directory.entries.len() + number))
        }))
    }
}

#[cfg(test)]
mod tests {
    use solver::op::CopyAction;

    use super::*;
    use crate::ops::file::copy;
    use crate::source::local::{LocalPatterns, LocalSource};
    use crate::testing::build;

    /// The looks of what `src` selects of a directory of these lines.
    fn looks(dir: &std::path::Path, src: &str, dir_contents_only: bool) -> Looks {
        let source = LocalSource::open("context", dir).unwrap();
        let action = CopyAction {
            src: src.into(),
            follow_symlinks: true,
            allow_wildcard: true,
            dir_contents_only,
            ..CopyAction::default()
        };
        let (patterns, selection) = (LocalPatterns::default(), copy::selection(&action));
        source.digest_selected(&patterns, &selection, &|| false).unwrap();
        source.looks(&patterns, &selection).unwrap()
    }

    #[test]
    fn what_nobody_met_is_told_by_the_first_path() {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path(), &["a=1", "d/a=1", "d/e/a=1", "d/s$", "d/z -> a", "to -> d/e"]);
        // A link leads one match into another: its paths are known twice, and met at once.
        for (src, contents_only, paths) in [
            ("/", true, &["a", "d", "d/a", "d/e", "d/e/a", "d/s", "d/z", "to"][..]),
            ("/d", false, &["d", "d/a", "d/e", "d/e/a", "d/s", "d/z"]),
            ("/*", true, &["a", "d/a", "d/e", "d/e/a", "d/s", "d/z"]),
            ("/d/*", true, &["d/a", "d/e/a", "d/s"]),
        ] {
            let looks = looks(dir.path(), src, contents_only);
            for left in paths {
                let (mut one, mut other) = (Met::default(), Met::default());
                for (number, path) in paths.iter().filter(|path| *path != left).enumerate() {
                    let met = if number % 2 == 0 { &mut one } else { &mut other };
                    assert!(looks.meet(path.as_bytes(), met).is_some(), "{src}: {path}");
                }
                one.extend(&other);
                assert_eq!(looks.missing(&one).as_deref(), Some(left.as_bytes()), "{src}");
                assert!(looks.meet(left.as_bytes(), &mut one).is_some());
                assert_eq!(looks.missing(&one), None, "{src}");
            }
            assert!(looks.len() >= paths.len());
            for path in ["", "b", "d/b", "d/e/a/b", "e/a"] {
                assert!(looks.get(path.as_bytes()).is_none(), "{src}: {path:?}");
            }
        }
    }
}
