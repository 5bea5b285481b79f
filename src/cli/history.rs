//! Flags of `rbuild history` and `rbuild why`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::format::Format;

/// Flags of `rbuild history`.
#[derive(Debug, Args)]
#[command(after_help = "\
A build is named by its id or the beginning of it; `last` is the latest. The history keeps the last builds of the store
(`history.keep` in config.toml, 50), and of each what every step printed (`history.log_max_size`, 128MiB a step).

Examples:
  rbuild history ls --filter status=failed
  rbuild history logs                      all that the last build's steps printed
  rbuild history logs 7kq --step :12       what the instruction in line 12 printed, byte by byte
  rbuild history inspect 7kq --format json
  rbuild history timings 7kq -o page.html  where the time went, as a page
  rbuild history rm --all")]
pub struct HistoryArgs {
    /// What is asked of it.
    #[command(subcommand)]
    pub verb: HistoryVerb,
}

/// What is asked of the history.
#[derive(Debug, Subcommand)]
pub enum HistoryVerb {
    /// List the last builds, the latest first
    #[command(visible_alias = "list")]
    Ls(HistoryLsArgs),
    /// Show what the steps of a build printed
    Logs(HistoryLogsArgs),
    /// Show a build: its steps, their times, what was cached and why the others ran
    Inspect(HistoryInspectArgs),
    /// Show where the time of a build went, as an HTML page
    Timings(HistoryTimingsArgs),
    /// Forget builds
    Rm(HistoryRmArgs),
}

/// Flags of `rbuild history ls`.
#[derive(Debug, Args)]
pub struct HistoryLsArgs {
    /// Only such builds: status=ok, failed, canceled, interrupted or running; dir=DIR; tag=NAME; may be given again
    #[arg(long = "filter", value_name = "NAME=VALUE")]
    pub filters: Vec<String>,
    /// Print only the ids
    #[arg(short, long)]
    pub quiet: bool,
    /// How the list is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// Flags of `rbuild history logs`.
#[derive(Debug, Args)]
pub struct HistoryLogsArgs {
    /// Which build
    #[arg(value_name = "ID", default_value = "last")]
    pub build: String,
    /// Only this step: `#4`, `build 2/5`, `:12` for a line of the Dockerfile, or words of its name
    #[arg(long, value_name = "STEP")]
    pub step: Option<String>,
}

/// Flags of `rbuild history inspect`.
#[derive(Debug, Args)]
pub struct HistoryInspectArgs {
    /// Which build
    #[arg(value_name = "ID", default_value = "last")]
    pub build: String,
    /// How it is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// Flags of `rbuild history timings`.
#[derive(Debug, Args)]
pub struct HistoryTimingsArgs {
    /// Which build
    #[arg(value_name = "ID", default_value = "last")]
    pub build: String,
    /// Write the page into this file; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
}

/// Flags of `rbuild history rm`.
#[derive(Debug, Args)]
pub struct HistoryRmArgs {
    /// Which builds
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub builds: Vec<String>,
    /// All that do not run
    #[arg(long)]
    pub all: bool,
}

/// Flags of `rbuild why`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Nothing runs: the last build of the folder is compared with the one before it. What stands on a step that ran had to
run too and is counted with it. Values of variables whose names speak of secrets are not shown.

Examples:
  rbuild why .                         why the last build ran what it ran
  rbuild why . --step 'build 2/5'      about one step; also `#4`, `:12` (a line of the Dockerfile), or words of its name
  rbuild why . --against app:1         compared with the build that made this image
  rbuild why . --against cache         compared with the most similar steps that the store knows

`rbuild plan .` tells beforehand what a build would run."
)]
pub struct WhyArgs {
    /// The folder, archive or address that was built
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: PathBuf,
    /// The Dockerfile of that build [default: whichever it was]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The target of that build [default: whichever it was]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Only about this step
    #[arg(long, value_name = "STEP")]
    pub step: Option<String>,
    /// What it is compared with: last, an image, or cache
    #[arg(long, value_name = "last|IMAGE|cache", default_value = "last")]
    pub against: String,
    /// How it is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}
