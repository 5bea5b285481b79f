//! The executor of a build that takes results from caches: it says when one of them was lost.
//!
//! A [`Worker`] in everything; only, before a step runs, the cache mounts that it lacks and a cache has are brought, and
//! when an operation fails because a layer of a cache could not be had, [`Watch`] is told before the solver tells
//! anybody: nothing has failed yet, the build is solved again. Of a build that is only imagined, nothing is brought.

use std::sync::Arc;

use executor::{ExecError, Worker};
use solver::key::ContentDigest;
use solver::op::SourceOp;
use solver::seam::{Executor, Job, LogSink, Pin, Read, ResultId, Selection};
use tokio_util::sync::CancellationToken;

use super::{Imports, Lost, Watch, mounts};

/// A worker, watched.
pub struct Steps {
    /// Who does it all.
    pub worker: Worker,
    /// Who is told.
    pub watch: Arc<Watch>,
    /// Cache mounts of other machines.
    pub imports: Arc<Imports>,
    /// Whether the build is only imagined: what is not here cannot be looked into then, and has no content.
    pub imagines: bool,
}

impl Executor for Steps {
    type Error = ExecError;

    async fn pin(&self, source: &SourceOp, log: &dyn LogSink, cancel: &CancellationToken) -> Result<Pin, ExecError> {
        self.worker.pin(source, log, cancel).await
    }

    async fn digest_selected(
        &self,
        source: &SourceOp,
        selection: &Selection,
        cancel: &CancellationToken,
    ) -> Result<ContentDigest, ExecError> {
        self.worker.digest_selected(source, selection, cancel).await
    }

    async fn content(
        &self,
        result: &ResultId,
        read: &Read,
        cancel: &CancellationToken,
    ) -> Result<Option<ContentDigest>, ExecError> {
        match self.worker.content(result, read, cancel).await {
            Err(error) if self.imagines && Lost::of(&error).is_some() => Ok(None),
            content => content,
        }
    }

    async fn settle(
        &self,
        fresh: Vec<ResultId>,
        known: &[Vec<ResultId>],
        cancel: &CancellationToken,
    ) -> Result<Vec<ResultId>, ExecError> {
        self.worker.settle(fresh, known, cancel).await
    }

    async fn run(
        &self,
        job: Job<'_>,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<ResultId>, ExecError> {
        let ids = mounts::ids_of(&job.vertex.op);
        // Stopped: then the worker says so too.
        cancel.run_until_cancelled(self.imports.bring_mounts(ids, log)).await;
        let ran = self.worker.run(job, log, cancel).await;
        if ran.as_ref().err().and_then(Lost::of).is_some() {
            self.watch.hold();
        }
        ran
    }
}
