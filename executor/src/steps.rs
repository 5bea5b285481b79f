//! What the builder's user allows steps, limits them to and gives them: plain data, the same for all steps of a build.
//!
//! Nothing in here is in a key: whoever may do less, or has less memory, gets the same result or none.
//! Deliberately absent: what one step asks for ([`solver::op::ExecOp`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::emulate;
use crate::isolation::Rung;
use crate::limits::StepLimits;
use crate::network::NetworkSettings;
use crate::secrets::agent::AgentSource;
use crate::secrets::{Asking, SecretSource};
use crate::userns::IdMap;

/// For all steps of a build, or for one `rbuild run`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepSettings {
    /// How steps are kept apart.
    pub rung: Rung,
    /// What steps may ask for beyond the default.
    pub grants: Grants,
    /// What each may use of the machine.
    pub limits: StepLimits,
    /// Where devices are described (CDI); empty is [`crate::devices::DIRECTORIES`].
    pub device_directories: Vec<PathBuf>,
    /// Whom steps ask for addresses, unless they have no network.
    pub dns: Dns,
    /// Where secrets are, by their names; values are read when a step asks for them.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Where ssh agents are, by their names.
    pub agents: BTreeMap<String, AgentSource>,
    /// Who is asked for secrets and agents that stand in neither list.
    pub asked: Option<Asking>,
    /// How steps with a network of their own get out.
    pub network: NetworkSettings,
    /// How steps of other architectures run.
    pub emulation: emulate::Wanted,
    /// The ids of a user namespace of its own for each step; `None`: steps are in the builder's.
    pub user_namespace: Option<IdMap>,
}

/// What `/etc/resolv.conf` says instead of what the host's says; what is empty stays the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers, in the order in which they are asked.
    pub servers: Vec<IpAddr>,
    /// Domains in which short names are looked for; `.` alone is none.
    pub search: Vec<String>,
    /// Options as resolv.conf(5) has them.
    pub options: Vec<String>,
}

/// What steps may ask for beyond the default. A step that asks for what is not granted is refused before anything runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// `security.insecure`: all capabilities, no filter of system calls, nothing hidden.
    pub insecure: bool,
    /// `network.host`: the builder's own network.
    pub host_network: bool,
    /// `secrets.in-layers`: layers may hold the values of secrets that their steps have seen.
    pub secrets_in_layers: bool,
    /// `device`: devices by CDI name (`vendor.com/class=name`); a kind (`vendor.com/class`) is all of that kind, `*` is
    /// all devices.
    pub devices: Vec<String>,
}

impl Grants {
    /// Whether a step may use the device, or the kind of devices, of this name.
    pub fn device(&self, name: &str) -> bool {
        let kind = name.split_once('=').map_or(name, |(kind, _)| kind);
        let grants = |granted: &String| {
            granted == "*" || granted == name || granted == kind || granted.strip_suffix("=*") == Some(kind)
        };
        self.devices.iter().any(grants)
    }
}
