//! `rbuild rmi`.

use serde_json::json;

use super::Hall;
use crate::cli::{RmiArgs, Told};
use crate::engine::Failure;
use crate::engine::images::{self as engine, Removed};
use crate::escape;
use crate::progress::Mode;

/// Removes images, and prints what is gone.
pub async fn rmi(hall: &Hall<'_>, args: &RmiArgs) -> Result<u8, Failure> {
    let settings = &hall.settings();
    let work =
        hall.under_display(Mode::Plain, async |progress, _| engine::remove(settings, &args.images, progress).await);
    let removed = work.await?;
    super::print(&match args.told.format {
        Told::Text => removed.iter().map(line).collect(),
        Told::Json => escape::json(&removed.iter().map(row).collect::<Vec<_>>()),
    })?;
    if hall.talks() {
        crate::report::print(&crate::report::note("`rbuild prune` gives the space back", hall.style()));
    }
    Ok(0)
}

fn line(removed: &Removed) -> String {
    match removed {
        Removed::Name(name) => format!("untagged {}\n", name.familiar()),
        Removed::Image(id) => format!("removed {id}\n"),
    }
}

fn row(removed: &Removed) -> serde_json::Value {
    match removed {
        Removed::Name(name) => json!({ "untagged": name.familiar() }),
        Removed::Image(id) => json!({ "removed": id }),
    }
}
