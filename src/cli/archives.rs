//! Flags of the verbs that bring images from archives and write them as archives.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use oci::model::{Platform, Reference};

use super::format::ToldArgs;
use super::values;
use crate::options::load::EngineKind;

/// Flags of `rbuild import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rbuild import rootfs.tar.xz base:1
  tar -C rootfs -c . | rbuild import - base:1
  rbuild import --platform linux/arm64 arm64.tar base:arm64    of another machine")]
pub struct ImportArgs {
    /// A tar of a root file system, compressed or not; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]", value_parser = values::tag)]
    pub name: Reference,
    /// For which machine the root file system is [default: this one's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = values::platform)]
    pub platform: Option<Platform>,
    /// How it is told.
    #[command(flatten)]
    pub told: ToldArgs,
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
#[command(after_help = "\
Examples:
  rbuild save -o app.tar app:1                 an OCI archive; of several platforms with all of them
  rbuild save --format docker app:1 | docker load
  rbuild save --to containerd app:1            into an engine: only the layers that it lacks
  rbuild save --platform linux/arm64 -o arm64.tar app:1")]
pub struct SaveArgs {
    /// Names or ids of images
    #[arg(value_name = "IMAGE", required = true, value_parser = values::image)]
    pub images: Vec<Reference>,
    /// Write into this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: SaveFormat,
    /// Of a name for several platforms, take the image for this [default: all, where the format or engine keeps an index;
    /// else this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = values::platform)]
    pub platform: Option<Platform>,
    /// Load them into docker, podman or containerd instead; only layers that it lacks are sent
    #[arg(long, value_name = "ENGINE", conflicts_with_all = ["output", "format", "metadata_file"])]
    pub to: Option<EngineKind>,
    /// Write what is in the archive into this file, as JSON: names, ids, digests of the manifests
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
}

/// Flags of `rbuild load`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rbuild load -i app.tar                       of rbuild, docker, podman, skopeo or buildx
  docker save app:1 | rbuild load")]
pub struct LoadArgs {
    /// Read this archive or OCI layout folder [default: standard input]
    #[arg(short, long, value_name = "FILE|DIR")]
    pub input: Option<PathBuf>,
    /// How it is told.
    #[command(flatten)]
    pub told: ToldArgs,
}
