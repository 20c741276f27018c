//! The gate of a feed-forward layer: the activation of one projection times another.
//!
//! ```text
//! v1 = activate v0, silu
//! v3 = multiply v1, v2
//! ```
//! becomes
//! ```text
//! v3 = gate v0, v2, silu
//! ```
//! where nothing else uses `v1`. Factors commute, so the activation may be either; where both
//! are one, the left one is folded. Both nodes are in one place, and both factors of one width: a
//! factor that counts for every column is no projection.

use super::{drop_nodes, places};
use cranelift_entity::SecondaryMap;
use engraft_ir::{Graph, Node, Op, TypeError};

pub(super) fn run(graph: &mut Graph) -> Result<(), TypeError> {
    let uses = graph.uses();
    let places = places(graph);
    let schedule: Vec<_> = graph.schedule().collect();
    let mut dropped = SecondaryMap::new();
    for (place, node) in schedule {
        let Op::Multiply { left, right } = graph.nodes[node].op else { continue };
        let folded = [(left, right), (right, left)].into_iter().find_map(|(activated, up)| {
            let from: Node = graph.values[activated].node;
            match graph.nodes[from].op {
                Op::Activate { input, activation }
                    if uses[activated] == 1
                        && places[from] == Some(place)
                        && graph.values[activated].ty == graph.values[up].ty =>
                {
                    Some((from, Op::Gate { gate: input, up, activation }))
                }
                _ => None,
            }
        });
        if let Some((from, gate)) = folded {
            graph.nodes[node].op = gate;
            dropped[from] = true;
        }
    }
    drop_nodes(graph, &dropped);
    Ok(())
}
