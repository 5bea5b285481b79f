//! How much of rbuild's own work is done at once: as much as there are cores.
//!
//! File operations, commits, digests and the making of layers take a permit for as long as they compute. A process of a
//! step holds none, nor does a transfer, nor whoever waits for another permit: so nobody waits for ever. What blocks
//! runs on the runtime's blocking threads, and what is split further among rayon's, which are as many as the cores.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::error::ExecError;

/// A permit for each core.
pub(super) fn all() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count()))
}

fn count() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

impl Worker {
    /// Runs what blocks on a thread that may.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, ExecError>
    where
        T: Send + 'static,
        F: FnOnce(&Worker) -> Result<T, ExecError> + Send + 'static,
    {
        let worker = self.clone();
        match tokio::task::spawn_blocking(move || work(&worker)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(error.into()),
        }
    }

    /// Runs work of our own on a thread that may block, when a core is free for it. `work` must not wait for anybody
    /// who needs a core too.
    pub async fn on_core<T, F>(&self, cancel: &CancellationToken, work: F) -> Result<T, ExecError>
    where
        T: Send + 'static,
        F: FnOnce(&Worker) -> Result<T, ExecError> + Send + 'static,
    {
        self.with_cores(1, cancel, work).await
    }

    /// As [`Worker::on_core`], for work that takes all cores by itself, as compression does.
    pub async fn on_all_cores<T, F>(&self, cancel: &CancellationToken, work: F) -> Result<T, ExecError>
    where
        T: Send + 'static,
        F: FnOnce(&Worker) -> Result<T, ExecError> + Send + 'static,
    {
        self.with_cores(u32::try_from(count()).unwrap_or(u32::MAX), cancel, work).await
    }

    async fn with_cores<T, F>(&self, cores: u32, cancel: &CancellationToken, work: F) -> Result<T, ExecError>
    where
        T: Send + 'static,
        F: FnOnce(&Worker) -> Result<T, ExecError> + Send + 'static,
    {
        let permits = self.inner.cores.clone().acquire_many_owned(cores);
        let permits: OwnedSemaphorePermit = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ExecError::Canceled),
            permits = permits => permits.expect("nobody closes the semaphore"),
        };
        // The permits go with the work, also when nobody waits for it any more.
        self.blocking(move |worker| {
            let _permits = permits;
            work(worker)
        })
        .await
    }
}
