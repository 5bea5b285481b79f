//! `rbuild import`.

use std::path::Path;

use serde_json::json;

use super::Hall;
use crate::cli::{ImportArgs, Told};
use crate::engine::{Failure, images as engine};
use crate::escape;

/// Makes an image of a tar of a root file system, and prints its id.
pub async fn import(hall: &Hall<'_>, args: &ImportArgs) -> Result<u8, Failure> {
    let source = Some(args.file.as_path()).filter(|file| *file != Path::new("-"));
    if source.is_none() {
        hall.check_stdin("a tar", "name a file")?;
    }
    let (settings, platform) = (&hall.settings(), args.platform.as_ref());
    let work = async |progress, cancel| engine::import(settings, source, &args.name, platform, progress, cancel).await;
    let id = hall.under_display(hall.mode()?, work).await?;
    super::print(&match args.told.format {
        Told::Text => format!("{id}\n"),
        Told::Json => escape::json(&json!([{ "name": args.name.familiar(), "id": id }])),
    })?;
    Ok(0)
}
