//! A graph that is not of a Dockerfile: what its images mean is asked, what it asks for is compared with the grants, and
//! it is solved as a build is.
//!
//! In: a graph with what is wanted of it. Out: first [`Pinned`], the graph that is solved, whose vertices have other ids
//! wherever a name was replaced by a digest; then [`Solved`], a result per want and who can read it. Deliberately absent:
//! where the graph comes from. [`directories`] says what `local://` means, [`image`] what becomes of a result.

pub mod directories;
pub mod image;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use executor::isolation::Rung;
use executor::source::given::Given;
use executor::{StepSettings, Worker};
use frontend::{ImageAnswer, ImageQuestion};
use oci::model::{Digest, Platform, Reference};
use oci::registry::Client;
use solver::graph::{Edge, Graph, Vertex, VertexId};
use solver::op::{Op, SourceOp};
use solver::run::SolveError;
use solver::seam::{Progress, ResultId};
use store::Store;
use tokio_util::sync::CancellationToken;

use super::build::wants_network;
pub use super::cache::LayersWanted;
use super::cache::{Remotes, Solving, Wanted};
use super::resolve::{Ask, Resolver};
use super::{Failure, FailureKind, Problem, Settings, emulation, grants, pressure, rung, trees, words};
use crate::options::BuildOptions;

/// The attribute that says whom to ask what an image's name means.
const RESOLVE_MODE: &str = "image.resolvemode";

/// A graph whose images are pinned.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// What is solved.
    pub graph: Arc<Graph>,
    /// What is wanted of it, in the order asked.
    pub wants: Vec<Edge>,
    /// What every vertex of the given graph is now.
    pub vertices: HashMap<VertexId, VertexId>,
}

/// Asks what the images of a graph mean, each name once, and puts their digests in.
///
/// # Errors
/// When an image cannot be had.
pub async fn pin(
    graph: &Graph,
    wants: &[Edge],
    settings: &Settings,
    store: &Store,
    registry: &Client,
    progress: &Arc<dyn Progress>,
) -> Result<Pinned, Failure> {
    let native = &settings.native_platform;
    let mut questions: Vec<(Ask, ImageQuestion)> = Vec::new();
    for (_, vertex, _) in graph.iter() {
        questions.extend(question(vertex, native)?);
    }
    let mut seen = HashSet::new();
    questions.retain(|question| seen.insert(question.clone()));
    let answers = questions.into_iter().map(|(ask, question)| async move {
        let answer = answer(ask, &question, settings, store, registry, progress).await;
        Ok::<_, Failure>(((ask, question), answer?.digest))
    });
    let answers: Vec<_> = futures_util::future::join_all(answers).await;
    let digests: HashMap<_, Digest> = answers.into_iter().collect::<Result<_, _>>()?;
    with_digests(graph, wants, native, &digests)
}

/// Whom to ask what a name means, as an attribute says it.
pub fn ask_of(mode: Option<&str>) -> Ask {
    match mode {
        Some("pull") => Ask::Registry,
        Some("local") => Ask::Nobody,
        _ => Ask::Usual,
    }
}

/// Asks about an image.
///
/// # Errors
/// When it cannot be had.
pub async fn answer(
    ask: Ask,
    question: &ImageQuestion,
    settings: &Settings,
    store: &Store,
    registry: &Client,
    progress: &Arc<dyn Progress>,
) -> Result<ImageAnswer, Failure> {
    let resolver = |ask| Resolver::new(store.clone(), registry.clone(), ask, progress.clone());
    let usual = Ask::of(false, settings.offline);
    match resolver(if settings.offline { usual } else { ask }).answer_one(question).await {
        // Preferred here does not mean that it must be here.
        Err(_) if ask == Ask::Nobody => resolver(usual).answer_one(question).await,
        asked => asked,
    }
}

/// What is asked about a vertex, and whom, if it is an image. The same name asked for in two ways may mean two things.
fn question(vertex: &Vertex, native: &Platform) -> Result<Option<(Ask, ImageQuestion)>, Failure> {
    let Op::Source(source) = &vertex.op else { return Ok(None) };
    if source.scheme() != "docker-image" {
        return Ok(None);
    }
    let ask = ask_of(source.attrs.get(RESOLVE_MODE).map(String::as_str));
    let reference: Reference = source.reference().parse().map_err(|error| Failure::from_error(&error))?;
    let platform = vertex.platform.as_ref().map_or_else(|| native.clone(), executor::emulate::platform_of);
    Ok(Some((ask, ImageQuestion { reference, platform, layout: None })))
}

