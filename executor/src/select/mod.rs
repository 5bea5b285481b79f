//! Which paths an operation means: ignore files, `--exclude`, wildcards.
//!
//! In: patterns as people write them ([`solver::pattern`]) and a tree. Out: the entries that are meant. Deliberately
//! absent: what is done with them. Next: [`tree`] (a whole selection),
//! [`required`] (what must be there).

pub(crate) mod required;
pub(crate) mod tree;

pub use solver::pattern::{Glob, GlobError, Patterns};
