//! Which trees of a build will be looked into: those that a step, a copy or a difference reads or stands on.
//!
//! In: a graph. Out: identifiers of image sources whose layers become trees, and copies whose layers need not. What only
//! `Merge` stacks (a linked copy on a base, which then is pushed) is never looked into, so its layers stay the blobs that
//! they came as; and the last copy of an image may be a tar at once.

use std::collections::HashSet;

use solver::graph::{Graph, VertexId};
use solver::op::Op;

use crate::options::output::Output;

/// Copies on which nothing of the graph stands, if images alone are put out.
pub fn copies_to_pack(graph: &Graph, outputs: &[Output]) -> HashSet<VertexId> {
    if outputs.iter().any(|output| matches!(output, Output::Tree(_))) {
        return HashSet::new();
    }
    let vertices: Vec<_> = graph.iter().collect();
    let read: HashSet<VertexId> =
        vertices.iter().flat_map(|(_, vertex, _)| vertex.inputs.iter().map(|edge| edge.vertex)).collect();
    let copies = vertices.iter().filter(|(id, vertex, _)| matches!(vertex.op, Op::File(_)) && !read.contains(id));
    copies.map(|(id, ..)| *id).collect()
}

/// Identifiers of sources of images whose files are needed, as far as the graph says: of what is known already, nothing
/// is fetched whoever names it here.
pub fn images_to_unpack(graph: &Graph) -> HashSet<String> {
    let (mut needed, mut images) = (HashSet::new(), HashSet::new());
    let vertices: Vec<_> = graph.iter().collect();
    for (id, vertex, _) in vertices.into_iter().rev() {
        let reads = match &vertex.op {
            Op::Exec(_) | Op::File(_) | Op::Diff(_) => true,
            Op::Merge(_) => needed.contains(&id),
            Op::Source(source) => {
                if needed.contains(&id) && source.scheme() == "docker-image" {
                    images.insert(source.identifier.clone());
                }
                false
            }
            Op::Build(_) => false,
        };
        if reads {
            needed.extend(vertex.inputs.iter().map(|edge| edge.vertex));
        }
    }
    images
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use solver::graph::{Edge, Vertex, VertexId};
    use solver::op::{FileAction, FileActionKind, FileOp, MergeOp, OpMeta, SourceOp};

    use super::*;
    use crate::options::output::{TreeDest, TreeOutput};

    fn add(graph: &mut Graph, op: Op, inputs: &[VertexId]) -> VertexId {
        let inputs = inputs.iter().map(|vertex| Edge { vertex: *vertex, output: 0 }).collect();
        graph.add(Vertex { op, inputs, platform: None }, OpMeta::default()).expect("the graph is one")
    }

    fn image(graph: &mut Graph, name: &str) -> VertexId {
        let source = SourceOp { identifier: format!("docker-image://{name}"), attrs: BTreeMap::new() };
        add(graph, Op::Source(source), &[])
    }

    fn directory(graph: &mut Graph, on: &[VertexId]) -> VertexId {
        let input = (!on.is_empty()).then_some(0);
        let kind =
            FileActionKind::MkDir { path: "/x".into(), mode: 0o755, make_parents: true, owner: None, timestamp: None };
        let action = FileAction { input, secondary_input: None, output: Some(0), kind };
        add(graph, Op::File(FileOp { actions: vec![action] }), on)
    }

    #[test]
    fn the_last_copy_of_an_image_needs_no_tree_unless_somebody_looks_into_it() {
        let mut graph = Graph::new();
        let base = image(&mut graph, "a");
        let first = directory(&mut graph, &[base]);
        let last = directory(&mut graph, &[first]);
        assert_eq!(copies_to_pack(&graph, &[]), [last].into());
        let tree = Output::Tree(TreeOutput { dest: TreeDest::Tar(None), split: false });
        assert_eq!(copies_to_pack(&graph, &[tree]), HashSet::new());
    }

    #[test]
    fn what_is_only_stacked_is_not_unpacked() {
        let mut graph = Graph::new();
        let (stood_on, stacked, read) = (image(&mut graph, "a"), image(&mut graph, "b"), image(&mut graph, "c"));
        directory(&mut graph, &[stood_on]);
        let linked = directory(&mut graph, &[]);
        add(&mut graph, Op::Merge(MergeOp {}), &[stacked, linked]);
        let merged = add(&mut graph, Op::Merge(MergeOp {}), &[read, linked]);
        directory(&mut graph, &[merged]);
        let images = images_to_unpack(&graph);
        assert_eq!(images, ["docker-image://a", "docker-image://c"].map(str::to_owned).into());
    }
}
