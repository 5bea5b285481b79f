//! What a build shows while it runs, on standard error.
//!
//! In come [`solver::seam::Event`]s from many tasks; they pass through a queue to one thread, which feeds a
//! [`Renderer`] and writes what it gives. Renderers are pure: they take the time as an argument and append to a string,
//! so their tests are tables. Deliberately absent: the final failure and the line about what was built, which are
//! [`crate::report`]'s and the verb's.
//!
//! Nothing that a step prints is lost: when the terminal stands still, the step waits; see [`crate::queue`].

mod lines;
mod plain;
mod quiet;
mod rawjson;
#[cfg(test)]
mod script;
pub mod terminal;
mod trace;
mod tty;

pub use lines::Lines;
pub use tty::fit;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use solver::seam::{Event, Progress};
use tokio_util::sync::CancellationToken;

use crate::queue::{self, Queue, log_bytes};

/// Events taken from the queue before what they gave is written.
const BATCH_MAX_EVENTS: usize = 1024;

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Lines that people search with grep, in BuildKit's form.
    Plain,
    /// A display that is redrawn in place.
    Tty {
        /// Whether colours are used.
        color: bool,
        /// How many lines of a running step's output are shown.
        log_lines: usize,
    },
    /// One JSON object per line, in the shape of BuildKit's `SolveStatus`.
    RawJson,
    /// Nothing but the output of a step that failed.
    Quiet,
    /// Nothing at all.
    None,
}

/// Turns events into text. `now` is the time since the build began; it never goes back.
trait Renderer: Send {
    /// Takes note of an event.
    fn event(&mut self, now: Duration, event: Event, out: &mut String);

    /// Called after every batch of events and, when [`Self::interval`] is not `None`, at least that often.
    fn tick(&mut self, now: Duration, out: &mut String) {
        let _ = (now, out);
    }

    /// How often time alone changes what is shown.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// The build is over.
    fn finish(&mut self, now: Duration, out: &mut String);
}

/// A running display. Ended by [`Self::finish`], or by being dropped.
pub struct Display {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    /// Starts to show a build on standard error. `cancel` is the build's.
    pub fn start(mode: Mode, cancel: CancellationToken) -> Self {
        let renderer: Option<Box<dyn Renderer>> = match mode {
            Mode::Plain => Some(Box::new(plain::Plain::new())),
            Mode::Tty { color, log_lines } => {
                Some(Box::new(tty::Tty::new(color, log_lines, Box::new(terminal::stderr_size))))
            }
            Mode::RawJson => Some(Box::new(rawjson::RawJson::new(jiff::Timestamp::now()))),
            Mode::Quiet => Some(Box::new(quiet::Quiet::new())),
            Mode::None => None,
        };
        Self::with(renderer, Box::new(std::io::stderr()), queue::MAX_BYTES, cancel)
    }

    fn with(
        renderer: Option<Box<dyn Renderer>>,
        writer: Box<dyn std::io::Write + Send>,
        queue_max_bytes: usize,
        cancel: CancellationToken,
    ) -> Self {
        let (queue, receiver) = Queue::new(queue_max_bytes, cancel);
        if renderer.is_none() {
            queue.close();
        }
        let thread = renderer.map(|renderer| {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name("progress".into())
                .spawn(move || show(&receiver, renderer, writer, &queue))
                .expect("a process that may not start one thread cannot build either")
        });
        Self { queue, thread }
    }

    /// Where the build reports to.
    pub fn listener(&self) -> Arc<dyn Progress> {
        Arc::clone(&self.queue) as Arc<dyn Progress>
    }

    /// Shows everything that was reported so far, and ends. What comes later is dropped.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the display ended by a panic, which it has reported itself");
        }
        terminal::restore();
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.end();
    }
}

