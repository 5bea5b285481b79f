//! Flags that say what is built or looked at: the same for `build`, `check` and `debug`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

impl InputArgs {
    /// All values of `--platform` as one.
    pub fn platform(&self) -> Option<String> {
        (!self.platforms.is_empty()).then(|| self.platforms.join(","))
    }
}

/// What is built or looked at.
#[derive(Clone, Debug, Default, Args)]
pub struct InputArgs {
    /// What COPY and ADD read from: a folder, an archive, an address (http, https, git), or - for standard input
    #[arg(value_name = "CONTEXT")]
    pub context: PathBuf,

    /// Read this Dockerfile; - is standard input, https://… is fetched [default: Dockerfile, dockerfile or
    /// Containerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Only what this stage needs [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Set a build argument; a bare name takes its value from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", action = ArgAction::Append)]
    pub build_args: Vec<String>,
    /// Take build arguments from this file, one NAME=VALUE per line; --build-arg wins
    #[arg(long = "build-arg-file", value_name = "FILE", action = ArgAction::Append)]
    pub build_arg_files: Vec<PathBuf>,
    /// Let NAME in the Dockerfile mean something else: docker-image://REF, oci-layout://DIR[:TAG], a folder, or an
    /// address; may be given again
    #[arg(long = "build-context", value_name = "NAME=VALUE", action = ArgAction::Append)]
    pub build_contexts: Vec<String>,
    /// Leave out what this file lists, instead of what the context's .dockerignore does, which counts in directories,
    /// archives and repositories alike; /dev/null leaves out nothing
    #[arg(long, value_name = "FILE")]
    pub ignorefile: Option<PathBuf>,
    /// Make no connection to registries, web or git servers, remote caches: use what is here, and say what is not. RUN
    /// steps keep their network; see --network [env: RBUILD_OFFLINE]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true)]
    pub offline: Option<bool>,
    /// For this platform, like linux/arm64; with commas, or given again, for several: one image each, and an index of
    /// them [default: that of this machine] [env: DOCKER_DEFAULT_PLATFORM]
    #[arg(long = "platform", value_name = "PLATFORM,…", action = ArgAction::Append)]
    pub platforms: Vec<String>,
}
