//! Flags of `rbuild config`.

use clap::Args;

use super::format::Format;

/// Flags of `rbuild config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// How the list is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}
