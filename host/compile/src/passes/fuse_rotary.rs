//! Queries and keys are turned where the attention reads and stores them.
//!
//! ```text
//! v3 = rotate v0, r0
//! v4 = rotate v1, r0
//! v5 = attend v3, v4, v2, s0, query_heads=9 scale=0.125
//! ```
//! becomes
//! ```text
//! v5 = attend v0, v1, v2, s0, query_heads=9 scale=0.125 rotary=r0
//! ```
//! where both turn by the same rotary embedding, nothing else uses what they give, and all
//! three are in one place. An attention that turns only its queries, or turns keys by another
//! embedding, is left as it is; so is a latent one, of which keys are values too.

use super::{drop_nodes, places};
use cranelift_entity::SecondaryMap;
use engraft_ir::{Graph, Op, TypeError};

pub(super) fn run(graph: &mut Graph) -> Result<(), TypeError> {
    let uses = graph.uses();
    let places = places(graph);
    let schedule: Vec<_> = graph.schedule().collect();
    let mut dropped = SecondaryMap::new();
    for (place, node) in schedule {
        let Op::Attend { query, key, rotary: None, ref options, .. } = graph.nodes[node].op else {
            continue;
        };
        if options.latent.is_some() {
            continue;
        }
        let turned = |value| {
            let from = graph.values[value].node;
            match graph.nodes[from].op {
                Op::Rotate { input, rotary } if uses[value] == 1 && places[from] == Some(place) => {
                    Some((from, input, rotary))
                }
                _ => None,
            }
        };
        let (Some((a, queries, by)), Some((b, keys, and))) = (turned(query), turned(key)) else {
            continue;
        };
        if by != and {
            continue;
        }
        if let Op::Attend { query, key, rotary, .. } = &mut graph.nodes[node].op {
            (*query, *key, *rotary) = (queries, keys, Some(by));
        }
        dropped[a] = true;
        dropped[b] = true;
    }
    drop_nodes(graph, &dropped);
    Ok(())
}
