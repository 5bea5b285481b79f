//! An image of a result whose config is the client's, or that stands on such a one.
//!
//! In: a config and the chain of the result. Out: the image. The layers are the chain's, whatever the config says of them;
//! its history is kept, fitted to them: entries that made a layer stand for the records in order, those that are missing are
//! added, and those that are too many made none. Beside it [`crate::engine::assemble`] makes an image of a plan.

use std::collections::BTreeMap;

use frontend::PlanOutput;
use jiff::Timestamp;
use oci::model::{Config, History, ImageConfig, Platform, RootFs};
use store::Layer;

use crate::engine::assemble::Assembled;
use crate::engine::{Failure, epoch};

/// What an added entry says of itself: readers of histories know it.
const COMMENT: &str = "buildkit.exporter.image.v0";
/// Of an image whose client says nothing.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The config of a result for which the client gave none.
pub fn default_config(platform: &Platform) -> ImageConfig {
    ImageConfig {
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        config: Config { env: vec![PATH.into()], working_dir: "/".into(), ..Config::default() },
        ..ImageConfig::default()
    }
}

/// The config of an output, with the history of its steps as far as it is known before they run.
pub fn told_config(output: &PlanOutput) -> ImageConfig {
    let mut config = output.config.clone();
    config.history.extend(output.history.iter().map(|step| History {
        created_by: step.created_by.clone(),
        author: step.author.clone(),
        comment: step.comment.clone(),
        empty_layer: step.edge.is_none(),
        ..History::default()
    }));
    config
}

/// How many of a chain's topmost records did not come from elsewhere.
pub fn records_made(chain: &[Layer]) -> usize {
    chain.iter().rev().take_while(|layer| !layer.pulled).count()
}

/// Puts an image together. `chain` is the result's, bottom first, every record that is not empty with its `diff_id`.
///
/// # Errors
/// When a layer has no digest, which is a fault of rbuild, or the epoch is no time.
pub fn assemble(output: &PlanOutput, chain: &[Layer]) -> Result<Assembled, Failure> {
    let mut config = told_config(output);
    // That of another image is about that image.
    config.extra.remove(store::remote::format::INLINE_KEY);
    let layers: Vec<Layer> = chain.iter().filter(|layer| !layer.empty).cloned().collect();
    let diff_id =
        |layer: &Layer| layer.diff_id.ok_or_else(|| Failure::new(format!("layer {} has no diff_id", layer.id)));
    config.rootfs = RootFs { diff_ids: layers.iter().map(diff_id).collect::<Result<_, _>>()?, ..RootFs::default() };
    let epoch = output.epoch.map(epoch::time).transpose()?;
    fit(&mut config.history, chain, epoch);
    match epoch {
        Some(epoch) => config.created = Some(epoch.to_string()),
        None if config.created.is_none() => {
            config.created = config.history.last().and_then(|entry| entry.created.clone());
        }
        None => {}
    }
    let config_bytes = serde_json::to_vec(&config).expect("a config holds nothing that JSON cannot");
    Ok(Assembled { config_bytes, layers, annotations: BTreeMap::new(), platform: output.platform.clone() })
}

