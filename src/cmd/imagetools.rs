//! `rbuild imagetools`: images that are in registries.

use oci::model::{Descriptor, Platform};
use oci::registry::Content;
use serde_json::{Value, json};

use super::Hall;
use super::inspect::bytes;
use crate::cli::{Format, ImagetoolsArgs, ImagetoolsCreateArgs, ImagetoolsInspectArgs, ImagetoolsVerb, Told};
use crate::engine::Failure;
use crate::engine::imagetools::{self as engine, Created, Inspection, Replaced};
use crate::progress::Mode;
use crate::{escape, options};

/// Does what is asked.
pub async fn imagetools(hall: &Hall<'_>, args: &ImagetoolsArgs) -> Result<u8, Failure> {
    match &args.verb {
        ImagetoolsVerb::Create(args) => create(hall, args).await,
        ImagetoolsVerb::Inspect(args) => inspect(hall, args).await,
    }
}

async fn create(hall: &Hall<'_>, args: &ImagetoolsCreateArgs) -> Result<u8, Failure> {
    let options = &options::imagetools::create(args)?;
    let settings = &hall.settings();
    let work = async |progress, cancel| engine::create(settings, options, progress, cancel).await;
    let created = hall.under_display(hall.mode()?, work).await?;
    if let Some(path) = &args.metadata_file {
        super::write_file(path, &escape::json(&metadata(&created)))?;
    }
    if args.dry_run {
        bytes(&created.bytes)?;
        return Ok(0);
    }
    let named = &created.named;
    super::print(&match (args.shown.quiet, args.told.format) {
        (_, Told::Json) => escape::json(&rows(&created)),
        (true, Told::Text) => {
            named.iter().map(|(name, document)| format!("{}\n", super::pinned(name, document))).collect()
        }
        (false, Told::Text) => named.iter().map(|(name, document)| super::line(name, document)).collect(),
    })?;
    Ok(0)
}

/// As buildx writes it.
fn metadata(created: &Created) -> Value {
    let names: Vec<String> = created.named.iter().map(|(name, _)| name.to_string()).collect();
    json!({
        "containerimage.descriptor": created.document,
        "containerimage.digest": created.document.digest,
        "image.name": names.join(","),
    })
}

fn rows(created: &Created) -> Vec<Value> {
    let row = |(name, document): &(oci::model::Reference, Descriptor)| {
        json!({
            "name": name.to_string(),
            "digest": document.digest,
            "media_type": document.media_type,
            "size": document.size,
            "replaced": replaced(&created.replaced),
        })
    };
    created.named.iter().map(row).collect()
}

/// What gave way.
pub(super) fn replaced(replaced: &[Replaced]) -> Value {
    let row = |one: &Replaced| json!({ "platform": one.platform.to_string(), "old": one.old, "new": one.new });
    replaced.iter().map(row).collect()
}

/// Of what there are images.
pub(super) fn platforms(entries: &[Descriptor]) -> Vec<String> {
    let own = entries.iter().filter_map(|entry| entry.platform.as_ref());
    own.filter(|own| own.os != "unknown").map(Platform::to_string).collect()
}

async fn inspect(hall: &Hall<'_>, args: &ImagetoolsInspectArgs) -> Result<u8, Failure> {
    let settings = &hall.settings();
    let work = async |progress, _| engine::inspect(settings, &args.name, progress).await;
    let found = hall.under_display(Mode::Plain, work).await?;
    if args.raw {
        bytes(&found.document.bytes)?;
        return Ok(0);
    }
    super::print(&match args.format {
        Format::Json => escape::json(&facts(&found)),
        Format::Table => text(&found),
    })?;
    Ok(0)
}

/// As buildx's `{{json .}}` has it.
fn facts(found: &Inspection) -> Value {
    let document = &found.document;
    let mut manifest = match &document.content {
        Content::Index(index) => serde_json::to_value(index),
        Content::Manifest(manifest) => serde_json::to_value(manifest),
    }
    .expect("what was JSON becomes JSON");
    manifest["mediaType"] = json!(document.descriptor.media_type);
    manifest["digest"] = json!(document.descriptor.digest);
    manifest["size"] = json!(document.descriptor.size);
    let mut value = json!({ "name": found.name.to_string(), "manifest": manifest });
    if let Some(config) = &found.config {
        value["image"] = serde_json::to_value(config).expect("what was JSON becomes JSON");
    }
    value
}

/// In the form of buildx.
fn text(found: &Inspection) -> String {
    let document = &found.document;
    let mut lines = vec![
        ("Name:", found.name.to_string()),
        ("MediaType:", document.descriptor.media_type.clone()),
        ("Digest:", document.descriptor.digest.to_string()),
    ];
    if let Some(config) = &found.config {
        let own = Platform::normalised(&config.os, &config.architecture, &config.variant);
        lines.push(("Platform:", own.to_string()));
    }
    let mut text = String::new();
    for (key, value) in &lines {
        text += &format!("{key:<10} {}\n", escape::line(value));
    }
    let Content::Index(index) = &document.content else { return text };
    text += "\nManifests:\n";
    for (at, entry) in index.manifests.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        let mut lines =
            vec![("Name:", found.name.at_digest(entry.digest).to_string()), ("MediaType:", entry.media_type.clone())];
        lines.extend(entry.platform.as_ref().map(|own| ("Platform:", own.to_string())));
        for (key, value) in &lines {
            text += &format!("  {key:<10} {}\n", escape::line(value));
        }
        if !entry.annotations.is_empty() {
            text += "  Annotations:\n";
            for (key, value) in &entry.annotations {
                text += &format!("    {}: {}\n", escape::line(key), escape::line(value));
            }
        }
    }
    text
}
