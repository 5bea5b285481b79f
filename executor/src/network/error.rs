//! Why steps cannot have a network.

use std::io;
use std::path::PathBuf;

use super::settings::Driver;
use super::trouble::Trouble;

/// Why steps cannot have a network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No driver works here.
    #[error("steps cannot have a network of their own here")]
    NoWayOut {
        /// What was tried, and why it does not work.
        tried: Vec<(Driver, Trouble)>,
    },
    /// A step's namespace could not be made.
    #[error("a step's network could not be set up: {trouble}")]
    Step {
        /// Why not.
        trouble: Trouble,
    },
    /// The helper.
    #[error("could not {act} the helper process of the network")]
    Helper {
        /// What was tried.
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A file with name servers.
    #[error("could not read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl NetworkError {
    /// Further facts: of every driver, why it does not work.
    pub fn notes(&self) -> Vec<String> {
        match self {
            Self::NoWayOut { tried } => tried.iter().map(|(driver, trouble)| format!("{driver}: {trouble}")).collect(),
            _ => Vec::new(),
        }
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoWayOut { tried } => {
                let ways = tried
                    .iter()
                    .filter_map(|(driver, trouble)| trouble.help.as_ref().map(|help| format!("{driver}: {help}")));
                let is_chosen = tried.len() == 1;
                let others = is_chosen.then(|| {
                    "or let rbuild try the others: `[network]`, `driver = \"auto\"` in `config.toml`".to_owned()
                });
                let without = [
                    "or use `--network=host`: steps then share this machine's network, its loopback services included",
                    "or use `--network=none`: steps then reach nothing",
                ];
                Some(ways.chain(others).chain(without.map(String::from)).collect::<Vec<_>>().join("\n"))
            }
            Self::Step { trouble } => trouble.help.clone(),
            Self::Helper { .. } | Self::Read { .. } => None,
        }
    }
}
