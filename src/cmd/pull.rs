//! `rbuild pull`.

use oci::model::Platform;
use serde_json::{Value, json};

use super::Hall;
use crate::cli::{PullArgs, Told};
use crate::engine::Failure;
use crate::engine::images::{self as engine, Pulled, Wanted};
use crate::escape;

/// Brings images from registries, and prints their digests.
pub async fn pull(hall: &Hall<'_>, args: &PullArgs) -> Result<u8, Failure> {
    let settings = &hall.settings();
    let wanted = match args.all_platforms {
        true => Wanted::All,
        false => Wanted::One(args.platform.clone().unwrap_or_else(Platform::native)),
    };
    let work = async |progress, cancel| engine::pull(settings, &args.names, &wanted, progress, cancel).await;
    let pulled = hall.under_display(hall.mode()?, work).await?;
    super::print(&match (args.shown.quiet, args.told.format) {
        (_, Told::Json) => escape::json(&pulled.iter().map(row).collect::<Vec<_>>()),
        (true, Told::Text) => {
            pulled.iter().map(|one| format!("{}\n", super::pinned(&one.name, &one.document))).collect()
        }
        (false, Told::Text) => pulled.iter().map(|one| super::line(&one.name, &one.document)).collect(),
    })?;
    Ok(0)
}

fn row(pulled: &Pulled) -> Value {
    let images = pulled.images.iter().map(|image| {
        json!({
            "digest": image.manifest.digest,
            "id": image.config,
            "media_type": image.manifest.media_type,
            "platform": image.platform.to_string(),
            "size": image.manifest.size,
            "size_bytes": image.size_bytes,
        })
    });
    json!({
        "name": pulled.name.to_string(),
        "digest": pulled.document.digest,
        "media_type": pulled.document.media_type,
        "size": pulled.document.size,
        "images": images.collect::<Vec<_>>(),
    })
}
