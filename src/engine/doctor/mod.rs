//! Looks whether this machine has what builds need.
//!
//! In: the store's place, what is wanted of [`executor::isolation`], and who the user is. Out: a [`Report`]: checks in a
//! fixed order, each with what was found and, where something is missing, what to do; commands can be copied. What a
//! check decides is pure ([`judge`]); [`facts`] and [`trials`] ask the machine. Nothing stays changed.
//!
//! Must be called before the process has threads: it enters the user namespace that a build would enter.

mod facts;
mod judge;
mod ladder;
mod trials;

use std::path::PathBuf;

use executor::isolation::{self, IsolationError, Rung, Wanted};
use executor::network::NetworkSettings;
use executor::rootless::Who;
use executor::rootless::ids::Range;
use executor::userns;
use serde::Serialize;

use facts::Facts;

/// What is to be looked at.
#[derive(Clone, Debug)]
pub struct Patient {
    /// The store's directory; may be missing.
    pub root: PathBuf,
    /// The rung that builds would take.
    pub isolation: Option<Wanted>,
    /// How steps would get out.
    pub network: NetworkSettings,
    /// Who builds.
    pub who: Who,
    /// What is said of user namespaces of steps, and of their ids.
    pub userns: (Option<userns::Wanted>, Option<Range>),
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether a build can run.
    pub can_build: bool,
    /// In the order of what stands on what.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do; `None` when there is nothing to do.
    pub fix: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Builds run, some with less.
    Warning,
    /// Builds do not run.
    Problem,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), fix: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Warning, found: found.into(), fix: Some(fix.into()) }
    }

    fn problem(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Problem, found: found.into(), fix: Some(fix.into()) }
    }
}

/// Looks at everything. `explain` turns a refusal into what to do.
pub fn examine(patient: &Patient, explain: impl Fn(&IsolationError) -> String) -> Report {
    let facts = Facts::gather(patient);
    let mut checks = judge::before(&facts, &patient.who);
    // Before one is taken, for that cannot be undone.
    checks.extend(ladder::rungs(patient));
    match isolation::take(patient.isolation, &patient.who, &patient.root) {
        Ok(standing) => {
            checks.push(judge::isolation(&standing));
            checks.extend(match standing.rung {
                Rung::Full | Rung::Rootless => trials::all(patient),
                Rung::Chroot => ladder::without_mounts(&patient.root),
            });
            checks.push(trials::emulation(standing.rung));
        }
        Err(error) => {
            let mut found = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                found = format!("{found} ({source})");
            }
            checks.push(Check::problem(judge::ISOLATION, found, explain(&error)));
        }
    }
    checks.extend(judge::after(&facts));
    let can_build = checks.iter().all(|check| check.state != State::Problem);
    Report { can_build, checks }
}
