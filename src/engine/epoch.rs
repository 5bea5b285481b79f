//! `SOURCE_DATE_EPOCH`: the image's own layers with the times that were asked for.
//!
//! In comes the result of a build, whose trees have true times; out goes the chain that the image is made of. Its base
//! stays as it is; every record that a step of the build made is replaced by one that is derived with a
//! [`TimeRule`]. So nothing runs again for another epoch, and the store keeps every tree once. Deliberately absent:
//! which times change ([`executor`]'s business), and those of config and history ([`super::assemble`]).

use executor::layers::SCRATCH;
use executor::{ExecError, Worker};
use frontend::PlanOutput;
use jiff::Timestamp;
use solver::seam::ResultId;
use store::{Layer, TimeRule};

use super::{Failure, words};

/// The top of the image: `top` itself without an epoch. Of what is fitted to its layers, the build made what was not
/// pulled.
pub async fn top(
    worker: &Worker,
    top: Option<ResultId>,
    output: &PlanOutput,
    is_fitted: bool,
) -> Result<Option<ResultId>, Failure> {
    let (Some(epoch), Some(result)) = (output.epoch, &top) else { return Ok(top) };
    if result.as_str() == SCRATCH {
        return Ok(top);
    }
    let (result, planned) = (result.clone(), super::assemble::records_made(output));
    let derived = worker.blocking(move |worker| {
        let made = match is_fitted {
            true => super::graph::image::records_made(&worker.layers().chain(&result)?),
            false => planned,
        };
        derive(worker, &result, made, epoch)
    });
    derived.await.map(Some).map_err(|error| words::exec(&error))
}

/// The same result, its `made` topmost records with the epoch's times. Deriving again gives the same. Blocking.
pub fn derive(worker: &Worker, result: &ResultId, made: usize, epoch: i64) -> Result<ResultId, ExecError> {
    let chain = worker.layers().chain(result)?;
    let (base, built) = chain.split_at(chain.len().saturating_sub(made));
    let mut top = base.last().map(|layer| layer.id.clone());
    for layer in built {
        top = Some(derive_one(worker, top.as_ref(), layer, epoch)?);
    }
    Ok(top.unwrap_or_else(|| result.clone()))
}

/// One record on top of `below`, which has the epoch's times already. Blocking.
pub fn derive_one(worker: &Worker, below: Option<&ResultId>, layer: &Layer, epoch: i64) -> Result<ResultId, ExecError> {
    // What another build gave times to keeps those.
    let times = if layer.times.is_some() { None } else { Some(TimeRule { epoch }) };
    Ok(worker.store().derive_layer(below, &layer.id, times, layer.on_base)?)
}

/// The epoch as a time of the image.
pub fn time(epoch: i64) -> Result<Timestamp, Failure> {
    Timestamp::from_second(epoch).map_err(|error| {
        Failure::new(format!("SOURCE_DATE_EPOCH `{epoch}` is no time that an image can have"))
            .note(error.to_string())
            .help("give seconds since 1970, as `git log -1 --pretty=%ct` prints them")
    })
}
