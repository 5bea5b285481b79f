//! A Dockerfile that is asked for as a result: planned at once, built when its frontend returns it.
//!
//! In: what is asked of `dockerfile.v0`. Out: [`Planned`], which tells what BuildKit's frontend tells: per platform a
//! reference with its definition, its config, and the list of platforms; so that a client can hand the result to another
//! build, as `docker buildx bake` does with targets that stand on one another. What is returned as it was told is built as
//! the Dockerfile that it is; of what was changed meanwhile, the definitions are built. Deliberately absent: what an
//! operation says ([`crate::daemon::llb`]).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};

use api::gateway::{self, result};
use api::{control, pb};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use oci::model::ImageConfig;
use serde_json::json;
use solver::graph::{Edge, Graph, Vertex, VertexId};
use solver::op::{Op, SourceOp, attr};
use tokio::sync::Mutex;
use tonic::Status;

use super::{References, guest};
use crate::daemon::control::{settings_for, stops};
use crate::daemon::definition::{self, CONFIG, Metadata, PLATFORMS};
use crate::daemon::frontend::{self, Asked};
use crate::daemon::job::Job;
use crate::daemon::llb::{self, Dockerfile};
use crate::daemon::session::Session;
use crate::daemon::session::blobs::Kept;
use crate::daemon::thread::beside;
use crate::daemon::{Daemon, error};
use crate::engine::{self, NamedDefinition, Origin, PlannedBuild, PlannedGraph, Planning, SharedTree};
use crate::options::BuildOptions;
use crate::options::context::Place;

/// The attribute that says what is known of an input.
const INPUT_METADATA: &str = "input-metadata:";
/// A context that is an input.
const CONTEXT: &str = "context:";
/// Each has directories of its own.
const INPUTS_MAX: usize = 64;
/// What operations say of the client's directories.
const SESSION: &str = "local.session";
const FOLLOW_PATHS: &str = "local.followpaths";

/// A Dockerfile that is planned.
#[derive(Debug)]
pub struct Planned {
    /// What was asked for.
    pub asked: Asked,
    /// Until it is built.
    pub build: Arc<Mutex<Option<PlannedBuild>>>,
    results: Vec<Told>,
    is_index: bool,
}

/// What is told of one of its results.
#[derive(Debug)]
struct Told {
    /// Its platform.
    id: String,
    /// Nobody can say it in operations if there is none.
    definition: Option<pb::Definition>,
    config: Vec<u8>,
}

/// The inputs of all builds: what one of them has of a client that is gone, another one may need, as its input stands on
/// that.
#[derive(Debug, Default)]
pub struct Shared(std::sync::Mutex<Vec<Weak<NamedDefinition>>>);

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<NamedDefinition>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, input: &Arc<NamedDefinition>) {
        let mut known = self.lock();
        known.retain(|known| known.strong_count() > 0);
        known.push(Arc::downgrade(input));
    }

    /// The directory that a definition names like this, if one of them has it. A name says whose it is.
    pub fn find(&self, source: &SourceOp) -> Option<SharedTree> {
        source.attrs.get(SESSION)?;
        self.lock().iter().filter_map(Weak::upgrade).find_map(|known| known.shared(source))
    }
}

/// What became of a Dockerfile.
pub enum Read {
    /// It is planned.
    Here(Arc<Planned>),
    /// It named another frontend than rbuild, which has run and returned this.
    Elsewhere(Option<gateway::Result>),
}

