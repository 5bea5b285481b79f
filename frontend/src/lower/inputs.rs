//! The inputs of one operation: each edge once, in the order in which they were first used.

use std::collections::HashMap;

use solver::graph::Edge;

/// Up to so many inputs are looked through; nearly no operation has more.
const LIST_MAX: usize = 8;

/// Inputs being collected.
#[derive(Debug, Default)]
pub struct Inputs {
    list: Vec<Edge>,
    /// Where each stands, once there are more than [`LIST_MAX`].
    index: HashMap<Edge, usize>,
}

impl Inputs {
    /// The index of an edge, which is added if it is new.
    pub fn index_of(&mut self, edge: Edge) -> usize {
        let known = match self.index.is_empty() {
            true => self.list.iter().position(|known| *known == edge),
            false => self.index.get(&edge).copied(),
        };
        known.unwrap_or_else(|| self.push(edge))
    }

    fn push(&mut self, edge: Edge) -> usize {
        self.list.push(edge);
        let at = self.list.len() - 1;
        match at {
            LIST_MAX => self.index.extend(self.list.iter().copied().zip(0..)),
            at if at > LIST_MAX => _ = self.index.insert(edge, at),
            _ => {}
        }
        at
    }

    /// As the list of a vertex.
    pub fn into_list(self) -> Vec<Edge> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solver::graph::VertexId;

    #[test]
    fn an_edge_keeps_its_index_however_many_there_are() {
        let edge = |n: usize| Edge { vertex: VertexId::of_name(&n.to_string()), output: 0 };
        let mut inputs = Inputs::default();
        for n in 0..3 * LIST_MAX {
            assert_eq!(inputs.index_of(edge(n)), n);
            assert!((0..=n).all(|known| inputs.index_of(edge(known)) == known), "{n}");
        }
        assert_eq!(inputs.into_list(), (0..3 * LIST_MAX).map(edge).collect::<Vec<_>>());
    }
}
