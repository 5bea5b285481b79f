//! The shape of any graph, as another library sees it.

use std::sync::Arc;

use proptest::prelude::*;

use crate::toys::Sketch;

/// A random graph: for every step the steps it stands on, and what it does.
fn random_graph() -> impl Strategy<Value = Vec<(Vec<usize>, u8)>> {
    proptest::collection::vec((proptest::collection::vec(0..1000usize, 1..4), 0u8..20), 1..25)
}

/// The same graph as petgraph has it; node weights are positions in [`solver::graph::Graph::iter`].
fn as_petgraph(graph: &solver::graph::Graph) -> petgraph::graph::DiGraph<solver::graph::VertexId, ()> {
    let mut other = petgraph::graph::DiGraph::new();
    let nodes: std::collections::HashMap<_, _> = graph.iter().map(|(id, ..)| (id, other.add_node(id))).collect();
    for (id, vertex, _) in graph.iter() {
        for input in &vertex.inputs {
            other.update_edge(nodes[&input.vertex], nodes[&id], ());
        }
    }
    other
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// petgraph sees no cycle, the same vertices beneath a want, and each of them after its inputs.
    #[test]
    fn the_order_is_topological_and_holds_what_is_reachable(steps in random_graph()) {
        let mut sketch = Sketch::default();
        sketch.source("docker-image://base");
        let mut names = vec!["docker-image://base".to_owned()];
        for (i, (inputs, _)) in steps.iter().enumerate() {
            let mut inputs: Vec<&str> = inputs.iter().map(|input| names[input % names.len()].as_str()).collect();
            inputs.dedup();
            let name = format!("step{i}");
            sketch.run(&name, &inputs);
            names.push(name);
        }
        let want = sketch.edge(names.last().unwrap());
        let schedule = solver::schedule::Schedule::new(Arc::new(sketch.graph.clone()), &[want], 1);
        let other = as_petgraph(&sketch.graph);
        prop_assert!(!petgraph::algo::is_cyclic_directed(&other));
        let wanted = other.node_indices().find(|node| other[*node] == want.vertex).unwrap();
        let reversed = petgraph::visit::Reversed(&other);
        let mut walk = petgraph::visit::Dfs::new(reversed, wanted);
        let mut reachable = std::collections::HashSet::new();
        while let Some(node) = walk.next(reversed) {
            reachable.insert(other[node]);
        }
        let position: std::collections::HashMap<_, _> =
            schedule.order().iter().enumerate().map(|(position, id)| (*id, position)).collect();
        prop_assert_eq!(position.keys().copied().collect::<std::collections::HashSet<_>>(), reachable);
        for edge in other.edge_indices() {
            let (from, to) = other.edge_endpoints(edge).unwrap();
            if let (Some(from), Some(to)) = (position.get(&other[from]), position.get(&other[to])) {
                prop_assert!(from < to, "an input comes after its user");
            }
        }
    }
}
