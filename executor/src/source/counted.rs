//! The entries of one directory that were counted: in as few bytes as a file would take them.
//!
//! In: what each entry is and what it looked like. Out: the same again, by name or in their order. A context may have
//! hundreds of thousands of entries, and what is known of each is needed several times in a build; so all of a directory
//! lie in one piece of memory, drawn as in the file that remembers them ([`super::stat_cache`]), and are taken apart
//! when they are looked at.
//!
//! ```text
//! entry = look: dev, ino, length: u64 each, seconds of mtime and ctime: i64 each, mode, nanoseconds: u32 each
//!       | what it is, as `store::nodes` draws it
//! ```

use solver::key::ContentDigest;
use store::{Node, NodeEntry};

use super::look::{LOOK_BYTES, Look};

/// An entry that was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// What it is.
    pub entry: NodeEntry,
    /// What it looked like before it was read.
    pub look: Look,
    /// Whether that look proves that it is what it was.
    pub certain: bool,
}

/// The same among others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountedRef<'a> {
    bytes: &'a [u8],
    certain: bool,
}

/// Entries that were counted, in the order in which they came until they are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// Where an entry begins, and whether its look is certain, in the lowest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u64);

impl Place {
    fn new(start: usize, certain: bool) -> Self {
        Self((start as u64) << 1 | u64::from(certain))
    }

    fn start(self) -> usize {
        (self.0 >> 1) as usize
    }

    fn certain(self) -> bool {
        self.0 & 1 == 1
    }
}

impl<'a> CountedRef<'a> {
    /// What it looked like.
    pub fn look(&self) -> Look {
        Look::read(&mut &self.bytes[..LOOK_BYTES]).expect("it was written or checked when it came in")
    }

    /// Its name.
    pub fn name(&self) -> &'a [u8] {
        NodeEntry::name_of(self.node())
    }

    /// Whether its look proves that it is what it was.
    pub fn certain(&self) -> bool {
        self.certain
    }

    /// What it is.
    pub fn entry(&self) -> NodeEntry {
        NodeEntry::read(&mut { self.node() }).expect("it was written or checked when it came in")
    }

    /// The same, as it stands in its directory's node.
    pub fn node(&self) -> &'a [u8] {
        &self.bytes[LOOK_BYTES..]
    }

    /// All of it.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl Entries {
    /// Those of a file, all certain, sorted as they are there; `None` if it is damaged.
    pub fn of_file(bytes: Vec<u8>) -> Option<Self> {
        let mut places = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            places.push(Place::new(bytes.len() - rest.len(), true));
            Look::read(&mut rest)?;
            NodeEntry::take(&mut rest)?;
        }
        Some(Self { bytes, places })
    }

    pub fn push(&mut self, one: &Counted) {
        self.places.push(Place::new(self.bytes.len(), one.certain));
        one.look.write(&mut self.bytes);
        one.entry.write(&mut self.bytes);
    }

    pub fn push_ref(&mut self, one: CountedRef<'_>) {
        self.places.push(Place::new(self.bytes.len(), one.certain));
        self.bytes.extend_from_slice(one.bytes);
    }

    /// Puts one among sorted ones, in the place of that of its name.
    pub fn put(&mut self, one: CountedRef<'_>) {
        let number = self.first_from(one.name());
        let place = Place::new(self.bytes.len(), one.certain);
        match self.places.get(number).is_some_and(|there| name_at(&self.bytes, *there) == one.name()) {
            true => self.places[number] = place,
            false => self.places.insert(number, place),
        }
        self.bytes.extend_from_slice(one.bytes);
    }

    pub fn append(&mut self, more: &Self) {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&more.bytes);
        self.places.extend(more.places.iter().map(|place| Place::new(before + place.start(), place.certain())));
    }

    /// Sorts them by name, and gives back the memory that was ahead of need.
    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        self.places.sort_unstable_by_key(|place| name_at(bytes, *place));
        self.bytes.shrink_to_fit();
        self.places.shrink_to_fit();
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What they take.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The entry of this number, in their order.
    pub fn get(&self, number: usize) -> CountedRef<'_> {
        at(&self.bytes, self.places[number])
    }

    /// All, in their order.
    pub fn iter(&self) -> impl Iterator<Item = CountedRef<'_>> + Clone {
        self.places.iter().map(|place| at(&self.bytes, *place))
    }

    /// The number of the first whose name is not less; they are sorted.
    pub fn first_from(&self, name: &[u8]) -> usize {
        self.places.partition_point(|place| name_at(&self.bytes, *place) < name)
    }

    /// The number of the entry of that name; they are sorted.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        let number = self.first_from(name);
        (number < self.len() && self.get(number).name() == name).then_some(number)
    }

    /// The digest of the directory's node; they are sorted.
    pub fn digest(&self) -> ContentDigest {
        Node::digest_of_directory(self.iter().map(|one| one.node()))
    }

    /// The node of the directory that they are the entries of; they are sorted.
    pub fn node(&self) -> Node {
        Node::of_directory(self.iter().map(|one| one.node()))
    }
}

