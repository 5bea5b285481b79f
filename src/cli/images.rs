//! Flags of the verbs about images of the local store: list, name, look at, remove.

use clap::Args;
use oci::model::{Platform, Reference};

use super::format::{Format, ToldArgs};
use super::values;

/// Flags of `rbuild images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Print only the image ids
    #[arg(short, long)]
    pub quiet: bool,
    /// How the list is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// Flags of `rbuild rmi`.
#[derive(Debug, Args)]
#[command(after_help = "The layers stay for the cache until they are pruned: `rbuild prune`, `rbuild du`.")]
pub struct RmiArgs {
    /// Names or ids of images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// How it is told.
    #[command(flatten)]
    pub told: ToldArgs,
}

/// Flags of `rbuild tag`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rbuild tag app:1 app:latest r.example/team/app:1
  rbuild tag 12ab34cd app:1                     by the beginning of its id")]
pub struct TagArgs {
    /// A name or an id
    #[arg(value_name = "IMAGE")]
    pub source: String,
    /// The names that it gets too
    #[arg(value_name = "NAME[:TAG]", required = true, value_parser = values::tag)]
    pub names: Vec<Reference>,
    /// How it is told.
    #[command(flatten)]
    pub told: ToldArgs,
}

/// Flags of `rbuild inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rbuild inspect app:1                          all that is known, as docker inspect says it
  rbuild inspect app:1 | jq -r '.[0].Id'
  rbuild inspect --format table app:1 app:2     a line for each
  rbuild inspect --config app:1                 the config, byte for byte")]
pub struct InspectArgs {
    /// Names or ids of images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// How it is printed: json (an array, with the fields of docker inspect) or table
    #[arg(long, short, value_name = "FORMAT", default_value = "json", value_parser = values::inspect_format,
        conflicts_with_all = ["raw", "config", "manifest"])]
    pub format: Format,
    /// Print what the name means, byte for byte: the manifest, or the index
    #[arg(long, conflicts_with_all = ["config", "manifest"])]
    pub raw: bool,
    /// Print the config of the image, byte for byte
    #[arg(long, conflicts_with = "manifest")]
    pub config: bool,
    /// Print the manifest of the image, byte for byte
    #[arg(long)]
    pub manifest: bool,
    /// Of an image for several platforms, look at the one for this [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = values::platform)]
    pub platform: Option<Platform>,
}
