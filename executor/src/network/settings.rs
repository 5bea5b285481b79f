//! What the user's config says about the network of steps.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::pool::Pool;

/// What the user's config says about the network of steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSettings {
    /// How steps get out; `None` is the first of [`Driver::ALL`] that works.
    pub driver: Option<Driver>,
    /// Where addresses come from; `None` is the first of our own that is free.
    pub pool: Option<Pool>,
    /// Whether steps that want a network of their own may have the builder's.
    pub share: Share,
}

/// Whether steps that want a network of their own may have the builder's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// No.
    #[default]
    Never,
    /// Where no driver works: the user consents to what there is.
    WithoutDriver,
    /// There is no other: nothing is tried.
    Always,
}

impl NetworkSettings {
    /// The drivers to try, in order.
    pub fn drivers(&self) -> Vec<Driver> {
        self.driver.map_or_else(|| Driver::ALL.to_vec(), |driver| vec![driver])
    }

    /// The pools to take addresses from, in order.
    pub fn pools(&self) -> Vec<Pool> {
        self.pool.map_or_else(Pool::usual, |pool| vec![pool])
    }
}

/// How steps get out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge with a pair of virtual interfaces to the host, which masquerades.
    Bridge,
    /// `pasta`, which speaks in the host's name.
    Pasta,
    /// `slirp4netns`, its predecessor.
    Slirp4netns,
}

impl Driver {
    /// All, the best first.
    pub const ALL: [Self; 3] = [Self::Bridge, Self::Pasta, Self::Slirp4netns];

    /// As the config has it; of a program's, the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        }
    }

    /// The program that it needs, and the packages that have it.
    pub fn program(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bridge => None,
            Self::Pasta => Some(("pasta", "passt")),
            Self::Slirp4netns => Some(("slirp4netns", "slirp4netns")),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|driver| driver.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|driver| driver.name()).collect();
            format!("`{text}` is none of auto, {}", names.join(", "))
        })
    }
}