/// Plans a Dockerfile. What cannot be planned is the build's failure if its frontend returns that. One that names another
/// frontend than rbuild is given to that, with the inputs that are the client's; `depth` frontends stand above it.
///
/// # Errors
/// As a build.
pub async fn read(
    daemon: &Arc<Daemon>,
    job: &Arc<Job>,
    asked: Asked,
    inputs: BTreeMap<String, pb::Definition>,
    depth: usize,
) -> Result<Read, Status> {
    let session = daemon.sessions.find(&job.asking.session).await?;
    let options = options(daemon, job, &asked, &session)?;
    let settings = settings_for(daemon, &session);
    let cancel = stops(job.cancel.clone(), session.lost().clone());
    let _unless_awaited = cancel.clone().drop_guard();
    let told = job.told();
    let mut attributes = asked.attributes.clone();
    // That argument stands above what the file says.
    let may_forward = !guest::names_syntax(&attributes);
    let is_elsewhere = {
        let attributes = attributes.clone();
        move |syntax: &str| may_forward && guest::forward(syntax, &mut attributes.clone())
    };
    let plan = || async move {
        let planned = engine::plan_build(&settings, &options, is_elsewhere, told, cancel).await;
        Ok((planned, options))
    };
    let (planned, options) = match beside(plan).await? {
        (Planning::Here(planned), options) => (*planned, options),
        (Planning::Elsewhere(syntax), _) => {
            guest::forward(&syntax, &mut attributes);
            let result = guest::run(daemon, job, guest::Wanted { attributes, inputs, depth }).await?;
            return Ok(Read::Elsewhere(result));
        }
    };
    let native = &daemon.config.settings.native_platform;
    let results = planned.results().into_iter().map(|result| {
        let definition = definition(&planned, &options, &session.id, result.edge);
        let definition = definition.map_err(|why| tracing::info!(%why, "a result is told without its definition"));
        let config = serde_json::to_vec(&result.config).expect("a config holds nothing that JSON cannot");
        let id = if result.platform.os.is_empty() { native.to_string() } else { result.platform.to_string() };
        Told { id, definition: definition.ok(), config }
    });
    let results = results.collect();
    let failure = planned.failure().cloned();
    let build = Arc::new(Mutex::new(Some(planned)));
    let planned = Arc::new(Planned { asked, build, results, is_index: options.input.makes_index() });
    match failure {
        None => Ok(Read::Here(planned)),
        Some(failure) => {
            *job.unplanned.lock().unwrap_or_else(PoisonError::into_inner) = Some((planned, error::words(&failure)));
            Err(error::status(&failure, job.hub.failed()))
        }
    }
}

/// Without outputs, which are the build's.
fn options(
    daemon: &Arc<Daemon>,
    job: &Job,
    asked: &Asked,
    session: &Arc<Session>,
) -> Result<Box<BuildOptions>, Status> {
    let request = frontend::Request {
        exporters: Vec::new(),
        cache: control::CacheOptions::default(),
        entitlements: job.asking.entitlements.clone(),
        policy: job.asking.policy.clone(),
        session: session.clone(),
        kept: Kept::default(),
    };
    let options = frontend::options(&daemon.config, asked, &request);
    options.map(Box::new).map_err(|failure| error::status(&failure, None))
}

impl Planned {
    /// Adds its results to the references of a build, and tells them.
    ///
    /// # Errors
    /// When there are too many.
    pub fn tell(self: &Arc<Self>, references: &mut References) -> Result<gateway::Result, Status> {
        let mut told = Vec::new();
        for (at, result) in self.results.iter().enumerate() {
            let bytes = result.definition.as_ref().map_or(0, prost::Message::encoded_len) + result.config.len();
            let id = references.add(super::Reference::Dockerfile(self.clone(), at), bytes)?;
            told.push((result.id.clone(), gateway::Ref { id, def: result.definition.clone() }));
        }
        let result = match (self.is_index, told.pop()) {
            (false, Some((_, only))) if told.is_empty() => result::Result::Ref(only),
            (_, last) => result::Result::Refs(gateway::RefMap { refs: told.into_iter().chain(last).collect() }),
        };
        let metadata = self.metadata().into_iter().collect();
        Ok(gateway::Result { result: Some(result), metadata, ..gateway::Result::default() })
    }

    fn metadata(&self) -> Metadata {
        let platform = |told: &Told| {
            let mut parts = told.id.splitn(3, '/');
            let mut part = || parts.next().unwrap_or_default();
            let mut platform = json!({ "os": part(), "architecture": part() });
            let variant = part();
            if !variant.is_empty() {
                platform["variant"] = json!(variant);
            }
            json!({ "ID": told.id, "Platform": platform })
        };
        let platforms: Vec<_> = self.results.iter().map(platform).collect();
        let mut metadata =
            Metadata::from([(PLATFORMS.to_owned(), json!({ "Platforms": platforms }).to_string().into())]);
        for told in &self.results {
            let key = if self.is_index { format!("{CONFIG}/{}", told.id) } else { CONFIG.to_owned() };
            metadata.insert(key, told.config.clone());
        }
        metadata
    }

