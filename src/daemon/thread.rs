//! Where builds run: each on a thread of its own, so many at once.
//!
//! In: a build, as a future. Out: what comes of it. Much of a build blocks: the index of the store, the frontend, files.
//! The runtime's own threads are as few as the cores, and carry all connections; its blocking ones are for short pieces of
//! work, and whoever holds one while waiting for another waits for ever when there are enough of the kind. A thread of a
//! build costs its stack, a few dozen kilobytes, and holds up nobody. Deliberately absent: fairness beyond first come,
//! first served.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Builds that run at once; the next ones wait. Each has a few megabytes while it runs.
const BUILDS_MAX: usize = 256;

/// Places for builds.
#[derive(Debug)]
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUILDS_MAX)))
    }
}

impl Places {
    /// Runs `work` on a thread of its own as soon as there is a place. Dropped before that, it never runs; dropped later,
    /// it goes on until it sees that `cancel` has fired.
    ///
    /// # Errors
    /// What it returns; when it is cancelled before it begins, when there are no more threads, and when it panics.
    pub async fn run<T, F, Fut>(&self, cancel: &CancellationToken, work: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, Status>>,
    {
        let place = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Status::cancelled("context canceled")),
            place = self.0.clone().acquire_owned() => place.expect("nobody closes the semaphore"),
        };
        let work = || async move {
            let outcome = work().await;
            drop(place);
            outcome
        };
        beside(work).await
    }
}

/// Runs what a build that has its place does beside: on a thread of its own too.
///
/// # Errors
/// What it returns; when there are no more threads, and when it panics.
pub async fn beside<T, F, Fut>(work: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, Status>>,
{
    let (tell, told) = oneshot::channel();
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("build".into()).spawn(move || {
        let outcome = runtime.block_on(async { work().await });
        // The caller may have hung up.
        let _ = tell.send(outcome);
    });
    if let Err(error) = thread {
        return Err(Status::resource_exhausted(format!("there is no thread for the build: {error}")));
    }
    told.await.unwrap_or_else(|_| Err(Status::internal("rbuild has a bug, by which the build ended")))
}

#[cfg(test)]
mod tests {
    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn builds_that_block_hold_up_nobody_and_more_than_there_are_places_for_wait() {
        let (places, cancel) = (Arc::new(Places::default()), CancellationToken::new());
        let (all, go) = (Arc::new(Barrier::new(BUILDS_MAX + 1)), Arc::new(std::sync::Barrier::new(BUILDS_MAX + 1)));
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..BUILDS_MAX {
            let (places, cancel, all, go) = (places.clone(), cancel.clone(), all.clone(), go.clone());
            running.spawn(async move {
                let blocks = || async move {
                    all.wait().await;
                    go.wait();
                    Ok(())
                };
                places.run(&cancel, blocks).await
            });
        }
        all.wait().await;
        let late = CancellationToken::new();
        late.cancel();
        let refused = places.run(&late, || async { Ok(()) }).await.expect_err("it was cancelled");
        assert_eq!(refused.code(), tonic::Code::Cancelled);
        assert_eq!(places.0.available_permits(), 0);
        go.wait();
        while let Some(outcome) = running.join_next().await {
            outcome.expect("it does not panic").expect("it ends well");
        }
        assert_eq!(places.run(&cancel, || async { Ok(7) }).await.expect("there is a place again"), 7);
        let failed = places.run(&cancel, || async { if true { panic!("a bug") } else { Ok(()) } }).await;
        assert_eq!(failed.expect_err("it panicked").code(), tonic::Code::Internal);
    }
}
