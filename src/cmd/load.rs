//! `rbuild load`.

use std::path::Path;

use oci::model::Reference;
use serde_json::json;

use super::Hall;
use crate::cli::{LoadArgs, Told};
use crate::engine::Failure;
use crate::engine::images::{self as engine, LoadedImage};
use crate::escape;

/// Reads images from an archive or an OCI layout, and prints their names, or ids where there is no name.
pub async fn load(hall: &Hall<'_>, args: &LoadArgs) -> Result<u8, Failure> {
    let source = args.input.as_deref().filter(|path| *path != Path::new("-"));
    if source.is_none() {
        hall.check_stdin("an archive", "name a file or a folder with `-i`")?;
    }
    let settings = &hall.settings();
    let work = async |progress, cancel| engine::load(settings, source, progress, cancel).await;
    let loaded = hall.under_display(hall.mode()?, work).await?;
    super::print(&match args.told.format {
        Told::Text => loaded.iter().map(line).collect(),
        Told::Json => escape::json(&loaded.iter().map(row).collect::<Vec<_>>()),
    })?;
    Ok(0)
}

fn line(image: &LoadedImage) -> String {
    let name = image.name.as_ref().map_or_else(|| image.id.to_string(), Reference::familiar);
    format!("loaded {name}\n")
}

fn row(image: &LoadedImage) -> serde_json::Value {
    json!({ "name": image.name.as_ref().map(Reference::familiar), "id": image.id })
}
