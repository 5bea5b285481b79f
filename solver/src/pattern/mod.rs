//! Which paths an operation means, as text: wildcards, and lists of patterns of which the last match wins.
//!
//! This is what [`crate::op::attr::EXCLUDE_PATTERNS`] and the patterns of [`crate::op::CopyAction`] mean. Paths and
//! patterns come in, answers go out. Deliberately absent: trees (the executor walks them). Next: [`glob`] (one
//! pattern), [`patterns`] (a list).

pub mod glob;
pub mod patterns;

pub use glob::{Dialect, Glob, GlobError};
pub use patterns::{Marks, Patterns, clean};

#[cfg(test)]
mod tests;
