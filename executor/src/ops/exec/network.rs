//! A step's network: from what it asks for to what the sandbox gets.
//!
//! Deliberately absent: how a namespace with a way out is made ([`crate::network`]).

use solver::op::NetworkMode;
use solver::seam::LogSink;
use tokio_util::sync::CancellationToken;

use super::error::StepError;
use super::process::HOST_GATEWAY;
use crate::error::ExecError;
use crate::network::{StepNetwork, host_resolv_conf};
use crate::sandbox::{Descriptors, Handed, Network, ProcessSpec};
use crate::worker::Worker;

/// A network that is ready for one step, which ends with this value.
pub(super) enum Prepared {
    /// Loopback only.
    None,
    /// The builder's own.
    Host {
        /// Text of `/etc/resolv.conf`.
        resolv_conf: String,
    },
    /// One of its own.
    Own(StepNetwork),
}

/// Makes sure that the build's steps can have the network that they ask for, before the first of them runs. Returns what
/// a step that asks for `mode` gets: the builder's network in place of its own, where the user consents to that.
pub(super) async fn begin(
    worker: &Worker,
    mode: NetworkMode,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<NetworkMode, ExecError> {
    if !worker.wants_network() && mode != NetworkMode::Default {
        return Ok(mode);
    }
    let helper = worker.sandbox()?;
    let notice = |text: &str| log.notice(text);
    let shared = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(ExecError::Canceled),
        shared = worker.networks().is_shared(&helper, notice) => shared.map_err(StepError::Network)?,
    };
    Ok(if shared && mode == NetworkMode::Default { NetworkMode::Host } else { mode })
}

/// Prepares the network of one step.
pub(super) async fn prepare(
    worker: &Worker,
    mode: NetworkMode,
    cancel: &CancellationToken,
) -> Result<Prepared, ExecError> {
    match mode {
        NetworkMode::None => Ok(Prepared::None),
        NetworkMode::Host => {
            let resolv_conf = host_resolv_conf(&worker.steps().dns).map_err(StepError::Network)?;
            Ok(Prepared::Host { resolv_conf })
        }
        NetworkMode::Default => {
            let helper = worker.sandbox()?;
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ExecError::Canceled),
                network = worker.networks().step(&helper) => Ok(Prepared::Own(network.map_err(StepError::Network)?)),
            }
        }
    }
}

impl Prepared {
    /// Puts it into what the sandbox is asked for.
    pub(super) fn give<'a>(
        &'a self,
        spec: &mut ProcessSpec,
        descriptors: &mut Descriptors<'a>,
    ) -> Result<(), StepError> {
        match self {
            Self::None => spec.network = Network::None,
            Self::Host { resolv_conf } => {
                spec.network = Network::Host;
                spec.resolv_conf = resolv_conf.clone();
            }
            Self::Own(own) => {
                spec.network = Network::Joined(descriptors.hand(own.namespace()));
                spec.resolv_conf = own.resolv_conf.to_string();
                for (_, address) in spec.extra_hosts.iter_mut().filter(|(_, address)| address == HOST_GATEWAY) {
                    *address = own.host.ok_or(StepError::NoGateway)?.to_string();
                }
            }
        }
        Ok(())
    }
}

/// What a plan for people shows.
pub(super) fn shown(mode: NetworkMode) -> Network {
    match mode {
        NetworkMode::None => Network::None,
        NetworkMode::Host => Network::Host,
        NetworkMode::Default => Network::Joined(Handed::shown()),
    }
}
