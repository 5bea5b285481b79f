//! From layer records to an image: the config with its history, and the manifest.
//!
//! In come a solved plan and the chain of its result; out comes an image whose bytes are a function of both. History
//! entries that made a layer record pair up with the topmost records one to one; everything beneath is the base.

use std::collections::BTreeMap;

use frontend::{HistoryStep, PlanOutput};
use oci::layer::Dialect;
use oci::model::{Descriptor, Digest, History, ImageConfig, Platform};
use store::Layer;

use super::Failure;

/// An image, not yet stored.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// The config as stored; its digest is the image id.
    pub config_bytes: Vec<u8>,
    /// The records that have something in them, bottom first.
    pub layers: Vec<Layer>,
    /// What stands in its manifest beside them.
    pub annotations: BTreeMap<String, String>,
    /// For which platform it was wanted.
    pub platform: Platform,
}

impl Assembled {
    /// The image id.
    pub fn id(&self) -> Digest {
        Digest::of(&self.config_bytes)
    }

    /// When it was made, as its config says.
    pub fn created(&self) -> Option<String> {
        serde_json::from_slice::<ImageConfig>(&self.config_bytes).ok()?.created
    }

    /// The same image with a cache in its config.
    pub fn with_inline_cache(self, cache: serde_json::Value) -> Self {
        let mut config: ImageConfig = serde_json::from_slice(&self.config_bytes).expect("we have just written it");
        config.extra.insert(store::remote::format::INLINE_KEY.into(), cache);
        let config_bytes = serde_json::to_vec(&config).expect("a config holds nothing that JSON cannot");
        Self { config_bytes, ..self }
    }

    /// The manifest over `layers`, which describe `self.layers` in order; OCI media types.
    pub fn manifest(&self, layers: Vec<Descriptor>) -> Result<oci::image::Assembled, Failure> {
        oci::image::assemble(&self.config_bytes, layers, self.annotations.clone(), Dialect::Oci)
            .map_err(|error| Failure::from_error(&error))
    }
}

/// Puts an image together. `chain` is the result's, bottom first, every record that is not empty with its `diff_id`.
///
/// # Errors
/// When chain and plan do not fit together, which is a fault of rbuild or of the store.
pub fn assemble(output: &PlanOutput, chain: &[Layer]) -> Result<Assembled, Failure> {
    let made = records_made(output);
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
    // That of the base image is about the base image.
    config.extra.remove(store::remote::format::INLINE_KEY);
    let epoch = output.epoch.map(super::epoch::time).transpose()?;
    append_history(&mut config, &output.history, built, epoch);
    for layer in built.iter().filter(|layer| !layer.empty) {
        config.rootfs.diff_ids.push(layer.diff_id.ok_or_else(|| misfit("a layer has no diff_id"))?);
    }
    let config_bytes = serde_json::to_vec(&config).expect("a config holds nothing that JSON cannot");
    let layers = chain.iter().filter(|layer| !layer.empty).cloned().collect();
    Ok(Assembled { config_bytes, layers, annotations: BTreeMap::new(), platform: output.platform.clone() })
}

/// How many records of a result's chain the build made: the topmost ones.
pub fn records_made(output: &PlanOutput) -> usize {
    output.history.iter().filter(|step| step.edge.is_some()).count()
}

