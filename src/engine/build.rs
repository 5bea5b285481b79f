//! One build: from options to an image in the store and wherever else it is wanted.
//!
//! The order of things: texts are read, the frontend plans (asking for images until it knows enough), the solver
//! solves, the layers become an image, the image goes out, and only then is it tagged and the build reported.

use std::sync::Arc;

use executor::Worker;
use executor::layers::SCRATCH;
use executor::source::given::Given;
use frontend::{Answers, Plan, PlanOptions, Planned};
use jiff::Timestamp;
use oci::layer::Codec;
use oci::model::{Descriptor, Digest, Reference};
use serde_json::Value;
use solver::graph::VertexId;
use solver::op::{NetworkMode, Op};
use solver::run::SolveError;
use solver::seam::{Event, Progress, ResultId};
use store::{ImageRecord, Layer, Store};
use tokio_util::sync::CancellationToken;

use super::assemble::{Assembled, assemble};
use super::cache::{self, Exports, LOSSES_MAX, LayersWanted, Remotes, Solving, Wanted};
use super::context::{Context, Opener};
use super::emulation;
use super::export::{self, Ahead, SentImage, Unsent};
use super::history::Recorder;
use super::history::steps::{self, Measured};
use super::metadata::metadata;
use super::resolve::{Ask, Resolver};
use super::task::{Task, in_background};
use super::{Failure, Problem, Settings, words};
use crate::options::BuildOptions;
use crate::options::output::{ImageForm, Output};

