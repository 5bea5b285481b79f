//! Flags of the verbs about what the store takes and whether it is whole.

use std::time::Duration;

use clap::Args;

use super::Format;
use super::values;
use crate::options::size::Size;

/// Flags of `rbuild du`.
#[derive(Debug, Args)]
pub struct DuArgs {
    /// Name every thing, when it was used last and why it is kept
    #[arg(short, long)]
    pub verbose: bool,
    /// Count only some things: type=KIND, id=ID, until=TIME
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// How the list is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// Flags of `rbuild prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Also cache mounts, and the cache of images that have names
    #[arg(short, long)]
    pub all: bool,
    /// Remove only some things: type=KIND, id=ID, until=TIME
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Remove only until the store is no larger, what was used longest ago first
    #[arg(long, value_name = "SIZE", alias = "max-used-space")]
    pub keep_storage: Option<Size>,
    /// Remove only what was not used for so long
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub older_than: Option<Duration>,
    /// Only tell what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Name everything that is removed
    #[arg(short, long)]
    pub verbose: bool,
    /// Accepted for scripts: nothing is asked
    #[arg(short, long)]
    pub force: bool,
    /// How the list is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// Flags of `rbuild verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Drop what is damaged, and fetch it again where a registry is known that has it
    #[arg(long)]
    pub repair: bool,
    /// How the list is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}
