//! The last builds: what was asked, how every step went, what it printed.
//!
//! In: a build on its way ([`Recording`]). Out: [`Head`]s for lists, whole [`Build`]s, logs. Deliberately absent: words.
//!
//! ```text
//! history/<begun>-<id>/   one build; <begun> is the time in microseconds since 1970, 16 hexadecimal digits; <id> is what
//!                         people call it; made in tmp/, renamed; flocked by its process while it runs
//!   begun.jsonl           what is known while it runs: a head, then a line per step that begins or ends; appended to,
//!                         and gone when the build has ended
//!   build.jsonl           written aside and renamed when it has ended: the head, the texts, then a line per step, whose
//!                         parts are numbers of texts, name and value in turn
//!   pinned                empty; while it is there, nobody forgets the build unless its user says so
//!   <step>.log            what a step printed, both streams as they came, byte by byte; <step> is its place in the list
//! ```
//! A directory without `build.jsonl` whose lock is free was interrupted. All of it may be deleted at any time, and may be
//! lost with the power: nothing but people depends on it.

mod read;
mod record;
mod write;

pub use read::Entry;
pub use record::{Build, Client, Head, LogFile, Outcome, StepRecord, WorkRecord};
pub use write::{LogWriter, Recording};

#[cfg(test)]
mod tests;
