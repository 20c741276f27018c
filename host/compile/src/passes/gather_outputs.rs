//! The head computes logits of the rows that are asked for, and of no other.
//!
//! ```text
//! place head {
//!     v9 = rms_norm v8, w5, epsilon=1e-5          ; f32 [tokens, 576]
//! ```
//! becomes
//! ```text
//! place head {
//!     v9 = outputs v8                             ; f32 [outputs, 576]
//!     v10 = rms_norm v9, w5, epsilon=1e-5         ; f32 [outputs, 576]
//! ```
//! and all that follows has the rows `outputs`. Each value that the head takes from before is
//! gathered once. A head that begins with what needs every token (an attention, a convolution
//! or a recurrence, a rotation, positions, the token ids, what another stage sends) is gathered right behind the last of those.

use cranelift_entity::SecondaryMap;
use engraft_ir::{Dim, Graph, Node, Op, PlaceKind, TypeError, Value, infer};

pub(super) fn run(graph: &mut Graph) -> Result<(), TypeError> {
    let Some(head) = graph.places.keys().next_back() else { return Ok(()) };
    // Of a stage before the last, all rows go on.
    if graph.places[head].kind != PlaceKind::Head {
        return Ok(());
    }
    let nodes = std::mem::take(&mut graph.places[head].nodes);
    let needs_all = |node: &Node| {
        matches!(
            graph.nodes[*node].op,
            Op::Tokens
                | Op::Embedding { .. }
                | Op::Positions { .. }
                | Op::Rotate { .. }
                | Op::Attend { .. }
                | Op::Convolve { .. }
                | Op::Recur { .. }
                | Op::Receive { .. }
                | Op::Outputs { .. }
        )
    };
    let (before, after) = nodes.split_at(nodes.iter().rposition(needs_all).map_or(0, |i| i + 1));

    let mut own: SecondaryMap<Node, bool> = SecondaryMap::new();
    after.iter().for_each(|&node| own[node] = true);
    let mut taken: Vec<Value> = after.iter().flat_map(|&n| graph.nodes[n].op.values()).collect();
    taken.extend(&graph.places[head].carry);
    taken.retain(|&v| !own[graph.values[v].node] && graph.values[v].ty.rows == Dim::Tokens);
    taken.sort();
    taken.dedup();

    graph.places[head].nodes = before.to_vec();
    let mut gathered: SecondaryMap<Value, Option<Value>> = SecondaryMap::new();
    for value in taken {
        let node = graph.append(head, Op::Outputs { input: value })?;
        gathered[value] = Some(graph.result(node));
    }
    graph.places[head].nodes.extend(after);

    let replace = |value: &mut Value| *value = gathered[*value].unwrap_or(*value);
    graph.places[head].carry.iter_mut().for_each(replace);
    for &node in after {
        graph.nodes[node].op.map_values(replace);
        let types = infer(graph, &graph.nodes[node].op)?;
        let results = graph.nodes[node].results.clone();
        for (value, ty) in results.into_iter().zip(types) {
            graph.values[value].ty = ty;
        }
    }
    Ok(())
}
