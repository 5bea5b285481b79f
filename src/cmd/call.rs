//! `rbuild build --call=…`: what a Dockerfile can be asked, as `docker build --call=…` prints it.

use super::{Hall, check};
use crate::cli::{Call, InputArgs};
use crate::engine::{Checker, Failure};
use crate::escape;
use crate::options;
use crate::report;

/// Answers instead of building.
pub fn call(hall: &Hall<'_>, args: &InputArgs, call: Call) -> Result<u8, Failure> {
    let input = options::input::input(args, &hall.config, hall.environment)?;
    let checker = Checker::open(&hall.settings(), &input)?;
    match call {
        Call::Build => unreachable!("`build` does that"),
        Call::Check { format, ignore_status } => {
            let code = check::tell(hall, &checker.check(), format)?;
            return Ok(if ignore_status { 0 } else { code });
        }
        Call::Outline { json } => {
            let outline = checker.outline()?;
            super::print(&if json { escape::json(&outline) } else { report::call::outline(&outline) })?;
        }
        Call::Targets { json } => {
            let targets = checker.targets()?;
            super::print(&if json { escape::json(&targets) } else { report::call::targets(&targets) })?;
        }
    }
    Ok(0)
}
