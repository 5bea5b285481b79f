//! Waiting for a lock of flock(2) that another process or step holds, until it is free or nobody waits any more.
//!
//! The lock dies with its holder, and the kernel queues who waits. Nothing but a signal ends that call early, so a wait
//! has a thread of its own. Dropping the wait interrupts it, and nothing is left of it afterwards: neither the thread
//! nor a lock that nobody wants. Deliberately absent: what is locked, and what its holder is called.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::sys;

/// A signal that comes just before the call is lost: it is sent again until the thread has ended.
const INTERRUPT_EVERY: Duration = Duration::from_millis(1);

/// A wait, and in the end what it was for. Given up when it is dropped.
#[derive(Debug)]
pub struct Waiting<T> {
    /// `None` only while it is dropped.
    thread: Option<JoinHandle<()>>,
    given_up: Arc<AtomicBool>,
    answer: oneshot::Receiver<T>,
    /// Then the thread ends by itself.
    answered: bool,
}

impl<T: Send + 'static> Waiting<T> {
    /// Begins to wait. `wait` asks whether it is given up whenever a signal interrupts it, as
    /// [`store::flock_unless`] does; what it returns then is seen by nobody.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(name: &str, wait: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static) -> io::Result<Self> {
        let (tell, answer) = oneshot::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let is_given_up = given_up.clone();
        let wait = move || drop(tell.send(wait(&|| is_given_up.load(Ordering::SeqCst))));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(wait)?;
        Ok(Self { thread: Some(thread), given_up, answer, answered: false })
    }
}

impl<T> Future for Waiting<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(context));
        self.answered = true;
        Poll::Ready(answer.expect("the thread answers before it ends"))
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else { return };
        while !self.answered && !thread.is_finished() {
            if let Err(error) = sys::interrupt(&thread) {
                // It waits on, and lets go of whatever it gets.
                tracing::debug!(%error, "a thread that waits for a lock cannot be interrupted");
                return;
            }
            std::thread::sleep(INTERRUPT_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    fn wait(file: File) -> Waiting<bool> {
        Waiting::start("test", move |given_up| store::flock_unless(&file, given_up).expect("it can be locked"))
            .expect("a thread")
    }

    /// Threads of this process with the name of a wait here.
    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name == "wait-test\n").count()
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_leaves_no_thread_and_no_lock_and_one_that_is_not_gets_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let open = || File::options().create(true).truncate(false).write(true).open(dir.path().join("lock"));
        let open = || open().expect("made");
        let held = open();
        flock(&held, FlockOperation::NonBlockingLockExclusive).expect("it is free");
        for _ in 0..50 {
            let file = open();
            let waiting = Waiting::start("wait-test", move |given_up| store::flock_unless(&file, given_up));
            let mut waiting = waiting.expect("a thread");
            assert!(Pin::new(&mut waiting).poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
            drop(waiting);
            assert_eq!(threads(), 0);
        }
        let waiting = wait(open());
        // A signal alone gives nothing up.
        sys::interrupt(waiting.thread.as_ref().expect("it runs")).expect("a signal");
        drop(held);
        assert!(waiting.await);
        flock(open(), FlockOperation::NonBlockingLockExclusive).expect("nobody holds it");
    }
}
