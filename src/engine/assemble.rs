//! From layer records to an image: the config with its history, and the manifest.
//!
//! In come a solved plan and the chain of its result; out comes an image whose bytes are a function of both. History
//! entries that made a layer record pair up with the topmost records one to one; everything beneath is the base.

use std::collections::BTreeMap;

use frontend::{HistoryStep, PlanOutput};
use oci::layer::Dialect;
use oci::model::{Descriptor, Digest, History, ImageConfig};
use store::Layer;

use super::Failure;

/// An image, not yet stored.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// The config as stored; its digest is the image id.
    pub config_bytes: Vec<u8>,
    /// The records that have something in them, bottom first.
    pub layers: Vec<Layer>,
}

impl Assembled {
    /// The image id.
    pub fn id(&self) -> Digest {
        Digest::of(&self.config_bytes)
    }

    /// The manifest over `layers`, which describe `self.layers` in order; OCI media types.
    pub fn manifest(&self, layers: Vec<Descriptor>) -> Result<oci::image::Assembled, Failure> {
        oci::image::assemble(&self.config_bytes, layers, BTreeMap::new(), Dialect::Oci)
            .map_err(|error| Failure::from_error(&error))
    }
}

/// Puts an image together. `chain` is the result's, bottom first, every record that is not empty with its `diff_id`.
///
/// # Errors
/// When chain and plan do not fit together, which is a fault of rbuild or of the store.
pub fn assemble(output: &PlanOutput, chain: &[Layer]) -> Result<Assembled, Failure> {
    let made = output.history.iter().filter(|step| step.edge.is_some()).count();
    let misfit = |what: &str| {
        Failure::new(format!("the layers in the store do not fit the plan: {what}"))
            .note("this is a fault of rbuild; please report it with the Dockerfile")
    };
    let base_len = chain.len().checked_sub(made).ok_or_else(|| misfit("there are fewer records than steps"))?;
    let (base, built) = chain.split_at(base_len);
    let base_layers = base.iter().filter(|layer| !layer.empty).count();
    if base_layers != output.config.rootfs.diff_ids.len() {
        return Err(misfit("the base has another number of layers than its config says"));
    }
    let mut config = output.config.clone();
    append_history(&mut config, &output.history, built);
    for layer in built.iter().filter(|layer| !layer.empty) {
        config.rootfs.diff_ids.push(layer.diff_id.ok_or_else(|| misfit("a layer has no diff_id"))?);
    }
    let config_bytes = serde_json::to_vec(&config).expect("a config holds nothing that JSON cannot");
    let layers = chain.iter().filter(|layer| !layer.empty).cloned().collect();
    Ok(Assembled { config_bytes, layers })
}

/// Entries take the time of the record they made; those that made none, the time of the one before. So an image whose
/// steps were all known is the same image.
fn append_history(config: &mut ImageConfig, steps: &[HistoryStep], built: &[Layer]) {
    let mut records = built.iter();
    let mut created = config.created.clone();
    for step in steps {
        let record = step.edge.and_then(|_| records.next());
        if let Some(record) = record {
            created = Some(rfc3339(record.created));
        }
        config.history.push(History {
            created: created.clone(),
            created_by: step.created_by.clone(),
            author: step.author.clone(),
            comment: step.comment.clone(),
            empty_layer: record.is_none_or(|record| record.empty),
            extra: BTreeMap::new(),
        });
    }
    config.created = created;
}

/// As other builders write it: UTC, nanoseconds as far as they are not zero.
fn rfc3339(time: jiff::Timestamp) -> String {
    time.to_string()
}
