//! A build that begins with a graph and not with a Dockerfile: a client's definition.
//!
//! In: [`Definition`], a graph with the images that are to be made of its results. Out: what a build of a Dockerfile has
//! when it is planned, a [`Context`] and [`Plans`], so that all that follows is the same ([`super::build()`]). On the way
//! the client's directories are settled and brought, images pinned, and what is asked for compared with the grants.
//! Deliberately absent: where the graph comes from (`src/daemon/llb`).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use executor::source::given::Given;
use frontend::{NamedResult, PlanOutput};
use oci::model::{ImageConfig, Platform};
use oci::registry::Client;
use solver::graph::{Edge, Graph, Vertex, VertexId};
use solver::op::{Op, SourceOp};
use solver::seam::Progress;
use tokio_util::sync::CancellationToken;

use super::context::{Context, Opener, Tree};
use super::graph::directories::{Directory, Settled, settle};
use super::graph::image::default_config;
use super::graph::{self, Pinned, pin};
use super::plans::{PlannedImage, Plans};
use super::{Failure, Settings, Text, words};
use crate::options::BuildOptions;
use crate::options::theirs::Files;

/// Hears what every vertex of a graph is now.
pub type Renamed = dyn Fn(&HashMap<VertexId, VertexId>) + Send + Sync;

/// What is solved.
#[derive(Clone)]
pub struct Definition {
    /// The operations.
    pub graph: Arc<Graph>,
    /// The text that they were made of, if the client says.
    pub text: Option<Text>,
    /// Where each stands in it.
    pub spans: HashMap<VertexId, Range<usize>>,
    /// The output that stands for each build inside the definition; what it is of stands before it in the graph.
    pub replaced: HashMap<VertexId, Edge>,
    /// Who brings the directory of each source that is one.
    pub files: HashMap<VertexId, Arc<dyn Files>>,
    /// Hears which vertices its own became.
    pub renamed: Arc<Renamed>,
}

/// An image that is to be made of a result.
#[derive(Clone, Debug)]
pub struct DefinedImage {
    /// For which platform it is wanted.
    pub platform: Platform,
    /// The result; none is the empty tree.
    pub edge: Option<Edge>,
    /// Its config, if the client gives one.
    pub config: Option<ImageConfig>,
}

/// A definition, ready to be solved.
pub struct Prepared {
    /// The client's directories, and the text.
    pub context: Context,
    /// The graph.
    pub pinned: Pinned,
    /// Where each operation stands in the text.
    pub spans: HashMap<VertexId, Range<usize>>,
}

impl Definition {
    /// Settles, pins, checks, and brings directories.
    ///
    /// # Errors
    /// What [`graph::check()`] refuses, an image or a directory that cannot be had.
    pub async fn prepare(
        &self,
        wants: &[Edge],
        settings: &Settings,
        options: &BuildOptions,
        opener: &Opener<'_>,
        registry: &Client,
    ) -> Result<Prepared, Failure> {
        let Ready { pinned, vertices: now, directories } =
            self.ready(wants, "", settings, options, opener, registry).await?;
        let spans = self.spans.iter().filter_map(|(given, span)| Some((*now.get(given)?, span.clone()))).collect();
        let text = self.text.clone().unwrap_or_else(|| Text { name: String::new(), path: None, text: "".into() });
        let context = Context::of_directories(text, &directories, opener).await?;
        Ok(Prepared { context, pinned, spans })
    }

