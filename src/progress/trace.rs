//! What is known of a build so far, from its events: the model behind the displays for people.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use solver::graph::VertexId;
use solver::seam::{Event, Stream};

use super::lines::Lines;
use crate::amount;
use crate::escape;

/// Lines of a failed step's output that are repeated at the end.
const TAIL_LINES: usize = 10;

/// All vertices, in the order of their declaration.
#[derive(Debug, Default)]
pub struct Trace {
    vertices: Vec<Vertex>,
    by_id: HashMap<VertexId, usize>,
    started: usize,
    notices: Vec<String>,
}

/// One vertex.
#[derive(Debug)]
pub struct Vertex {
    /// Its description, safe to show.
    pub name: String,
    /// Its place in the order in which vertices started, from 1; 0 until then.
    pub number: usize,
    /// When it started, since the build began.
    pub started: Duration,
    /// How it stands.
    pub state: State,
    /// The last lines of its output.
    pub tail: VecDeque<String>,
    /// Its transfers, in the order in which they began.
    pub transfers: Vec<Transfer>,
    /// Why it runs, safe to show.
    pub why: Option<String>,
    stdout: Lines<Duration>,
    stderr: Lines<Duration>,
}

/// How a vertex stands. Ends carry their time, since the build began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Has not started.
    Waiting,
    /// Runs.
    Running,
    /// Ended well.
    Done(Duration),
    /// Nothing ran: its result was known.
    Cached,
    /// Was stopped.
    Canceled(Duration),
    /// Ended badly.
    Failed(Duration, String),
}

impl State {
    /// Whether nothing more will come.
    pub fn ended(&self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// One transfer of a vertex.
#[derive(Debug)]
pub struct Transfer {
    /// Of what, safe to show.
    pub name: String,
    /// Bytes so far.
    pub current_bytes: u64,
    /// Bytes in all, when known.
    pub total_bytes: Option<u64>,
    /// When it began, since the build began.
    pub began: Duration,
    /// When it ended.
    pub ended: Option<Duration>,
}

impl Transfer {
    /// `sha256:12ab 1.20MB / 3.40MB 0.5s done`, as BuildKit writes it.
    pub fn text(&self, now: Duration) -> String {
        let mut text = self.name.clone();
        let amount = amount::transfer(self.current_bytes, self.total_bytes);
        if !amount.is_empty() {
            text = text + " " + &amount;
        }
        let time = self.ended.unwrap_or(now).saturating_sub(self.began);
        if time > Duration::from_millis(10) {
            text = text + " " + &amount::seconds(time);
        }
        if self.ended.is_some() {
            text += " done";
        }
        text
    }
}

/// What an event changed, for displays that show changes.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// It has started.
    Started,
    /// It printed a line; the time is since it started.
    Line(Duration, String),
    /// The transfer of that index went on.
    Transfer(usize),
    /// There is a line for the user.
    Notice(String),
    /// It is known why it runs.
    Why,
    /// It has ended.
    Ended,
}

impl Trace {
    /// All vertices, in the order of their declaration.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// Takes note of an event and tells `change` what is different now, and of which vertex. Events of a vertex that
    /// was not declared declare it; events after its end change nothing, but that one that was cached may start.
    pub fn apply(&mut self, now: Duration, event: Event, mut change: impl FnMut(usize, &Vertex, Change)) {
        let (id, name) = match &event {
            Event::Declared { vertex, name, .. } => (*vertex, Some(name)),
            Event::Started(vertex)
            | Event::Cached { vertex, .. }
            | Event::Done(vertex)
            | Event::Canceled(vertex)
            | Event::Log { vertex, .. }
            | Event::Progress { vertex, .. }
            | Event::Notice { vertex, .. }
            | Event::Why { vertex, .. }
            | Event::Failed { vertex, .. } => (*vertex, None),
            // What is known of keys, and what was used, is not shown here.
            Event::Keyed { .. }
            | Event::Missed(_)
            | Event::Unchanged(_)
            | Event::Used { .. }
            | Event::Worked { .. } => return,
        };
        if let Event::Notice { vertex, text } = &event {
            let text = escape::line(text).into_owned();
            match self.by_id.get(vertex).map(|index| (*index, &self.vertices[*index])) {
                Some((index, vertex)) if vertex.state == State::Running => change(index, vertex, Change::Notice(text)),
                _ => self.notices.push(text),
            }
            return;
        }
        if let Event::Why { vertex, text } = &event {
            // Also of one that has ended meanwhile.
            if let Some(index) = self.by_id.get(vertex) {
                self.vertices[*index].why = Some(escape::line(text).into_owned());
                change(*index, &self.vertices[*index], Change::Why);
            }
            return;
        }
        let index = *self.by_id.entry(id).or_insert_with(|| {
            let name = name.map_or_else(|| id.to_string(), |name| escape::line(name).into_owned());
            self.vertices.push(Vertex::new(name));
            self.vertices.len() - 1
        });
        let vertex = &mut self.vertices[index];
        if matches!(event, Event::Started(_)) && vertex.state == State::Cached {
            // What it was taken for could not be had after all.
            let (number, name) = (vertex.number, std::mem::take(&mut vertex.name));
            *vertex = Vertex { number, started: now, state: State::Running, ..Vertex::new(name) };
            return change(index, vertex, Change::Started);
        }
        if matches!(event, Event::Declared { .. }) || vertex.state.ended() {
            return;
        }
        // Only what is stopped before its start is never shown as started.
        if vertex.state == State::Waiting && !matches!(event, Event::Canceled(_)) {
            self.started += 1;
            vertex.number = self.started;
            vertex.started = now;
            vertex.state = State::Running;
            change(index, vertex, Change::Started);
        }
        let end = match event {
            Event::Declared { .. }
            | Event::Started(_)
            | Event::Notice { .. }
            | Event::Keyed { .. }
            | Event::Missed(_)
            | Event::Why { .. }
            | Event::Used { .. }
            | Event::Worked { .. }
            | Event::Unchanged(_) => return,
            Event::Log { stream, bytes, .. } => {
                let mut found = Vec::new();
                vertex.stream(stream).push(now, &bytes, |at, line| found.push((at, line)));
                return vertex.printed(index, found, &mut change);
            }
            Event::Progress { name, current_bytes, total_bytes, done, .. } => {
                let transfer = vertex.transfer(now, &escape::line(&name));
                let slot = &mut vertex.transfers[transfer];
                (slot.current_bytes, slot.total_bytes) = (current_bytes, total_bytes);
                slot.ended = done.then_some(now);
                return change(index, vertex, Change::Transfer(transfer));
            }
            Event::Cached { .. } => State::Cached,
            Event::Done(_) => State::Done(now),
            Event::Canceled(_) => State::Canceled(now),
            Event::Failed { error, .. } => State::Failed(now, escape::line(&error).into_owned()),
        };
        vertex.flush(index, |_| true, &mut change);
        let started = vertex.state == State::Running;
        vertex.state = end;
        if started {
            change(index, vertex, Change::Ended);
        }
    }

