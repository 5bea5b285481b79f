//! Flags of the verbs that manage images and settings.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use oci::model::Reference;

use super::values;
use crate::options::load::EngineKind;

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

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
pub struct RmiArgs {
    /// Names or ids of images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// Flags of `rbuild import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A tar of a root file system, compressed or not; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]", value_parser = values::tag)]
    pub name: Reference,
}

/// What `rbuild save` writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SaveFormat {
    /// A tar of an OCI image layout
    #[default]
    Oci,
    /// A tar that `docker load` takes
    Docker,
}

/// Flags of `rbuild save`.
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Names of images
    #[arg(value_name = "IMAGE", required = true, value_parser = values::image)]
    pub images: Vec<Reference>,
    /// Write into this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: SaveFormat,
    /// Load them into docker, podman or containerd instead; only layers that it lacks are sent
    #[arg(long, value_name = "ENGINE", conflicts_with_all = ["output", "format"])]
    pub to: Option<EngineKind>,
}

/// Flags of `rbuild load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Read this archive or OCI layout folder [default: standard input]
    #[arg(short, long, value_name = "FILE|DIR")]
    pub input: Option<PathBuf>,
}

/// Flags of `rbuild config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// How the list is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}
