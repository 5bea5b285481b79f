//! `SOURCE_DATE_EPOCH`: the image's own layers with the times that were asked for.
//!
//! In comes the result of a build, whose trees have true times; out goes the chain that the image is made of. Its base
//! stays as it is; every record that a step of the build made is replaced by one that is derived with a
//! [`TimeRule`]. So nothing runs again for another epoch, and the store keeps every tree once. Deliberately absent:
//! which times change ([`executor`]'s business), and those of config and history ([`super::assemble`]).

use executor::Worker;
use executor::layers::SCRATCH;
use frontend::PlanOutput;
use jiff::Timestamp;
use solver::seam::ResultId;
use store::TimeRule;

use super::{Failure, words};

/// The top of the image: `top` itself without an epoch.
pub async fn top(worker: &Worker, top: Option<ResultId>, output: &PlanOutput) -> Result<Option<ResultId>, Failure> {
    let (Some(epoch), Some(result)) = (output.epoch, &top) else { return Ok(top) };
    if result.as_str() == SCRATCH {
        return Ok(top);
    }
    let (result, made) = (result.clone(), super::assemble::records_made(output));
    let derived = worker.blocking(move |worker| {
        let chain = worker.layers().chain(&result)?;
        let (base, built) = chain.split_at(chain.len().saturating_sub(made));
        let mut top = base.last().map(|layer| layer.id.clone());
        for layer in built {
            // What another build gave times to keeps those.
            let times = if layer.times.is_some() { None } else { Some(TimeRule { epoch }) };
            top = Some(worker.store().derive_layer(top.as_ref(), &layer.id, times, layer.on_base)?);
        }
        Ok(top)
    });
    derived.await.map_err(|error| words::exec(&error))
}

/// The epoch as a time of the image.
pub fn time(epoch: i64) -> Result<Timestamp, Failure> {
    Timestamp::from_second(epoch).map_err(|error| {
        Failure::new(format!("SOURCE_DATE_EPOCH `{epoch}` is no time that an image can have"))
            .note(error.to_string())
            .help("give seconds since 1970, as `git log -1 --pretty=%ct` prints them")
    })
}
