//! A definition becomes a graph: decoded, put in order, translated one by one.
//!
//! In: a [`pb::Definition`] and [`Options`]. Out: [`Llb`]. An operation is known by the digest of its bytes, to its client
//! and to those that stand on it; several may mean one vertex of ours. Only what is wanted is translated, but everything
//! must be an operation.

use std::collections::HashMap;

use api::pb;
use oci::model::Digest;
use prost::Message as _;
use solver::graph::{Edge, Graph, GraphError, Vertex, VertexId};
use solver::op::{MergeOp, Op, OpMeta, Platform};

use super::bounds::Limits;
use super::error::{Fault, LlbError, Place};
use super::order::order;
use super::{caps, exec, file, meta, name, source, stack};

/// How a definition is read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is taken at most.
    pub limits: Limits,
    /// The platform of processes and images that name none; `None` leaves them without.
    pub platform: Option<Platform>,
}

/// A definition, as a graph.
#[derive(Debug)]
pub struct Llb {
    /// The operations that are needed.
    pub graph: Graph,
    /// What is wanted of them; clients of other builders want one thing.
    pub wants: Vec<Edge>,
    /// The same operations as their client knows them, inputs first.
    pub operations: Vec<Operation>,
    /// Which lines of which texts they come from, by the client's digests.
    pub source: Option<pb::Source>,
    by_digest: HashMap<Digest, usize>,
    by_vertex: HashMap<VertexId, Vec<usize>>,
}

/// An operation as its client knows it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Of its bytes.
    pub digest: Digest,
    /// What it is here.
    pub vertex: VertexId,
    /// Which operations it stands on.
    pub inputs: Vec<Digest>,
    /// What people call it.
    pub name: String,
    /// All that was said beside it.
    pub meta: pb::OpMetadata,
}

impl Llb {
    /// The operation of that digest.
    pub fn operation(&self, digest: &Digest) -> Option<&Operation> {
        self.by_digest.get(digest).map(|at| &self.operations[*at])
    }

    /// The operations that a vertex is; none for what stands for an empty tree.
    pub fn operations_of(&self, vertex: &VertexId) -> impl Iterator<Item = &Operation> {
        self.by_vertex.get(vertex).into_iter().flatten().map(|at| &self.operations[*at])
    }
}

/// Reads a definition.
///
/// # Errors
/// The first thing that is wrong with it; [`LlbError::code`] says what that is to a client.
pub fn read(definition: &pb::Definition, options: &Options) -> Result<Llb, LlbError> {
    options.limits.check(definition)?;
    let mut reading = Reading { raw: decode(definition)?, definition, options };
    options.limits.check_inputs(reading.raw.iter().map(|raw| raw.op.inputs.len()).sum())?;
    let last = reading.raw.pop().ok_or(LlbError::Empty)?;
    let position = reading.raw.len();
    let terminal = Place { position, digest: last.digest, name: String::new() };
    if last.op.op.is_some() || last.op.inputs.is_empty() {
        return Err(LlbError::NoTerminal { op: terminal });
    }
    let by_digest = reading.by_digest(&terminal)?;
    let wanted = reading.inputs(&last.op, &by_digest, || terminal.clone())?;
    // Operations that nobody needs may stand on what is not there.
    let mut inputs: Vec<Vec<usize>> = Vec::with_capacity(reading.raw.len());
    let mut faults: HashMap<usize, LlbError> = HashMap::new();
    for (at, raw) in reading.raw.iter().enumerate() {
        inputs.push(reading.inputs(&raw.op, &by_digest, || reading.place(at, "")).unwrap_or_else(|error| {
            faults.insert(at, error);
            Vec::new()
        }));
    }
    let order = order(reading.raw.len(), &wanted, |at| inputs[at].clone())
        .map_err(|at| LlbError::Cycle { op: reading.place(at, "") })?;
    let mut made = Made { graph: Graph::new(), vertices: HashMap::new(), names: HashMap::new() };
    let mut operations = Vec::with_capacity(order.len());
    for at in order {
        if let Some(fault) = faults.remove(&at) {
            return Err(fault);
        }
        operations.push(reading.operation(at, &inputs[at], &mut made)?);
    }
    let edge = |(input, wanted): (&pb::Input, &usize)| {
        reading.edge(input, *wanted, &made).map_err(|fault| fault.at(terminal.clone()))
    };
    let wants: Vec<Edge> = last.op.inputs.iter().zip(&wanted).map(edge).collect::<Result<_, _>>()?;
    let mut by_vertex: HashMap<VertexId, Vec<usize>> = HashMap::new();
    for (at, operation) in operations.iter().enumerate() {
        by_vertex.entry(operation.vertex).or_default().push(at);
    }
    let by_digest = operations.iter().enumerate().map(|(at, operation)| (operation.digest, at)).collect();
    Ok(Llb { graph: made.graph, wants, operations, source: definition.source.clone(), by_digest, by_vertex })
}

