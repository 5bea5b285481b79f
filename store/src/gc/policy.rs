//! What goes, and in which order: a pure function of what there is.
//!
//! In: things with their sizes, their last uses, what each stands on, what holds them; and a [`Wish`]. Out: which of
//! them go, in order. Nothing goes before what stands on it, so the order is one of taking leaves: of all things that
//! nothing stands on, the one goes first whose last use is longest ago. What is held stays, and all beneath it.
//! Deliberately absent: files, the index, other processes, which may have begun to use a thing meanwhile
//! ([`super::remove`] looks again).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::Kind;

/// Why a thing stays whatever else is wanted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "by", content = "name")]
pub enum Holder {
    /// An image of this name stands on it.
    Tag(String),
    /// A running process relies on it.
    Build,
    /// The user wants it kept.
    Pin,
}

/// One thing.
#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// What it is, for people.
    pub(crate) label: String,
    pub(crate) bytes: u64,
    /// A count that grows with every use of anything; no clock disturbs it.
    pub(crate) tick: i64,
    /// Seconds since 1970; 0 is not known.
    pub(crate) used_at: i64,
    /// What it stands on, as indices.
    pub(crate) needs: Vec<usize>,
    pub(crate) holder: Option<Holder>,
    /// It is of no use to anybody any more: the results of a key are gone, say.
    pub(crate) dangling: bool,
}

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Also what only an explicit word takes: cache mounts, and the cache keys of images that have names.
    pub all: bool,
    /// Only these kinds; empty is every kind.
    pub kinds: Vec<Kind>,
    /// Only things whose names begin so; empty is every name.
    pub ids: Vec<String>,
    /// Only what was not used for so long.
    pub unused_for: Option<Duration>,
    /// Only until the whole store takes no more than this; `None` takes all that may go.
    pub keep_bytes: Option<u64>,
}

/// How large a store may be, and how long unused things stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Everything under the root, in bytes.
    pub max_bytes: u64,
    /// So much of the disk stays free for others, as far as the store can see to that: 0 leaves that to them.
    pub keep_free_bytes: u64,
    /// Others who fill the disk do not press the store below this.
    pub at_least_bytes: u64,
    /// What was not used for longer goes even if there is room.
    pub keep_for: Option<Duration>,
    /// All cache mounts together, in bytes; `None`: whatever the store may take.
    pub max_mount_bytes: Option<u64>,
}

/// What a store that takes `total` may take when the disk has `free` left.
pub(crate) fn allowed(limit: Limit, total: u64, free: u64) -> u64 {
    let pressed = total.saturating_sub(limit.keep_free_bytes.saturating_sub(free));
    limit.max_bytes.min(pressed.max(limit.at_least_bytes))
}

/// Everything that stands on a held thing's needs is held as well, by the same holder: index of who holds it first.
pub(crate) fn spread_holders(things: &mut [Thing]) {
    let mut todo: Vec<usize> = (0..things.len()).filter(|&at| things[at].holder.is_some()).collect();
    while let Some(at) = todo.pop() {
        let holder = things[at].holder.clone();
        for need in things[at].needs.clone() {
            if things[need].holder.is_none() {
                things[need].holder.clone_from(&holder);
                todo.push(need);
            }
        }
    }
}

/// For every thing the last use of it or of anything that stands on it: tick and time.
pub(crate) fn last_uses(things: &[Thing]) -> Vec<(i64, i64)> {
    let mut uses: Vec<(i64, i64)> = things.iter().map(|thing| (thing.tick, thing.used_at)).collect();
    for at in leaves_first(things) {
        for &need in &things[at].needs {
            uses[need] = (uses[need].0.max(uses[at].0), uses[need].1.max(uses[at].1));
        }
    }
    uses
}

/// Indices of what goes, in the order in which it goes. `total_bytes` is what the store takes, `now` in seconds since
/// 1970. A use that lies in the future was just now.
pub(crate) fn choose(things: &[Thing], total_bytes: u64, wish: &Wish, now: i64) -> Vec<usize> {
    let mut standing = dependants(things);
    let mut ready = BinaryHeap::new();
    for (at, thing) in things.iter().enumerate() {
        if standing[at] == 0 {
            ready.push(Reverse((order(thing), at)));
        }
    }
    let mut left = total_bytes;
    let mut chosen = Vec::new();
    while let Some(Reverse((_, at))) = ready.pop() {
        let thing = &things[at];
        let enough = wish.keep_bytes.is_some_and(|keep| left <= keep);
        let serves_held =
            !wish.all && wish.keep_bytes.is_none() && wish.kinds.is_empty() && is_key_of_held(things, thing);
        if thing.holder.is_some() || serves_held || !may_go(thing, wish, now) || (enough && !thing.dangling) {
            continue;
        }
        left = left.saturating_sub(thing.bytes);
        chosen.push(at);
        for &need in &thing.needs {
            standing[need] -= 1;
            if standing[need] == 0 {
                ready.push(Reverse((order(&things[need]), need)));
            }
        }
    }
    chosen
}

