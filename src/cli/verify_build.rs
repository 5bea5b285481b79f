//! Flags of `rbuild verify-build`.

use clap::Args;

use super::build::BuildArgs;
use super::format::Format;

/// Flags of `rbuild verify-build`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Takes the flags of `rbuild build`, and keeps, writes and pushes nothing: of outputs only how they compress and annotate
counts, names and caches do not. Builds twice from nothing but the base images, each time in a store of its own on the
disk of the local one; the second time elsewhere, with another umask, another number of steps at a time, in another
second. What ADD fetches is fetched twice, or with --offline taken from the local store. Without SOURCE_DATE_EPOCH both
builds get one, which is said.

Exit codes: 0 both are the same image, 2 they differ, 1 a build or a comparison failed.

Examples:
  rbuild verify-build .
  SOURCE_DATE_EPOCH=$(git log -1 --pretty=%ct) rbuild verify-build --target app .
  rbuild verify-build --against registry.example/app:1 .      is that image built from this source?
  rbuild verify-build --against app.tar --format json . | jq .reproducible"
)]
pub struct VerifyBuildArgs {
    /// What is built.
    #[command(flatten)]
    pub build: BuildArgs,
    /// Build once, and compare with this image of the local store or of a registry, or with this archive or OCI layout;
    /// for several platforms with an index
    #[arg(long, value_name = "IMAGE|FILE")]
    pub against: Option<String>,
    /// Compare the times of files even where no SOURCE_DATE_EPOCH is set
    #[arg(long)]
    pub true_times: bool,
    /// How it is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}
