//! What a build is asked to do: the command line, the environment and the config files, merged and checked.
//!
//! The values are plain data, which [`build::build`], [`input::input`] and [`run::run`] make of flags, settings and surroundings,
//! and [`crate::engine`] obeys. Of files only those of `--build-arg-file` are read here ([`args`]). Deliberately absent:
//! the words of the command line ([`crate::cli`]).

pub mod allow;
pub mod annotation;
pub mod args;
pub mod attest;
pub mod build;
pub mod cache;
pub mod context;
pub mod imagetools;
pub mod input;
pub mod limits;
pub mod load;
pub mod output;
pub mod outputs;
pub mod policy;
pub mod provisions;
pub mod registry;
pub mod run;
pub mod secrets;
pub mod size;
pub mod steps;
pub mod theirs;

use std::collections::BTreeMap;
use std::path::PathBuf;

use executor::StepSettings;
use oci::model::{Platform, Reference};
use solver::op::NetworkMode;

use crate::engine::Policy;

/// What is built or looked at: the same for `build`, `check` and `debug`.
#[derive(Clone, Debug)]
pub struct InputOptions {
    /// Where the files come from.
    pub context: context::Place,
    /// `-f`.
    pub dockerfile: context::DockerfileFrom,
    /// `--ignorefile`.
    pub ignorefile: Option<PathBuf>,
    /// `--build-context`, each name once, by name.
    pub contexts: Vec<context::NamedSource>,
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg` and `--build-arg-file`, later ones winning; a bare name was looked up in the environment and is
    /// absent if unset there.
    pub build_args: BTreeMap<String, String>,
    /// `--platform`, each once, in the order of their mention; without any, the machine's own. Never empty.
    pub platforms: Vec<Platform>,
    /// What sources are allowed, and replaced.
    pub policy: Policy,
    /// The socket of the user's own ssh agent, which signs for contexts if `--ssh` gives no other.
    pub own_agent: Option<PathBuf>,
}

impl InputOptions {
    /// The first platform: the only one, for whoever looks at one.
    pub fn platform(&self) -> &Platform {
        &self.platforms[0]
    }

    /// All of them, as `--platform` takes them.
    pub fn platforms_text(&self) -> String {
        self.platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(",")
    }

    /// Whether the images of a build are put together into an index: there are several, or the build arg
    /// `BUILDKIT_MULTI_PLATFORM` asks for one.
    pub fn makes_index(&self) -> bool {
        // What that says otherwise, the frontend refuses.
        self.platforms.len() > 1 || frontend::is_multi_platform(&self.build_args).unwrap_or(false)
    }
}

/// One build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// What is built.
    pub input: InputOptions,
    /// The names under which the local store keeps it, in order: those of `-t`, unless outputs say otherwise.
    pub tags: Vec<Reference>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--annotation`, and those of outputs into the local store.
    pub annotations: annotation::Annotations,
    /// `--provenance`, `--attest`: what is told of the images beside them.
    pub provenance: Option<attest::Provenance>,
    /// `--network`; `None` when not given.
    pub network: Option<NetworkMode>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`.
    pub no_cache_stages: Vec<String>,
    /// `--pull`.
    pub pull: bool,
    /// `-o` and `--push`, in order. Empty: only the local store.
    pub outputs: Vec<output::Output>,
    /// `source-date-epoch=` of the outputs: of the image, whatever steps see.
    pub epoch: Option<i64>,
    /// `--iidfile`.
    pub iidfile: Option<PathBuf>,
    /// `--metadata-file`.
    pub metadata_file: Option<PathBuf>,
    /// `--timings`; `-` is standard output.
    pub timings: Option<PathBuf>,
    /// How many RUN steps at once.
    pub jobs: usize,
    /// What RUN steps may do, get and use.
    pub steps: StepSettings,
    /// What RUN steps find around them.
    pub provisions: provisions::Provisions,
    /// `--cache-from`, in order.
    pub cache_from: Vec<cache::CacheFrom>,
    /// `--cache-to`, in order.
    pub cache_to: Vec<cache::CacheTo>,
    /// Which client of the daemon asked for it, for the history.
    pub client: Option<store::history::Client>,
}

/// `rbuild run`.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Which image.
    pub image: Reference,
    /// The command; empty runs the image's own.
    pub command: Vec<String>,
    /// `--entrypoint`.
    pub entrypoint: Option<String>,
    /// `-e`, as `NAME=value`; a bare name was looked up in the environment.
    pub env: Vec<String>,
    /// `-v`.
    pub volumes: Vec<Volume>,
    /// `-w`.
    pub workdir: Option<String>,
    /// `-u`.
    pub user: Option<String>,
    /// `-i`: standard input stays open.
    pub interactive: bool,
    /// `-t`: a terminal of its own.
    pub tty: bool,
    /// `--network`; `None` when not given.
    pub network: Option<NetworkMode>,
    /// What the process may do, get and use.
    pub steps: StepSettings,
    /// What the process finds around it.
    pub provisions: provisions::Provisions,
    /// `-p`, as (host address, host port, container port); only checked, since the network is the host's.
    pub publish: Vec<Publish>,
}

/// One `-p`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Address to listen on; `None` is all.
    pub address: Option<std::net::IpAddr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port inside.
    pub container_port: u16,
}

/// One `-v`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Path on the host; absolute.
    pub source: PathBuf,
    /// Path inside; absolute.
    pub target: String,
    /// `:ro`.
    pub readonly: bool,
}
