//! How operations hang together: vertices named by what they are, edges to the outputs they use.
//!
//! A [`VertexId`] covers the operation, its platform and, through its edges, everything beneath it. So a vertex can
//! only name vertices that exist already: a cycle cannot be written down, and adding the same vertex twice is one.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::canon::{self, Decimal, Hashing, Sink as _};
use crate::op::{FileActionKind, Op, OpMeta, Platform};

/// SHA-256 of a vertex: operation, platform, inputs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexId([u8; 32]);

impl VertexId {
    /// A name for something that is no vertex but is shown beside them (`[internal] load metadata`).
    pub fn of_name(name: &str) -> Self {
        let mut hashing = Hashing::new("name");
        hashing.push("name", name);
        Self(hashing.digest())
    }

    /// Another's name for a vertex: the SHA-256 by which it is known there.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Display for VertexId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", canon::hex(&self.0))
    }
}

impl std::fmt::Debug for VertexId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VertexId({})", &canon::hex(&self.0)[..12])
    }
}

/// One output of one vertex. What is wanted, and what an operation stands on, is always an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// Whose output.
    pub vertex: VertexId,
    /// Which of its outputs.
    pub output: u32,
}

/// An operation with its inputs and its platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vertex {
    /// What is done.
    pub op: Op,
    /// On what; the operation names them by index.
    pub inputs: Vec<Edge>,
    /// For which machine; `None` where it does not matter.
    pub platform: Option<Platform>,
}

impl Vertex {
    /// How many outputs the operation has.
    pub fn outputs(&self) -> u32 {
        let highest = |outputs: &mut dyn Iterator<Item = Option<u32>>| outputs.flatten().max().map_or(0, |max| max + 1);
        match &self.op {
            Op::Source(_) | Op::Merge(_) | Op::Diff(_) | Op::Build(_) => 1,
            Op::Exec(exec) => highest(&mut exec.mounts.iter().map(|mount| mount.output)),
            Op::File(file) => highest(&mut file.actions.iter().map(|action| action.output)),
        }
    }

    fn id(&self) -> VertexId {
        let mut hashing = Hashing::new("vertex");
        canon::op_parts(&self.op, self.platform.as_ref(), &mut hashing);
        let (mut number, mut output) = (Decimal::default(), Decimal::default());
        for (i, edge) in self.inputs.iter().enumerate() {
            let value = ["sha256:", &canon::hex(&edge.vertex.0), " ", output.text(edge.output as usize)].concat();
            hashing.push_text(&["input[", number.text(i), "]"], &value);
        }
        VertexId(hashing.digest())
    }
}

/// A set of vertices closed under inputs.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Inputs before those that use them.
    nodes: Vec<Node>,
    /// Where each vertex stands in `nodes`.
    index: HashMap<VertexId, usize>,
}

#[derive(Clone, Debug)]
struct Node {
    id: VertexId,
    vertex: Vertex,
    meta: OpMeta,
    /// As [`Vertex::outputs`], which looks through the operation: whoever uses it asks.
    outputs: u32,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty graph with room for so many vertices.
    pub fn with_capacity(vertices: usize) -> Self {
        Self { nodes: Vec::with_capacity(vertices), index: HashMap::with_capacity(vertices) }
    }

    /// Adds a vertex and returns its id. Adding it again is fine; the first description stays, and a vertex that
    /// anyone wants to run without cache runs without cache.
    ///
    /// # Errors
    /// When an input is not in the graph or has no such output, or the operation names an input that is not there.
    pub fn add(&mut self, vertex: Vertex, meta: OpMeta) -> Result<VertexId, GraphError> {
        for edge in &vertex.inputs {
            let input = self.node(&edge.vertex).ok_or(GraphError::UnknownInput(edge.vertex))?;
            if edge.output >= input.outputs {
                return Err(GraphError::UnknownOutput { vertex: edge.vertex, output: edge.output });
            }
        }
        check_indices(&vertex)?;
        let (id, outputs) = (vertex.id(), vertex.outputs());
        self.put(Node { id, vertex, meta, outputs });
        Ok(id)
    }

