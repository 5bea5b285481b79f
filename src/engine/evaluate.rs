//! A result that is looked at before anything is made of it: what frontends ask for while they think.
//!
//! In: a definition, or options that name a Dockerfile. Out: [`Evaluated`], whose tree can be looked into. All its layers
//! are here, and nothing of it has a name. What was solved is remembered like a build's, so a build that comes to the same
//! finds it. Deliberately absent: what is looked for in the tree, and any record in the history.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use executor::Worker;
use executor::layers::SCRATCH;
use executor::source::given::Given;
use frontend::{Answers, ImageAnswer, ImageQuestion};
use oci::model::{Platform, Reference};
use solver::graph::Edge;
use solver::seam::{Progress, ResultId};
use tokio_util::sync::CancellationToken;

use super::context::Opener;
use super::definition::Definition;
use super::graph::{self, LayersWanted, Pinned, With};
use super::planned::PlannedBuild;
use super::plans::plan;
use super::policy::Policy;
use super::{Failure, Settings, words};
use crate::options::BuildOptions;

/// A solved result.
pub struct Evaluated {
    result: ResultId,
    worker: Worker,
}

impl std::fmt::Debug for Evaluated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluated").field("result", &self.result).finish_non_exhaustive()
    }
}

impl Evaluated {
    /// Its name in the store.
    pub(super) fn result(&self) -> &ResultId {
        &self.result
    }

    /// Looks into its tree, whose root is the descriptor; off the async threads.
    ///
    /// # Errors
    /// When the tree cannot be mounted.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(BorrowedFd<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let result = self.result.clone();
        let looked = self.worker.blocking(move |worker| {
            let view = worker.view(&result)?;
            Ok(look(view.fd()))
        });
        looked.await.map_err(|error| words::exec(&error))
    }
}

/// What is looked at.
pub enum Looked<'a> {
    /// The Dockerfile of the options; of several platforms the first.
    Dockerfile,
    /// The same, planned before: the result of that number.
    Planned(&'a mut PlannedBuild, usize),
    /// An operation's output.
    Definition(&'a Definition, Edge),
}

/// Solves it.
///
/// # Errors
/// As a build.
pub async fn evaluate(
    settings: &Settings,
    options: &BuildOptions,
    looked: Looked<'_>,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Evaluated, Failure> {
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let given = Given::of(&options.steps).for_contexts(options.input.own_agent.clone());
    let connectivity = settings.connectivity();
    let opener = Opener { store: &store, progress: &progress, connectivity, given: &given, cancel: &cancel };
    let mut opened = None;
    let prepare = async {
        let (context, plans, at) = match looked {
            Looked::Definition(definition, edge) => {
                let prepared = definition.prepare(&[edge], settings, options, &opener, &registry).await?;
                return Ok::<_, Failure>((prepared.context.local_sources(), prepared.pinned, Some(prepared.context)));
            }
            Looked::Planned(planned, at) => {
                let (context, plans) = planned.outcome.as_mut().map_err(|failure| failure.clone())?;
                (context, &*plans, at)
            }
            Looked::Dockerfile => {
                let context = opener.open(&options.input).await?;
                let mut answers = Answers::new();
                let plans = plan(settings, options, &context, &store, &registry, &progress, &mut answers).await?;
                let (context, plans) = opened.insert((context, plans));
                (context, &*plans, 0)
            }
        };
        context.fetch_for(&plans.graph, &opener).await?;
        let wants = plans.outputs().nth(at).and_then(|output| output.edge).into_iter().collect();
        let pinned = Pinned { graph: plans.graph.clone(), wants, vertices: Default::default() };
        Ok((context.local_sources(), pinned, None))
    };
    // Directories stay as long as they are read.
    let (local_sources, pinned, _context) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(words::canceled()),
        prepared = prepare => prepared?,
    };
    let with = With {
        settings,
        options,
        store: &store,
        registry: &registry,
        local_sources,
        // A tree is made of what is here.
        layers: LayersWanted::Blobs,
        progress: &progress,
        cancel: &cancel,
    };
    let solved = graph::solve(&pinned, with).await?;
    let result = solved.results.into_iter().next().unwrap_or_else(|| ResultId(SCRATCH.to_owned()));
    Ok(Evaluated { result, worker: solved.worker })
}

/// Asks what an image is, or the one that the policy puts in its place; `mode` says whom, as the attribute of a definition's
/// sources does.
///
/// # Errors
/// When it cannot be had.
pub async fn image_config(
    settings: &Settings,
    name: &str,
    platform: Option<Platform>,
    mode: &str,
    policy: &Policy,
    progress: Arc<dyn Progress>,
) -> Result<(Reference, ImageAnswer), Failure> {
    let reference: Reference = name.parse().map_err(|error| Failure::from_error(&error))?;
    let reference = policy.image(&reference)?.unwrap_or(reference);
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let platform = platform.unwrap_or_else(|| settings.native_platform.clone());
    let question = ImageQuestion { reference: reference.clone(), platform, layout: None };
    let answer = graph::answer(graph::ask_of(Some(mode)), &question, settings, &store, &registry, &progress).await?;
    Ok((reference, answer))
}
