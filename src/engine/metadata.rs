//! What `--metadata-file` says of a build that went well.
//!
//! ```text
//! containerimage.config.digest   of what was pushed first, else archived first, else as the local store has it; an index
//!                                has none
//! containerimage.descriptor      of its manifest or index, with annotations as buildx has them
//! containerimage.digest          of that manifest or index
//! image.name                     the names, with commas
//! vnd.rbuild.steps               per step, in the order of the file: name, line, result, duration_us, usage
//! ```
//! The first four are BuildKit's. `result` is what `rbuild history inspect --format json` says; `duration_us` and
//! `usage` (`user_us`, `system_us`, `memory_peak_bytes`, `max_rss_bytes`, as far as the machine tells) are there for
//! steps that ran, the latter for those with a process.

use oci::model::Reference;
use serde_json::{Value, json};
use store::history::StepRecord;

use super::assemble::Assembled;
use super::export::{CREATED, SentImage};

/// Puts it together.
pub fn metadata(images: &[Assembled], main: &SentImage, steps: &[StepRecord]) -> Value {
    let mut descriptor = main.manifest.clone();
    if let Some(config) = &main.config {
        descriptor.annotations.insert("config.digest".into(), config.to_string());
    }
    if let Some(created) = images.iter().filter_map(Assembled::created).max() {
        descriptor.annotations.entry(CREATED.into()).or_insert(created);
    }
    let mut metadata = json!({
        "containerimage.descriptor": descriptor,
        "containerimage.digest": main.manifest.digest,
        "vnd.rbuild.steps": steps.iter().filter(|step| step.is_operation()).map(step).collect::<Vec<_>>(),
    });
    if let Some(config) = &main.config {
        metadata["containerimage.config.digest"] = json!(config);
    }
    if !main.names.is_empty() {
        let names: Vec<String> = main.names.iter().map(Reference::to_string).collect();
        metadata["image.name"] = json!(names.join(","));
    }
    metadata
}

fn step(step: &StepRecord) -> Value {
    let mut value = json!({ "name": step.name, "line": step.line, "result": step.fate });
    if let (Some(started), Some(ended)) = (step.started_us, step.ended_us) {
        value["duration_us"] = json!(ended.saturating_sub(started));
    }
    if let Some(usage) = &step.usage {
        value["usage"] = json!(usage);
    }
    value
}
