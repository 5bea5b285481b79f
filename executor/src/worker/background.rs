//! Work that only uses what nobody else wants of the processor.
//!
//! In: something that blocks. Out: a thread of its own, of low priority; threads that it starts have that too. It takes no permit of [`super::cores`]: whoever has one is served first. Deliberately absent: what to
//! do, and when to stop.

use std::io;
use std::thread::JoinHandle;

use super::Worker;

/// A tenth of a busy processor, all of a free one. Less would let the end of a build wait for what others do to the
/// machine. setpriority(2).
const NICE: i32 = 10;

impl Worker {
    /// Starts a thread of low priority.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn in_background(&self, name: &str, work: impl FnOnce(&Worker) + Send + 'static) -> io::Result<JoinHandle<()>> {
        let worker = self.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Of the calling thread alone, as Linux has it.
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%error, "the priority of background work stays as it is");
            }
            work(&worker);
        })
    }
}
