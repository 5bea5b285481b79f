//! Flags of `rbuild serve`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::registry::RegistryArgs;
use super::values;
use crate::daemon::Address;

/// Flags of `rbuild serve`.
#[derive(Debug, Default, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Examples:
  rbuild serve                                           on the usual socket
  rbuild serve --addr unix:///run/builds.sock
  rbuild serve --addr tcp://0.0.0.0:1234 --tlscacert ca.pem --tlscert cert.pem --tlskey key.pem
  docker buildx create --name r --driver remote unix:///run/builds.sock
  docker buildx --builder r build -t app:1 --load ."
)]
pub struct ServeArgs {
    /// Serve here: unix:///PATH, tcp://HOST:PORT with the three flags of TLS, or fd:// for what a service manager hands
    /// over; may be given again [default: unix:///run/rbuild.sock, a user's: unix://$XDG_RUNTIME_DIR/rbuild.sock]
    #[arg(long = "addr", value_name = "ADDRESS", action = ArgAction::Append)]
    pub addresses: Vec<Address>,
    /// The authority whose certificates clients have to show over a network, in PEM form
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// The certificate that is shown to clients over a network, in PEM form
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// The certificate's key, in PEM form
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// A buildkitd.toml: what of it counts stands in docs/serve.md, and the rest is warned about
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Let clients grant their builds this: network.host, security.insecure, device; may be given again
    #[arg(long, value_name = "WHAT", value_delimiter = ',', action = ArgAction::Append)]
    pub allow_insecure_entitlement: Vec<String>,
    /// Run so many steps of a build at once, fewer while memory is short [default: 4 per processor, 16 at least]
    #[arg(long, value_name = "N", value_parser = values::jobs)]
    pub jobs: Option<usize>,
    /// How registries are met.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// What starts buildkitd gives.
    #[command(flatten)]
    pub buildkitd: BuildkitdArgs,
}

/// Flags of buildkitd that are understood so that what starts it starts rbuild.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Accepted from buildkitd")]
pub struct BuildkitdArgs {
    /// What the worker says of itself, NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',', action = ArgAction::Append)]
    pub oci_worker_labels: Vec<String>,
    /// The network of steps: host is like --network=host, everything else the default
    #[arg(long, value_name = "MODE")]
    pub oci_worker_net: Option<String>,
    /// rbuild without root is always so
    #[arg(long)]
    pub rootless: bool,
    /// There is one worker, rbuild's own
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub oci_worker: Option<String>,
    /// There is no worker of containerd's
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub containerd_worker: Option<String>,
    /// Whether the store is kept within its size
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub oci_worker_gc: Option<String>,
    /// What the store may take, in megabytes or shares of its disk; `max_size` in config.toml counts before it
    #[arg(long, value_name = "RESERVED[,FREE[,MAXIMUM]]")]
    pub oci_worker_gc_keepstorage: Option<String>,
    /// rbuild has its own
    #[arg(long, value_name = "NAME")]
    pub oci_worker_snapshotter: Option<String>,
    /// `--isolation` says it here
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub oci_worker_no_process_sandbox: Option<String>,
    /// There is no worker of containerd's
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub containerd_worker_gc: Option<String>,
}
