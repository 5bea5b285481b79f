//! Operations as their client knows them: what happens to a vertex is told of the operations that it is.
//!
//! In: the engine's events about its vertices. Out: the same about the client's digests, with its names and inputs, to the
//! [`Hub`]. An operation that was solved for a frontend and again for the build is told of once. Events about anything
//! else pass unchanged.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::pb;
use oci::model::Digest;
use solver::graph::VertexId;
use solver::seam::{Event, Progress};

use super::llb::Llb;
use super::status::Hub;

/// Which operations the vertices of one build are.
#[derive(Debug, Default)]
pub struct Names {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_vertex: HashMap<VertexId, Vec<Operation>>,
    /// Operations that ended well.
    over: HashSet<VertexId>,
}

#[derive(Clone, Debug)]
struct Operation {
    id: VertexId,
    name: String,
    inputs: Vec<VertexId>,
    group: Option<pb::ProgressGroup>,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns a definition; `now` says what its vertices became.
    pub fn learn(&self, llb: &Llb, now: &HashMap<VertexId, VertexId>) {
        let id = |digest: &Digest| VertexId::from_bytes(*digest.as_bytes());
        let mut inner = self.lock();
        for operation in &llb.operations {
            let Some(vertex) = now.get(&operation.vertex) else { continue };
            let known = inner.by_vertex.entry(*vertex).or_default();
            let own = id(&operation.digest);
            if !known.iter().any(|known| known.id == own) {
                let inputs = operation.inputs.iter().map(id).collect();
                let (name, group) = (operation.name.clone(), operation.meta.progress_group.clone());
                known.push(Operation { id: own, name, inputs, group });
            }
        }
    }
}

/// Tells the hub.
#[derive(Debug)]
pub struct Told {
    /// Who hears.
    pub hub: Arc<Hub>,
    /// What it is told of.
    pub names: Arc<Names>,
}

impl Progress for Told {
    fn event(&self, mut event: Event) {
        let Some(vertex) = vertex_of(&mut event).copied() else { return self.hub.event(event) };
        let mut inner = self.names.lock();
        let Inner { by_vertex, over } = &mut *inner;
        let Some(operations) = by_vertex.get(&vertex) else {
            drop(inner);
            return self.hub.event(event);
        };
        for operation in operations {
            let mut told = event.clone();
            if let Some(vertex) = vertex_of(&mut told) {
                *vertex = operation.id;
            }
            match &mut told {
                Event::Declared { name, inputs, .. } => {
                    name.clone_from(&operation.name);
                    inputs.clone_from(&operation.inputs);
                    if let Some(group) = &operation.group {
                        self.hub.group(operation.id, group.clone());
                    }
                }
                Event::Done(_) | Event::Cached { .. } if !over.insert(operation.id) => continue,
                Event::Started(_) if over.contains(&operation.id) => continue,
                _ => {}
            }
            let is_said_once = matches!(told, Event::Log { .. } | Event::Notice { .. });
            self.hub.event(told);
            if is_said_once {
                break;
            }
        }
    }
}

/// What it is about.
fn vertex_of(event: &mut Event) -> Option<&mut VertexId> {
    match event {
        Event::Declared { vertex, .. }
        | Event::Cached { vertex, .. }
        | Event::Log { vertex, .. }
        | Event::Progress { vertex, .. }
        | Event::Notice { vertex, .. }
        | Event::Started(vertex)
        | Event::Done(vertex)
        | Event::Failed { vertex, .. }
        | Event::Canceled(vertex) => Some(vertex),
        Event::Keyed { .. }
        | Event::Missed(_)
        | Event::Unchanged(_)
        | Event::Why { .. }
        | Event::Used { .. }
        | Event::Worked { .. } => None,
    }
}
