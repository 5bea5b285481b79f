//! A Dockerfile that is planned before anybody knows whether it will be built: what clients get that ask a frontend for a
//! result, look at it, and return it later, or give it to another build.
//!
//! In: the options of a build, without its outputs. Out: [`PlannedBuild`], which says what the results are made of, and
//! which is built without being planned again. Deliberately absent: how results go to clients (`src/daemon/gateway`).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use executor::source::given::Given;
use frontend::Answers;
use oci::model::{ImageConfig, Platform};
use solver::graph::{Edge, Graph, VertexId};
use solver::op::SourceOp;
use solver::seam::{Event, Progress};
use tokio_util::sync::CancellationToken;

use super::context::theirs::read_paths;
use super::context::{Context, Opener};
use super::graph::image::told_config;
use super::plans::{Plans, plan};
use super::{Failure, Settings, Text, words};
use crate::options::BuildOptions;
use crate::options::context::{NamedValue, Place};

/// What happens while a Dockerfile is planned is some dozen events; a line of output is one of them.
const EVENTS_MAX: usize = 10_000;

/// A Dockerfile that is planned, or could not be: then building it fails likewise, and is on record.
pub struct PlannedBuild {
    pub(super) outcome: Result<(Context, Plans), Failure>,
    /// What happened so far, for the record.
    pub(super) events: Vec<Event>,
}

impl std::fmt::Debug for PlannedBuild {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlannedBuild").finish_non_exhaustive()
    }
}

/// Its operations.
#[derive(Clone, Copy, Debug)]
pub struct PlannedGraph<'a> {
    /// All of them.
    pub graph: &'a Graph,
    /// What they come from.
    pub text: &'a Text,
    /// Where each stands in it.
    pub spans: &'a HashMap<VertexId, Range<usize>>,
}

/// A result of it.
#[derive(Clone, Debug)]
pub struct PlannedResult {
    /// For which platform.
    pub platform: Platform,
    /// What of the graph; `None` is the empty tree.
    pub edge: Option<Edge>,
    /// Its config, with the history of steps that may not have run yet.
    pub config: ImageConfig,
}

/// What a tree is that the graph names as `local://NAME`.
#[derive(Clone, Debug)]
pub enum Origin {
    /// What comes from this place; of the main context these paths and patterns, all of it if there are none.
    Place(Place, Vec<String>),
    /// A directory of another definition, as that names it.
    Definition(SourceOp),
}

/// What became of a Dockerfile that was to be planned.
#[derive(Debug)]
pub enum Planning {
    /// It is planned, or cannot be.
    Here(Box<PlannedBuild>),
    /// It says that another frontend than rbuild reads it, in these words: the image, and words for it.
    Elsewhere(String),
}

/// Plans, as a build would; unless `forward` says of the syntax that the text names that others read it.
pub async fn plan_build(
    settings: &Settings,
    options: &BuildOptions,
    forward: impl Fn(&str) -> bool,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Planning {
    let heard = Arc::new(Heard { display: progress, events: Mutex::default() });
    let opened = opened(settings, options, forward, heard.clone(), cancel).await;
    let outcome = match opened {
        Ok(Opened::Here(context, plans)) => Ok((*context, plans)),
        Ok(Opened::Elsewhere(syntax)) => return Planning::Elsewhere(syntax),
        Err(failure) => Err(failure),
    };
    let events = std::mem::take(&mut *heard.events.lock().unwrap_or_else(PoisonError::into_inner));
    Planning::Here(Box::new(PlannedBuild { outcome, events }))
}

enum Opened {
    Here(Box<Context>, Plans),
    Elsewhere(String),
}

async fn opened(
    settings: &Settings,
    options: &BuildOptions,
    forward: impl Fn(&str) -> bool,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Opened, Failure> {
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let given = Given::of(&options.steps).for_contexts(options.input.own_agent.clone());
    let connectivity = settings.connectivity();
    let opener = Opener { store: &store, progress: &progress, connectivity, given: &given, cancel: &cancel };
    let planned = async {
        let context = opener.open(&options.input).await?;
        if let Some(syntax) = frontend::syntax(&context.dockerfile.text).filter(|syntax| forward(syntax)) {
            return Ok(Opened::Elsewhere(syntax));
        }
        let plans = plan(settings, options, &context, &store, &registry, &progress, &mut Answers::new()).await?;
        Ok(Opened::Here(Box::new(context), plans))
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(words::canceled()),
        planned = planned => planned,
    }
}

impl PlannedBuild {
    /// Why it could not be planned.
    pub fn failure(&self) -> Option<&Failure> {
        self.outcome.as_ref().err()
    }

    /// Its results, in the order of the platforms; none of what could not be planned.
    pub fn results(&self) -> Vec<PlannedResult> {
        let images = self.outcome.as_ref().map(|(_, plans)| plans.images.as_slice()).unwrap_or_default();
        let result = |image: &super::plans::PlannedImage| PlannedResult {
            platform: image.platform.clone(),
            edge: image.output.edge,
            config: told_config(&image.output),
        };
        images.iter().map(result).collect()
    }

    /// Its operations, with the text that they come from and where each stands in it.
    pub fn graph(&self) -> Option<PlannedGraph<'_>> {
        let (context, plans) = self.outcome.as_ref().ok()?;
        Some(PlannedGraph { graph: &plans.graph, text: &context.dockerfile, spans: &plans.spans })
    }

    /// What the trees of its graph are, by name.
    pub fn origins(&self, options: &BuildOptions) -> BTreeMap<String, Origin> {
        let paths = self.graph().and_then(|planned| read_paths(planned.graph)).unwrap_or_default();
        let main = ("context".to_owned(), Origin::Place(options.input.context.clone(), paths));
        let mut origins = BTreeMap::from([main]);
        for source in &options.input.contexts {
            match &source.value {
                NamedValue::Tree(place) => {
                    origins.insert(source.name.clone(), Origin::Place(place.clone(), Vec::new()));
                }
                NamedValue::Result(definition) => {
                    let of_definition = definition.origins.iter();
                    origins
                        .extend(of_definition.map(|(name, source)| (name.clone(), Origin::Definition(source.clone()))));
                }
                NamedValue::Image(_) | NamedValue::Scratch | NamedValue::Layout(_) => {}
            }
        }
        origins
    }
}

/// Hands events on, and keeps them.
struct Heard {
    display: Arc<dyn Progress>,
    events: Mutex<Vec<Event>>,
}

impl Progress for Heard {
    fn event(&self, event: Event) {
        // As the record does: notices are for those who watch.
        if !matches!(event, Event::Notice { .. } | Event::Why { .. }) {
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            if events.len() < EVENTS_MAX {
                events.push(event.clone());
            }
        }
        self.display.event(event);
    }
}