/// Entries take the time of the record they made; those that made none, the time of the one before. So an image whose
/// steps were all known is the same image. With an epoch all have that, and so has the image.
fn append_history(config: &mut ImageConfig, steps: &[HistoryStep], built: &[Layer], epoch: Option<jiff::Timestamp>) {
    let mut records = built.iter();
    let mut created = epoch.map(rfc3339).or_else(|| config.created.clone());
    for step in steps {
        let record = step.edge.and_then(|_| records.next());
        if let (Some(record), None) = (record, epoch) {
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

#[cfg(test)]
mod tests {
    use oci::model::DiffId;
    use solver::graph::{Graph, Vertex};
    use solver::op::{MergeOp, Op, OpMeta};
    use solver::seam::ResultId;

    use super::*;

    /// A record made at second `at`; empty when it has no content.
    fn record(at: i64, content: Option<&str>) -> Layer {
        Layer {
            id: ResultId(format!("r{at}")),
            parent: None,
            name: None,
            tree_bytes: None,
            empty: content.is_none(),
            diff_id: content.map(|content| DiffId(Digest::of(content.as_bytes()))),
            tar_bytes: content.map(|content| content.len() as u64),
            chain_id: None,
            content: None,
            blob: None,
            created: jiff::Timestamp::from_second(at).expect("a second of this century"),
            pulled: false,
            origin: None,
            times: None,
            started: jiff::Timestamp::from_second(at).expect("a second of this century"),
            from_context: false,
            on_base: false,
        }
    }

    /// A plan over a base of `base_layers`; steps are `(created_by, whether it makes a record)`.
    fn output(base_layers: &[&str], steps: &[(&str, bool)]) -> PlanOutput {
        let mut graph = Graph::new();
        let vertex = Vertex { op: Op::Merge(MergeOp {}), inputs: Vec::new(), platform: None };
        let vertex = graph.add(vertex, OpMeta::default()).expect("a vertex without inputs");
        let edge = solver::graph::Edge { vertex, output: 0 };
        let history = steps.iter().map(|(created_by, makes)| HistoryStep {
            created_by: (*created_by).into(),
            comment: String::new(),
            author: String::new(),
            edge: makes.then_some(edge),
        });
        let mut config = ImageConfig { created: Some("2020-01-01T00:00:00Z".into()), ..ImageConfig::default() };
        config.rootfs.diff_ids = base_layers.iter().map(|content| DiffId(Digest::of(content.as_bytes()))).collect();
        PlanOutput { edge: Some(edge), platform: Platform::native(), config, history: history.collect(), epoch: None }
    }

    /// Per history entry: who made it, when, whether it is empty.
    fn check(output: &PlanOutput, chain: &[Layer], expected: &[(&str, &str, bool)]) -> ImageConfig {
        let image = assemble(output, chain).expect("chain and plan fit");
        let config: ImageConfig = serde_json::from_slice(&image.config_bytes).expect("a config is JSON");
        let history: Vec<_> = config
            .history
            .iter()
            .map(|entry| (entry.created_by.as_str(), entry.created.as_deref().unwrap_or(""), entry.empty_layer))
            .collect();
        assert_eq!(history, expected);
        assert_eq!(image.layers.len(), config.rootfs.diff_ids.len(), "one diff_id per layer that is there");
        config
    }

    #[test]
    fn history_entries_pair_up_with_records_and_take_their_times() {
        let output = output(&["base"], &[("RUN a", true), ("ENV B=1", false), ("RUN true", true), ("CMD c", false)]);
        let chain = [record(1, Some("base")), record(2, Some("a")), record(3, None)];
        let config = check(
            &output,
            &chain,
            &[
                ("RUN a", "1970-01-01T00:00:02Z", false),
                ("ENV B=1", "1970-01-01T00:00:02Z", true),
                ("RUN true", "1970-01-01T00:00:03Z", true),
                ("CMD c", "1970-01-01T00:00:03Z", true),
            ],
        );
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:03Z"));
        assert_eq!(config.rootfs.diff_ids.len(), 2);
    }

    #[test]
    fn an_image_that_only_adds_words_is_as_old_as_its_base() {
        let output = output(&["base"], &[("LABEL a=b", false)]);
        let config = check(&output, &[record(9, Some("base"))], &[("LABEL a=b", "2020-01-01T00:00:00Z", true)]);
        assert_eq!(config.created.as_deref(), Some("2020-01-01T00:00:00Z"));
    }

    #[test]
    fn with_an_epoch_the_image_and_every_entry_of_the_build_have_it() {
        let steps = [("ENV B=1", false), ("RUN a", true), ("RUN true", true), ("CMD c", false)];
        let mut output = PlanOutput { epoch: Some(1_600_000_000), ..output(&["base"], &steps) };
        let old = History { created: Some("2019-01-01T00:00:00Z".into()), ..History::default() };
        output.config.history.push(old);
        let time = "2020-09-13T12:26:40Z";
        let chain = [record(1, Some("base")), record(2, Some("a")), record(3, None)];
        let expected = [
            ("", "2019-01-01T00:00:00Z", false),
            ("ENV B=1", time, true),
            ("RUN a", time, false),
            ("RUN true", time, true),
            ("CMD c", time, true),
        ];
        let config = check(&output, &chain, &expected);
        assert_eq!(config.created.as_deref(), Some(time));
        let config = check(&PlanOutput { history: Vec::new(), ..output.clone() }, &chain[..1], &expected[..1]);
        assert_eq!(config.created.as_deref(), Some(time), "even if nothing was built");
        output.epoch = Some(i64::MAX);
        let failure = assemble(&output, &chain).expect_err("no such time");
        assert!(failure.problems[0].message.contains("SOURCE_DATE_EPOCH `9223372036854775807`"), "{failure:?}");
    }

    #[test]
    fn a_base_may_hold_empty_records() {
        let output = output(&["base"], &[("RUN a", true)]);
        let chain = [record(1, Some("base")), record(2, None), record(3, Some("a"))];
        check(&output, &chain, &[("RUN a", "1970-01-01T00:00:03Z", false)]);
    }

    #[test]
    fn a_chain_that_does_not_fit_the_plan_is_refused() {
        let one_step = output(&["base"], &[("RUN a", true)]);
        for chain in [&[][..], &[record(1, Some("a"))], &[record(1, None), record(2, Some("a"))]] {
            let failure = assemble(&one_step, chain).expect_err("a base layer is missing");
            assert!(failure.problems[0].message.contains("do not fit the plan"), "{failure:?}");
        }
    }

    #[test]
    fn the_same_records_give_the_same_image() {
        let output = output(&[], &[("RUN a", true)]);
        let chain = [record(1, Some("a"))];
        let ids = [assemble(&output, &chain), assemble(&output, &chain)].map(|image| image.expect("it fits").id());
        assert_eq!(ids[0], ids[1]);
    }
}
