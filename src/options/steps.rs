//! From flags to [`StepSettings`]: the same for the RUN steps of a build and for `rbuild run`.

use executor::StepSettings;

use crate::cli::StepArgs;
use crate::engine::Failure;

/// What steps may do, get and use.
///
/// # Errors
/// With advice, for what has no meaning here.
pub fn steps(_args: &StepArgs) -> Result<StepSettings, Failure> {
    Ok(StepSettings::default())
}