/// What goes first: what is of no use, then what was used longest ago, then what is cheap to have again.
fn order(thing: &Thing) -> (bool, i64, i64, u8) {
    let price = match thing.kind {
        Kind::Note | Kind::Context | Kind::Client | Kind::Node => 0,
        Kind::Blob | Kind::Build => 1,
        Kind::Image | Kind::Key => 2,
        Kind::Layer => 3,
        Kind::Git => 4,
        Kind::Mount => 5,
    };
    (!thing.dangling, thing.tick, thing.used_at, price)
}

/// A cache key that leads to what is held costs next to nothing, and saves the next build from running everything.
fn is_key_of_held(things: &[Thing], thing: &Thing) -> bool {
    let held = |need: &usize| things[*need].holder.is_some();
    thing.kind == Kind::Key && !thing.dangling && !thing.needs.is_empty() && thing.needs.iter().all(held)
}

fn may_go(thing: &Thing, wish: &Wish, now: i64) -> bool {
    let kind = wish.kinds.is_empty() || wish.kinds.contains(&thing.kind);
    let id = wish.ids.is_empty() || wish.ids.iter().any(|id| thing.name.starts_with(id.as_str()));
    let unused = wish.unused_for.is_none_or(|least| {
        let age = u64::try_from(now.saturating_sub(thing.used_at)).unwrap_or(0);
        age >= least.as_secs()
    });
    // A cache mount is not made again by a build, nor is the record of one: it takes a word of its own, or the cap, to
    // lose one.
    let asked = !matches!(thing.kind, Kind::Mount | Kind::Build)
        || wish.all
        || wish.keep_bytes.is_some()
        || !wish.kinds.is_empty();
    kind && id && asked && unused
}

pub(super) fn dependants(things: &[Thing]) -> Vec<usize> {
    let mut standing = vec![0; things.len()];
    for need in things.iter().flat_map(|thing| &thing.needs) {
        standing[*need] += 1;
    }
    standing
}

