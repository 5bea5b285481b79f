//! Builds inside a definition: an operation whose definition is a file in another operation's result.
//!
//! In: definitions. Out: what every such operation comes to, an output of a definition that was read, and those definitions.
//! The tree with the file is solved first, so that all is known before anything else runs; a definition that was read may
//! hold builds too, up to [`DEPTH_MAX`]. What is read is the client's like its own definitions, and may do no more.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use api::{control, pb};
use prost::Message as _;
use solver::graph::{Edge, Graph, VertexId};
use solver::op::{BuildOp, Op};
use tonic::Status;

use super::files;
use crate::daemon::control::{settings_for, stops};
use crate::daemon::definition::{self, Files};
use crate::daemon::frontend::{self, Asked};
use crate::daemon::job::Job;
use crate::daemon::llb::Llb;
use crate::daemon::session::Session;
use crate::daemon::session::blobs::Kept;
use crate::daemon::thread::beside;
use crate::daemon::{Daemon, error};
use crate::engine::{self, Definition, Looked};

/// Builds within builds.
const DEPTH_MAX: usize = 8;
/// All builds of one definition together.
const BUILDS_MAX: usize = 64;
/// The input whose tree has the definition.
const INPUT: &str = "buildkit.llb.definition";
/// Says which file it is.
const FILENAME: &str = "llbbuild.filename";

/// What builds inside of definitions come to.
#[derive(Debug, Default)]
pub struct Nested {
    /// The definitions that were read, those that others need first.
    pub inner: Vec<Arc<Llb>>,
    /// The output that each build is.
    pub replaced: HashMap<VertexId, Edge>,
}

/// Whose definitions these are.
#[derive(Clone, Copy)]
pub struct Whose<'a> {
    /// Who solves.
    pub daemon: &'a Daemon,
    /// The build.
    pub job: &'a Job,
    /// Its client.
    pub session: &'a Arc<Session>,
}

/// Looks for builds in a definition, and reads what they are.
///
/// # Errors
/// When a tree cannot be solved, its file is no definition, or there are too many.
pub fn find<'a>(
    whose: Whose<'a>,
    llb: Arc<Llb>,
    found: &'a mut Nested,
    depth: usize,
) -> Pin<Box<dyn Future<Output = Result<(), Status>> + Send + 'a>> {
    Box::pin(async move {
        let builds: Vec<(VertexId, BuildOp, Vec<Edge>)> = llb
            .graph
            .iter()
            .filter_map(|(id, vertex, _)| match &vertex.op {
                Op::Build(build) => Some((id, build.clone(), vertex.inputs.clone())),
                _ => None,
            })
            .collect();
        for (id, build, inputs) in builds {
            if found.replaced.contains_key(&id) {
                continue;
            }
            if depth >= DEPTH_MAX {
                return Err(Status::failed_precondition(format!(
                    "these are more than {DEPTH_MAX} builds within one another"
                )));
            }
            if found.replaced.len() >= BUILDS_MAX {
                return Err(Status::resource_exhausted(format!(
                    "these are more than {BUILDS_MAX} builds in a definition"
                )));
            }
            let input = build.inputs.get(INPUT).and_then(|input| inputs.get(*input));
            let input = *input.ok_or_else(|| {
                Status::invalid_argument(format!("a build inside the definition has no input `{INPUT}`"))
            })?;
            let filename = build.attrs.get(FILENAME).filter(|name| !name.is_empty());
            let filename = filename.cloned().unwrap_or_else(|| INPUT.to_owned());
            let read = read(whose, &llb, found, input, filename.clone()).await?;
            let read = pb::Definition::decode(read.as_slice()).map_err(|error| {
                let filename = filename.escape_debug();
                Status::invalid_argument(format!(
                    "`{filename}` of a build inside the definition is no definition: {error}"
                ))
            })?;
            let read = definition::read(whose.daemon, &read)?;
            find(whose, read.clone(), found, depth + 1).await?;
            found.replaced.insert(id, read.wants[0]);
            found.inner.push(read);
        }
        Ok(())
    })
}

/// The bytes of a file in the tree of an output.
async fn read(
    Whose { daemon, job, session }: Whose<'_>,
    llb: &Arc<Llb>,
    found: &Nested,
    tree: Edge,
    path: String,
) -> Result<Vec<u8>, Status> {
    let asking = &job.asking;
    let request = frontend::Request {
        exporters: Vec::new(),
        cache: control::CacheOptions { exports: Vec::new(), ..asking.cache.clone() },
        entitlements: asking.entitlements.clone(),
        policy: asking.policy.clone(),
        session: session.clone(),
        kept: Kept::default(),
    };
    let options = frontend::options(&daemon.config, &Asked::default(), &request);
    let options = options.map_err(|failure| error::status(&failure, None))?;
    let settings = settings_for(daemon, session);
    let llbs: Vec<Arc<Llb>> = found.inner.iter().cloned().chain([llb.clone()]).collect();
    let (graph, mut files): (Graph, Files) = definition::graph(daemon, session, &llbs, |_| false).await?;
    let graph = part(&graph, &found.replaced, tree);
    files.retain(|id, _| graph.get(id).is_some());
    let definition = Definition {
        graph: Arc::new(graph),
        text: None,
        spans: HashMap::new(),
        files,
        replaced: found.replaced.clone(),
        renamed: Arc::new(|_: &HashMap<VertexId, VertexId>| {}),
    };
    let cancel = stops(job.cancel.clone(), session.lost().clone());
    let _unless_awaited = cancel.clone().drop_guard();
    let told = job.told();
    let solve = move || async move {
        let solved = engine::evaluate(&settings, &options, Looked::Definition(&definition, tree), told, cancel).await;
        Ok(match solved {
            Ok(solved) => solved.look(move |root| files::read(root, &path, None)).await,
            Err(failure) => Err(failure),
        })
    };
    beside(solve).await?.map_err(|failure| error::status(&failure, job.hub.failed()))?
}

/// What an output stands on, without what has not been looked at yet.
fn part(graph: &Graph, replaced: &HashMap<VertexId, Edge>, tree: Edge) -> Graph {
    let (mut needed, mut todo) = (HashSet::new(), vec![tree.vertex]);
    while let Some(id) = todo.pop() {
        if let Some(vertex) = graph.get(&id)
            && needed.insert(id)
        {
            todo.extend(vertex.inputs.iter().map(|input| input.vertex));
            todo.extend(replaced.get(&id).map(|edge| edge.vertex));
        }
    }
    let mut made = Graph::new();
    for (_, vertex, meta) in graph.iter().filter(|(id, ..)| needed.contains(id)) {
        made.add(vertex.clone(), meta.clone()).expect("all that it stands on is needed too");
    }
    made
}
