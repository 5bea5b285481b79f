//! Flags of whatever runs processes: the RUN steps of a build, and `rbuild run`.

use std::net::IpAddr;

use clap::{ArgAction, Args};
use solver::op::NetworkMode;

use super::values;

/// What processes may do, get and use.
#[derive(Debug, Default, Args)]
pub struct StepArgs {
    /// Network of the steps: default, host or none
    #[arg(long, help_heading = "Steps", value_name = "MODE", value_parser = values::network)]
    pub network: Option<NetworkMode>,
    /// Ask this server for addresses of names, instead of the host's; may be given again
    #[arg(long, help_heading = "Steps", value_name = "ADDRESS", action = ArgAction::Append)]
    pub dns: Vec<IpAddr>,
    /// Look for short names in this domain, instead of the host's; `.` for none; may be given again
    #[arg(long, help_heading = "Steps", value_name = "DOMAIN", action = ArgAction::Append)]
    pub dns_search: Vec<String>,
    /// An option of resolv.conf, instead of the host's: ndots:2; may be given again
    #[arg(long, help_heading = "Steps", value_name = "OPTION", alias = "dns-opt", action = ArgAction::Append)]
    pub dns_option: Vec<String>,
}
