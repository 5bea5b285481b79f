//! What the user gave to a build for what it fetches, by whichever way: as a source of its Dockerfile, or as its context.
//!
//! In: the settings of its steps. Out: for an address, the ssh agent that signs and what its server is told. For what a
//! Dockerfile names, an agent is used only if it was given (`--ssh`), never because one happens to run; for a context,
//! which the user named, the user's own will do ([`Given::for_contexts`]). Secrets go by their names ([`auth`]). Each
//! is read or started once per build, when something asks for it. Cheap to clone.

use std::path::PathBuf;
use std::sync::Arc;

use oci::http::reqwest::header::HeaderValue;
use tokio_util::sync::CancellationToken;

use super::address;
use super::git::{self, Access, Agent};
use crate::secrets::agent::Agents;
use crate::secrets::{SecretError, Secrets, auth};
use crate::steps::StepSettings;

/// The agent that signs for what is fetched.
const DEFAULT_AGENT: &str = "default";

/// What the user gave to a build.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) agents: Arc<Agents>,
    own_agent: Option<PathBuf>,
}

impl Given {
    /// With these secrets and agents.
    pub fn of(steps: &StepSettings) -> Self {
        Self {
            secrets: Arc::new(Secrets::new(&steps.secrets).asking(steps.asked.clone())),
            agents: Arc::new(Agents::new(&steps.agents).asking(steps.asked.clone())),
            own_agent: None,
        }
    }

    /// The same for what the user named outside of the Dockerfile: there the agent that listens at `own_agent` signs,
    /// if no other was given.
    pub fn for_contexts(&self, own_agent: Option<PathBuf>) -> Self {
        Self { own_agent, ..self.clone() }
    }

    /// For a repository.
    ///
    /// # Errors
    /// When it is reached over ssh and there is no agent, or when what was given cannot be read or started.
    pub async fn for_git(&self, url: &str, cancel: &CancellationToken) -> Result<Access, SecretError> {
        let given = self.agents.socket(DEFAULT_AGENT, cancel).await?;
        let agent = match given.or_else(|| self.own_agent.clone()) {
            Some(socket) => Agent::Socket(socket),
            None if git::is_over_ssh(url) => return Err(SecretError::NoAgent { id: DEFAULT_AGENT.into() }),
            None => Agent::Nobody,
        };
        Ok(Access { agent, hosts: auth::of_git(&self.secrets, &address::host(url), cancel).await? })
    }

    /// For a file of the web: the value of `Authorization`.
    ///
    /// # Errors
    /// When what was given cannot be read.
    pub async fn for_web(&self, url: &str, cancel: &CancellationToken) -> Result<Option<HeaderValue>, SecretError> {
        auth::of_http(&self.secrets, &address::host(url), cancel).await
    }
}
