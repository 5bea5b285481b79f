//! Flags of the verbs that bring images from registries and take them there.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use oci::layer::Compression;
use oci::model::{Platform, Reference};

use super::format::{ShownArgs, ToldArgs};
use super::registry::{CredsArgs, RegistryArgs};
use super::values;

/// Flags of `rbuild push`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Examples:
  rbuild push r.example/app:1                   what the local store has under that name
  rbuild push app:1 r.example/team/app:1        under another name
  rbuild push --all-tags r.example/app          all names of that repository
  rbuild push --join app:arm r.example/app:1    add the image to those of other platforms"
)]
pub struct PushArgs {
    /// A name or an id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where it goes [default: the name itself]
    #[arg(value_name = "DESTINATION", value_parser = values::in_registry, conflicts_with = "all_tags")]
    pub destination: Option<Reference>,
    /// Push all names of the local store in the repository that IMAGE names
    #[arg(short, long)]
    pub all_tags: bool,
    /// Add the image to what the destination means, for its platform, and keep those for other platforms; of many that do
    /// so at once each gets in
    #[arg(long)]
    pub join: bool,

    /// How layers are compressed that are not yet: gzip, zstd, estargz or uncompressed
    #[arg(
        long,
        visible_alias = "compression-format",
        help_heading = "Form",
        value_name = "NAME",
        default_value = "gzip"
    )]
    pub compression: Compression,
    /// How hard: gzip and estargz 0 to 9, zstd 1 to 22 [default: 5; zstd 3]
    #[arg(long, help_heading = "Form", value_name = "N", allow_negative_numbers = true)]
    pub compression_level: Option<i32>,
    /// Compress all layers so, also those that are compressed already: then the image has another digest
    #[arg(long, help_heading = "Form", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        hide_possible_values = true, action = ArgAction::Set)]
    pub force_compression: bool,

    /// Write the digest into this file, without a line break
    #[arg(long, help_heading = "Results", value_name = "FILE", conflicts_with = "all_tags")]
    pub digestfile: Option<PathBuf>,

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

/// Flags of `rbuild pull`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Examples:
  rbuild pull debian:12
  rbuild pull --platform linux/arm64 debian:12
  rbuild pull --all-platforms r.example/app:1   the index and every image of it"
)]
pub struct PullArgs {
    /// Names of images
    #[arg(value_name = "NAME", required = true, value_parser = values::in_registry)]
    pub names: Vec<Reference>,
    /// Of an image for several platforms, bring the one for this [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = values::platform, conflicts_with = "all_platforms")]
    pub platform: Option<Platform>,
    /// Bring the images for all platforms, and keep the index under the name
    #[arg(long)]
    pub all_platforms: bool,

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
