//! Definitions of the low-level builder (LLB), as clients send them, and our graph: one becomes the other.
//!
//! In: a [`pb::Definition`](api::pb::Definition), hostile like anything from elsewhere. Out: [`Llb`], the graph with what
//! is wanted of it and with the digests by which the client knows its operations; and back, by [`write()`]. What is
//! written and read again is the same graph, with the same vertices. Nothing is left out in silence: what our operations
//! cannot say is an error that names the operation. Deliberately absent: what a graph is solved with (the engine's), whose
//! directories `local://` means (the session's).
//!
//! Each kind of operation has a file with both directions: [`source`], [`exec`] with its [`mount`]s, [`file`],
//! [`stack`]; [`meta`] has what stands beside them. [`read()`] puts them in [`order`], within [`bounds`]; [`caps`] says
//! what clients may ask for, [`json`] shows a definition.

mod bounds;
pub mod caps;
mod error;
mod exec;
mod file;
pub mod json;
mod meta;
mod mount;
mod name;
mod order;
mod read;
mod source;
mod stack;
mod write;

#[cfg(test)]
mod tests;

pub use bounds::Limits;
pub use error::{Code, LlbError};
pub use exec::process;
pub use read::{Llb, Options, read};
pub use write::{Dockerfile, write};