/// A build that went well.
#[derive(Clone, Debug)]
pub struct Built {
    /// Digest of the config: the image id.
    pub image_id: Digest,
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

/// Builds. Events go to `progress`; ends soon after `cancel` fires.
pub async fn build(
    settings: &Settings,
    options: &BuildOptions,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Built, Failure> {
    let store = settings.open_store(&progress)?;
    let recorder = Recorder::begin(&store, settings.history, options, &progress, &cancel);
    let built = recorded(settings, options, &store, &recorder, &cancel).await;
    recorder.end(&built, &cancel);
    if !cancel.is_cancelled() {
        super::space::collect(settings, &store, &progress).await;
    }
    built
}

/// The build itself; what it tells goes to the recorder too.
async fn recorded(
    settings: &Settings,
    options: &BuildOptions,
    store: &Store,
    recorder: &Recorder,
    cancel: &CancellationToken,
) -> Result<Built, Failure> {
    let measured = options.metadata_file.is_some().then(|| Arc::new(Measured::new(recorder.listener())));
    let progress = measured.clone().map_or_else(|| recorder.listener(), |measured| measured as Arc<dyn Progress>);
    let registry = settings.registry(&progress)?;
    let connectivity = settings.connectivity();
    let given = Given::of(&options.steps);
    let for_contexts = given.for_contexts(options.input.own_agent.clone());
    let opener = Opener { store, progress: &progress, connectivity, given: &for_contexts, cancel };
    let mut context = opener.open(&options.input).await?;
    let plan = plan(settings, options, &context, store, &registry, &progress, &mut Answers::new()).await?;
    recorder.planned(&context.dockerfile, &plan);
    let planned = steps::Planned::of(&context.dockerfile, &plan);
    context.named.fetch_for(&plan.graph, &opener).await?;
    say_lost(options, &*progress);
    let unused = context.named.unused(&context.dockerfile.text, &plan.graph);

    let worker =
        settings.worker_with(store, &registry, context.local_sources(), options.steps.clone(), given.clone())?;
    let remotes = Remotes::open(settings, options, store, &registry, &progress)?;
    worker.supply_from(remotes.imports.clone());
    let Plan { graph, mut output, spans, warnings, .. } = plan;
    output.epoch = options.epoch.or(output.epoch);
    if graph.iter().any(|(_, vertex, _)| wants_network(&vertex.op)) {
        worker.expect_network();
    }
    worker.expect_trees(super::trees::images_to_unpack(&graph));
    let graph = Arc::new(graph);
    let before =
        emulation::Before { worker: &worker, store, remotes: &remotes, context: &context, spans: &spans, cancel };
    emulation::expect(before, &graph, &output.edge.into_iter().collect::<Vec<_>>()).await?;
    let jobs = super::pressure::places(options.jobs, progress.clone());
    let ahead = Ahead::of(options, &output, &worker, cancel);
    let solving = Solving { worker: &worker, store, remotes: &remotes, ahead: ahead.clone(), jobs, cancel };
    let wanted = Wanted { edge: output.edge, layers: LayersWanted::of(options, &output) };
    let (mut exporting, mut losses) = (None, 0);
    let (solution, result, exported) = loop {
        let solution = solving.solve(&graph, wanted).await.map_err(|error| unsolved(error, &context, &spans))?;
        let result = output.edge.and_then(|edge| solution.results.get(&edge).cloned());
        let exporting = exporting.get_or_insert_with(|| Task::start("exporting to image", &progress));
        let exported = async {
            if let Some(ahead) = &ahead {
                ahead.finish().await;
            }
            let top = super::epoch::top(&worker, result.clone(), &output).await?;
            let codec = options.outputs.iter().filter(|output| output.compresses()).find_map(|output| output.form());
            let chain = chain_with_diff_ids(&worker, top.as_ref(), codec.map(|form| form.codec), cancel).await?;
            let annotations = options.annotations.manifest.clone();
            let mut image = Assembled { annotations, ..assemble(&output, &chain)? };
            if remotes.is_inline_wanted(options, &output) {
                let cache = cache::inline(store, &remotes.watch, &graph, result.as_ref(), &chain)?;
                image = image.with_inline_cache(cache);
            }
            let record = keep(store, &image, top, output.platform.clone())?;
            let out =
                export::Exporter { settings, store, registry: &registry, worker: &worker, progress: &progress, cancel };
            let sent = out.export(options, &image, exporting.vertex).await?;
            store.add_image(&record).map_err(|error| words::store(&error))?;
            for name in options.tags.iter().chain(&other_names(options, &record)) {
                store.tag(name, &record).map_err(|error| words::store(&error))?;
            }
            in_background(store, |store| store.sync().map_err(|error| words::store(&error))).await?;
            Ok::<_, Unsent>((image, record, sent))
        };
        let exported = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(words::canceled().into()),
            exported = exported => exported,
        };
        match exported {
            // Its steps run, and then it is another image.
            Err(Unsent::Lost(lost)) if losses < LOSSES_MAX => {
                losses += 1;
                remotes.lost(&lost)?;
            }
            exported => break (solution, result, exported.map_err(Failure::from)),
        }
    };
    let exporting = exporting.expect("every round begins it");
    let (image, record, sent) = exporting.end(exported)?;

    let exports = Exports {
        store,
        worker: &worker,
        remotes: &remotes,
        graph: &graph,
        top: result.as_ref(),
        progress: &progress,
        cancel,
    };
    exports.write().await?;

    let steps = measured.map_or(Vec::new(), |measured| measured.steps(&planned));
    let main = sent.image.unwrap_or_else(|| SentImage {
        manifest: record.manifest.clone(),
        config: image.id(),
        names: options.tags.clone(),
    });
    Ok(Built {
        image_id: image.id(),
        names: options.tags.clone(),
        steps: solution.ran + solution.cached,
        cached: solution.cached,
        wrote: sent.wrote,
        warnings: warnings.iter().map(|found| words::diagnostic(found, &context.dockerfile)).chain(unused).collect(),
        metadata: metadata(&image, &main, &steps),
    })
}

/// Plans, and answers what the frontend asks, until there is a plan; all `answers` are kept.
pub(super) async fn plan(
    settings: &Settings,
    options: &BuildOptions,
    context: &Context,
    store: &Store,
    registry: &oci::registry::Client,
    progress: &Arc<dyn Progress>,
    answers: &mut Answers,
) -> Result<Plan, Failure> {
    let resolver = Resolver {
        layouts: context.named.layouts(),
        ..Resolver::new(store.clone(), registry.clone(), Ask::of(options.pull, settings.offline), progress.clone())
    };
    let asked_of_frontend = PlanOptions {
        labels: options.labels.clone(),
        no_cache: options.no_cache,
        no_cache_stages: options.no_cache_stages.clone(),
        network: options.network,
        ulimits: options.provisions.ulimits.clone(),
        shm_size_bytes: options.provisions.shm_size_bytes,
        extra_hosts: options.provisions.extra_hosts.clone(),
        hostname: options.provisions.hostname.clone(),
        ..context.plan_options(settings, &options.input)
    };
    loop {
        let planned = frontend::plan(&context.dockerfile.text, &asked_of_frontend, answers)
            .map_err(|found| words::diagnostics(&found, &context.dockerfile))?;
        match planned {
            Planned::Plan(plan) => {
                super::grants::check(&plan, &options.steps, &context.dockerfile)?;
                super::rung::check(&plan, settings.rung, &options.steps, &context.dockerfile)?;
                return Ok(*plan);
            }
            Planned::Need(asked) => resolver.answer(&asked, answers, &context.dockerfile).await?,
        }
    }
}

/// Whether it runs in a network of its own.
fn wants_network(op: &Op) -> bool {
    matches!(op, Op::Exec(exec) if exec.network == NetworkMode::Default)
}

/// What of the outputs has no place in what is made.
fn say_lost(options: &BuildOptions, progress: &dyn Progress) {
    let archived = options.outputs.iter().any(|output| matches!(output, Output::Archive(_)));
    let annotations = options.outputs.iter().filter_map(Output::form).map(|form| &form.annotations);
    let annotations: Vec<_> = annotations.chain([&options.annotations]).collect();
    let mut levels: Vec<String> = Vec::new();
    for level in annotations.iter().flat_map(|annotations| &annotations.nowhere) {
        let level = format!("`{level}`");
        if !levels.contains(&level) {
            levels.push(level);
        }
    }
    let mut notices = Vec::new();
    if !levels.is_empty() {
        notices.push(format!(
            "an image for one platform has no index: annotations of {} go nowhere",
            levels.join(" and ")
        ));
    }
    if annotations.iter().any(|annotations| !annotations.manifest_descriptor.is_empty()) && !archived {
        notices.push(
            "annotations of `manifest-descriptor` stand in an archive only, and `-o type=oci` is not asked for".into(),
        );
    }
    let plain = ImageForm::default();
    let has_form =
        |form: &ImageForm| (form.codec, form.force, form.dialect) != (plain.codec, plain.force, plain.dialect);
    if options
        .outputs
        .iter()
        .any(|output| matches!(output, Output::Image(image) if image.push.is_none() && has_form(&image.form)))
    {
        notices.push(
            "the local store keeps layers as trees: how `type=image` compresses and names them counts when it pushes"
                .into(),
        );
    }
    notices.extend(super::load::lost_form(&options.outputs));
    for text in notices {
        progress.event(Event::Notice { vertex: VertexId::of_name("outputs"), text });
    }
}

/// The names with digests that outputs give the image in the local store.
fn other_names(options: &BuildOptions, record: &ImageRecord) -> Vec<Reference> {
    let mut names = Vec::new();
    for output in &options.outputs {
        let Output::Image(image) = output else { continue };
        if !image.store {
            continue;
        }
        let pinned = |name: &Reference| {
            let text = format!("{}/{}@{}", name.registry(), name.repository(), record.manifest.digest);
            text.parse::<Reference>().expect("a name with a digest for its tag is one")
        };
        if image.canonical {
            names.extend(image.form.names.iter().map(pinned));
        }
        if let Some((prefix, only_empty)) = &image.dangling
            && (!only_empty || image.form.names.is_empty())
        {
            names.push(pinned(prefix));
        }
    }
    names
}

pub(super) fn unsolved(
    error: SolveError<executor::ExecError, store::StoreError>,
    context: &Context,
    spans: &std::collections::HashMap<VertexId, std::ops::Range<usize>>,
) -> Failure {
    match error {
        SolveError::Failed { vertex, source } => {
            words::at(words::step(&source, context), &context.dockerfile, spans.get(&vertex))
        }
        SolveError::Cache(error) => words::store(&error),
        SolveError::Canceled => words::canceled(),
        fault @ (SolveError::WrongOutputs { .. } | SolveError::Broken(_)) => Failure::from_error(&fault),
    }
}

/// The chain of a result, every record that is not empty with its `diff_id`. Bottom up: a chain id needs those beneath.
/// With a codec, what has to be read for its digest is compressed in the same pass.
async fn chain_with_diff_ids(
    worker: &Worker,
    top: Option<&ResultId>,
    codec: Option<Codec>,
    cancel: &CancellationToken,
) -> Result<Vec<Layer>, Failure> {
    let top = top.cloned().unwrap_or_else(|| ResultId(SCRATCH.to_owned()));
    let chain = async || {
        let top = top.clone();
        let chain = worker.blocking(move |worker| Ok(worker.layers().chain(&top)?)).await;
        chain.map_err(|error| words::exec(&error))
    };
    let known = chain().await?;
    let mut unknown = known.iter().filter(|layer| !layer.empty && layer.diff_id.is_none()).peekable();
    if unknown.peek().is_none() {
        return Ok(known);
    }
    for layer in unknown {
        let id = layer.id.clone();
        let hashed = match codec {
            Some(codec) => {
                let make = move |worker: &Worker| Ok(worker.layers().ensure_blob(&id, &codec, false).map(drop)?);
                worker.on_all_cores(cancel, make).await
            }
            None => worker.on_core(cancel, move |worker| Ok(worker.layers().ensure_diff_id(&id).map(drop)?)).await,
        };
        hashed.map_err(|error| words::exec(&error))?;
    }
    chain().await
}

/// Puts config and manifest into the store. The local manifest describes base layers as they were pulled and the
/// others uncompressed.
pub(super) fn keep(
    store: &Store,
    image: &Assembled,
    top: Option<ResultId>,
    platform: oci::model::Platform,
) -> Result<ImageRecord, Failure> {
    let layers: Vec<Descriptor> = image.layers.iter().map(export::as_stored).collect::<Result<_, _>>()?;
    let size_bytes = layers.iter().map(|layer| layer.size).sum();
    let manifest = image.manifest(layers)?;
    for bytes in [&image.config_bytes, &manifest.manifest_bytes] {
        oci::content::put_bytes(store.blobs(), bytes).map_err(|error| words::content(&error))?;
    }
    let record = ImageRecord {
        manifest: manifest.descriptor,
        config: image.id(),
        top,
        platform,
        created: Timestamp::now(),
        size_bytes,
    };
    Ok(record)
}
