//! Events of a build on their way to a thread of their own.
//!
//! Many tasks report; one thread takes. Nothing that a step prints is lost: the queue has no end. The price is paid by
//! the step: when the taker stands still and too many bytes of output wait, the next piece of output waits too, until
//! the taker moves on or the build is cancelled.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use solver::seam::{Event, Progress};
use tokio_util::sync::CancellationToken;

/// Output of steps that may wait for the taker before the steps do.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;
/// How often a step that waits looks whether the build was cancelled.
const CANCEL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The listening end.
pub struct Queue {
    /// `None` once it is closed.
    sender: Mutex<Option<Sender<(Duration, Event)>>>,
    /// Bytes of output in the queue.
    queued_bytes: Mutex<usize>,
    /// How many may be.
    max_bytes: usize,
    /// Told whenever there are fewer.
    drained: Condvar,
    cancel: CancellationToken,
    began: Instant,
}

impl Queue {
    /// A queue whose times begin now, and its other end. `cancel` is the build's.
    pub fn new(max_bytes: usize, cancel: CancellationToken) -> (Arc<Self>, Receiver<(Duration, Event)>) {
        let (sender, receiver) = mpsc::channel();
        let queue = Self {
            sender: Mutex::new(Some(sender)),
            queued_bytes: Mutex::new(0),
            max_bytes,
            drained: Condvar::new(),
            cancel,
            began: Instant::now(),
        };
        (Arc::new(queue), receiver)
    }

    /// What comes from now on is dropped; the taker sees the end of the queue.
    pub fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The time since the build began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// So many bytes of output were dealt with.
    pub fn taken(&self, bytes: usize) {
        *self.queued_bytes.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.drained.notify_all();
    }

    /// Waits while too much output is in the queue.
    fn let_drain(&self) {
        if *self.queued_bytes.lock().unwrap_or_else(PoisonError::into_inner) <= self.max_bytes {
            return;
        }
        match tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            // Nobody else could run meanwhile.
            Ok(tokio::runtime::RuntimeFlavor::CurrentThread) => {}
            _ => tokio::task::block_in_place(|| self.wait_until_drained()),
        }
    }

    fn wait_until_drained(&self) {
        let mut queued = self.queued_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *queued > self.max_bytes && !self.cancel.is_cancelled() {
            let waited = self.drained.wait_timeout(queued, CANCEL_CHECK_INTERVAL);
            queued = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    #[cfg(test)]
    pub fn queued_bytes(&self) -> usize {
        *self.queued_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Queue {
    fn event(&self, event: Event) {
        let bytes = log_bytes(&event);
        // Counted before it can be taken, or the count would never come down to nothing.
        if bytes > 0 {
            *self.queued_bytes.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        }
        let sent = {
            let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
            // The clock is read under the lock, so that times in the queue never go back.
            sender.as_ref().is_some_and(|sender| sender.send((self.began.elapsed(), event)).is_ok())
        };
        if sent && bytes > 0 {
            self.let_drain();
        } else if !sent && bytes > 0 {
            // The taker has ended, or has panicked and said so; the build goes on without it.
            self.taken(bytes);
        }
    }
}

/// How much of a step's output an event carries.
pub fn log_bytes(event: &Event) -> usize {
    if let Event::Log { bytes, .. } = event { bytes.len() } else { 0 }
}
