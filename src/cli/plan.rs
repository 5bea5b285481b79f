//! Flags of `rbuild plan`.

use clap::Args;

use super::build::BuildArgs;
use super::format::Format;

/// Flags of `rbuild plan`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Takes the flags of `rbuild build`, resolves images and reads the context as a build does, looks every step up in the
local store and in the caches of `--cache-from`, and runs nothing, brings no layer and tells no `--cache-to`. A step that stands on one that would run may still be cached, if that one gives what it
gave before. Afterwards, `rbuild why` tells what a build did; `rbuild debug plan` shows the operations themselves.

Examples:
  rbuild plan .
  rbuild plan --target test --build-arg V=1 .
  rbuild plan --format json . | jq '.steps[] | select(.outlook != \"cached\")'"
)]
pub struct PlanArgs {
    /// What would be built.
    #[command(flatten)]
    pub build: BuildArgs,
    /// How it is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}
