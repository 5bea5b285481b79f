//! Which paths an operation means: ignore files, `--exclude`, wildcards.
//!
//! In: patterns as people write them and a tree. Out: the entries that are meant. Deliberately absent: what is done
//! with them. Next: [`glob`] (one pattern), [`patterns`] (a list, last match wins), [`tree`] (a whole selection).

pub mod glob;
pub mod patterns;
pub(crate) mod tree;

pub use glob::{Glob, GlobError};
pub use patterns::Patterns;

#[cfg(test)]
mod tests;
