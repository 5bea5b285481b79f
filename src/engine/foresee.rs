//! `rbuild plan`: which steps a build would run, and why, without running anything.
//!
//! In come the options of a build; out comes that build as it would be recorded, and why its steps would run. Images are
//! resolved and contexts read as a build does; keys are looked up in the local store, then in the caches of
//! `--cache-from`, and what these know of a key is noted here as a build notes it. No build is recorded, nothing claimed,
//! no layer brought, and nobody told.

use std::collections::HashMap;
use std::sync::Arc;

use executor::source::given::Given;
use frontend::Answers;
use solver::foresee::{Outlook, foresee};
use solver::seam::{Event, Progress};
use store::history::{Build, Head};
use tokio_util::sync::CancellationToken;

use super::build::unsolved;
use super::cache::{Remotes, Watch};
use super::context::Opener;
use super::history::{head, steps};
use super::plans::plan;
use super::why::{self, Miss};
use super::{Failure, Settings, words};
use crate::options::BuildOptions;

/// What a build would do.
#[derive(Clone, Debug)]
pub struct Foreseen {
    /// The build as it would be recorded: what would run counts as run.
    pub build: Build,
    /// What is to be expected of the steps that are not known, by their places.
    pub outlooks: HashMap<usize, Outlook>,
    /// The build that it is compared with, if there is one.
    pub old: Option<Head>,
    /// Why steps would run; empty when there is nothing to compare with.
    pub misses: Vec<Miss>,
}

/// Imagines a build. What is resolved and read on the way is told to `progress`.
///
/// # Errors
/// As a build before its first step: a faulty Dockerfile, an image that cannot be resolved, a file that is not there.
pub async fn plan_build(
    settings: &Settings,
    options: &BuildOptions,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Foreseen, Failure> {
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let (connectivity, given) = (settings.connectivity(), Given::of(&options.steps));
    let for_contexts = given.for_contexts(options.input.own_agent.clone());
    let opener = Opener { store: &store, progress: &progress, connectivity, given: &for_contexts, cancel: &cancel };
    let mut context = opener.open(&options.input).await?;
    let mut answers = Answers::new();
    let plan = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(words::canceled()),
        plan = plan(settings, options, &context, &store, &registry, &progress, &mut answers) => plan?,
    };
    context.named.fetch_for(&plan.graph, &opener).await?;
    let worker =
        settings.worker_with(&store, &registry, context.local_sources(), options.steps.clone(), given.clone())?;
    let planned = steps::Planned::of(&context.dockerfile, &plan);
    let wants: Vec<_> = plan.outputs().filter_map(|output| output.edge).collect();
    let imagined = Arc::new(steps::Imagined::default());
    // Caches are asked, and not told.
    let asked = BuildOptions { cache_to: Vec::new(), ..options.clone() };
    let remotes = Remotes::open(settings, &asked, &store, &registry, &progress)?;
    let heard = Arc::new(Heard { imagined: imagined.clone(), watch: remotes.watch.clone() });
    let (executor, cache) = (remotes.steps(&worker, true), remotes.memory(&store, None, None));
    let outlooks = foresee(plan.graph.clone(), &wants, executor, cache, heard, &cancel)
        .await
        .map_err(|error| unsolved(error, &context, &plan))?;
    let (build, places) = imagined.build(head(options), &planned);
    let outlooks =
        outlooks.into_iter().filter_map(|(vertex, outlook)| Some((*places.get(&vertex)?, outlook))).collect();
    let failed = |error: store::StoreError| words::store(&error);
    let old = why::before(&store, &build.head).map_err(failed)?;
    let misses = match &old {
        Some(old) => why::misses(&store, &build, old, &why::ran(&build)).map_err(failed)?,
        None => Vec::new(),
    };
    Ok(Foreseen { build, outlooks, old: old.map(|old| old.head), misses })
}

/// Who hears what an imagined build tells: the record of it, and of keys the caches' listener, which is asked what they
/// were made of.
struct Heard {
    imagined: Arc<steps::Imagined>,
    watch: Arc<Watch>,
}

impl Progress for Heard {
    fn event(&self, event: Event) {
        if matches!(event, Event::Keyed { .. }) {
            self.watch.event(event.clone());
        }
        self.imagined.event(event);
    }
}
