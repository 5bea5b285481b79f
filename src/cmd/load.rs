//! `rbuild load`.

use std::path::Path;

use oci::model::Reference;

use super::Hall;
use crate::cli::LoadArgs;
use crate::engine::{Failure, images as engine};

/// Reads images from an archive or an OCI layout, and prints their names, or ids where there is no name.
pub async fn load(hall: &Hall<'_>, args: &LoadArgs) -> Result<u8, Failure> {
    let source = args.input.as_deref().filter(|path| *path != Path::new("-"));
    if source.is_none() {
        hall.check_stdin("an archive", "name a file or a folder with `-i`")?;
    }
    let settings = &hall.settings();
    let work = async |progress, cancel| engine::load(settings, source, progress, cancel).await;
    for image in hall.under_display(hall.mode()?, work).await? {
        let name = image.name.as_ref().map_or_else(|| image.id.to_string(), Reference::familiar);
        super::print(&format!("loaded {name}\n"))?;
    }
    Ok(0)
}
