//! `rbuild version`.

use oci::model::Platform;

use crate::engine::Failure;

/// Prints the version and for which platform this program is.
pub fn version() -> Result<u8, Failure> {
    super::print(&format!("rbuild {} {}\n", env!("CARGO_PKG_VERSION"), Platform::native()))?;
    Ok(0)
}
