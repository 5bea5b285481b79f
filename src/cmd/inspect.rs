//! `rbuild inspect`: images of the local store, in the fields of `docker inspect`.
//!
//! Fields that speak of a daemon are absent; `Descriptor` and `History` are there besides, and of an index `Platforms`. What is asked for byte for
//! byte goes out as it is, without a line break.

use std::io::{ErrorKind, Write as _};

use jiff::Timestamp;
use oci::model::{Config, ImageConfig, Platform, Reference};
use serde_json::{Value, json};

use super::{Hall, table};
use crate::amount::amount;
use crate::cli::{Format, InspectArgs};
use crate::engine::Failure;
use crate::engine::images::{self as engine, Inspected};
use crate::escape;
use crate::progress::Mode;

/// Prints all that is known of images.
pub async fn inspect(hall: &Hall<'_>, args: &InspectArgs) -> Result<u8, Failure> {
    let settings = &hall.settings();
    let platform = args.platform.as_ref();
    let work = async |progress, _| engine::inspect(settings, &args.images, platform, progress).await;
    let images = hall.under_display(Mode::Plain, work).await?;
    let documents: fn(&Inspected) -> &[u8] = match (args.raw, args.config, args.manifest) {
        (true, ..) => |image| &image.document,
        (_, true, _) => |image| &image.image.config_bytes,
        (.., true) => |image| &image.image.manifest_bytes,
        _ => {
            let text = match args.format {
                Format::Json => escape::json(&images.iter().map(facts).collect::<Vec<_>>()),
                Format::Table => lines(&images, Timestamp::now()),
            };
            super::print(&text)?;
            return Ok(0);
        }
    };
    images.iter().try_for_each(|image| bytes(documents(image)))?;
    Ok(0)
}

/// Prints a document as it is.
pub(super) fn bytes(document: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(document).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new("standard output cannot be written to").note(error.to_string()))
        }
        _ => Ok(()),
    }
}

fn lines(images: &[Inspected], now: Timestamp) -> String {
    let rows = images.iter().map(|image| {
        let config = &image.image.config;
        let created: Option<Timestamp> = config.created.as_ref().and_then(|text| text.parse().ok());
        let names: Vec<String> = image.names.iter().map(Reference::familiar).collect();
        [
            if names.is_empty() { "<none>".to_owned() } else { names.join(", ") },
            image.record.config.hex()[..12].to_owned(),
            platforms(image),
            created.map_or_else(|| "unknown".to_owned(), |created| super::images::ago(now.duration_since(created))),
            image.image.manifest.layers.len().to_string(),
            amount(image.record.size_bytes),
        ]
        .map(|cell| escape::line(&cell).into_owned())
    });
    table::render(["NAMES", "IMAGE ID", "PLATFORM", "CREATED", "LAYERS", "SIZE"], rows)
}

fn platforms(image: &Inspected) -> String {
    match &image.platforms[..] {
        [] => image.record.platform.to_string(),
        several => several.iter().map(Platform::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// As docker says it.
fn facts(image: &Inspected) -> Value {
    let config = &image.image.config;
    let tags = image.names.iter().filter(|name| name.digest().is_none()).map(Reference::familiar);
    let digests = image
        .elsewhere
        .iter()
        .map(|name| name.parse::<Reference>().map_or_else(|_| name.clone(), |name| name.familiar()));
    let comment = config.history.last().map(|last| last.comment.as_str()).unwrap_or_default();
    let mut facts = json!({
        "Id": image.record.config,
        "RepoTags": tags.collect::<Vec<_>>(),
        "RepoDigests": digests.collect::<Vec<_>>(),
        "Comment": comment,
        "Created": config.created,
        "Author": config.author,
        "Config": run_config(&config.config),
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": image.record.size_bytes,
        "RootFS": { "Type": config.rootfs.kind, "Layers": config.rootfs.diff_ids },
        "Metadata": { "LastTagTime": image.record.created.to_string() },
        "Descriptor": image.image.descriptor,
        "History": history(config),
    });
    if !image.platforms.is_empty() {
        facts["Platforms"] = json!(image.platforms.iter().map(Platform::to_string).collect::<Vec<_>>());
    }
    facts
}

/// What scripts ask for is there also when it is empty, as docker writes it.
fn run_config(config: &Config) -> Value {
    let mut value = serde_json::to_value(config).expect("a config holds nothing that JSON cannot");
    let null = ["Env", "Cmd", "Entrypoint", "Volumes", "Labels", "ExposedPorts", "OnBuild"];
    let text = ["User", "WorkingDir"];
    if let Value::Object(fields) = &mut value {
        for key in null {
            fields.entry(key).or_insert(Value::Null);
        }
        for key in text {
            fields.entry(key).or_insert_with(|| "".into());
        }
    }
    value
}

fn history(config: &ImageConfig) -> Vec<Value> {
    let entry = |entry: &oci::model::History| serde_json::to_value(entry).expect("texts become JSON");
    config.history.iter().map(entry).collect()
}