    /// Takes the lines for the user that are about no running vertex.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Ends the lines that have been unfinished since `limit` ago: a question that waits for an answer, say.
    pub fn flush_old(&mut self, now: Duration, limit: Duration, mut change: impl FnMut(usize, &Vertex, Change)) {
        for (index, vertex) in self.vertices.iter_mut().enumerate().filter(|(_, v)| v.state == State::Running) {
            vertex.flush(index, |since| now.saturating_sub(since) >= limit, &mut change);
        }
    }

    /// Repeats the end of the output of every vertex that failed.
    pub fn write_failures(&self, out: &mut String) {
        for vertex in self.vertices.iter().filter(|vertex| matches!(vertex.state, State::Failed(..))) {
            *out = std::mem::take(out) + "------\n > " + &vertex.name + ":\n";
            for line in &vertex.tail {
                out.push_str(line);
                out.push('\n');
            }
            out.push_str("------\n");
        }
    }
}

impl Vertex {
    fn new(name: String) -> Self {
        Self {
            name,
            number: 0,
            started: Duration::ZERO,
            state: State::Waiting,
            tail: VecDeque::new(),
            transfers: Vec::new(),
            why: None,
            stdout: Lines::default(),
            stderr: Lines::default(),
        }
    }

    /// How long it has run, or ran.
    pub fn time(&self, now: Duration) -> Duration {
        match self.state {
            State::Waiting | State::Cached => Duration::ZERO,
            State::Running => now.saturating_sub(self.started),
            State::Done(end) | State::Canceled(end) | State::Failed(end, _) => end.saturating_sub(self.started),
        }
    }

    fn stream(&mut self, stream: Stream) -> &mut Lines<Duration> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn transfer(&mut self, now: Duration, name: &str) -> usize {
        // Linear scan; a step has few transfers.
        self.transfers.iter().position(|transfer| transfer.name == name).unwrap_or_else(|| {
            let name = name.to_owned();
            self.transfers.push(Transfer { name, current_bytes: 0, total_bytes: None, began: now, ended: None });
            self.transfers.len() - 1
        })
    }

    fn flush(
        &mut self,
        index: usize,
        wanted: impl Fn(Duration) -> bool,
        change: &mut impl FnMut(usize, &Vertex, Change),
    ) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let lines = self.stream(stream);
            let mut found = Vec::new();
            if lines.open_since().is_some_and(&wanted) {
                lines.flush(|at, line| found.push((at, line)));
            }
            self.printed(index, found, change);
        }
    }

    fn printed(
        &mut self,
        index: usize,
        lines: Vec<(Duration, String)>,
        change: &mut impl FnMut(usize, &Vertex, Change),
    ) {
        for (at, line) in lines {
            let at = at.saturating_sub(self.started);
            if self.tail.len() == TAIL_LINES {
                self.tail.pop_front();
            }
            self.tail.push_back(format!("{} {line}", amount::log_time(at)));
            change(index, self, Change::Line(at, line));
        }
    }
}
