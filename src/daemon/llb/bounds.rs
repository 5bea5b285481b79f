//! How large a definition may be, and what its numbers and texts may say.
//!
//! Reading a definition takes time and memory linear in its bytes; [`Limits`] bound those before anything is decoded.

use api::pb;

use super::error::{Fault, LlbError};

/// What is taken of a definition at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Operations. Generated build graphs of whole distributions have some ten thousand.
    pub operations: usize,
    /// Bytes of all operations together. What people send has kilobytes; files in it may be some megabytes.
    pub bytes: usize,
    /// Inputs of all operations together.
    pub inputs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { operations: 100_000, bytes: 64 << 20, inputs: 1_000_000 }
    }
}

impl Limits {
    /// Before anything is decoded.
    pub(super) fn check(&self, definition: &pb::Definition) -> Result<(), LlbError> {
        limit("operations", definition.def.len(), self.operations)?;
        limit("metadata entries", definition.metadata.len(), self.operations)?;
        limit("bytes", definition.def.iter().map(Vec::len).sum(), self.bytes)
    }

    /// Once operations are decoded.
    pub(super) fn check_inputs(&self, found: usize) -> Result<(), LlbError> {
        limit("inputs", found, self.inputs)
    }
}

fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), LlbError> {
    if found > limit { Err(LlbError::TooLarge { what, found, limit }) } else { Ok(()) }
}

/// Stands for no input and for no output.
pub(super) const NONE: i64 = -1;

/// An index below `limit`; -1 is none.
pub(super) fn index(what: &'static str, index: i64, limit: usize) -> Result<Option<usize>, Fault> {
    if index == NONE {
        return Ok(None);
    }
    let found = usize::try_from(index).ok().filter(|found| *found < limit);
    found.map(Some).ok_or(Fault::Index { what, index, limit })
}

/// The number of an output; -1 is none.
pub(super) fn output(output: i64) -> Result<Option<u32>, Fault> {
    if output == NONE {
        return Ok(None);
    }
    let malformed = |_| Fault::malformed(format!("there is no output {output}"));
    u32::try_from(output).map(Some).map_err(malformed)
}

/// An index as the definition says it.
pub(super) fn number(index: Option<impl TryInto<i64>>) -> i64 {
    index.map_or(NONE, |index| index.try_into().unwrap_or(i64::MAX))
}

/// Outputs are numbered from 0, each is there once.
pub(super) fn dense(outputs: impl Iterator<Item = Option<u32>>) -> Result<(), Fault> {
    let mut outputs: Vec<u32> = outputs.flatten().collect();
    outputs.sort_unstable();
    match outputs.iter().zip(0..).find(|(found, expected)| *found != expected) {
        None => Ok(()),
        Some((found, expected)) if *found < expected => Err(Fault::malformed(format!("output {found} is there twice"))),
        Some((_, expected)) => Err(Fault::malformed(format!("output {expected} is missing"))),
    }
}

/// A text for the kernel or a program: no byte of it is 0.
pub(super) fn text(what: &str, text: &str) -> Result<String, Fault> {
    if text.contains('\0') {
        return Err(Fault::malformed(format!("{what} holds a zero byte")));
    }
    Ok(text.to_owned())
}

/// Texts likewise.
pub(super) fn texts(what: &str, texts: &[String]) -> Result<Vec<String>, Fault> {
    texts.iter().map(|one| text(what, one)).collect()
}

/// A path inside a tree: absolute, however it is written.
pub(super) fn path(what: &str, path: &str) -> Result<String, Fault> {
    let path = text(what, path)?;
    Ok(if path.starts_with('/') { path } else { format!("/{path}") })
}

/// Permission bits.
pub(super) fn mode(mode: i32) -> Result<u32, Fault> {
    let bits = u32::try_from(mode).ok().filter(|bits| *bits <= 0o7777);
    bits.ok_or_else(|| Fault::malformed(format!("the mode {mode} is none")))
}
