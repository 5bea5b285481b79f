//! The inputs of one operation: each edge once, in the order in which they were first used.

use std::collections::HashMap;

use solver::graph::Edge;

/// Inputs being collected.
#[derive(Debug, Default)]
pub struct Inputs {
    list: Vec<Edge>,
    index: HashMap<Edge, usize>,
}

impl Inputs {
    /// The index of an edge, which is added if it is new.
    pub fn index_of(&mut self, edge: Edge) -> usize {
        *self.index.entry(edge).or_insert_with(|| {
            self.list.push(edge);
            self.list.len() - 1
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// As the list of a vertex.
    pub fn into_list(self) -> Vec<Edge> {
        self.list
    }
}