/// Every thing after all that stand on it. What goes round in a circle, in a damaged index, is left out.
pub(super) fn leaves_first(things: &[Thing]) -> Vec<usize> {
    let mut standing = dependants(things);
    let mut order: Vec<usize> = (0..things.len()).filter(|&at| standing[at] == 0).collect();
    let mut next = 0;
    while let Some(&at) = order.get(next) {
        next += 1;
        for &need in &things[at].needs {
            standing[need] -= 1;
            if standing[need] == 0 {
                order.push(need);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Things as words: `name:kind:bytes:tick>needs`, `*` before the name holds it, `!` makes it dangling.
    fn things(text: &str) -> Vec<Thing> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let name = |word: &str| word.trim_start_matches(['*', '!']).split(':').next().expect("a name").to_owned();
        let names: Vec<String> = words.iter().map(|word| name(word)).collect();
        let thing = |word: &&str| {
            let (thing, needs) = word.split_once('>').unwrap_or((word, ""));
            let fields: Vec<&str> = thing.split(':').collect();
            let tick = fields[3].parse().expect("a tick");
            Thing {
                kind: fields[1].parse().expect("a kind"),
                name: name(word),
                label: String::new(),
                bytes: fields[2].parse().expect("a size"),
                tick,
                used_at: tick * 100,
                needs: needs
                    .split(',')
                    .filter(|need| !need.is_empty())
                    .map(|need| names.iter().position(|name| name == need).expect("a name"))
                    .collect(),
                holder: word.starts_with('*').then(|| Holder::Tag("app:1".into())),
                dangling: word.starts_with('!'),
            }
        };
        words.iter().map(thing).collect()
    }

    fn check(text: &str, wish: &Wish, expected: &str) {
        let mut things = things(text);
        spread_holders(&mut things);
        let total = things.iter().map(|thing| thing.bytes).sum();
        let chosen: Vec<&str> =
            choose(&things, total, wish, 1000).into_iter().map(|at| things[at].name.as_str()).collect();
        assert_eq!(chosen.join(" "), expected, "{text} with {wish:?}");
    }

    fn keep(bytes: u64) -> Wish {
        Wish { keep_bytes: Some(bytes), ..Wish::default() }
    }

    #[test]
    fn the_longest_unused_goes_first_and_only_as_much_as_needed() {
        check("a:layer:10:3 b:layer:10:1 c:layer:10:2", &keep(30), "");
        check("a:layer:10:3 b:layer:10:1 c:layer:10:2", &keep(29), "b");
        check("a:layer:10:3 b:layer:10:1 c:layer:10:2", &keep(10), "b c");
        check("a:layer:10:3 b:layer:10:1 c:layer:10:2", &keep(0), "b c a");
        check("a:layer:10:3 b:layer:10:1", &Wish::default(), "b a");
    }

    #[test]
    fn children_go_before_parents_and_a_parent_with_a_kept_child_stays() {
        check("base:layer:10:1 top:layer:10:5>base", &keep(10), "top");
        check("base:layer:10:1 top:layer:10:5>base", &keep(0), "top base");
        check("base:layer:10:1 *top:layer:10:5>base", &keep(0), "");
        check("base:layer:10:1 old:layer:10:2>base *top:layer:10:5>base", &keep(0), "old");
        // A tree that a merge shares stays as long as the merged record.
        check("origin:layer:10:1 other:layer:10:1 *d:layer:1:5>origin,other", &keep(0), "");
        check("l:layer:10:1 k1:key:1:1>l k2:key:1:9>l x:layer:10:5", &keep(11), "k1 x");
    }

    #[test]
    fn the_disk_presses_a_store_that_is_within_its_size() {
        let check = |total, free, expected| {
            let limit = Limit { max_bytes: 100, keep_free_bytes: 50, at_least_bytes: 20, ..Limit::default() };
            assert_eq!(allowed(limit, total, free), expected, "{total} with {free} free");
        };
        check(80, 60, 80);
        check(120, 60, 100);
        check(80, 40, 70);
        check(80, 0, 30);
        check(60, 0, 20);
        check(10, 0, 20);
        let alone = Limit { max_bytes: 100, ..Limit::default() };
        assert_eq!(allowed(alone, 90, 0), 90);
    }

    #[test]
    fn what_nobody_can_use_goes_whatever_the_cap() {
        check("!k:key:1:9 a:layer:10:1", &keep(100), "k");
        check("!k:key:1:9 a:layer:10:1", &keep(10), "k");
        check("*l:layer:10:1 !k:key:1:9>l", &keep(100), "k");
    }

    #[test]
    fn of_things_unused_equally_long_the_cheap_go_first() {
        check("l:layer:10:1 g:git:10:1 b:blob:10:1 n:note:10:1 m:mount:10:1", &keep(0), "n b l g m");
    }

    #[test]
    fn cache_mounts_take_a_word_of_their_own_or_the_cap() {
        let (text, all) = ("m:mount:10:1 l:layer:10:2", Wish { all: true, ..Wish::default() });
        check(text, &Wish::default(), "l");
        check(text, &all, "m l");
        check(text, &keep(10), "m");
        check(text, &Wish { kinds: vec![Kind::Mount], ..Wish::default() }, "m");
    }

    #[test]
    fn keys_of_named_images_take_a_word_of_their_own_or_the_cap() {
        let text = "*l:layer:10:1 k:key:1:1>l";
        check(text, &Wish::default(), "");
        check(text, &Wish { all: true, ..Wish::default() }, "k");
        check(text, &keep(10), "k");
    }

    #[test]
    fn only_what_is_asked_for_goes() {
        let text = "ab:layer:10:1 ac:layer:10:2>ab b:blob:10:9";
        check(text, &Wish { kinds: vec![Kind::Blob], ..Wish::default() }, "b");
        check(text, &Wish { ids: vec!["ac".into()], ..Wish::default() }, "ac");
        check(text, &Wish { ids: vec!["ab".into()], ..Wish::default() }, "");
        let unused = |seconds| Wish { unused_for: Some(Duration::from_secs(seconds)), ..Wish::default() };
        check(text, &unused(100), "ac ab b");
        check(text, &unused(101), "ac ab");
        check(text, &unused(850), "");
        check("a:layer:1:99", &unused(1), "");
        check("a:layer:1:99", &unused(0), "a");
    }

    #[test]
    fn a_circle_in_a_damaged_index_is_left_alone() {
        check("a:layer:1:1>b b:layer:1:1>a c:layer:1:1", &keep(0), "c");
        let things = things("a:layer:1:1>b b:layer:1:1>a c:layer:1:3>a");
        assert_eq!(last_uses(&things)[0], (3, 300));
    }

    #[test]
    fn what_stands_on_a_thing_is_its_use() {
        let things = things("base:layer:1:1 mid:layer:1:2>base top:key:1:7>mid");
        assert_eq!(last_uses(&things), [(7, 700), (7, 700), (7, 700)]);
    }
}
