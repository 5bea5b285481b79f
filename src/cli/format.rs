//! How results are printed, and what is shown meanwhile: the same for all verbs.

use clap::{ArgAction, Args, ValueEnum};

use super::values::ProgressArg;

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

/// How it is told what was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Told {
    /// A line for each
    #[default]
    Text,
    /// A JSON array with an object for each
    Json,
}

/// How the result is printed, of a verb that does something to images.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ToldArgs {
    /// How the result is printed: text (a line for each) or json (an array with an object for each)
    #[arg(
        long,
        help_heading = "Results",
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    pub format: Told,
}

/// What is shown while it is done.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Display")]
pub struct ShownArgs {
    /// Show no progress, and print only NAME@DIGEST
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub quiet: bool,
    /// How progress is shown, on standard error: auto, plain, tty, quiet, none, or rawjson
    #[arg(long, value_name = "MODE", value_enum, hide_possible_values = true)]
    pub progress: Option<ProgressArg>,
}