/// An operation, decoded.
struct Raw {
    digest: Digest,
    op: pb::Op,
}

fn decode(definition: &pb::Definition) -> Result<Vec<Raw>, LlbError> {
    let one = |(position, bytes): (usize, &Vec<u8>)| {
        let digest = Digest::of(bytes);
        let op = pb::Op::decode(bytes.as_slice());
        let place = || Place { position, digest, name: String::new() };
        Ok(Raw { digest, op: op.map_err(|source| LlbError::Undecodable { op: place(), source })? })
    };
    definition.def.iter().enumerate().map(one).collect()
}

struct Reading<'a> {
    raw: Vec<Raw>,
    definition: &'a pb::Definition,
    options: &'a Options,
}

/// What is translated already.
struct Made {
    graph: Graph,
    /// By position in the definition.
    vertices: HashMap<usize, VertexId>,
    names: HashMap<usize, String>,
}

/// An edge that leads nowhere.
struct BadEdge {
    output: i64,
    input: usize,
    outputs: u32,
}

impl BadEdge {
    fn at(self, op: Place) -> LlbError {
        let Self { output, input, outputs } = self;
        LlbError::NoSuchOutput { op, output, input, outputs }
    }
}

impl Reading<'_> {
    fn place(&self, at: usize, name: &str) -> Place {
        Place { position: at, digest: self.raw[at].digest, name: name.to_owned() }
    }

    fn by_digest(&self, terminal: &Place) -> Result<HashMap<Digest, usize>, LlbError> {
        let mut known = HashMap::with_capacity(self.raw.len());
        for (at, raw) in self.raw.iter().enumerate() {
            if let Some(first) = known.insert(raw.digest, at) {
                return Err(LlbError::Duplicate { op: self.place(at, ""), first });
            }
        }
        match known.get(&terminal.digest) {
            Some(&first) => Err(LlbError::Duplicate { op: terminal.clone(), first }),
            None => Ok(known),
        }
    }

    /// The positions of an operation's inputs.
    fn inputs(
        &self,
        op: &pb::Op,
        known: &HashMap<Digest, usize>,
        place: impl Fn() -> Place,
    ) -> Result<Vec<usize>, LlbError> {
        let position = |input: &pb::Input| {
            let digest: Option<Digest> = input.digest.parse().ok();
            let missing = || {
                // What is no digest may be anything.
                let input: String = input.digest.chars().take(100).collect();
                LlbError::MissingInput { op: place(), input: input.escape_debug().to_string() }
            };
            digest.and_then(|digest| known.get(&digest).copied()).ok_or_else(missing)
        };
        op.inputs.iter().map(position).collect()
    }

    fn edge(&self, input: &pb::Input, at: usize, made: &Made) -> Result<Edge, BadEdge> {
        let vertex = made.vertices[&at];
        let outputs = made.graph.get(&vertex).map_or(0, Vertex::outputs);
        let output = u32::try_from(input.index).ok().filter(|output| *output < outputs);
        let output = output.ok_or(BadEdge { output: input.index, input: at, outputs })?;
        Ok(Edge { vertex, output })
    }

    /// Translates an operation whose inputs are translated.
    fn operation(&self, at: usize, inputs: &[usize], made: &mut Made) -> Result<Operation, LlbError> {
        let Raw { digest, op } = &self.raw[at];
        let name = name::of(op, |input| made.names.get(&inputs[input]).map_or("", String::as_str));
        let place = || self.place(at, &name);
        let meta = self.definition.metadata.get(&digest.to_string()).cloned().unwrap_or_default();
        let asked = meta.caps.iter().map(|(cap, on)| (cap.clone(), *on)).collect();
        if let Some(cap) = caps::missing(&asked) {
            let cap = cap.chars().take(100).collect::<String>().escape_debug().to_string();
            return Err(LlbError::UnknownCapability { op: place(), cap });
        }
        let mut edges = Vec::with_capacity(inputs.len());
        for (input, &below) in op.inputs.iter().zip(inputs) {
            edges.push(self.edge(input, below, made).map_err(|bad| bad.at(place()))?);
        }
        let fault = |fault: Fault| LlbError::Operation { op: place(), fault };
        let refused = |source: GraphError| LlbError::Graph { op: place(), source };
        let count = edges.len();
        let translated = match op.op.as_ref().ok_or_else(|| LlbError::UnknownOperation { op: place() })? {
            pb::op::Op::Source(source) => Op::Source(source::read(source, count).map_err(fault)?),
            pb::op::Op::Exec(exec) => Op::Exec(Box::new(exec::read(exec, count).map_err(fault)?)),
            pb::op::Op::File(file) => {
                let file::Read { op, reads_nothing } = file::read(file, count).map_err(fault)?;
                if reads_nothing {
                    let empty = Vertex { op: Op::Merge(MergeOp {}), inputs: Vec::new(), platform: None };
                    let described = OpMeta { description: "[internal] empty tree".into(), ..OpMeta::default() };
                    edges.push(Edge { vertex: made.graph.add(empty, described).map_err(refused)?, output: 0 });
                }
                Op::File(op)
            }
            pb::op::Op::Merge(merge) => {
                let order = stack::read_merge(merge, count).map_err(fault)?;
                edges = order.into_iter().map(|input| edges[input]).collect();
                Op::Merge(MergeOp {})
            }
            pb::op::Op::Diff(diff) => Op::Diff(stack::read_diff(diff, count).map_err(fault)?),
            pb::op::Op::Build(build) => Op::Build(stack::read_build(build, count).map_err(fault)?),
        };
        let platform = match &op.platform {
            Some(platform) => Some(meta::read_platform(platform).map_err(fault)?),
            None if depends_on_platform(&translated) => self.options.platform.clone(),
            None => None,
        };
        let vertex = Vertex { op: translated, inputs: edges, platform };
        let vertex = made.graph.add(vertex, meta::read(&meta, &name)).map_err(refused)?;
        made.vertices.insert(at, vertex);
        // Those that stand on it are called by what people see.
        let shown = meta::custom_name(&meta).unwrap_or(&name).to_owned();
        made.names.insert(at, shown.clone());
        Ok(Operation {
            digest: *digest,
            vertex,
            inputs: inputs.iter().map(|input| self.raw[*input].digest).collect(),
            name: shown,
            meta,
        })
    }
}

/// Whether another machine makes something else of it.
fn depends_on_platform(op: &Op) -> bool {
    match op {
        Op::Exec(_) => true,
        Op::Source(source) => matches!(source.scheme(), "docker-image" | "oci-layout"),
        Op::File(_) | Op::Merge(_) | Op::Diff(_) | Op::Build(_) => false,
    }
}
