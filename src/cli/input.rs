//! Flags that say what is built or looked at: the same for `build`, `check` and `debug`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

/// What is built or looked at.
#[derive(Clone, Debug, Default, Args)]
pub struct InputArgs {
    /// The folder that COPY and ADD read from
    #[arg(value_name = "CONTEXT")]
    pub context: PathBuf,

    /// Read this Dockerfile [default: Dockerfile, dockerfile or Containerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Only what this stage needs [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Set a build argument; a bare name takes its value from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", action = ArgAction::Append)]
    pub build_args: Vec<String>,
    /// For this platform [default: that of this machine] [env: DOCKER_DEFAULT_PLATFORM]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}