    /// The same, without bringing anything; what stands `before` the names of directories keeps them apart from others.
    async fn ready(
        &self,
        wants: &[Edge],
        before: &str,
        settings: &Settings,
        options: &BuildOptions,
        opener: &Opener<'_>,
        registry: &Client,
    ) -> Result<Ready, Failure> {
        let Spliced { graph: whole, edges } = splice(&self.graph, &self.replaced)?;
        let converted = options.input.policy.graph(&whole, true);
        let converted = converted.map_err(|found| graph::refused(&whole, found))?;
        let becomes = |id: &VertexId| converted.as_ref().map_or(*id, |made| made.vertices[id]);
        let wants: Vec<Edge> = wants.iter().map(|want| through(&edges, want)).collect::<Result<_, _>>()?;
        let wants: Vec<Edge> =
            wants.iter().map(|want| converted.as_ref().map_or(*want, |made| made.edge(want))).collect();
        let now = |id: &VertexId| becomes(&edges[id].vertex);
        let files = self.files.iter().map(|(id, files)| (now(id), files.clone())).collect();
        let allowed = converted.as_ref().map_or(&whole, |made| &made.graph);
        let Settled { graph, wants, vertices, directories } = settle(allowed, &wants, &files, before)?;
        let pinned = pin(&graph, &wants, settings, opener.store, registry, opener.progress).await?;
        let now = |(given, ..): (VertexId, &_, &_)| (given, pinned.vertices[&vertices[&now(&given)]]);
        let vertices: HashMap<VertexId, VertexId> = self.graph.iter().map(now).collect();
        (self.renamed)(&vertices);
        graph::check(&pinned.graph, settings.rung, &options.steps)?;
        Ok(Ready { pinned, vertices, directories })
    }
}

/// A graph without builds inside.
struct Spliced {
    graph: Graph,
    /// What output 0 of every vertex of the given graph is now; those of others are numbered as before.
    edges: HashMap<VertexId, Edge>,
}

/// Puts what builds inside a graph come to in their places.
fn splice(graph: &Graph, replaced: &HashMap<VertexId, Edge>) -> Result<Spliced, Failure> {
    if replaced.is_empty() {
        let edges = graph.iter().map(|(id, ..)| (id, Edge { vertex: id, output: 0 })).collect();
        return Ok(Spliced { graph: graph.clone(), edges });
    }
    let mut made = Spliced { graph: Graph::new(), edges: HashMap::new() };
    for (id, vertex, meta) in graph.iter() {
        let now = match replaced.get(&id) {
            Some(edge) => through(&made.edges, edge)?,
            None => {
                let inputs = vertex.inputs.iter().map(|edge| through(&made.edges, edge)).collect::<Result<_, _>>()?;
                let vertex = Vertex { op: vertex.op.clone(), inputs, platform: vertex.platform.clone() };
                let vertex = made.graph.add(vertex, meta.clone()).map_err(|error| Failure::from_error(&error))?;
                Edge { vertex, output: 0 }
            }
        };
        made.edges.insert(id, now);
    }
    Ok(made)
}

/// What an edge is in a graph that was spliced. A build has one output, which may be another one of what it comes to.
fn through(edges: &HashMap<VertexId, Edge>, edge: &Edge) -> Result<Edge, Failure> {
    let unknown = || Failure::new(format!("what is wanted is not in the graph: {}", edge.vertex));
    let now = edges.get(&edge.vertex).ok_or_else(unknown)?;
    Ok(Edge { vertex: now.vertex, output: now.output + edge.output })
}

/// A definition of which only the directories are missing.
struct Ready {
    pinned: Pinned,
    /// What every vertex of the given graph is now.
    vertices: HashMap<VertexId, VertexId>,
    directories: Vec<Directory>,
}

/// A result of a definition as a named context of a Dockerfile, with the directories of its client that it needs: they
/// are here before the Dockerfile is planned, for whoever has them may be gone by the time that it is built.
#[derive(Debug)]
pub struct NamedDefinition {
    /// What the frontend is told.
    pub result: Arc<NamedResult>,
    /// The directories, by the names of their sources.
    pub(super) trees: BTreeMap<String, Arc<Tree>>,
    /// The same directories as the definition names them.
    pub origins: BTreeMap<String, SourceOp>,
}

/// A directory that is here, and stays as long as somebody has this.
#[derive(Clone)]
pub struct SharedTree(Arc<Tree>);

