//! Descriptions in YAML, which the specification allows beside JSON: the same words, read into the same types.
//!
//! A description is the machine's own, but a mistake in one must cost no more than an error: the reader is bounded in
//! depth, in events, and in what aliases may become.

use std::io;

use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};

use super::Spec;

/// A description of a machine full of devices has some thousands.
const EVENTS_MAX: usize = 200_000;
/// One has four levels.
const DEPTH_MAX: usize = 32;

/// Reads one document. Keys that stand twice and several documents are errors.
pub fn spec(bytes: &[u8]) -> io::Result<Spec> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: EVENTS_MAX,
            max_depth: DEPTH_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: EVENTS_MAX,
            max_replay_stack_depth: DEPTH_MAX,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        with_snippet: false,
    };
    serde_saphyr::from_slice_with_options(bytes, options).map_err(io::Error::other)
}