/// Fits a history to a chain. With an epoch, nothing is later than that.
fn fit(history: &mut Vec<History>, chain: &[Layer], epoch: Option<Timestamp>) {
    let told = history.iter().filter(|entry| !entry.empty_layer).count();
    // A client that counts steps does not know which of them changed nothing.
    let is_by_step = told == chain.len();
    let records: Vec<&Layer> = chain.iter().filter(|layer| is_by_step || !layer.empty).collect();
    let mut excess = told.saturating_sub(records.len());
    let mut records = records.into_iter();
    let created = |layer: &Layer| epoch.map_or(layer.created, |epoch| layer.created.min(epoch)).to_string();
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        if excess > 0 {
            (entry.empty_layer, excess) = (true, excess - 1);
        } else if let Some(record) = records.next() {
            entry.empty_layer = record.empty;
            entry.created.get_or_insert_with(|| created(record));
        }
    }
    history.extend(records.map(|record| History {
        created: Some(created(record)),
        comment: COMMENT.into(),
        ..History::default()
    }));
    let mut before = history.iter().find_map(|entry| entry.created.clone());
    for entry in history {
        let is_later =
            |time: &String| epoch.is_some_and(|epoch| time.parse::<Timestamp>().map_or(true, |time| time > epoch));
        if entry.created.as_ref().is_some_and(is_later) {
            entry.created = epoch.map(|epoch| epoch.to_string());
        }
        match &entry.created {
            Some(time) => before = Some(time.clone()),
            None => entry.created.clone_from(&before),
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::model::{DiffId, Digest};
    use solver::seam::ResultId;

    use super::*;

    fn record(at: i64, empty: bool, pulled: bool) -> Layer {
        let time = Timestamp::from_second(at).expect("a second of this century");
        Layer {
            id: ResultId(format!("r{at}")),
            parent: None,
            name: None,
            tree_bytes: None,
            empty,
            diff_id: (!empty).then(|| DiffId(Digest::of(&at.to_le_bytes()))),
            tar_bytes: None,
            chain_id: None,
            content: None,
            blob: None,
            created: time,
            pulled,
            origin: None,
            times: None,
            started: time,
            from_context: false,
            on_base: false,
        }
    }

    /// Entries as `(created_by, created, empty)`.
    type Told<'a> = (&'a str, Option<&'a str>, bool);

    fn check(told: &[Told<'_>], chain: &[Layer], epoch: Option<i64>, expected: &[(&str, &str, bool)]) -> ImageConfig {
        let entry = |(by, created, empty): &Told<'_>| History {
            created: created.map(str::to_owned),
            created_by: (*by).into(),
            empty_layer: *empty,
            ..History::default()
        };
        let platform: Platform = "linux/arm64".parse().expect("a platform");
        let config = ImageConfig { history: told.iter().map(entry).collect(), ..default_config(&platform) };
        let output = PlanOutput { edge: None, platform, config, history: Vec::new(), epoch };
        let image = assemble(&output, chain).expect("it is one");
        let config: ImageConfig = serde_json::from_slice(&image.config_bytes).expect("a config is JSON");
        let found: Vec<_> = config
            .history
            .iter()
            .map(|entry| (entry.created_by.as_str(), entry.created.as_deref().unwrap_or(""), entry.empty_layer))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(image.layers.len(), config.rootfs.diff_ids.len());
        assert_eq!(image.layers.len(), config.history.iter().filter(|entry| !entry.empty_layer).count());
        config
    }

    #[test]
    fn a_history_of_a_client_fits_the_layers_that_there_are() {
        let (one, two) = ("1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z");
        let chain = [record(1, false, true), record(2, false, false)];
        check(&[], &chain, None, &[("", one, false), ("", two, false)]);
        let told = [("base", Some("2001-01-01T00:00:00Z"), false), ("ENV", None, true), ("RUN", None, false)];
        let entries =
            [("base", "2001-01-01T00:00:00Z", false), ("ENV", "2001-01-01T00:00:00Z", true), ("RUN", two, false)];
        check(&told, &chain, None, &entries);
        // One step changed nothing: the client counts it, or does not.
        let chain = [record(1, false, true), record(2, true, false)];
        check(&told, &chain, None, &[entries[0], entries[1], ("RUN", two, true)]);
        check(&told[..1], &chain, None, &entries[..1]);
        let more = [("a", None, false), ("b", None, false), ("c", None, false)];
        check(&more, &chain[..1], None, &[("a", one, true), ("b", one, true), ("c", one, false)]);
        let config = check(&[], &[], None, &[]);
        assert_eq!(
            (config.created, config.architecture.as_str(), config.config.env),
            (None, "arm64", vec![PATH.into()])
        );
    }

    #[test]
    fn with_an_epoch_nothing_is_later() {
        let chain = [record(1, false, true), record(9, false, false)];
        let (one, five) = ("1970-01-01T00:00:01Z", "1970-01-01T00:00:05Z");
        let told = [("base", Some("1970-01-01T00:00:01Z"), false), ("ENV", Some("2040-01-01T00:00:00Z"), true)];
        let config = check(&told, &chain, Some(5), &[("base", one, false), ("ENV", five, true), ("", five, false)]);
        assert_eq!(config.created.as_deref(), Some(five));
        assert_eq!(records_made(&chain), 1);
    }
}