/// The body of the display's thread: ends when the sender is gone and the queue is empty.
fn show(
    events: &Receiver<(Duration, Event)>,
    mut renderer: Box<dyn Renderer>,
    mut writer: Box<dyn std::io::Write + Send>,
    queue: &Queue,
) {
    let mut out = String::new();
    let mut broken = false;
    let mut write = |out: &mut String| {
        if !broken
            && !out.is_empty()
            && let Err(error) = writer.write_all(out.as_bytes()).and_then(|()| writer.flush())
        {
            // Nobody reads; the build itself does not depend on it.
            tracing::debug!(%error, "standard error cannot be written to");
            broken = true;
        }
        out.clear();
    };
    loop {
        let first = match renderer.interval() {
            Some(interval) => events.recv_timeout(interval),
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let mut log_bytes_taken = 0;
        match first {
            Ok(first) => {
                for (at, event) in std::iter::once(first).chain(events.try_iter().take(BATCH_MAX_EVENTS)) {
                    log_bytes_taken += log_bytes(&event);
                    renderer.event(at, event, &mut out);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        renderer.tick(queue.elapsed(), &mut out);
        write(&mut out);
        if log_bytes_taken > 0 {
            queue.taken(log_bytes_taken);
        }
    }
    renderer.finish(queue.elapsed(), &mut out);
    write(&mut out);
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use solver::graph::VertexId;
    use solver::seam::{Event, Stream};
    use tokio_util::sync::CancellationToken;

    use super::{Display, plain};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no test panics while it holds this").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn finish_shows_everything_that_many_tasks_reported() {
        let written = Shared::default();
        let display = Display::with(
            Some(Box::new(plain::Plain::new())),
            Box::new(written.clone()),
            1024,
            CancellationToken::new(),
        );
        let listener = display.listener();
        std::thread::scope(|scope| {
            for step in 0..4 {
                let listener = Arc::clone(&listener);
                scope.spawn(move || {
                    let vertex = VertexId::of_name(&step.to_string());
                    listener.event(Event::Declared { vertex, name: format!("step {step}"), inputs: Vec::new() });
                    listener.event(Event::Started(vertex));
                    for line in 0..2000 {
                        let bytes = format!("step {step} line {line}\n").into_bytes();
                        listener.event(Event::Log { vertex, stream: Stream::Stdout, bytes });
                    }
                    listener.event(Event::Done(vertex));
                });
            }
        });
        let queue = Arc::clone(&display.queue);
        display.finish();
        listener.event(Event::Started(VertexId::of_name("late")));
        assert_eq!(queue.queued_bytes(), 0);
        let text = String::from_utf8(written.0.lock().expect("nobody panicked").clone()).expect("plain text is UTF-8");
        for step in 0..4 {
            let lines = text.lines().filter(|line| line.contains(&format!(" step {step} line "))).count();
            assert_eq!(lines, 2000, "step {step}");
        }
        assert_eq!(text.lines().filter(|line| line.contains(" DONE ")).count(), 4);
    }

    /// A terminal that stands still until it is told to go on.
    struct Stopped(std::sync::mpsc::Receiver<()>);

    impl Write for Stopped {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // An error means that the test lets it run on.
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_step_waits_for_a_terminal_that_stands_still_until_the_build_is_cancelled() {
        let (go_on, stopped) = std::sync::mpsc::channel();
        let cancel = CancellationToken::new();
        let display =
            Display::with(Some(Box::new(plain::Plain::new())), Box::new(Stopped(stopped)), 1024, cancel.clone());
        let listener = display.listener();
        let (said, heard) = std::sync::mpsc::channel();
        let step = std::thread::spawn(move || {
            let vertex = VertexId::of_name("x");
            listener.event(Event::Started(vertex));
            for _ in 0..4 {
                let bytes = vec![b'\n'; 512];
                listener.event(Event::Log { vertex, stream: Stream::Stdout, bytes });
                said.send(()).expect("the test listens");
            }
        });
        let mut before = 0;
        while heard.recv_timeout(std::time::Duration::from_millis(300)).is_ok() {
            before += 1;
        }
        assert!(before < 4, "the step never waited");
        cancel.cancel();
        step.join().expect("a cancelled build lets its steps go");
        drop(go_on);
        display.finish();
    }
}
