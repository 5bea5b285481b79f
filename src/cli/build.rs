//! Flags of `rbuild build`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args};
use oci::model::Reference;

use super::check::CallArgs;
use super::input::InputArgs;
use super::registry::{CredsArgs, RegistryArgs};
use super::secrets::SecretArgs;
use super::steps::StepArgs;
use super::values::{self, ProgressArg};

/// Flags of `rbuild build`.
#[derive(Debug, Default, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Examples:
  rbuild -t app:1 .                           build, and keep the image as app:1 in the local store
  rbuild -t registry.example/app:1 --push .   build and push
  rbuild -t app:1 --load .                    build, and load the image into docker, podman or containerd
  rbuild -o type=oci,dest=app.tar .           build, and write an OCI archive
  rbuild -o type=registry,name=r.example/app:1,compression=zstd .
  rbuild --target test --no-cache .           build one stage, every step anew
  rbuild -t app:1 - < Dockerfile              build without files
  rbuild -t app:1 https://host/app.git#v1     build a repository"
)]
pub struct BuildArgs {
    /// What is built.
    #[command(flatten)]
    pub input: InputArgs,

    /// Keep the image under this name, and push to it; may be given again
    #[arg(short, long = "tag", value_name = "NAME[:TAG]", value_parser = values::tag, action = ArgAction::Append)]
    pub tags: Vec<Reference>,
    /// Add a label to the image
    #[arg(long = "label", value_name = "NAME=VALUE", action = ArgAction::Append)]
    pub labels: Vec<String>,

    /// Add an annotation to the manifests of all outputs: [LEVEL:]KEY=VALUE, LEVEL being manifest (perhaps of one
    /// platform: manifest[linux/arm64]), manifest-descriptor, index or index-descriptor
    #[arg(long = "annotation", value_name = "KEY=VALUE", action = ArgAction::Append)]
    pub annotations: Vec<String>,
    /// Give the image, its history and its files this time, in seconds since 1970 [env: SOURCE_DATE_EPOCH]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub source_date_epoch: Option<i64>,
    /// The same as --source-date-epoch
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timestamp: Option<i64>,

    /// With what it looks instead of building.
    #[command(flatten)]
    pub call: CallArgs,

    /// Run every step, whatever the cache knows
    #[arg(long, help_heading = "Cache", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        hide_possible_values = true, action = ArgAction::Set)]
    pub no_cache: bool,
    /// Run every step of these stages, whatever the cache knows
    #[arg(long, help_heading = "Cache", value_name = "STAGE,…", value_delimiter = ',', action = ArgAction::Append)]
    pub no_cache_filter: Vec<String>,
    /// Know what another cache knows: type=registry,ref=NAME; type=local,src=DIR; type=s3,bucket=BUCKET,region=REGION; a
    /// bare name is an image in a registry; timeout=30s waits longer than 10 s; may be given again, and is asked in this
    /// order
    #[arg(long, help_heading = "Cache", value_name = "SPEC", action = ArgAction::Append)]
    pub cache_from: Vec<String>,
    /// Tell another cache what this build knows, like --cache-from (dest=DIR for src=DIR), or type=inline in the image
    /// itself; with mode=max all steps, with ignore-error=false only if that goes well; also compression=,
    /// compression-level=, force-compression=
    #[arg(long, help_heading = "Cache", value_name = "SPEC", action = ArgAction::Append)]
    pub cache_to: Vec<String>,
    /// Ask the registries what the base images are now, and fail if they cannot be asked; else images that were made,
    /// loaded or imported here are used as they are, and a registry that is out of reach costs a warning
    #[arg(long, help_heading = "Cache", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        hide_possible_values = true, action = ArgAction::Set)]
    pub pull: bool,

