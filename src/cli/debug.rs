//! Flags of `rbuild debug`.

use clap::{Args, ValueEnum};

use super::input::InputArgs;
use super::registry::RegistryArgs;

/// Which stage on the way from text to image is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DebugWhat {
    /// The statements of the file
    Ast,
    /// The operations, and the image that they make
    Plan,
    /// Stages, steps and what stands on what
    Graph,
    /// The acts of every RUN step
    Steps,
    /// The operations as a definition of the low-level builder
    Llb,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DebugFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// For Graphviz
    Dot,
    /// For Markdown
    Mermaid,
    /// For clients of BuildKit
    Pb,
}

/// Flags of `rbuild debug`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Nothing runs. `ast` reads only the Dockerfile; the others also look up its images, in the local store and then
in the registries, as a build does. Which of its steps a build would run, `rbuild plan` tells.

Examples:
  rbuild debug ast .                                    what the parser understood
  rbuild debug steps .                                  what the sandbox would do for each RUN
  rbuild debug plan --target test --build-arg V=1 .     what a build would do
  rbuild debug graph --format dot . | dot -Tsvg > g.svg
  rbuild debug graph --format mermaid --offline . > graph.mmd
  rbuild debug llb . | jq -r .Digest                    the operations, one a line
  rbuild debug llb --format pb . | buildctl build …     the same, for BuildKit"
)]
pub struct DebugArgs {
    /// ast: the statements of the Dockerfile; plan: the operations and the image; graph: stages and steps; steps: the acts of RUN; llb: a definition for BuildKit
    #[arg(value_name = "WHAT", value_enum, hide_possible_values = true)]
    pub what: DebugWhat,
    /// What is looked at.
    #[command(flatten)]
    pub input: InputArgs,
    /// How it is printed: text or json; a graph also as dot or mermaid, a definition as json or pb
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, hide_possible_values = true)]
    pub format: DebugFormat,
    /// How registries are met.
    #[command(flatten)]
    pub registry: RegistryArgs,
}
