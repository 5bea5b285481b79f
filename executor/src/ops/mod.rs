//! Operations: one file each.
//!
//! In: an operation and the trees it stands on. Out: committed layers. Deliberately absent: sources
//! ([`crate::source`]), which operation when ([`crate::worker`]). Next: [`file`], [`exec`].

pub mod exec;
pub mod file;
