//! The steps of a build, as its events tell of them.
//!
//! In: events, and what the plan adds. Out: [`StepRecord`]s in the order in which they were declared. Used by the
//! recorder, by whoever only imagines a build ([`Imagined`]), and for `--metadata-file` and `--timings` ([`Measured`]).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use solver::explain::Fate;
use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use solver::work::{Work, WorkKind};
use store::history::{Build, Head, StepRecord, WorkRecord};

use crate::engine::plans::Plans;
use crate::engine::{Text, why};

/// What the plan adds to the events.
pub struct Planned {
    pub(super) dockerfile: Text,
    /// Where vertices begin in the text.
    pub(super) offsets: HashMap<VertexId, usize>,
    /// Vertices that run whatever is known.
    pub(super) anew: HashSet<VertexId>,
}

impl Planned {
    /// Of the plans of that text.
    pub fn of(dockerfile: &Text, plan: &Plans) -> Self {
        let offsets = plan.spans.iter().map(|(vertex, span)| (*vertex, span.start)).collect();
        let anew = plan.graph.iter().filter(|(.., meta)| meta.ignore_cache).map(|(id, ..)| id).collect();
        Self { dockerfile: dockerfile.clone(), offsets, anew }
    }
}

/// What is known of the steps of a build, from its events.
#[derive(Default)]
pub(super) struct Steps {
    pub(super) list: Vec<StepRecord>,
    by_vertex: HashMap<VertexId, usize>,
    /// How many vertices have begun, as the display counts them.
    begun: usize,
    /// Where transfers are in the work of their steps.
    transfers: HashMap<(usize, String), Transfer>,
}

/// A transfer that was heard of.
#[derive(Clone, Copy)]
struct Transfer {
    /// Its place in the work of its step.
    at: usize,
    /// When that was first.
    begun_us: u64,
}

/// What an event means for whoever writes along.
pub(super) enum Turn {
    /// The step began.
    Started(VertexId),
    /// It ended.
    Ended,
    /// It printed something.
    Printed(Vec<u8>),
}

impl Steps {
    /// Takes note of an event, and tells what it means for whoever writes along.
    pub(super) fn take(&mut self, at_us: u64, event: Event) -> Option<(usize, Turn)> {
        if let Event::Started(vertex)
        | Event::Cached { vertex, .. }
        | Event::Done(vertex)
        | Event::Failed { vertex, .. }
        | Event::Log { vertex, .. } = &event
        {
            let step = self.step(*vertex);
            if self.list[step].number.is_none() {
                self.begun += 1;
                self.list[step].number = Some(self.begun);
            }
        }
        match event {
            Event::Declared { vertex, name, inputs } => {
                let inputs = inputs.iter().filter_map(|input| self.by_vertex.get(input).copied()).collect();
                let step = self.step(vertex);
                (self.list[step].name, self.list[step].inputs) = (name, inputs);
                None
            }
            Event::Keyed { vertex, key, parts } => {
                let step = self.step(vertex);
                (self.list[step].key, self.list[step].parts) = (Some(key.to_string()), parts);
                None
            }
            Event::Started(vertex) => {
                let step = self.step(vertex);
                let again = self.list[step].started_us.replace(at_us).is_some();
                (!again).then_some((step, Turn::Started(vertex)))
            }
            Event::Cached { vertex, by } => {
                let step = self.end(vertex, Fate::Cached, at_us);
                self.list[step].by = Some(by);
                Some((step, Turn::Ended))
            }
            Event::Unchanged(vertex) => {
                let step = self.step(vertex);
                self.list[step].fate = Fate::Unchanged;
                None
            }
            Event::Done(vertex) => {
                let step = self.step(vertex);
                let fate = if self.list[step].fate == Fate::Unchanged { Fate::Unchanged } else { Fate::Ran };
                Some((self.end(vertex, fate, at_us), Turn::Ended))
            }
            Event::Failed { vertex, error } => {
                let step = self.end(vertex, Fate::Failed, at_us);
                self.list[step].error = Some(error);
                Some((step, Turn::Ended))
            }
            Event::Canceled(vertex) => Some((self.end(vertex, Fate::Canceled, at_us), Turn::Ended)),
            Event::Log { vertex, bytes, .. } => Some((self.step(vertex), Turn::Printed(bytes))),
            Event::Used { vertex, usage } => {
                let step = self.step(vertex);
                self.list[step].usage = Some(usage);
                None
            }
            Event::Worked { vertex, work } => {
                let step = self.step(vertex);
                self.list[step].work.push(WorkRecord { what: String::new(), ended_us: at_us, work });
                None
            }
            Event::Progress { vertex, name, current_bytes, .. } => {
                let step = self.step(vertex);
                self.transferred(step, name, at_us, current_bytes);
                None
            }
            Event::Missed(_) | Event::Notice { .. } | Event::Why { .. } => None,
        }
    }