impl NamedDefinition {
    /// The directory that a definition names like this, if it is here.
    pub fn shared(&self, origin: &SourceOp) -> Option<SharedTree> {
        let (name, _) = self.origins.iter().find(|(_, known)| *known == origin)?;
        self.trees.get(name).cloned().map(SharedTree)
    }
}

impl PartialEq for NamedDefinition {
    fn eq(&self, other: &Self) -> bool {
        self.result == other.result
    }
}

impl Eq for NamedDefinition {}

/// What a named context is made of.
pub struct NameFrom<'a> {
    /// Its name: no blanks.
    pub name: &'a str,
    /// The operations.
    pub definition: &'a Definition,
    /// Which of their outputs; `None` is the empty tree.
    pub edge: Option<Edge>,
    /// The config of its image, if it is one.
    pub config: Option<ImageConfig>,
    /// What is here of other builds' directories, which need not be brought again.
    pub known: &'a dyn Fn(&SourceOp) -> Option<SharedTree>,
}

/// Prepares a result to be a named context.
///
/// # Errors
/// As [`Definition::prepare`].
pub async fn name_definition(
    NameFrom { name, definition, edge, config, known }: NameFrom<'_>,
    settings: &Settings,
    options: &BuildOptions,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<NamedDefinition, Failure> {
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let given = Given::of(&options.steps).for_contexts(options.input.own_agent.clone());
    let connectivity = settings.connectivity();
    let opener = Opener { store: &store, progress: &progress, connectivity, given: &given, cancel: &cancel };
    let wants: Vec<Edge> = edge.into_iter().collect();
    // No name of a context holds a blank.
    let before = format!("{name} ");
    let mut origins = BTreeMap::new();
    let mut trees: BTreeMap<String, Arc<Tree>> = BTreeMap::new();
    let prepare = async {
        let Ready { pinned, vertices, mut directories } =
            definition.ready(&wants, &before, settings, options, &opener, &registry).await?;
        for (id, vertex, _) in definition.graph.iter() {
            // A directory keeps its id when images are pinned: it stands on nothing.
            let now = directories.iter().find(|directory| vertices.get(&id) == Some(&directory.vertex));
            if let (Op::Source(source), Some(directory)) = (&vertex.op, now) {
                if let Some(SharedTree(tree)) = known(source) {
                    trees.insert(directory.name.clone(), tree);
                }
                origins.insert(directory.name.clone(), source.clone());
            }
        }
        directories.retain(|directory| !trees.contains_key(&directory.name));
        let brought = opener.directories(&directories).await?;
        trees.extend(brought.into_iter().map(|(name, tree)| (name, Arc::new(tree))));
        Ok::<_, Failure>(pinned)
    };
    let pinned = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(words::canceled()),
        prepared = prepare => prepared?,
    };
    let graph = Arc::unwrap_or_clone(pinned.graph);
    let result = Arc::new(NamedResult { graph, edge: pinned.wants.first().copied(), config });
    Ok(NamedDefinition { result, trees, origins })
}

impl Prepared {
    /// What a build of these images has when it is planned.
    pub fn plans(self, images: &[DefinedImage], options: &BuildOptions) -> (Context, Plans) {
        let Self { context, pinned, spans } = self;
        // `prepare` was asked for the edges of those images that have one.
        let mut wants = pinned.wants.into_iter();
        let planned = images.iter().map(|image| {
            let platform = &image.platform;
            let config = image.config.clone().unwrap_or_else(|| default_config(platform));
            let output = PlanOutput {
                edge: image.edge.and_then(|_| wants.next()),
                platform: platform.clone(),
                config,
                history: Vec::new(),
                epoch: options.epoch,
            };
            PlannedImage { platform: platform.clone(), output, is_fitted: true }
        });
        let images = planned.collect();
        (context, Plans { graph: pinned.graph, images, spans, warnings: Vec::new(), is_of_client: true })
    }
}
