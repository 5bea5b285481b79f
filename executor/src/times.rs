//! Which times in a layer are the build's own, and so become the epoch of `SOURCE_DATE_EPOCH`.
//!
//! In: a layer record with a [`store::TimeRule`], and the chain it was made on. Out: for every modification time the
//! one that its tar says. Three kinds of times are the build's own:
//!
//! - those of files that the layer's step made: at or after the moment it began;
//! - those of a build context: everything in a layer that a context was copied into, whatever way it took;
//! - those that the step carried over from earlier steps (`mv`, `cp -p`, a directory copied up): within the span of
//!   such a step, or a time that a context brought, to the second.
//!
//! All others are content and stay: those of packages, of unpacked archives, of the base image. The chain is looked at
//! down to the first record that stands on no step of the build.
//!
//! ```text
//!   base image │ COPY . /src   RUN make   RUN mv /src/a /b        of the last layer become the epoch:
//!     stay     │  context      |-span-|         |-span-┄┄┄►       what is in a span, what the context brought
//! ```
//! Also here: what a step must note about itself for that, [`Heritage`].

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use solver::op::SourceOp;
use solver::seam::ResultId;
use store::{Layer, Store, StoreError};

use crate::layers::{LayersError, SCRATCH};
use crate::snapshot::{SnapshotError, open_directory};
use crate::tree::TreeError;
use crate::tree::walk::{Descend, Entry, Visitor, walk};

/// The clock of files ticks, every 10 ms at worst: a file may seem older than the moment before it was made.
const TICK_NANOSECONDS: i128 = 10_000_000;
const SECOND: i128 = 1_000_000_000;

/// What the times in a layer become.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BuildTimes {
    epoch: i64,
    /// Everything is the build's own.
    all: bool,
    /// From here on, in nanoseconds since 1970.
    from: i128,
    /// Beginning and end of the earlier steps, likewise.
    spans: Vec<(i128, i128)>,
    /// Seconds of what earlier steps copied from a context: programs copy fractions badly, and tars have none.
    moments: HashSet<i64>,
}

impl BuildTimes {
    /// What becomes of the times of `layer`, which is no derived record; `chain` are its own and those beneath it,
    /// bottom first.
    pub fn new(store: &Store, layer: &Layer, chain: &[Layer], epoch: i64) -> Result<Self, LayersError> {
        let from = began(layer);
        let mut times = Self { epoch, all: layer.from_context, from, spans: Vec::new(), moments: HashSet::new() };
        if times.all || layer.on_base {
            return Ok(times);
        }
        for earlier in chain.iter().rev().skip(1) {
            if !earlier.pulled && !earlier.empty {
                times.spans.push((began(earlier), earlier.created.as_nanosecond()));
            }
            if let (true, Some(name)) = (earlier.from_context, &earlier.name) {
                let tree = open_directory(&store.layers_dir().join(name))?;
                walk(tree, &mut Moments(&mut times.moments)).map_err(SnapshotError::from)?;
            }
            if earlier.on_base {
                break;
            }
        }
        Ok(times)
    }

    /// What is written for a time, in seconds since 1970.
    pub fn written(&self, seconds: i64, nanoseconds: i64) -> i64 {
        let moment = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let own = self.all
            || moment >= self.from
            || self.spans.iter().any(|(began, ended)| (began..=ended).contains(&&moment))
            || self.moments.contains(&seconds);
        if own { self.epoch } else { seconds }
    }
}

/// When the step of a layer began, by the clock that its files have, at the beginning of that second: programs that copy
/// times (`cp -p`, `tar`) may leave the fraction out, and the tars of other machines have none.
fn began(layer: &Layer) -> i128 {
    (layer.started.as_nanosecond() - TICK_NANOSECONDS).div_euclid(SECOND) * SECOND
}

/// Collects the times of a tree.
struct Moments<'a>(&'a mut HashSet<i64>);

impl Visitor for Moments<'_> {
    type Error = TreeError;

    // The types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        self.0.insert(entry.stat.st_mtime as i64);
        Ok(if entry.kind().is_dir() { Descend::Enter } else { Descend::Skip })
    }

    fn leave(&mut self, _entry: &Entry<'_>) -> Result<(), TreeError> {
        Ok(())
    }
}

/// Where times in what a step reads may come from, beside images: those are content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heritage {
    /// When the first step began that may have made something of it.
    pub since: Option<Timestamp>,
    /// Whether some of it may come from a build context.
    pub from_context: bool,
}

impl Heritage {
    /// What comes with `result`. What is `known` of results beneath it is not found out again, and what is found out is
    /// added: so a build goes down to its base once.
    pub fn of(store: &Store, result: &ResultId, known: &mut HashMap<ResultId, Self>) -> Result<Self, StoreError> {
        let (mut heritage, mut way) = (Self::default(), Vec::new());
        let mut next = Some(result.clone()).filter(|result| result.as_str() != SCRATCH);
        while let Some(id) = next.take() {
            if let Some(known) = known.get(&id) {
                heritage = *known;
                break;
            }
            let layer = store.layer(&id)?.ok_or_else(|| StoreError::NoSuchLayer { id: id.clone() })?;
            let own = match layer.pulled || layer.empty {
                true => Self::default(),
                false => Self { since: Some(layer.started), from_context: layer.from_context },
            };
            way.push((id, own));
            next = layer.parent.filter(|_| !layer.on_base);
        }
        for (id, own) in way.into_iter().rev() {
            heritage = heritage.and(own);
            known.insert(id, heritage);
        }
        Ok(heritage)
    }

    /// Of both.
    pub fn and(self, other: Self) -> Self {
        let since = [self.since, other.since].into_iter().flatten().min();
        Self { since, from_context: self.from_context || other.from_context }
    }
}

/// Whether a source is an image: its times are content, whoever made it.
pub(crate) fn is_image(source: Option<&SourceOp>) -> bool {
    source.is_some_and(|source| matches!(source.scheme(), "docker-image" | "oci-layout"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_builds_own_times_become_the_epoch() {
        let second = |seconds: i128| seconds * 1_000_000_000;
        let times = BuildTimes {
            epoch: 7,
            all: false,
            from: second(1000),
            spans: vec![(second(500), second(510))],
            moments: HashSet::from([300]),
        };
        for (time, expected) in [
            ((999, 999_999_999), 999),
            ((1000, 0), 7),
            ((5000, 0), 7),
            ((499, 999_999_999), 499),
            ((500, 0), 7),
            ((510, 0), 7),
            ((510, 1), 510),
            ((300, 5), 7),
            ((300, 6), 7),
            ((301, 5), 301),
            ((-5, 0), -5),
            ((3, 0), 3),
        ] {
            assert_eq!(times.written(time.0, time.1), expected, "{time:?}");
        }
        assert_eq!(BuildTimes { all: true, ..times }.written(3, 0), 7);
    }
}
