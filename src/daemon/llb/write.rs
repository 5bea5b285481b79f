//! A graph becomes a definition: the same graph gives the same bytes, and reads as the same graph.
//!
//! In: a graph and what is wanted of it. Out: [`Written`], its operations in the order of the graph, then the one that
//! names what is wanted; nothing wanted is the empty definition. What a definition cannot say is an error.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use api::pb;
use oci::model::Digest;
use prost::Message as _;
use solver::graph::{Edge, Graph, Vertex, VertexId};
use solver::op::Op;

use super::error::{Fault, LlbError};
use super::{caps, exec, file, meta, source, stack};

/// The text that a graph was made of.
#[derive(Clone, Copy, Debug)]
pub struct Dockerfile<'a> {
    /// Its name.
    pub name: &'a str,
    /// All of it.
    pub text: &'a str,
    /// Where each operation stands in it.
    pub spans: &'a HashMap<VertexId, Range<usize>>,
}

/// A graph as a definition.
#[derive(Clone, Debug)]
pub struct Written {
    /// The definition.
    pub definition: pb::Definition,
    /// What its operations are called there.
    pub digests: HashMap<VertexId, Digest>,
}

/// Writes what is wanted of a graph.
///
/// # Errors
/// [`LlbError::Unwritable`], naming the vertex.
pub fn write(graph: &Graph, wants: &[Edge], dockerfile: Option<Dockerfile<'_>>) -> Result<Written, LlbError> {
    let mut written = Written { definition: pb::Definition::default(), digests: HashMap::new() };
    let needed: HashSet<VertexId> = wants.iter().flat_map(|want| graph.beneath(*want)).collect();
    for (id, vertex, described) in graph.iter().filter(|(id, _, _)| needed.contains(id)) {
        let op = operation(vertex, &written.digests);
        let op = op.map_err(|fault| LlbError::Unwritable { name: described.description.clone(), fault })?;
        let digest = written.push(&op, meta::write(described, caps::needed(vertex)));
        written.digests.insert(id, digest);
    }
    if !wants.is_empty() {
        let last = pb::Op { inputs: inputs(wants, &written.digests), ..pb::Op::default() };
        let needs = ["constraints", "platform"].map(|cap| (cap.to_owned(), true));
        let about = pb::OpMetadata { caps: needs.into_iter().collect(), ..pb::OpMetadata::default() };
        written.push(&last, about);
    }
    written.definition.source = dockerfile.map(|dockerfile| locations(&dockerfile, &written.digests));
    Ok(written)
}

impl Written {
    fn push(&mut self, op: &pb::Op, about: pb::OpMetadata) -> Digest {
        let bytes = op.encode_to_vec();
        let digest = Digest::of(&bytes);
        self.definition.def.push(bytes);
        self.definition.metadata.insert(digest.to_string(), about);
        digest
    }
}

fn inputs(edges: &[Edge], digests: &HashMap<VertexId, Digest>) -> Vec<pb::Input> {
    let input = |edge: &Edge| pb::Input { digest: digests[&edge.vertex].to_string(), index: i64::from(edge.output) };
    edges.iter().map(input).collect()
}

fn operation(vertex: &Vertex, digests: &HashMap<VertexId, Digest>) -> Result<pb::Op, Fault> {
    let op = match &vertex.op {
        Op::Source(source) => pb::op::Op::Source(source::write(source)),
        Op::Exec(exec) => pb::op::Op::Exec(exec::write(exec)?),
        Op::File(file) => pb::op::Op::File(file::write(file)?),
        Op::Merge(_) => pb::op::Op::Merge(stack::write_merge(vertex.inputs.len())),
        Op::Diff(diff) => pb::op::Op::Diff(stack::write_diff(diff)),
        Op::Build(build) => pb::op::Op::Build(stack::write_build(build)?),
    };
    Ok(pb::Op {
        inputs: inputs(&vertex.inputs, digests),
        op: Some(op),
        platform: vertex.platform.as_ref().map(meta::write_platform),
        constraints: None,
    })
}

/// The places of all operations; lines are counted from 1, characters from 0.
fn locations(dockerfile: &Dockerfile<'_>, digests: &HashMap<VertexId, Digest>) -> pb::Source {
    let ends: Vec<usize> = dockerfile.text.match_indices('\n').map(|(at, _)| at).collect();
    let position = |at: usize| {
        let line = ends.partition_point(|end| *end < at);
        let begin = line.checked_sub(1).map_or(0, |before| ends[before] + 1);
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let before = dockerfile.text.get(begin..at).unwrap_or_default();
        pb::Position { line: number(line + 1), character: number(before.chars().count()) }
    };
    let mut locations = BTreeMap::new();
    for (vertex, digest) in digests {
        let Some(span) = dockerfile.spans.get(vertex) else { continue };
        let range = pb::Range { start: Some(position(span.start)), end: Some(position(span.end)) };
        let location = pb::Location { source_index: 0, ranges: vec![range] };
        locations.insert(digest.to_string(), pb::Locations { locations: vec![location] });
    }
    let info = pb::SourceInfo {
        filename: dockerfile.name.to_owned(),
        data: dockerfile.text.as_bytes().to_vec(),
        definition: None,
        language: "Dockerfile".into(),
    };
    pb::Source { locations: locations.into_iter().collect(), infos: vec![info] }
}