    /// Run so many steps at once, fewer while memory is short [default: 4 per processor, 16 at least]
    #[arg(long, help_heading = "Steps", value_name = "N", value_parser = values::jobs)]
    pub jobs: Option<usize>,
    /// Let steps ask for more than the default: security.insecure (RUN --security=insecure), network.host (RUN
    /// --network=host), device or device=NAME (RUN --device), secrets.in-layers (a step may write a secret into its layer);
    /// buildx.local.delete lets -o type=local,mode=delete remove files; may be given again
    #[arg(long, help_heading = "Steps", value_name = "WHAT", action = ArgAction::Append)]
    pub allow: Vec<String>,
    /// Where devices are described, as JSON files of the Container Device Interface; may be given again [default:
    /// /etc/cdi, /var/run/cdi]
    #[arg(long = "cdi-spec-dir", help_heading = "Steps", value_name = "DIR", action = ArgAction::Append)]
    pub device_directories: Vec<PathBuf>,
    /// What RUN steps may do, get and use.
    #[command(flatten)]
    pub steps: StepArgs,
    /// What RUN steps are given and nothing keeps.
    #[command(flatten)]
    pub secrets: SecretArgs,

    /// Send the result elsewhere too: type=image|registry|oci|docker|local|tar,dest=PATH; of images name=,
    /// compression=gzip|zstd|estargz|uncompressed, compression-level=, force-compression=, oci-mediatypes=,
    /// annotation.KEY=, tar=false (a layout in a directory), push=, push-by-digest=; type=docker without dest loads it,
    /// to=docker|podman|containerd, context=, namespace=; of trees platform-split=, mode=copy|delete; a bare path is a folder, - is a tar on standard output; may be given again (docs/outputs.md)
    #[arg(short, long = "output", help_heading = "Results", value_name = "SPEC", action = ArgAction::Append)]
    pub outputs: Vec<OsString>,
    /// Push the image under all its names: -o type=registry
    #[arg(long, help_heading = "Results", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        hide_possible_values = true, action = ArgAction::Set)]
    pub push: bool,
    /// Load the image into what runs containers here, the first of docker, podman and containerd that runs, or into the
    /// one that is named: -o type=docker; only layers that it lacks are sent
    #[arg(long, help_heading = "Results", value_name = "ENGINE", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub load: Option<String>,
    /// Write the image id into this file, without a line break
    #[arg(long, help_heading = "Results", value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write what was built into this file, as JSON: digests, names, and per step what it used
    #[arg(long, help_heading = "Results", value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Write where the time went into this file, as an HTML page: the steps on a time line, the critical path, what was
    /// cached, and the bytes that were read, hashed, compressed and sent; - is standard output. Also when the build fails
    #[arg(long, help_heading = "Results", value_name = "FILE")]
    pub timings: Option<PathBuf>,

    /// Print only the image id, on standard output
    #[arg(short, long, help_heading = "Display", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        hide_possible_values = true, action = ArgAction::Set)]
    pub quiet: bool,
    /// How progress is shown, on standard error: auto, plain (lines), tty (redrawn in place), quiet, none, or rawjson
    /// (one object per line) [env: BUILDKIT_PROGRESS]
    #[arg(long, help_heading = "Display", value_name = "MODE", value_enum, hide_possible_values = true)]
    pub progress: Option<ProgressArg>,

    /// What is told of the images.
    #[command(flatten)]
    pub attest: AttestArgs,

    /// How registries are met.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// With whose credentials.
    #[command(flatten)]
    pub creds: CredsArgs,

    /// Flags of other builders that change nothing here.
    #[command(flatten)]
    pub inert: InertArgs,
}

/// What is told of the images beside them.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Results")]
pub struct AttestArgs {
    /// Tell beside the image how it was made: true, false (the default), or mode=min|max, builder-id=URL,
    /// reproducible=true with commas between. Stands in what is pushed and in OCI archives
    #[arg(long, value_name = "FIELDS")]
    pub provenance: Option<String>,
    /// Only `false`: no SBOM is made
    #[arg(long, value_name = "false")]
    pub sbom: Option<String>,
    /// The same as --provenance: type=provenance and its fields with commas between
    #[arg(long, value_name = "type=TYPE,…", action = ArgAction::Append)]
    pub attest: Vec<String>,
}

/// Flags of other builders that change nothing here.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Accepted from other builders; they change nothing here")]
pub struct InertArgs {
    /// There are no intermediate containers
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true)]
    pub rm: Option<bool>,
    /// There are no intermediate containers
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true)]
    pub force_rm: Option<bool>,
    /// The context is read in place
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true)]
    pub compress: Option<bool>,
}
