//! Work that only uses what nobody else wants of the processor.
//!
//! In: something that blocks. Out: a thread of its own, of low priority; threads that it starts have that too. It takes
//! no permit of [`super::cores`]: whoever has one is served first. When somebody waits for it, it goes on like any other
//! work, as far as this process may say so: only who has CAP_SYS_NICE raises a priority. Deliberately absent: what to do,
//! and when to stop.

use std::io;
use std::thread::JoinHandle;

use rustix::process::{Pid, getpriority_process, setpriority_process};

use super::Worker;

/// Above what the process has: a tenth of a busy processor, all of a free one. Less would let the end of a build wait for
/// what others do to the machine. setpriority(2).
const NICER_BY: i32 = 10;
const NICE_MAX: i32 = 19;

/// What threads in the background have, in a process that has `own`.
fn low(own: i32) -> i32 {
    (own + NICER_BY).min(NICE_MAX)
}

impl Worker {
    /// Starts a thread of low priority.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn in_background(&self, name: &str, work: impl FnOnce(&Worker) + Send + 'static) -> io::Result<JoinHandle<()>> {
        let worker = self.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Of the calling thread alone, as Linux has it.
            let lowered = getpriority_process(None).and_then(|own| setpriority_process(None, low(own)));
            if let Err(error) = lowered {
                tracing::debug!(%error, "the priority of background work stays as it is");
            }
            work(&worker);
        })
    }

    /// Gives all threads in the background, and those that they started, the caller's own priority; where that may not
    /// be, they keep theirs.
    pub fn in_foreground(&self) {
        let raised = raise();
        if let Err(error) = raised {
            tracing::debug!(%error, "background work keeps its priority");
        }
    }
}

fn raise() -> io::Result<()> {
    let own = getpriority_process(None)?;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let id = thread?.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        // One that has ended meanwhile has no priority.
        if id.is_some() && getpriority_process(id) == Ok(low(own)) {
            setpriority_process(id, own)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn threads_in_the_background_are_raised_when_somebody_waits() {
        let own = getpriority_process(None).expect("a thread has one");
        let ((tell, told), (end, ends)) = (channel(), channel::<()>());
        let thread = std::thread::spawn(move || {
            setpriority_process(None, low(own)).expect("everybody may lower it");
            tell.send(rustix::thread::gettid()).expect("the test waits");
            // Until the test has looked.
            let _ = ends.recv();
        });
        let id = told.recv().expect("the thread tells");
        assert_eq!(getpriority_process(Some(id)), Ok(low(own)));
        raise().expect("tests run as root");
        assert_eq!(getpriority_process(Some(id)), Ok(own));
        drop(end);
        thread.join().expect("it ends");
    }
}