    /// A transfer came so far. What is sent and only told to be over was not needed: it was there already.
    fn transferred(&mut self, step: usize, name: String, at_us: u64, bytes: u64) {
        let work = &mut self.list[step].work;
        let kind = direction(&name);
        let key = (step, name);
        let is_first = !self.transfers.contains_key(&key);
        if is_first {
            let (what, took) = (key.1.clone(), Duration::ZERO);
            let nothing = Work { kind, files: 0, read_bytes: 0, hashed_bytes: 0, written_bytes: 0, took };
            work.push(WorkRecord { what, ended_us: at_us, work: nothing });
        }
        let at = work.len() - 1;
        let Transfer { at, begun_us } = *self.transfers.entry(key).or_insert(Transfer { at, begun_us: at_us });
        let record = &mut work[at];
        record.ended_us = at_us;
        record.work.took = Duration::from_micros(at_us.saturating_sub(begun_us));
        match kind {
            WorkKind::Send if is_first => {}
            WorkKind::Send => record.work.read_bytes = bytes,
            // What comes is checked against its digest as it comes.
            _ => (record.work.hashed_bytes, record.work.written_bytes) = (bytes, bytes),
        }
    }

    /// The place of a vertex; one that was not declared is.
    fn step(&mut self, vertex: VertexId) -> usize {
        *self.by_vertex.entry(vertex).or_insert_with(|| {
            self.list.push(StepRecord { vertex: vertex.to_string(), ..StepRecord::default() });
            self.list.len() - 1
        })
    }

    fn end(&mut self, vertex: VertexId, fate: Fate, at_us: u64) -> usize {
        let step = self.step(vertex);
        (self.list[step].fate, self.list[step].ended_us) = (fate, Some(at_us));
        step
    }

    /// Adds what the plan knows of them.
    pub(super) fn place(&mut self, plan: &Planned) {
        let lines = Lines::of(&plan.dockerfile.text);
        for (vertex, step) in &self.by_vertex {
            let record = &mut self.list[*step];
            record.line = plan.offsets.get(vertex).map(|offset| lines.line(*offset));
            record.anew = plan.anew.contains(vertex);
        }
    }
}

/// The steps of a build that only happens in mind, in the order in which they were declared.
#[derive(Default)]
pub struct Imagined(Mutex<Steps>);

impl Progress for Imagined {
    fn event(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(0, event);
    }
}

impl Imagined {
    /// The build, and the places of its vertices.
    pub fn build(&self, mut head: Head, plan: &Planned) -> (Build, HashMap<VertexId, usize>) {
        let mut steps = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        steps.place(plan);
        head.args = why::declared_args(&plan.dockerfile.text);
        (Build { head, steps: steps.list }, steps.by_vertex)
    }
}

/// The steps of a build that is measured without being recorded.
pub struct Measured {
    begun: Instant,
    steps: Mutex<Steps>,
    plan: OnceLock<Planned>,
    display: Arc<dyn Progress>,
}

impl Measured {
    /// What it hears goes on to `display`.
    pub fn new(display: Arc<dyn Progress>) -> Self {
        Self { begun: Instant::now(), steps: Mutex::default(), plan: OnceLock::new(), display }
    }

    /// Takes note of what is to be built.
    pub fn planned(&self, plan: Planned) {
        // Planned once per build.
        let _ = self.plan.set(plan);
    }

    /// The steps so far, in the order in which they were declared.
    pub fn steps(&self) -> Vec<StepRecord> {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = self.plan.get() {
            steps.place(plan);
        }
        steps.list.clone()
    }
}

impl Progress for Measured {
    fn event(&self, event: Event) {
        // Of output, only that there is some could matter.
        if !matches!(event, Event::Log { .. } | Event::Notice { .. } | Event::Why { .. }) {
            let at_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.steps.lock().unwrap_or_else(PoisonError::into_inner).take(at_us, event.clone());
        }
        self.display.event(event);
    }
}

/// Which way a transfer of that name goes: its first word says so where it goes elsewhere.
fn direction(name: &str) -> WorkKind {
    let is_sent = ["pushing ", "sending ", "copying "].iter().any(|word| name.starts_with(word));
    if is_sent { WorkKind::Send } else { WorkKind::Receive }
}

/// Lines of a text by offset.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// From 1.
    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}
