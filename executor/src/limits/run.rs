//! A process within its limits: the group around it, the watch beside it, the verdict after it.
//!
//! In: what the sandbox takes, and a worker's [`Groups`]. Out: how it ended, what it used, and which limit it ran into.
//! Deliberately absent: what becomes of a step that failed ([`crate::ops::exec`]).

use std::path::PathBuf;

use solver::seam::Usage;
use tokio_util::sync::CancellationToken;

use super::figures::Figures;
use super::group::Group;
use super::watch::Watch;
use super::{Hit, LimitError, PIDS_USUAL, Pids};
use crate::error::ExecError;
use crate::sandbox::{self, Descriptors, Exit, Finished, Io, ProcessSpec, SandboxError, Settings};
use crate::worker::Worker;

/// A step's limits, made ready.
pub struct Limited {
    group: Option<Group>,
    watch: Watch,
    memory_bytes: Option<u64>,
    pids: Option<u64>,
}

/// How a process within limits ended.
pub struct Outcome {
    /// How the sandbox saw it; `None` when it was stopped for a limit.
    pub finished: Option<Finished>,
    /// What it used.
    pub usage: Option<Usage>,
    /// The limit that it ran into. It may have ended well all the same.
    pub hit: Option<Hit>,
}

impl Limited {
    /// Makes ready for a step that writes to `uppers`. Blocking.
    pub fn prepare(worker: &Worker, parent: Option<&str>, uppers: Vec<PathBuf>) -> Result<Self, LimitError> {
        let groups = worker.groups();
        let limits = groups.limits();
        let watch = Watch::new(limits, uppers, worker.store().root().to_owned())?;
        let pids = match limits.pids {
            Pids::Usual => Some(PIDS_USUAL),
            Pids::Unlimited => None,
            Pids::Max(max) => Some(max),
        };
        Ok(Self { group: groups.make(parent)?, watch, memory_bytes: limits.memory_bytes, pids })
    }

    /// Runs a process as [`sandbox::run_with`] does, in the group and under the watch.
    pub async fn run<'a>(
        &'a self,
        settings: &Settings,
        spec: &mut ProcessSpec,
        io: Io<'_>,
        mut descriptors: Descriptors<'a>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, ExecError> {
        spec.group = self.group.as_ref().map(|group| group.hand(&mut descriptors));
        let stop = cancel.child_token();
        let mut stopped = None;
        let ended = {
            let mut running = std::pin::pin!(sandbox::run_with(settings, spec, io, &descriptors, &stop));
            let mut watching = std::pin::pin!(self.watch.until_hit());
            loop {
                tokio::select! {
                    biased;
                    ended = &mut running => break ended,
                    hit = &mut watching, if stopped.is_none() => {
                        stopped = Some(hit);
                        stop.cancel();
                    }
                }
            }
        };
        let figures = self.group.as_ref().map(Group::figures).unwrap_or_default();
        let finished = match (ended, &stopped) {
            (Ok(finished), _) => Some(finished),
            (Err(SandboxError::Canceled), Some(_)) if !cancel.is_cancelled() => None,
            (Err(error), _) => return Err(self.why(error, &figures)),
        };
        // What ended by itself in the same moment was not stopped.
        let hit = stopped.filter(|_| finished.is_none()).or_else(|| self.hit(&figures, finished.as_ref()));
        Ok(Outcome { usage: used(&figures, finished.as_ref()), finished, hit })
    }

    /// A set-up that failed for lack of memory says so.
    fn why(&self, error: SandboxError, figures: &Figures) -> ExecError {
        match (error, self.hit(figures, None)) {
            (SandboxError::HelperDied { how }, Some(hit)) => {
                SandboxError::HelperDied { how: format!("{how}: it {hit}") }.into()
            }
            (error, _) => error.into(),
        }
    }

    fn hit(&self, figures: &Figures, finished: Option<&Finished>) -> Option<Hit> {
        if figures.killed > 0 {
            return Some(Hit::Memory {
                limit_bytes: self.memory_bytes,
                peak_bytes: figures.memory_peak_bytes,
                killed: figures.killed,
            });
        }
        let failed = finished.is_some_and(|finished| finished.exit != Exit::Code(0));
        (failed && figures.refused > 0).then_some(Hit::Pids { limit: self.pids })
    }
}

/// The group's figures, which count everybody; else what the kernel tells of the processes that were waited for.
fn used(figures: &Figures, finished: Option<&Finished>) -> Option<Usage> {
    let waited = finished.map(|finished| (finished.usage.user, finished.usage.system));
    let (user, system) = figures.times.or(waited)?;
    let max_rss_bytes = finished.map(|finished| finished.usage.max_rss_bytes);
    Some(Usage { user, system, memory_peak_bytes: figures.memory_peak_bytes, max_rss_bytes })
}
