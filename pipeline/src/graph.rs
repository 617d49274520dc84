//! The graph of stages: who needs whom, and an order in which each follows its inputs.

use std::{cmp::Reverse, collections::BinaryHeap};

use petgraph::{
    Direction,
    graph::{DiGraph, NodeIndex},
};

/// Stages as numbers, edges from an input to the stage that takes it.
#[derive(Debug, Clone)]
pub struct Graph {
    edges: DiGraph<(), ()>,
    order: Vec<usize>,
    heights: Vec<u32>,
}

impl Graph {
    /// The graph of `inputs[stage] = the stages that it takes`. `None` if there is a cycle, which a recipe that was read
    /// cannot have, or an input that is no stage.
    pub fn new(inputs: &[Vec<usize>]) -> Option<Self> {
        let mut graph = DiGraph::with_capacity(inputs.len(), inputs.iter().map(Vec::len).sum());
        for _ in inputs {
            graph.add_node(());
        }
        // Neighbours are walked from the newest edge to the oldest: added backwards, they come out sorted.
        for (stage, needed) in inputs.iter().enumerate().rev() {
            let mut needed = needed.clone();
            needed.sort_unstable_by_key(|&input| Reverse(input));
            needed.dedup();
            for input in needed {
                if input >= inputs.len() {
                    return None;
                }
                graph.add_edge(NodeIndex::new(input), NodeIndex::new(stage), ());
            }
        }
        let order = order(&graph)?;
        let mut heights = vec![0; inputs.len()];
        for &stage in order.iter().rev() {
            let next = graph.neighbors_directed(NodeIndex::new(stage), Direction::Outgoing);
            heights[stage] = next.map(|next| heights[next.index()] + 1).max().unwrap_or(0);
        }
        Some(Self { edges: graph, order, heights })
    }

    /// Number of stages.
    pub fn len(&self) -> usize {
        self.edges.node_count()
    }

    /// Whether there is no stage.
    pub fn is_empty(&self) -> bool {
        self.edges.node_count() == 0
    }

    /// Every stage after its inputs; among those that are free, the one written first in the recipe comes first.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// The stages that `stage` takes, sorted, each once.
    pub fn inputs(&self, stage: usize) -> impl Iterator<Item = usize> + '_ {
        self.edges.neighbors_directed(NodeIndex::new(stage), Direction::Incoming).map(NodeIndex::index)
    }

    /// The stages that take `stage`, sorted, each once.
    pub fn dependents(&self, stage: usize) -> impl Iterator<Item = usize> + '_ {
        self.edges.neighbors_directed(NodeIndex::new(stage), Direction::Outgoing).map(NodeIndex::index)
    }

    /// Stages on the longest way from `stage` to an end: what is high is started first.
    pub fn height(&self, stage: usize) -> u32 {
        self.heights[stage]
    }
}

/// Kahn's order with the smallest number first, so that it is the recipe's own wherever that is possible (petgraph's own
/// topological sort promises no order among those that are free).
fn order(graph: &DiGraph<(), ()>) -> Option<Vec<usize>> {
    let mut missing: Vec<usize> =
        graph.node_indices().map(|n| graph.neighbors_directed(n, Direction::Incoming).count()).collect();
    let mut free: BinaryHeap<Reverse<usize>> =
        missing.iter().enumerate().filter(|(_, n)| **n == 0).map(|(stage, _)| Reverse(stage)).collect();
    let mut order = Vec::with_capacity(missing.len());
    while let Some(Reverse(stage)) = free.pop() {
        order.push(stage);
        for next in graph.neighbors_directed(NodeIndex::new(stage), Direction::Outgoing) {
            missing[next.index()] -= 1;
            if missing[next.index()] == 0 {
                free.push(Reverse(next.index()));
            }
        }
    }
    (order.len() == missing.len()).then_some(order)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_recipes_own_order_is_kept_where_it_can_be() {
        let graph = Graph::new(&[vec![2], vec![], vec![1], vec![]]).unwrap();
        assert_eq!(graph.order(), [1, 2, 0, 3]);
        assert_eq!((graph.height(1), graph.height(0), graph.height(3)), (2, 0, 0));
        assert!(Graph::new(&[vec![1], vec![0]]).is_none());
        assert!(Graph::new(&[vec![0]]).is_none());
        assert!(Graph::new(&[vec![7]]).is_none());
        let graph = Graph::new(&[vec![], vec![], vec![0, 1, 0], vec![1]]).unwrap();
        assert_eq!(graph.inputs(2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(graph.dependents(1).collect::<Vec<_>>(), [2, 3]);
    }

    proptest! {
        #[test]
        fn every_stage_follows_its_inputs(edges in prop::collection::vec((0usize..30, 0usize..30), 0..80)) {
            let mut inputs = vec![Vec::new(); 30];
            for (a, b) in edges {
                if a != b {
                    inputs[a.max(b)].push(a.min(b));
                }
            }
            let graph = Graph::new(&inputs).unwrap();
            let mut place = [0; 30];
            for (at, &stage) in graph.order().iter().enumerate() {
                place[stage] = at;
            }
            for (stage, needed) in inputs.iter().enumerate() {
                for &input in needed {
                    prop_assert!(place[input] < place[stage]);
                    prop_assert!(graph.height(input) > graph.height(stage));
                }
            }
        }
    }
}
