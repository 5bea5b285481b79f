//! `rbuild plan`: which steps a build would run, and why, without running anything.
//!
//! In come the options of a build; out comes that build as it would be recorded, and why its steps would run. Images are
//! resolved and contexts read as a build does; keys are looked up in the local store, then in the caches of
//! `--cache-from`, and what these know of a key is noted here as a build notes it. No build is recorded, nothing claimed,
//! no layer brought, and nobody told.

use std::collections::HashMap;
use std::sync::Arc;

use executor::{ExecError, Worker};
use solver::foresee::{Outlook, foresee};
use solver::key::ContentDigest;
use solver::op::SourceOp;
use solver::seam::{Event, Executor, Job, LogSink, Pin, Progress, Read, ResultId, Selection};
use store::history::{Build, Head};
use tokio_util::sync::CancellationToken;

use super::build::{plan, unsolved};
use super::cache::{Caches, Lost, Remotes, Watch};
use super::context::Opener;
use super::history::{head, steps};
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
    let registry = settings.registry()?;
    let opener = Opener { store: &store, progress: &progress, connectivity: settings.connectivity(), cancel: &cancel };
    let mut context = opener.open(&options.input).await?;
    let plan = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(words::canceled()),
        plan = plan(settings, options, &context, &store, &registry, &progress) => plan?,
    };
    context.named.fetch_for(&plan.graph, &opener).await?;
    let worker = settings.worker(&store, &registry, context.local_sources(), options.steps.clone())?;
    let planned = steps::Planned::of(&context.dockerfile, &plan);
    let wants: Vec<_> = plan.output.edge.into_iter().collect();
    let imagined = Arc::new(steps::Imagined::default());
    // Caches are asked, and not told.
    let asked = BuildOptions { cache_to: Vec::new(), ..options.clone() };
    let Remotes { imports, watch, .. } = Remotes::open(settings, &asked, &store, &registry, &progress)?;
    let heard = Arc::new(Heard { imagined: imagined.clone(), watch });
    let cache = Arc::new(Caches { store: store.clone(), imports });
    let outlooks = foresee(Arc::new(plan.graph), &wants, Arc::new(Unmoved(worker)), cache, heard, &cancel)
        .await
        .map_err(|error| unsolved(error, &context, &plan.spans))?;
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

/// A worker that brings no layer: what is not here cannot be looked into, and has no content.
struct Unmoved(Worker);

impl Executor for Unmoved {
    type Error = ExecError;

    async fn pin(&self, source: &SourceOp, log: &dyn LogSink, cancel: &CancellationToken) -> Result<Pin, ExecError> {
        self.0.pin(source, log, cancel).await
    }

    async fn digest_selected(
        &self,
        source: &SourceOp,
        selection: &Selection,
        cancel: &CancellationToken,
    ) -> Result<ContentDigest, ExecError> {
        self.0.digest_selected(source, selection, cancel).await
    }

    async fn content(
        &self,
        result: &ResultId,
        read: &Read,
        cancel: &CancellationToken,
    ) -> Result<Option<ContentDigest>, ExecError> {
        match self.0.content(result, read, cancel).await {
            Err(error) if Lost::of(&error).is_some() => Ok(None),
            content => content,
        }
    }

    async fn run(
        &self,
        job: Job<'_>,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<ResultId>, ExecError> {
        self.0.run(job, log, cancel).await
    }
}
