//! Flags of `rbuild imagetools`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};
use oci::model::Reference;

use super::format::{Format, ShownArgs, ToldArgs};
use super::registry::{CredsArgs, RegistryArgs};
use super::values;

/// Flags of `rbuild imagetools`.
#[derive(Debug, Args)]
pub struct ImagetoolsArgs {
    /// What is done.
    #[command(subcommand)]
    pub verb: ImagetoolsVerb,
}

/// What `rbuild imagetools` does.
#[derive(Debug, Subcommand)]
pub enum ImagetoolsVerb {
    /// Give names to images that are in registries: to one byte for byte, to several as an index
    Create(Box<ImagetoolsCreateArgs>),
    /// Show what a name means in its registry: platforms and digests
    Inspect(Box<ImagetoolsInspectArgs>),
}

/// Flags of `rbuild imagetools create`.
#[derive(Debug, Default, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Examples:
  rbuild imagetools create -t r.example/app:1 r.example/app:amd64 r.example/app:arm64
  rbuild imagetools create -t r.example/app:1 --append r.example/app@sha256:…
  rbuild imagetools create -t r.example/app:stable r.example/app:1    another name, the same digest"
)]
pub struct ImagetoolsCreateArgs {
    /// Images and indexes: names, digests in the repository of -t, or descriptors as JSON; of two for one platform the
    /// later wins
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// The name that is given; may be given again
    #[arg(short = 't', long = "tag", value_name = "NAME[:TAG]", value_parser = values::tag, action = ArgAction::Append)]
    pub names: Vec<Reference>,
    /// Keep what the names mean, and add to it; of many that do so at once each gets in
    #[arg(long)]
    pub append: bool,
    /// Read a source from this file: a descriptor, or what rbuild build --metadata-file wrote; may be given again
    #[arg(short, long = "file", value_name = "FILE", action = ArgAction::Append)]
    pub files: Vec<PathBuf>,
    /// Take only the images for these
    #[arg(short, long = "platform", value_name = "OS/ARCH,…", value_delimiter = ',', action = ArgAction::Append)]
    pub platforms: Vec<String>,
    /// Annotate the index, or what it says of its images: [LEVEL:]KEY=VALUE, LEVEL being index or
    /// manifest-descriptor, perhaps with a platform in brackets; may be given again
    #[arg(long = "annotation", value_name = "KEY=VALUE", action = ArgAction::Append)]
    pub annotations: Vec<String>,
    /// Make an index of a single image too, which else goes on byte for byte
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    pub prefer_index: bool,
    /// Print what would be written, and write nothing
    #[arg(long, help_heading = "Results", conflicts_with = "format")]
    pub dry_run: bool,
    /// Write what was made into this file, as JSON: descriptor and names
    #[arg(long, help_heading = "Results", value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,

    /// How it is told.
    #[command(flatten)]
    pub told: ToldArgs,
    /// What is shown.
    #[command(flatten)]
    pub shown: ShownArgs,
    /// How registries are met.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// With whose credentials.
    #[command(flatten)]
    pub creds: CredsArgs,
}

/// Flags of `rbuild imagetools inspect`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Examples:
  rbuild imagetools inspect debian:12                         platforms and digests
  rbuild imagetools inspect --format json debian:12 | jq -r .manifest.digest"
)]
pub struct ImagetoolsInspectArgs {
    /// The name
    #[arg(value_name = "NAME", value_parser = values::in_registry)]
    pub name: Reference,
    /// Print what it means byte for byte
    #[arg(long, conflicts_with = "format")]
    pub raw: bool,
    /// How it is printed: table or json
    #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = values::imagetools_format)]
    pub format: Format,
    /// How registries are met.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// With whose credentials.
    #[command(flatten)]
    pub creds: CredsArgs,
}
