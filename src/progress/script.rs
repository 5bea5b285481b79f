//! Builds written as lists of what happens when: the input of the displays' tests.

use std::time::Duration;

use solver::graph::VertexId;
use solver::seam::{Event, Hit, Stream};

use super::Renderer;

/// At a time in milliseconds, an event; or only time passes.
pub struct Step(u64, Option<Event>);

impl Step {
    pub fn tick(at: u64) -> Self {
        Self(at, None)
    }

    pub fn declare(at: u64, vertex: u64, name: &str) -> Self {
        Self(at, Some(Event::Declared { vertex: id(vertex), name: name.into(), inputs: Vec::new() }))
    }

    pub fn start(at: u64, vertex: u64) -> Self {
        Self(at, Some(Event::Started(id(vertex))))
    }

    pub fn cached(at: u64, vertex: u64) -> Self {
        Self(at, Some(Event::Cached { vertex: id(vertex), by: Hit::Definition }))
    }

    pub fn done(at: u64, vertex: u64) -> Self {
        Self(at, Some(Event::Done(id(vertex))))
    }

    pub fn cancel(at: u64, vertex: u64) -> Self {
        Self(at, Some(Event::Canceled(id(vertex))))
    }

    pub fn fail(at: u64, vertex: u64, error: &str) -> Self {
        Self(at, Some(Event::Failed { vertex: id(vertex), error: error.into() }))
    }

    pub fn notice(at: u64, vertex: u64, text: &str) -> Self {
        Self(at, Some(Event::Notice { vertex: id(vertex), text: text.into() }))
    }

    pub fn why(at: u64, vertex: u64, text: &str) -> Self {
        Self(at, Some(Event::Why { vertex: id(vertex), text: text.into() }))
    }

    pub fn log(at: u64, vertex: u64, text: &str) -> Self {
        Self(at, Some(Event::Log { vertex: id(vertex), stream: Stream::Stdout, bytes: text.into() }))
    }

    pub fn transfer(at: u64, vertex: u64, name: &str, current_bytes: u64, total_bytes: u64, done: bool) -> Self {
        let (vertex, name, total_bytes) = (id(vertex), name.into(), Some(total_bytes));
        Self(at, Some(Event::Progress { vertex, name, current_bytes, total_bytes, done }))
    }
}

fn id(vertex: u64) -> VertexId {
    VertexId::of_name(&vertex.to_string())
}

/// What the display gives, until its end.
pub fn play(renderer: &mut dyn Renderer, steps: &[Step]) -> String {
    let mut out = String::new();
    let mut now = Duration::ZERO;
    for Step(at, event) in steps {
        now = Duration::from_millis(*at);
        if let Some(event) = event {
            renderer.event(now, event.clone(), &mut out);
        }
        renderer.tick(now, &mut out);
    }
    renderer.finish(now, &mut out);
    out
}