    /// Whether these results, by the names of their platforms, are all that it has, and nothing said of them differs from
    /// what was told; nothing at all may be said.
    pub fn is_whole(&self, results: &BTreeMap<&str, usize>, metadata: &Metadata) -> bool {
        let told = self.metadata();
        let is_of_image = |key: &str| key == PLATFORMS || key == CONFIG || key.starts_with(&format!("{CONFIG}/"));
        let mut ours = self.results.iter().enumerate();
        let is_all = match (self.is_index, results.len()) {
            (false, 1) => true,
            _ => {
                results.len() == self.results.len() && ours.all(|(at, told)| results.get(told.id.as_str()) == Some(&at))
            }
        };
        is_all && metadata.iter().all(|(key, value)| !is_of_image(key) || told.get(key) == Some(value))
    }

    /// The definition of a result.
    ///
    /// # Errors
    /// When it has none.
    pub fn definition(&self, at: usize) -> Result<&pb::Definition, Status> {
        let told = self.results.get(at).and_then(|told| told.definition.as_ref());
        told.ok_or_else(|| {
            Status::unimplemented("the result of a Dockerfile whose context is an archive has no definition of its own")
        })
    }
}

/// What a result is made of, for builds beside this one: its directories are those of the client's session.
fn definition(
    planned: &PlannedBuild,
    options: &BuildOptions,
    session: &str,
    edge: Option<Edge>,
) -> Result<pb::Definition, String> {
    let (Some(PlannedGraph { graph, text, spans }), Some(edge)) = (planned.graph(), edge) else {
        return Ok(pb::Definition::default());
    };
    let origins = planned.origins(options);
    let needed = graph.beneath(edge);
    let (mut made, mut vertices) = (Graph::new(), BTreeMap::<VertexId, VertexId>::new());
    for (id, vertex, meta) in graph.iter().filter(|(id, ..)| needed.contains(id)) {
        let op = match &vertex.op {
            Op::Source(source) if source.scheme() == "local" => {
                let origin = origins.get(source.reference());
                Op::Source(source_of(source, origin.ok_or("a tree comes from nowhere")?, session)?)
            }
            op => op.clone(),
        };
        let edge = |edge: &Edge| Edge { vertex: vertices[&edge.vertex], output: edge.output };
        let inputs = vertex.inputs.iter().map(edge).collect();
        let vertex = Vertex { op, inputs, platform: vertex.platform.clone() };
        vertices.insert(id, made.add(vertex, meta.clone()).map_err(|error| error.to_string())?);
    }
    let spans = spans.iter().filter_map(|(id, span)| Some((*vertices.get(id)?, span.clone()))).collect();
    let dockerfile = Dockerfile { name: &text.name, text: &text.text, spans: &spans };
    let wants = [Edge { vertex: vertices[&edge.vertex], output: edge.output }];
    let written = llb::write(&made, &wants, Some(dockerfile)).map_err(|error| error.to_string())?;
    Ok(written.definition)
}

/// A tree as others can have it.
fn source_of(source: &SourceOp, origin: &Origin, session: &str) -> Result<SourceOp, String> {
    match origin {
        Origin::Definition(theirs) => {
            let mut theirs = theirs.clone();
            theirs.attrs.entry(SESSION.to_owned()).or_insert_with(|| session.to_owned());
            Ok(theirs)
        }
        Origin::Place(Place::Theirs(theirs), paths) => {
            let mut attrs = source.attrs.clone();
            attrs.insert(SESSION.to_owned(), session.to_owned());
            if !paths.is_empty() {
                attrs.insert(FOLLOW_PATHS.to_owned(), json!(paths).to_string());
            }
            Ok(SourceOp { identifier: format!("local://{}", theirs.name), attrs })
        }
        Origin::Place(Place::Git(git), _) if !source.attrs.contains_key(attr::EXCLUDE_PATTERNS) => Ok(git.source()),
        Origin::Place(..) => Err("a tree comes from an archive, or from a repository with an ignore file".to_owned()),
    }
}

