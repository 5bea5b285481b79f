//! Listens to a build on behalf of its caches: which key a vertex has, and what was shown already.
//!
//! In: the solver's events. Out: the same, to whoever shows them. When a build is solved again, because what a cache had
//! promised was not to be had, only what is new is passed on: the user sees one build. Deliberately absent: why it is
//! solved again ([`super::import::Lost`]).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use solver::canon::Part;
use solver::graph::VertexId;
use solver::key::Key;
use solver::seam::{Event, Progress};

/// Stands between a solver and those who watch.
pub struct Watch {
    shown_to: Arc<dyn Progress>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    keys: HashMap<VertexId, Key>,
    vertices: HashMap<Key, Vec<VertexId>>,
    parts: HashMap<Key, Arc<[Part]>>,
    declared: HashSet<VertexId>,
    /// Those that ended well or were known.
    over: HashSet<VertexId>,
    /// What came after something was lost is not the end of anything.
    lost: bool,
}

impl Watch {
    /// Passes on to `shown_to`.
    pub fn new(shown_to: Arc<dyn Progress>) -> Self {
        Self { shown_to, seen: Mutex::default() }
    }

    /// The definition key of every vertex that has one.
    pub fn keys(&self) -> HashMap<VertexId, Key> {
        self.seen().keys.clone()
    }

    /// The vertices that have this definition key.
    pub fn vertices(&self, key: &Key) -> Vec<VertexId> {
        self.seen().vertices.get(key).cloned().unwrap_or_default()
    }

    /// What a definition key was made of; nothing for other keys.
    pub fn parts(&self, key: &Key) -> Vec<Part> {
        self.seen().parts.get(key).map(|parts| parts.to_vec()).unwrap_or_default()
    }

    /// A line for the user about the caches.
    pub fn say(&self, text: impl Into<String>) {
        self.event(Event::Notice { vertex: VertexId::of_name("cache"), text: text.into() });
    }

    /// From now on failures are not shown: the build is about to be solved again.
    pub fn hold(&self) {
        self.seen().lost = true;
    }

    /// The build is solved again: failures are failures.
    pub fn go_on(&self) {
        self.seen().lost = false;
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_news(&self, event: &Event) -> bool {
        let mut seen = self.seen();
        match event {
            Event::Declared { vertex, .. } => seen.declared.insert(*vertex),
            Event::Keyed { vertex, key, parts } => {
                seen.parts.insert(*key, parts.clone());
                let is_news = seen.keys.insert(*vertex, *key) != Some(*key);
                if is_news {
                    seen.vertices.entry(*key).or_default().push(*vertex);
                }
                is_news
            }
            Event::Failed { .. } | Event::Canceled(_) => !seen.lost,
            Event::Done(vertex) | Event::Cached { vertex, .. } => seen.over.insert(*vertex),
            Event::Missed(vertex) => !seen.over.contains(vertex),
            // Ran, after what it had been taken for was lost.
            Event::Started(vertex) => {
                seen.over.remove(vertex);
                true
            }
            _ => true,
        }
    }
}

impl Progress for Watch {
    fn event(&self, event: Event) {
        if self.is_news(&event) {
            self.shown_to.event(event);
        }
    }
}
