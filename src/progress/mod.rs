//! What a build shows while it runs, on standard error.
//!
//! In come [`solver::seam::Event`]s from many tasks; they pass through a queue to one thread, which feeds a
//! [`Renderer`] and writes what it gives. Renderers are pure: they take the time as an argument and append to a string,
//! so their tests are tables. Deliberately absent: the final failure and the line about what was built, which are
//! [`crate::report`]'s and the verb's.
//!
//! Nothing that a step prints is lost: the queue has no end. The price is paid by the step: when the terminal stands
//! still and [`QUEUE_MAX_BYTES`] of output wait, the next piece of output waits too, until the terminal moves on or the
//! build is cancelled.

mod bytes;
mod lines;
mod plain;
mod quiet;
mod rawjson;
#[cfg(test)]
mod script;
pub mod terminal;
mod trace;
mod tty;

pub use bytes::amount;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use solver::seam::{Event, Progress};
use tokio_util::sync::CancellationToken;

/// Output of steps that may wait for the terminal before the steps do.
const QUEUE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// How often a step that waits for the terminal looks whether the build was cancelled.
const CANCEL_CHECK_INTERVAL: Duration = Duration::from_millis(50);
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
    channel: Arc<Channel>,
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
        Self::with(renderer, Box::new(std::io::stderr()), QUEUE_MAX_BYTES, cancel)
    }

    fn with(
        renderer: Option<Box<dyn Renderer>>,
        writer: Box<dyn std::io::Write + Send>,
        queue_max_bytes: usize,
        cancel: CancellationToken,
    ) -> Self {
        let (sender, receiver) = mpsc::channel();
        let sender = renderer.is_some().then_some(sender);
        let channel = Arc::new(Channel {
            sender: Mutex::new(sender),
            queued_bytes: Mutex::new(0),
            queue_max_bytes,
            drained: Condvar::new(),
            cancel,
            began: Instant::now(),
        });
        let thread = renderer.map(|renderer| {
            let channel = Arc::clone(&channel);
            std::thread::Builder::new()
                .name("progress".into())
                .spawn(move || show(&receiver, renderer, writer, &channel))
                .expect("a process that may not start one thread cannot build either")
        });
        Self { channel, thread }
    }

    /// Where the build reports to.
    pub fn listener(&self) -> Arc<dyn Progress> {
        Arc::clone(&self.channel) as Arc<dyn Progress>
    }

    /// Shows everything that was reported so far, and ends. What comes later is dropped.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.channel.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
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

/// The listening end.
struct Channel {
    /// `None` once the display has ended.
    sender: Mutex<Option<Sender<(Duration, Event)>>>,
    /// Bytes of output in the queue.
    queued_bytes: Mutex<usize>,
    /// How many may be.
    queue_max_bytes: usize,
    /// Told whenever there are fewer.
    drained: Condvar,
    cancel: CancellationToken,
    began: Instant,
}

impl Progress for Channel {
    fn event(&self, event: Event) {
        let log_bytes = log_bytes(&event);
        // Counted before it can be shown, or the count would never come down to nothing.
        *self.queued_bytes.lock().unwrap_or_else(PoisonError::into_inner) += log_bytes;
        let sent = {
            let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
            // The clock is read under the lock, so that times in the queue never go back.
            sender.as_ref().is_some_and(|sender| sender.send((self.began.elapsed(), event)).is_ok())
        };
        if sent && log_bytes > 0 {
            self.let_drain();
        } else if !sent {
            // The display has ended, or has panicked and said so; the build goes on without it.
            self.shown(log_bytes);
        }
    }
}

impl Channel {
    /// Waits while too much output is in the queue.
    fn let_drain(&self) {
        if *self.queued_bytes.lock().unwrap_or_else(PoisonError::into_inner) <= self.queue_max_bytes {
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
        while *queued > self.queue_max_bytes && !self.cancel.is_cancelled() {
            let waited = self.drained.wait_timeout(queued, CANCEL_CHECK_INTERVAL);
            queued = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn shown(&self, bytes: usize) {
        *self.queued_bytes.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.drained.notify_all();
    }
}

fn log_bytes(event: &Event) -> usize {
    if let Event::Log { bytes, .. } = event { bytes.len() } else { 0 }
}

/// The body of the display's thread: ends when the sender is gone and the queue is empty.
fn show(
    queue: &Receiver<(Duration, Event)>,
    mut renderer: Box<dyn Renderer>,
    mut writer: Box<dyn std::io::Write + Send>,
    channel: &Channel,
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
            Some(interval) => queue.recv_timeout(interval),
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let mut log_bytes_taken = 0;
        match first {
            Ok(first) => {
                for (at, event) in std::iter::once(first).chain(queue.try_iter().take(BATCH_MAX_EVENTS)) {
                    log_bytes_taken += log_bytes(&event);
                    renderer.event(at, event, &mut out);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        renderer.tick(channel.began.elapsed(), &mut out);
        write(&mut out);
        if log_bytes_taken > 0 {
            channel.shown(log_bytes_taken);
        }
    }
    renderer.finish(channel.began.elapsed(), &mut out);
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
        let channel = Arc::clone(&display.channel);
        display.finish();
        listener.event(Event::Started(VertexId::of_name("late")));
        assert_eq!(*channel.queued_bytes.lock().expect("nobody panicked"), 0);
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
