//! How many files the builder may open, and its steps.
//!
//! In: the limit that this process was started with. Out: a higher one for the builder itself, which works on many files
//! at once, and the original for every step: programs size tables by it, or use `select`, which takes no descriptor
//! beyond 1023. Deliberately absent: limits that a step or user asks for ([`super::spec::Limit`]); they go first.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::spec::Limit;

/// The name of the limit in a [`Limit`].
const NAME: &str = "nofile";

/// What this process was started with, once it has raised its own. A limit is the process's, and so is this.
static ORIGINAL: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of open files of this process to the hard one. Steps get the original. Once is enough.
///
/// # Errors
/// What the kernel says; then everything is as before.
pub fn raise_open_files() -> io::Result<()> {
    let original = getrlimit(Resource::Nofile);
    if original.current == original.maximum || ORIGINAL.get().is_some() {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: original.maximum, ..original })?;
    // Somebody else may have been faster; then both read the same.
    ORIGINAL.get_or_init(|| original);
    Ok(())
}

/// Adds the limit that the builder itself was started with, unless the step has one of its own.
pub(super) fn restore(limits: &mut Vec<Limit>) {
    let Some(original) = ORIGINAL.get() else { return };
    if limits.iter().all(|limit| limit.name != NAME) {
        // `None` and what no number holds are unlimited, which is -1.
        let number = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(-1);
        let (soft, hard) = (number(original.current), number(original.maximum));
        limits.push(Limit { name: NAME.into(), soft, hard });
    }
}
