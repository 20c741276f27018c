//! The sum of a residual stream and its normalisation, in one.
//!
//! ```text
//! v2 = add v0, v1
//! v3 = rms_norm v2, w0, epsilon=1e-5
//! ```
//! becomes
//! ```text
//! v2, v3 = add_rms_norm v0, v1, w0, epsilon=1e-5
//! ```
//! The sum stays, for it is the stream. Where it is normalised more than once, the first norm is
//! fused. Both nodes are in one place: a block's last sum is not fused with the norm that begins
//! the next block. The norm's gain would have to move to the block before, where a pipeline
//! stage that ends between them does not hold it, and two values would be carried instead of one.

use super::{drop_nodes, places};
use cranelift_entity::SecondaryMap;
use engraft_ir::{Graph, Op, TypeError};

pub(super) fn run(graph: &mut Graph) -> Result<(), TypeError> {
    let places = places(graph);
    let schedule: Vec<_> = graph.schedule().collect();
    let mut dropped = SecondaryMap::new();
    for (place, node) in schedule {
        let Op::RmsNorm { input, weight, epsilon } = graph.nodes[node].op else { continue };
        let sum = graph.values[input].node;
        // A sum that is fused already is no `add` any more.
        let Op::Add { left, right } = graph.nodes[sum].op else { continue };
        if places[sum] != Some(place) {
            continue;
        }
        let normed = graph.result(node);
        graph.nodes[sum].op = Op::AddRmsNorm { left, right, weight, epsilon };
        graph.nodes[sum].results.push(normed);
        graph.values[normed].node = sum;
        dropped[node] = true;
    }
    drop_nodes(graph, &dropped);
    Ok(())
}
