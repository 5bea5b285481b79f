//! Flags of `rbuild doctor`.

use clap::Args;

use super::Format;

/// Flags of `rbuild doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 when builds can run, 1 when they cannot")]
pub struct DoctorArgs {
    /// How the list is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}
