//! One build: from options to images in the store and wherever else they are wanted.
//!
//! The order of things: texts are read, the frontend plans for every platform (asking for images until it knows enough,
//! [`super::plans`]), the solver solves all of it at once, layers become images, the images go out ([`finish`]), and only
//! then are they tagged and the build reported. What a client defined ([`super::definition`]) is planned already.

mod finish;
mod keep;
mod lost;

use std::sync::Arc;

use executor::Worker;
use executor::source::given::Given;
use frontend::Answers;
use oci::model::{Digest, Reference};
use serde_json::Value;
use solver::graph::{Edge, VertexId};
use solver::op::{NetworkMode, Op};
use solver::run::SolveError;
use solver::seam::{Event, Progress};
use store::Store;
use store::history::Build;
use tokio_util::sync::CancellationToken;

use self::finish::{Finish, Finished, top_of};
use super::attest::Told;
use super::cache::{Exports, LOSSES_MAX, LayersWanted, Remotes, Solving, Wanted};
use super::context::{Context, Opener};
use super::definition::{DefinedImage, Definition};
use super::emulation;
use super::export::{Ahead, Exporter, Unsent};
use super::history::steps::{self, Measured};
use super::history::{self, Recorder};
use super::metadata::metadata;
use super::planned::PlannedBuild;
use super::plans::{Plans, plan};
use super::task::Task;
use super::{Failure, Problem, Settings, timings, words};
use crate::options::BuildOptions;

pub(super) use self::keep::keep;

/// What is shown of the end of a build.
const EXPORTING: &str = "exporting to image";

/// A build that went well.
#[derive(Clone, Debug)]
pub struct Built {
    /// Digest of the config, the image id; of several images, the digest of the index that was pushed or archived first,
    /// else of the local store's.
    pub image_id: Digest,
    /// The same as the local store has it.
    pub local_id: Digest,
    /// Names it has now.
    pub names: Vec<Reference>,
    /// Steps that took part.
    pub steps: usize,
    /// Of these, steps whose result was known.
    pub cached: usize,
    /// Where it went beside the local store, in words.
    pub wrote: Vec<String>,
    /// What the frontend remarked.
    pub warnings: Vec<Problem>,
    /// For `--metadata-file`; see [`super::metadata`].
    pub metadata: Value,
}

/// What a build begins with.
pub enum Begins {
    /// The Dockerfile that the options name.
    Options,
    /// The same, planned before.
    Planned(Box<PlannedBuild>),
    /// What a client defined: these images, whose edges are of its graph.
    Definition(Box<Definition>, Vec<DefinedImage>),
}

