//! Flags of `rbuild run`.

use clap::{ArgAction, Args};
use oci::model::Reference;

use super::registry::RegistryArgs;
use super::steps::StepArgs;
use super::values;

/// Flags of `rbuild run`. Everything after the image belongs to the command.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The image; it is pulled if the local store does not have it
    #[arg(value_name = "IMAGE", value_parser = values::image)]
    pub image: Reference,
    /// The command and its arguments [default: the image's]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,

    /// Throw away what the command changed (this is always so, for now)
    #[arg(long)]
    pub rm: bool,
    /// Set a variable; a bare name takes its value from the environment
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", action = ArgAction::Append)]
    pub env: Vec<String>,
    /// Show a folder of this machine inside: SOURCE:TARGET, read-only with :ro
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET[:ro]", action = ArgAction::Append)]
    pub volumes: Vec<String>,
    /// Start in this folder [default: the image's]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this user [default: the image's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal of its own
    #[arg(short, long)]
    pub tty: bool,
    /// Run this program instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// What the process may do, get and use.
    #[command(flatten)]
    pub steps: StepArgs,
    /// Make a port reachable; the network is the host's then, and both ports must be the same
    #[arg(short, long = "publish", value_name = "[ADDRESS:]PORT:PORT", action = ArgAction::Append)]
    pub publish: Vec<String>,
    /// How the registry is met, if the image is pulled.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Use these credentials for the registry of the image, and for no other; everybody who may list processes sees them
    /// there, so rather use `rbuild login`
    #[arg(long, help_heading = "Registries", value_name = "USER:PASSWORD")]
    pub creds: Option<String>,
}