fn name_at(bytes: &[u8], place: Place) -> &[u8] {
    NodeEntry::name_of(&bytes[place.start() + LOOK_BYTES..])
}

fn at(bytes: &[u8], place: Place) -> CountedRef<'_> {
    let all = &bytes[place.start()..];
    let mut rest = &all[LOOK_BYTES..];
    NodeEntry::take(&mut rest).expect("it was written or checked when it came in");
    CountedRef { bytes: &all[..all.len() - rest.len()], certain: place.certain() }
}

#[cfg(test)]
mod tests {
    use store::NodeKind;

    use super::*;

    fn counted(name: &str, certain: bool) -> Counted {
        let what = NodeKind::File { bytes: name.len() as u64, sha256: [7; 32] };
        let entry = NodeEntry { name: name.into(), mode: 0o644, owner: (0, 0), attributes: Some([1; 32]), what };
        let look = Look::of(&rustix::fs::stat("/").expect("the root is there"));
        Counted { entry, look, certain }
    }

    #[test]
    fn entries_come_back_by_name_whatever_order_they_came_in() {
        let all = [counted("b", true), counted("", false), counted("ab", true), counted("a\u{ff}", false)];
        let (mut entries, mut more) = (Entries::default(), Entries::default());
        entries.push(&all[0]);
        more.push(&all[1]);
        more.push(&all[2]);
        entries.append(&more);
        let (mut other, last) = (Entries::default(), &all[3]);
        other.push(last);
        entries.push_ref(other.get(0));
        entries.sort();
        let names: Vec<&[u8]> = entries.iter().map(|one| one.name()).collect();
        assert_eq!(names, [&b""[..], b"ab", "a\u{ff}".as_bytes(), b"b"]);
        for one in &all {
            let found = entries.get(entries.find(&one.entry.name).unwrap());
            assert_eq!((found.entry(), found.look(), found.certain()), (one.entry.clone(), one.look, one.certain));
        }
        assert_eq!((entries.find(b"aa"), entries.first_from(b"aa"), entries.first_from(b"z")), (None, 1, 4));
        let sorted: Vec<NodeEntry> = entries.iter().map(|one| one.entry()).collect();
        assert_eq!(entries.node(), Node::directory(sorted.iter()));
        assert_eq!(entries.digest(), entries.node().digest);
    }

    #[test]
    fn one_takes_its_place_among_others() {
        let (mut entries, mut more) = (Entries::default(), Entries::default());
        for name in ["b", "d", "f"] {
            entries.push(&counted(name, true));
        }
        for (name, certain) in [("a", true), ("d", false), ("e", false), ("g", true)] {
            more.push(&counted(name, certain));
        }
        more.iter().for_each(|one| entries.put(one));
        let names: Vec<(&[u8], bool)> = entries.iter().map(|one| (one.name(), one.certain())).collect();
        let expected = [("a", true), ("b", true), ("d", false), ("e", false), ("f", true), ("g", true)];
        assert_eq!(names, expected.map(|(name, certain)| (name.as_bytes(), certain)));
    }

    #[test]
    fn a_file_is_taken_whole_or_not_at_all() {
        let mut entries = Entries::default();
        for name in ["a", "b", "c"] {
            entries.push(&counted(name, true));
        }
        let whole = entries.bytes.clone();
        assert_eq!(Entries::of_file(whole.clone()), Some(entries));
        let ends: Vec<usize> =
            (0..=whole.len()).filter(|end| Entries::of_file(whole[..*end].to_vec()).is_some()).collect();
        assert_eq!(ends, [0, whole.len() / 3, whole.len() / 3 * 2, whole.len()]);
    }
}
