//! What a worker does with bytes, told to whoever wants to know.
//!
//! In: pieces of work that are done, under the name of the result or source that they were done for. Out: the same, under
//! the vertex that the name belongs to, as far as it is known. While nobody listens, nothing is kept. Deliberately absent:
//! adding anything up.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use solver::graph::VertexId;
use solver::work::Work;

/// Hears of work, and for whom it was done, where that is known.
pub type Listener = Box<dyn Fn(Option<VertexId>, Work) + Send + Sync>;

/// One for a worker and its layers.
#[derive(Default)]
pub struct Meter {
    listener: OnceLock<Listener>,
    /// By names of results, and identifiers of sources.
    owners: Mutex<HashMap<String, VertexId>>,
}

impl Meter {
    /// From now on `listener` hears of all work. A second one is not listened to.
    pub fn listen(&self, listener: Listener) {
        if self.listener.set(listener).is_err() {
            tracing::debug!("somebody listens to the work already");
        }
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.listener.get().is_some()
    }

    /// What is done for results or sources of these names is done for `vertex`; the first who has one keeps it.
    pub fn own<'a>(&self, names: impl IntoIterator<Item = &'a str>, vertex: VertexId) {
        if self.is_heard() {
            let mut owners = self.owners();
            for name in names {
                owners.entry(name.to_owned()).or_insert(vertex);
            }
        }
    }

    /// Something was done for `name`.
    pub(crate) fn tell(&self, name: &str, work: Work) {
        if let Some(listener) = self.listener.get() {
            let owner = self.owners().get(name).copied();
            listener(owner, work);
        }
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<String, VertexId>> {
        // Every change is one call.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("is_heard", &self.is_heard()).finish_non_exhaustive()
    }
}
