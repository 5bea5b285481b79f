//! More threads for encoders that are at work already.
//!
//! In: crews, the threads of an encoder with their queue of chunks; and somebody who cannot wait for them, because they
//! have a low priority that nobody may raise any more. Out: as many threads with the caller's own priority at the same
//! queue; those who were there end with the chunk that they have. The bytes stay the same: chunks go out in order,
//! whoever deflated them. Deliberately absent: what is deflated ([`super::gzip`]), and priorities.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Calls help for all encoders that were given a clone of it.
#[derive(Clone, Debug, Default)]
pub struct Help(Arc<Mutex<Vec<Offer>>>);

#[derive(Debug)]
struct Offer {
    crew: Weak<dyn Crew>,
    threads: usize,
}

/// Threads that work on one queue.
pub(super) trait Crew: std::fmt::Debug + Send + Sync {
    /// Works until nothing comes any more, or until there is help and `helps` is not set.
    fn work(&self, helps: bool);

    /// There is help.
    fn relieve(&self);
}

/// A queue that several threads take from.
#[derive(Debug)]
pub(super) struct Queue<T> {
    jobs: Mutex<Receiver<T>>,
    relieved: AtomicBool,
}

impl<T> Queue<T> {
    pub(super) fn new(jobs: Receiver<T>) -> Self {
        Self { jobs: Mutex::new(jobs), relieved: AtomicBool::new(false) }
    }

    /// The next; `None` if nothing comes any more, or others do it.
    pub(super) fn next(&self, helps: bool) -> Option<T> {
        if self.relieved.load(Relaxed) && !helps {
            return None;
        }
        // A poisoned queue is whole: nothing but `recv` happens under the lock.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }

    pub(super) fn relieve(&self) {
        self.relieved.store(true, Relaxed);
    }
}

impl Help {
    /// So many threads work here; from now on they can be helped.
    pub(super) fn offer(&self, crew: &Arc<impl Crew + 'static>, threads: usize) {
        let crew = Arc::downgrade(crew);
        let mut offers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        offers.retain(|offer| offer.crew.strong_count() > 0);
        offers.push(Offer { crew, threads });
    }

    /// Starts as many threads as every encoder has that is at work now. They have the caller's priority, and end with
    /// the encoder.
    pub fn come(&self) {
        let offers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for Offer { crew, threads } in offers {
            for _ in 0..threads {
                let Some(crew) = crew.upgrade() else { break };
                let helper = crew.clone();
                let started = std::thread::Builder::new().name("rbuild-helper".into()).spawn(move || helper.work(true));
                match started {
                    Ok(_) => crew.relieve(),
                    // Those who are there go on.
                    Err(error) => tracing::debug!(%error, "no help for an encoder"),
                }
            }
        }
    }
}
