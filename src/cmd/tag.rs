//! `rbuild tag`.

use serde_json::json;

use super::Hall;
use crate::cli::{TagArgs, Told};
use crate::engine::{Failure, images as engine};
use crate::escape;
use crate::progress::Mode;

/// Gives an image further names, and prints them.
pub async fn tag(hall: &Hall<'_>, args: &TagArgs) -> Result<u8, Failure> {
    let settings = &hall.settings();
    let work = async |progress, _| engine::tag(settings, &args.source, &args.names, progress).await;
    let tagged = hall.under_display(Mode::Plain, work).await?;
    super::print(&match args.told.format {
        Told::Text => tagged.iter().map(|one| format!("tagged {}\n", one.name.familiar())).collect(),
        Told::Json => {
            let row = |one: &engine::Tagged| json!({ "name": one.name.familiar(), "id": one.id, "digest": one.digest });
            escape::json(&tagged.iter().map(row).collect::<Vec<_>>())
        }
    })?;
    Ok(0)
}
