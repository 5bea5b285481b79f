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