/// The same graph, with the digests of its images.
fn with_digests(
    graph: &Graph,
    wants: &[Edge],
    native: &Platform,
    digests: &HashMap<(Ask, ImageQuestion), Digest>,
) -> Result<Pinned, Failure> {
    let mut made = Graph::new();
    let mut vertices: HashMap<VertexId, VertexId> = HashMap::new();
    for (id, vertex, meta) in graph.iter() {
        let op = match question(vertex, native)? {
            Some(question) => {
                let name = question.1.reference.with_digest(digests[&question]);
                Op::Source(SourceOp { identifier: format!("docker-image://{name}"), attrs: BTreeMap::new() })
            }
            None => vertex.op.clone(),
        };
        let edge = |edge: &Edge| Edge { vertex: vertices[&edge.vertex], output: edge.output };
        let inputs = vertex.inputs.iter().map(edge).collect();
        let vertex = Vertex { op, inputs, platform: vertex.platform.clone() };
        let vertex = made.add(vertex, meta.clone()).map_err(|error| Failure::from_error(&error))?;
        vertices.insert(id, vertex);
    }
    let wanted = |want: &Edge| match vertices.get(&want.vertex) {
        Some(vertex) => Ok(Edge { vertex: *vertex, output: want.output }),
        None => Err(Failure::new(format!("what is wanted is not in the graph: {}", want.vertex))),
    };
    let wants = wants.iter().map(wanted).collect::<Result<_, _>>()?;
    Ok(Pinned { graph: Arc::new(made), wants, vertices })
}

/// Refuses a graph with operations that ask for what is not granted or cannot be had, before anything runs.
///
/// # Errors
/// Every such operation.
pub fn check(graph: &Graph, rung: Rung, steps: &StepSettings) -> Result<(), Failure> {
    let mut found = grants::problems(graph, steps);
    found.extend(rung::problems(graph, rung, steps));
    let builds = graph.iter().filter(|(_, vertex, _)| matches!(vertex.op, Op::Build(_)));
    found.extend(builds.map(|(id, _, _)| (id, Problem::new("a build inside a build is not supported"))));
    if found.is_empty() { Ok(()) } else { Err(refused(graph, found)) }
}

/// The failure of operations that are refused.
pub fn refused(graph: &Graph, found: Vec<(VertexId, Problem)>) -> Failure {
    let problems = found.into_iter().map(|(id, problem)| about(graph, &id, problem)).collect();
    Failure { kind: FailureKind::Build, problems }
}

/// Says which operation a problem is about.
fn about(graph: &Graph, vertex: &VertexId, mut problem: Problem) -> Problem {
    if let Some(meta) = graph.meta(vertex) {
        problem.notes.insert(0, format!("the operation is `{}`", meta.description));
    }
    problem
}

/// What a graph is solved with.
pub struct With<'a> {
    /// Where everything is.
    pub settings: &'a Settings,
    /// How steps run, how many at once, and which caches of other machines there are. What it says of a Dockerfile and
    /// of outputs is not looked at.
    pub options: &'a BuildOptions,
    /// Remembers results.
    pub store: &'a Store,
    /// Gives images.
    pub registry: &'a Client,
    /// The directories that `local://<name>` means.
    pub local_sources: BTreeMap<String, PathBuf>,
    /// What of a result's layers must be here.
    pub layers: LayersWanted,
    /// Who watches.
    pub progress: &'a Arc<dyn Progress>,
    /// Stops it.
    pub cancel: &'a CancellationToken,
}

/// A solved graph.
pub struct Solved {
    /// The results, in the order of the wants.
    pub results: Vec<ResultId>,
    /// Reads the results.
    pub worker: Worker,
}

/// Solves what is wanted. The graph is checked first.
///
/// # Errors
/// What [`check()`] says, and the first operation that fails.
pub async fn solve(pinned: &Pinned, with: With<'_>) -> Result<Solved, Failure> {
    let With { settings, options, store, registry, local_sources, layers, progress, cancel } = with;
    let graph = &pinned.graph;
    check(graph, settings.rung, &options.steps)?;
    let given = Given::of(&options.steps);
    let worker = settings.worker_with(store, registry, local_sources, options.steps.clone(), given)?;
    let remotes = Remotes::open(settings, options, store, registry, progress)?;
    worker.supply_from(remotes.imports.clone());
    if graph.iter().any(|(_, vertex, _)| wants_network(&vertex.op)) {
        worker.expect_network();
    }
    worker.expect_trees(trees::images_to_unpack(graph));
    worker.expect_platforms(platforms(&worker, graph));
    let jobs = pressure::places(options.jobs, progress.clone());
    let solving = Solving { worker: &worker, store, remotes: &remotes, ahead: None, jobs, cancel };
    let wanted: Vec<Wanted> = pinned.wants.iter().map(|want| Wanted { edge: Some(*want), layers }).collect();
    let solution = solving.solve(graph, &wanted).await.map_err(|error| unsolved(&error, graph))?;
    let results = pinned.wants.iter().map(|want| solution.results[want].clone()).collect();
    Ok(Solved { results, worker })
}

/// The platforms of steps that can run here; of others, the step itself says why not.
fn platforms(worker: &Worker, graph: &Graph) -> Vec<Platform> {
    let steps = worker.steps();
    let way = |platform: &Platform| executor::emulate::way(platform, steps.emulation, steps.rung);
    emulation::platforms(graph).filter(|platform| way(platform).is_ok()).collect()
}

