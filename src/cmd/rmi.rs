//! `rbuild rmi`.

use super::Hall;
use crate::cli::RmiArgs;
use crate::engine::{Failure, images as engine};
use crate::progress::Mode;

/// Removes images, and prints what is gone.
pub async fn rmi(hall: &Hall<'_>, args: &RmiArgs) -> Result<u8, Failure> {
    let settings = &hall.settings();
    let work =
        hall.under_display(Mode::Plain, async |progress, _| engine::remove(settings, &args.images, progress).await);
    for line in work.await? {
        super::print(&format!("{line}\n"))?;
    }
    if hall.talks() {
        crate::report::print(&crate::report::note("`rbuild prune` gives the space back", hall.style()));
    }
    Ok(0)
}