/// The inputs that a Dockerfile names as contexts, with what they need.
///
/// # Errors
/// When one is not there, malformed, or cannot be prepared.
pub async fn inputs(
    daemon: &Arc<Daemon>,
    job: &Arc<Job>,
    attributes: &BTreeMap<String, String>,
    definitions: &BTreeMap<String, pb::Definition>,
) -> Result<BTreeMap<String, Arc<NamedDefinition>>, Status> {
    let mut prepared = BTreeMap::new();
    let names = attributes.iter().filter(|(key, _)| key.starts_with(CONTEXT));
    for name in names.filter_map(|(_, value)| value.strip_prefix("input:")) {
        if prepared.contains_key(name) {
            continue;
        }
        let found = definitions.get(name).filter(|_| !name.contains(char::is_whitespace));
        let found = found.ok_or_else(|| {
            Status::invalid_argument(format!("there is no input `{}` for the build", name.escape_debug()))
        })?;
        if prepared.len() >= INPUTS_MAX {
            return Err(Status::resource_exhausted(format!("these are more than {INPUTS_MAX} inputs")));
        }
        let config = config(attributes, name)?;
        let input = Arc::new(prepare(daemon, job, name, found, config).await?);
        daemon.shared.add(&input);
        prepared.insert(name.to_owned(), input);
    }
    Ok(prepared)
}

async fn prepare(
    daemon: &Arc<Daemon>,
    job: &Arc<Job>,
    name: &str,
    found: &pb::Definition,
    config: Option<ImageConfig>,
) -> Result<NamedDefinition, Status> {
    let session = daemon.sessions.find(&job.asking.session).await?;
    // Nothing wanted is the empty tree.
    let llb = if found.def.is_empty() { None } else { Some(definition::read(daemon, found)?) };
    let edge = llb.as_ref().map(|llb| llb.wants[0]);
    // Looked for once: the builds that have them may end at any time.
    let mut here: Vec<(SourceOp, SharedTree)> = Vec::new();
    for (_, vertex, _) in llb.iter().flat_map(|llb| llb.graph.iter()) {
        if let Op::Source(source) = &vertex.op
            && let Some(tree) = daemon.shared.find(source)
        {
            here.push((source.clone(), tree));
        }
    }
    let is_here = |source: &SourceOp| here.iter().any(|(known, _)| known == source);
    let llbs = llb.into_iter().collect();
    let defined = definition::with_shared(daemon, job, &session, llbs, is_here).await?;
    let options = options(daemon, job, &Asked::default(), &session)?;
    let settings = settings_for(daemon, &session);
    let cancel = stops(job.cancel.clone(), session.lost().clone());
    let _unless_awaited = cancel.clone().drop_guard();
    let (name, told) = (name.to_owned(), job.told());
    let prepare = move || async move {
        let known = |source: &SourceOp| here.iter().find(|(known, _)| known == source).map(|(_, tree)| tree.clone());
        let of = engine::NameFrom { name: &name, definition: &defined, edge, config, known: &known };
        Ok(engine::name_definition(of, &settings, &options, told, cancel).await)
    };
    beside(prepare).await?.map_err(|failure| error::status(&failure, job.hub.failed()))
}

/// The config that a client says an input has.
fn config(attributes: &BTreeMap<String, String>, name: &str) -> Result<Option<ImageConfig>, Status> {
    let key = format!("{INPUT_METADATA}{name}");
    let Some(text) = attributes.get(&key) else { return Ok(None) };
    let wrong = |why: String| Status::invalid_argument(format!("`{}` is not understood: {why}", key.escape_debug()));
    let told: BTreeMap<String, String> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let mut metadata = Metadata::new();
    for (key, value) in told {
        metadata.insert(key, BASE64.decode(value).map_err(|error| wrong(error.to_string()))?);
    }
    definition::config(&metadata, None)
}