fn unsolved(error: &SolveError<executor::ExecError, store::StoreError>, graph: &Graph) -> Failure {
    match error {
        SolveError::Failed { vertex, source } => {
            let Failure { kind, problems } = words::exec(source);
            let problems = problems.into_iter().map(|problem| about(graph, vertex, problem)).collect();
            Failure { kind, problems }
        }
        SolveError::Cache(error) => words::store(error),
        SolveError::Canceled => words::canceled(),
        fault @ (SolveError::WrongOutputs { .. } | SolveError::Broken(_)) => Failure::from_error(fault),
    }
}

#[cfg(test)]
mod tests {
    use executor::steps::Grants;
    use frontend::{Answers, PlanOptions, Planned};
    use solver::op::{BuildOp, MergeOp, OpMeta};

    use super::*;

    fn image(graph: &mut Graph, name: &str, mode: &str, platform: Option<&str>) -> Edge {
        let attrs = (!mode.is_empty()).then(|| (RESOLVE_MODE.to_owned(), mode.to_owned()));
        let source = SourceOp { identifier: format!("docker-image://{name}"), attrs: attrs.into_iter().collect() };
        let platform = platform.map(|architecture| solver::op::Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            ..solver::op::Platform::default()
        });
        add(graph, Op::Source(source), &[], platform)
    }

    fn add(graph: &mut Graph, op: Op, inputs: &[Edge], platform: Option<solver::op::Platform>) -> Edge {
        let vertex = Vertex { op, inputs: inputs.to_vec(), platform };
        let meta = OpMeta { description: "it".into(), ..OpMeta::default() };
        Edge { vertex: graph.add(vertex, meta).expect("the graph is one"), output: 0 }
    }

    #[test]
    fn every_name_of_an_image_becomes_what_was_answered_and_all_else_stays() {
        let mut graph = Graph::new();
        let usual = image(&mut graph, "docker.io/library/a:1", "", None);
        let same = image(&mut graph, "docker.io/library/a:1", "default", None);
        let pulled = image(&mut graph, "docker.io/library/a:1", "pull", None);
        let other = image(&mut graph, "docker.io/library/a:1", "", Some("s390x"));
        let local = SourceOp { identifier: "local://context".into(), attrs: BTreeMap::new() };
        let local = add(&mut graph, Op::Source(local), &[], None);
        let merged = add(&mut graph, Op::Merge(MergeOp {}), &[usual, same, pulled, other], None);
        let native: Platform = "linux/amd64".parse().expect("a platform");
        let mut digests = HashMap::new();
        for (_, vertex, _) in graph.iter() {
            if let Some((ask, asked)) = question(vertex, &native).expect("a name") {
                let digest = Digest::of(format!("{ask:?} {}", asked.platform).as_bytes());
                digests.insert((ask, asked), digest);
            }
        }
        assert_eq!(digests.len(), 3, "one name, asked for in two ways and for two machines");
        let pinned = with_digests(&graph, &[merged, local], &native, &digests).expect("all is answered");
        assert_eq!(pinned.wants[1], local, "what has no name stays what it is");
        assert_eq!(pinned.vertices.len(), graph.len());
        let merged = pinned.graph.get(&pinned.wants[0].vertex).expect("it is wanted");
        let name = |edge: &Edge| match &pinned.graph.get(&edge.vertex).expect("it is there").op {
            Op::Source(source) => source.identifier.clone(),
            other => panic!("{other:?}"),
        };
        let expected = ["Usual linux/amd64", "Usual linux/amd64", "Registry linux/amd64", "Usual linux/s390x"];
        let expected =
            expected.map(|text| format!("docker-image://docker.io/library/a:1@{}", Digest::of(text.as_bytes())));
        assert_eq!(merged.inputs.iter().map(name).collect::<Vec<_>>(), expected);
        assert_eq!(merged.inputs[0], merged.inputs[1], "they are one now");
        let nowhere = Edge { vertex: VertexId::of_name("nowhere"), output: 0 };
        assert!(with_digests(&graph, &[nowhere], &native, &digests).is_err());
    }

    #[test]
    fn what_is_not_granted_or_not_possible_is_refused_before_anything_runs() {
        let file = "FROM scratch\nRUN --security=insecure a\nRUN --network=host b\n";
        let planned = frontend::plan(file, &PlanOptions::default(), &Answers::new()).expect("it is a plan");
        let Planned::Plan(plan) = planned else { panic!("nothing is asked") };
        let mut graph = plan.graph;
        let build = BuildOp { builder: "llb".into(), inputs: BTreeMap::new(), attrs: BTreeMap::new() };
        add(&mut graph, Op::Build(build), &[], None);
        let refused = |grants: Grants| -> Vec<String> {
            let steps = StepSettings { grants, ..StepSettings::default() };
            let failure = check(&graph, Rung::Full, &steps).expect_err("the build is not possible");
            failure.problems.iter().map(|problem| format!("{}; {}", problem.message, problem.notes[0])).collect()
        };
        let build = "a build inside a build is not supported; the operation is `it`";
        let all = refused(Grants::default());
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[0].starts_with("`RUN --security=insecure` is not allowed; the operation is `[1/2] RUN"), "{all:?}");
        assert_eq!(refused(Grants { insecure: true, host_network: true, ..Grants::default() }), [build]);
    }
}
