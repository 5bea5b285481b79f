//! `rbuild logout`: credentials are forgotten.

use super::{Hall, login};
use crate::cli::LogoutArgs;
use crate::engine::Failure;
use crate::report;

/// Forgets credentials, and says which.
pub async fn logout(hall: &Hall<'_>, args: &LogoutArgs) -> Result<u8, Failure> {
    let key = if args.all { None } else { Some(login::key(args.registry.as_deref())?) };
    let kept = hall.registries().credentials(None);
    let forgotten = kept.forget(key.as_ref()).await.map_err(|error| Failure::from_error(&error))?;
    for place in &forgotten {
        super::print(&format!("removed {place}\n"))?;
    }
    let Some(key) = key else {
        if forgotten.is_empty() {
            super::print("nobody was logged in\n")?;
        }
        return Ok(0);
    };
    if forgotten.is_empty() {
        super::print(&format!("nobody was logged in to `{key}`\n"))?;
    }
    let left = kept.find(key.registry(), "").await.map_err(|error| Failure::from_error(&error))?;
    if let Some((credential, origin)) = left.credential {
        let whose = oci::registry::whose(&credential, &origin);
        report::print(&report::note(&format!("{whose} would still be used"), hall.style()));
    }
    Ok(0)
}
