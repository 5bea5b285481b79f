//! Flags of whatever runs processes: the RUN steps of a build, and `rbuild run`.

use clap::Args;
use solver::op::NetworkMode;

use super::values;

/// What processes may do, get and use.
#[derive(Debug, Default, Args)]
pub struct StepArgs {
    /// Network of the steps: default, host or none
    #[arg(long, help_heading = "Steps", value_name = "MODE", value_parser = values::network)]
    pub network: Option<NetworkMode>,
}
