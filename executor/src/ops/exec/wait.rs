//! Waiting for a cache mount that another step uses, in whatever process, until its lock is free or nobody wants it.
//!
//! The lock is flock(2)'s: it dies with its holder, and the kernel queues who waits. Nothing but a signal ends that call
//! early, so the wait has a thread of its own, which is interrupted when the build is stopped, and has ended before the
//! step has. Deliberately absent: which mount one gets ([`store`] decides), the place among `--jobs`, which the caller
//! leaves meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use solver::seam::LogSink;
use store::{BusyMount, MountTurn, StoreError, shown_mount_id};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::StepError;
use crate::error::ExecError;
use crate::sys;

/// Nobody is told of waits that are over at once.
const SILENT_WAIT: Duration = Duration::from_secs(1);
/// A signal that comes just before the call is lost: it is sent again until the thread has ended.
const INTERRUPT_EVERY: Duration = Duration::from_millis(1);

/// Waits for a cache mount; after a moment it says so, once for all waits with the same `told`.
pub(super) async fn wait(
    busy: BusyMount,
    log: &dyn LogSink,
    told: &mut bool,
    cancel: &CancellationToken,
) -> Result<MountTurn, ExecError> {
    let notice = format!("waits for the cache mount `{}`, which another step uses", shown_mount_id(&busy.key.id));
    let (thread, mut turn) = Waiting::start(busy)?;
    let turn = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        turn = &mut turn => Some(turn),
        () = tokio::time::sleep(SILENT_WAIT), if !*told => {
            log.notice(&notice);
            *told = true;
            tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                turn = &mut turn => Some(turn),
            }
        }
    };
    let Some(turn) = turn else {
        thread.stop().await?;
        return Err(ExecError::Canceled);
    };
    let turn: Result<Option<MountTurn>, StoreError> = turn.expect("the thread answers before it ends");
    Ok(turn?.expect("nobody gave up"))
}

/// A thread that waits.
struct Waiting {
    thread: JoinHandle<()>,
    given_up: Arc<AtomicBool>,
}

type Turn = oneshot::Receiver<Result<Option<MountTurn>, StoreError>>;

impl Waiting {
    fn start(busy: BusyMount) -> Result<(Self, Turn), StepError> {
        let (tell, turn) = oneshot::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let is_given_up = given_up.clone();
        let wait = move || {
            // Who asked may be gone by now: then the turn is given up here.
            drop(tell.send(busy.wait(&|| is_given_up.load(Ordering::SeqCst))));
        };
        let thread = std::thread::Builder::new().name("cache-mount".into()).spawn(wait).map_err(failed("start"))?;
        Ok((Self { thread, given_up }, turn))
    }

    /// Ends the wait; nothing is left of it afterwards.
    async fn stop(self) -> Result<(), StepError> {
        self.given_up.store(true, Ordering::SeqCst);
        while !self.thread.is_finished() {
            sys::interrupt(&self.thread).map_err(failed("interrupt"))?;
            tokio::time::sleep(INTERRUPT_EVERY).await;
        }
        Ok(())
    }
}

fn failed(act: &'static str) -> impl Fn(std::io::Error) -> StepError {
    move |source| StepError::Io { act, path: "the thread that waits for a cache mount".into(), source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use solver::op::CacheSharing;
    use store::{MountKey, MountWish, Store, Taken};

    use super::*;

    #[tokio::test]
    async fn a_wait_that_is_given_up_ends_with_its_thread_and_one_that_is_not_gets_its_turn() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let key = MountKey { id: "/c".into(), seed: String::new() };
        let wish = [MountWish { key, sharing: CacheSharing::Locked }];
        let take = || store.take_mounts(&wish, &mut BTreeMap::new(), None).expect("the store answers");
        let Taken::All(held) = take() else { panic!("it is free") };
        let Taken::Busy(busy) = take() else { panic!("it is not") };
        let (waiting, turn) = Waiting::start(busy).expect("a thread");
        waiting.stop().await.expect("it ends");
        assert!(turn.await.expect("an answer").expect("no error").is_none());

        let Taken::Busy(busy) = take() else { panic!("it is still not") };
        let (waiting, turn) = Waiting::start(busy).expect("a thread");
        // A signal alone gives nothing up.
        sys::interrupt(&waiting.thread).expect("a signal");
        drop(held);
        assert!(turn.await.expect("an answer").expect("no error").is_some());
    }
}