/// Builds. Events go to `progress`; ends soon after `cancel` fires.
///
/// # Errors
/// The first thing that goes wrong.
pub async fn build(
    settings: &Settings,
    options: &BuildOptions,
    begins: Begins,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Built, Failure> {
    let store = settings.open_store(&progress)?;
    let recorder = Recorder::begin(&store, settings.history, options, &progress, &cancel);
    let is_measured = options.metadata_file.is_some() || options.timings.is_some();
    let measured = is_measured.then(|| Arc::new(Measured::new(recorder.listener())));
    let asked = history::head(options);
    let built = recorded(settings, options, begins, &store, &recorder, measured.as_ref(), &cancel).await;
    let record = recorder.end(&built, &cancel);
    let built = match (&options.timings, measured) {
        (Some(dest), Some(measured)) => {
            // Without a history.
            let record = record.unwrap_or_else(|| {
                let steps = measured.steps();
                Build { head: history::ended(asked, &steps, &built, &cancel), steps }
            });
            timings::finish(built, &store, record, dest, &progress).await
        }
        _ => built,
    };
    if !cancel.is_cancelled() {
        super::space::collect(settings, &store, &progress).await;
    }
    built
}

/// The build itself; what it tells goes to the recorder too.
async fn recorded(
    settings: &Settings,
    options: &BuildOptions,
    begins: Begins,
    store: &Store,
    recorder: &Recorder,
    measured: Option<&Arc<Measured>>,
    cancel: &CancellationToken,
) -> Result<Built, Failure> {
    let began = jiff::Timestamp::now();
    let progress = measured.map_or_else(|| recorder.listener(), |measured| measured.clone() as Arc<dyn Progress>);
    let registry = settings.registry(&progress)?;
    let connectivity = settings.connectivity();
    let given = Given::of(&options.steps);
    let for_contexts = given.for_contexts(options.input.own_agent.clone());
    let opener = Opener { store, progress: &progress, connectivity, given: &for_contexts, cancel };
    let (mut context, plans) = match begins {
        Begins::Options => {
            let context = opener.open(&options.input).await?;
            let plans = plan(settings, options, &context, store, &registry, &progress, &mut Answers::new()).await?;
            (context, plans)
        }
        Begins::Planned(planned) => {
            let PlannedBuild { outcome, events } = *planned;
            recorder.replay(events);
            let (context, mut plans) = outcome?;
            // It was planned before its outputs were known.
            for image in &mut plans.images {
                image.output.epoch = options.epoch.or(image.output.epoch);
            }
            (context, plans)
        }
        Begins::Definition(definition, images) => {
            let wants: Vec<Edge> = images.iter().filter_map(|image| image.edge).collect();
            let prepared = definition.prepare(&wants, settings, options, &opener, &registry);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(words::canceled()),
                prepared = prepared => prepared?.plans(&images, options),
            }
        }
    };
    recorder.planned(&context.dockerfile, &plans);
    if let Some(measured) = measured {
        measured.planned(steps::Planned::of(&context.dockerfile, &plans));
    }
    context.fetch_for(&plans.graph, &opener).await?;
    lost::say(options, &*progress);
    let unused = context.named.unused(&context.dockerfile.text, &plans.graph);

    let worker =
        settings.worker_with(store, &registry, context.local_sources(), options.steps.clone(), given.clone())?;
    measure(&worker, &plans, &progress);
    let remotes = Remotes::open(settings, options, store, &registry, &progress)?;
    worker.supply_from(remotes.imports.clone());
    if plans.graph.iter().any(|(_, vertex, _)| wants_network(&vertex.op)) {
        worker.expect_network();
    }
    worker.expect_trees(super::trees::images_to_unpack(&plans.graph));
    // Other times are given to trees.
    if plans.outputs().all(|output| output.epoch.is_none()) {
        worker.expect_packed(super::trees::copies_to_pack(&plans.graph, &options.outputs));
    }
    emulation::expect(emulation::Before {
        worker: &worker,
        store,
        remotes: &remotes,
        context: &context,
        plans: &plans,
        cancel,
    })
    .await?;
    let jobs = super::pressure::places(options.jobs, progress.clone());
    let ahead = Ahead::of(options, plans.outputs(), &worker, cancel);
    let solving = Solving { worker: &worker, store, remotes: &remotes, ahead: ahead.clone(), jobs, cancel };
    let wanted = plans.outputs().map(|output| Wanted { edge: output.edge, layers: LayersWanted::of(options, output) });
    let wanted: Vec<Wanted> = wanted.collect();
    let told = options.provenance.as_ref().map(|asked| Told {
        options,
        asked,
        dockerfile: &context.dockerfile,
        plans: &plans,
        machine: &settings.native_platform,
        began,
    });
    let exporter =
        Exporter { settings, store, registry: &registry, worker: &worker, progress: &progress, cancel, told };
    let finish = Finish { options, plans: &plans, remotes: &remotes, ahead: ahead.as_ref(), exporter };
    let (mut exporting, mut losses) = (None, 0);
    let (solution, finished) = loop {
        let solution = solving.solve(&plans.graph, &wanted).await.map_err(|error| unsolved(error, &context, &plans))?;
        worker.no_more_steps().await;
        let exporting = exporting.get_or_insert_with(|| Task::start(EXPORTING, &progress));
        let finished = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(words::canceled().into()),
            finished = finish.finish(&solution, exporting.vertex) => finished,
        };
        match finished {
            // Its steps run, and then it is another image.
            Err(Unsent::Lost(lost)) if losses < LOSSES_MAX => {
                losses += 1;
                remotes.lost(&lost)?;
            }
            finished => break (solution, finished.map_err(Failure::from)),
        }
    };
    let exporting = exporting.expect("every round begins it");
    let Finished { id, images, main, wrote } = exporting.end(finished)?;

    let tops: Vec<_> = plans.images.iter().filter_map(|image| top_of(image, &solution)).collect();
    let (graph, progress) = (&plans.graph, &progress);
    Exports { store, worker: &worker, remotes: &remotes, graph, tops: &tops, progress, cancel }.write().await?;

    let steps = measured.map_or(Vec::new(), |measured| measured.steps());
    let remarks = plans.warnings.iter().map(|found| words::diagnostic(found, &context.dockerfile));
    Ok(Built {
        image_id: main.config.unwrap_or(main.manifest.digest),
        local_id: id,
        names: options.tags.clone(),
        steps: solution.ran + solution.cached,
        cached: solution.cached,
        wrote,
        warnings: remarks.chain(unused).collect(),
        metadata: metadata(&images, &main, &steps),
    })
}

/// Has the worker tell what it does with bytes. What it does for no vertex, it does for the export.
fn measure(worker: &Worker, plans: &Plans, progress: &Arc<dyn Progress>) {
    let (meter, progress) = (worker.meter(), progress.clone());
    let others = VertexId::of_name(EXPORTING);
    meter.listen(Box::new(move |vertex, work| {
        progress.event(Event::Worked { vertex: vertex.unwrap_or(others), work });
    }));
    for (id, vertex, _) in plans.graph.iter() {
        if let Op::Source(source) = &vertex.op {
            meter.own([source.identifier.as_str()], id);
        }
    }
}

/// Whether it runs in a network of its own.
pub(super) fn wants_network(op: &Op) -> bool {
    matches!(op, Op::Exec(exec) if exec.network == NetworkMode::Default)
}

pub(super) fn unsolved(
    error: SolveError<executor::ExecError, store::StoreError>,
    context: &Context,
    plans: &Plans,
) -> Failure {
    match error {
        SolveError::Failed { vertex, source } => {
            let span = plans.spans.get(&vertex);
            let mut failure = words::at(words::step(&source, context), &context.dockerfile, span);
            // A client's operation may have no place in any text.
            if let (true, None, Some(meta)) = (plans.is_of_client, span, plans.graph.meta(&vertex)) {
                failure = failure.note(format!("the operation is `{}`", meta.description));
            }
            match plans.needed_for(&vertex) {
                Some(text) => failure.note(text),
                None => failure,
            }
        }
        SolveError::Cache(error) => words::store(&error),
        SolveError::Canceled => words::canceled(),
        fault @ (SolveError::WrongOutputs { .. } | SolveError::Broken(_)) => Failure::from_error(&fault),
    }
}