    fn put(&mut self, node: Node) {
        match self.index.entry(node.id) {
            Entry::Occupied(known) => self.nodes[*known.get()].meta.ignore_cache |= node.meta.ignore_cache,
            Entry::Vacant(free) => {
                free.insert(self.nodes.len());
                self.nodes.push(node);
            }
        }
    }

    fn node(&self, id: &VertexId) -> Option<&Node> {
        self.index.get(id).map(|at| &self.nodes[*at])
    }

    /// Takes over all of another graph; as [`Graph::add`] for each of its vertices.
    pub fn absorb(&mut self, other: Graph) {
        other.nodes.into_iter().for_each(|node| self.put(node));
    }

    /// Everything that an output stands on, itself included.
    pub fn beneath(&self, edge: Edge) -> HashSet<VertexId> {
        let mut seen = HashSet::new();
        let mut todo = vec![edge.vertex];
        while let Some(id) = todo.pop() {
            if let Some(vertex) = self.get(&id)
                && seen.insert(id)
            {
                todo.extend(vertex.inputs.iter().map(|input| input.vertex));
            }
        }
        seen
    }

    /// The vertex of that id.
    pub fn get(&self, id: &VertexId) -> Option<&Vertex> {
        self.node(id).map(|node| &node.vertex)
    }

    /// What stands beside the vertex.
    pub fn meta(&self, id: &VertexId) -> Option<&OpMeta> {
        self.node(id).map(|node| &node.meta)
    }

    /// All vertices, inputs before those that use them.
    pub fn iter(&self) -> impl Iterator<Item = (VertexId, &Vertex, &OpMeta)> {
        self.nodes.iter().map(|node| (node.id, &node.vertex, &node.meta))
    }

    /// How many vertices there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// Every index inside an operation must point at something: graphs also come from other people.
fn check_indices(vertex: &Vertex) -> Result<(), GraphError> {
    let inputs = vertex.inputs.len();
    let check = |index: Option<usize>, limit: usize, what: &'static str| match index {
        Some(index) if index >= limit => Err(GraphError::BadIndex { what, index, limit }),
        _ => Ok(()),
    };
    match &vertex.op {
        Op::Source(_) if inputs > 0 => Err(GraphError::BadIndex { what: "source input", index: inputs, limit: 0 }),
        Op::Source(_) | Op::Merge(_) => Ok(()),
        Op::Exec(exec) => exec.mounts.iter().try_for_each(|mount| check(mount.input, inputs, "mount input")),
        Op::File(file) => file.actions.iter().enumerate().try_for_each(|(i, action)| {
            check(action.input, inputs + i, "file action input")?;
            check(action.secondary_input, inputs + i, "file action secondary input")?;
            match (&action.kind, action.secondary_input) {
                (FileActionKind::Copy(_), None) => Err(GraphError::CopyFromNothing { action: i }),
                _ => Ok(()),
            }?;
            check(action.names_from(), inputs, "input for names of owners")
        }),
        Op::Diff(diff) => {
            check(diff.lower, inputs, "diff lower")?;
            check(diff.upper, inputs, "diff upper")
        }
        Op::Build(build) => build.inputs.values().try_for_each(|input| check(Some(*input), inputs, "build input")),
    }
}

/// Why a vertex cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// An edge leads to a vertex that is not in the graph.
    #[error("input {0} is not in the graph")]
    UnknownInput(VertexId),
    /// An edge leads to an output that its vertex does not have.
    #[error("vertex {vertex} has no output {output}")]
    UnknownOutput {
        /// The vertex.
        vertex: VertexId,
        /// The output that it lacks.
        output: u32,
    },
    /// An operation names an input that it does not have.
    #[error("{what} {index} does not exist, there are {limit}")]
    BadIndex {
        /// Which field.
        what: &'static str,
        /// What it said.
        index: usize,
        /// What it may say at most, exclusive.
        limit: usize,
    },
    /// A copy without a tree to read from.
    #[error("file action {action} copies from nothing")]
    CopyFromNothing {
        /// Its position in the operation.
        action: usize,
    },
}
