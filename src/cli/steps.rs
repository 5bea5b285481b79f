//! Flags of whatever runs processes: the RUN steps of a build, and `rbuild run`.

use std::net::IpAddr;
use std::str::FromStr as _;

use clap::{ArgAction, Args};
use executor::userns;
use solver::op::NetworkMode;

use super::{LimitArgs, values};

/// What processes may do, get and use.
#[derive(Debug, Default, Args)]
pub struct StepArgs {
    /// Network of the steps: default, host or none
    #[arg(long, help_heading = "Steps", value_name = "MODE", value_parser = values::network)]
    pub network: Option<NetworkMode>,
    /// User namespace of root's steps: host, or auto for one of their own, in which root is nobody outside
    #[arg(long, help_heading = "Steps", value_name = "MODE", value_parser = userns::Wanted::from_str)]
    pub userns: Option<userns::Wanted>,
    /// Limit a resource of each process: NAME=SOFT[:HARD], like nofile=1024:4096, -1 for unlimited; may be given again
    #[arg(long = "ulimit", help_heading = "Steps", value_name = "NAME=SOFT[:HARD]", action = ArgAction::Append)]
    pub ulimits: Vec<String>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, help_heading = "Steps", value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// Know this host: NAME=ADDRESS or NAME:ADDRESS; host-gateway is this machine, over --network=host or a
    /// bridge; may be given again
    #[arg(long = "add-host", help_heading = "Steps", value_name = "NAME=ADDRESS", action = ArgAction::Append)]
    pub add_hosts: Vec<String>,
    /// Host name of the steps
    #[arg(long, help_heading = "Steps", value_name = "NAME")]
    pub hostname: Option<String>,
    /// Ask this server for addresses of names, instead of the host's; may be given again
    #[arg(long, help_heading = "Steps", value_name = "ADDRESS", action = ArgAction::Append)]
    pub dns: Vec<IpAddr>,
    /// Look for short names in this domain, instead of the host's; `.` for none; may be given again
    #[arg(long, help_heading = "Steps", value_name = "DOMAIN", action = ArgAction::Append)]
    pub dns_search: Vec<String>,
    /// An option of resolv.conf, instead of the host's: ndots:2; may be given again
    #[arg(long, help_heading = "Steps", value_name = "OPTION", alias = "dns-opt", action = ArgAction::Append)]
    pub dns_option: Vec<String>,
    /// Limits of each.
    #[command(flatten)]
    pub limits: LimitArgs,
}
