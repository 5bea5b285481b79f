//! `rbuild push`.

use oci::layer::Codec;
use oci::model::Reference;
use serde_json::{Value, json};

use super::Hall;
use crate::cli::{PushArgs, Told};
use crate::engine::Failure;
use crate::engine::images::{self as engine, PushOptions, Pushed};
use crate::escape;

/// Takes images to a registry, and prints their digests.
pub async fn push(hall: &Hall<'_>, args: &PushArgs) -> Result<u8, Failure> {
    let codec = match args.compression_level {
        None => Codec::new(args.compression),
        Some(level) => Codec::with_level(args.compression, level)
            .map_err(|error| Failure::new(format!("`--compression-level`: {error}")))?,
    };
    let settings = &hall.settings();
    let options = &PushOptions { codec, anew: args.force_compression, join: args.join };
    let work = async |progress: std::sync::Arc<dyn solver::seam::Progress>, cancel| {
        let what = if args.all_tags {
            let repository: Reference = args.image.parse().map_err(|error| Failure::new(format!("{error}")))?;
            let names = engine::tags_of(settings, &repository, progress.clone()).await?;
            names.iter().map(|name| (name.familiar(), None)).collect()
        } else {
            vec![(args.image.clone(), args.destination.clone())]
        };
        engine::push(settings, &what, options, progress, cancel).await
    };
    let pushed = hall.under_display(hall.mode()?, work).await?;
    if let (Some(path), [only]) = (&args.digestfile, &pushed[..]) {
        super::write_file(path, &only.document.digest.to_string())?;
    }
    super::print(&match (args.shown.quiet, args.told.format) {
        (_, Told::Json) => escape::json(&pushed.iter().map(row).collect::<Vec<_>>()),
        (true, Told::Text) => {
            pushed.iter().map(|one| format!("{}\n", super::pinned(&one.name, &one.document))).collect()
        }
        (false, Told::Text) => pushed.iter().map(|one| super::line(&one.name, &one.document)).collect(),
    })?;
    Ok(0)
}

fn row(pushed: &Pushed) -> Value {
    let images = pushed.images.iter().map(|image| {
        json!({
            "digest": image.manifest.digest,
            "id": image.config,
            "media_type": image.manifest.media_type,
            "platform": image.platform.to_string(),
            "size": image.manifest.size,
        })
    });
    let mut row = json!({
        "name": pushed.name.to_string(),
        "digest": pushed.document.digest,
        "media_type": pushed.document.media_type,
        "size": pushed.document.size,
        "images": images.collect::<Vec<_>>(),
    });
    if let Some(joined) = &pushed.joined {
        row["writes"] = json!(joined.writes);
        row["replaced"] = super::imagetools::replaced(&joined.replaced);
        row["platforms"] = json!(super::imagetools::platforms(&joined.entries));
    }
    row
}
