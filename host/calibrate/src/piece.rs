//! A place of a model cut into pieces, each a graph of its own, between which activations are
//! looked at.
//!
//! ```text
//! place block 0 {                    piece 1: v2                    (v2 is looked at)
//!     v2 = rms_norm v1, w0           piece 2: v3, v4, v5            (v5 is looked at)
//!     v3 = linear v2, w1             piece 3: v6, v7
//!     v4 = activate v3, silu
//!     v5 = multiply v4, v3
//!     v6 = linear v5, w2
//!     v7 = add v1, v6
//!     return v7
//! }
//! ```
//! A cut is before the first product that takes an input which has not been looked at: what is
//! found out about its weight counts for all that comes after it.

use engraft_ir::{
    DType, Graph, Node, Op, Place, PlaceKind, State, TypeError, Value, Weight, WeightData,
};
use engraft_runtime::Stretch;
use std::collections::{BTreeMap, BTreeSet};

/// A stretch of a place.
pub(crate) struct Piece {
    /// Of [`Stretch::rank`]; all weights are plain, and of `f32`.
    pub graph: Graph,
    /// Values of the model that it takes, in the order of its `receive`.
    pub takes: Vec<Value>,
    /// Values of the model that it gives, in the order in which it carries them.
    pub gives: Vec<Value>,
    /// The model's weight that each of its own is, in their order.
    pub weights: Vec<Weight>,
    /// What is looked at once it has run: an input, and the weights that it is multiplied by.
    pub then: Option<Seen>,
}

/// An input that is looked at, and the weights that it is multiplied by.
pub(crate) type Seen = (Value, Vec<Weight>);

/// The pieces of a place, in order. `is_looked_at` says of which weights' inputs more is to be
/// known.
///
/// # Errors
/// A graph that cannot be taken apart; this is our own fault.
pub(crate) fn pieces(
    graph: &Graph,
    place: Place,
    is_looked_at: &dyn Fn(Weight) -> bool,
) -> Result<Vec<Piece>, TypeError> {
    let data = &graph.places[place];
    let looked_at = |node: Node| inputs_of(&graph.nodes[node].op, is_looked_at);
    let mut groups: BTreeMap<Value, Vec<Weight>> = BTreeMap::new();
    for (input, weights) in data.nodes.iter().filter_map(|&node| looked_at(node)) {
        let group = groups.entry(input).or_default();
        group.extend(
            weights.into_iter().filter(|weight| !group.contains(weight)).collect::<Vec<_>>(),
        );
    }
    let mut cuts: Vec<(Vec<Node>, Option<Seen>)> = Vec::new();
    let mut nodes = Vec::new();
    for &node in &data.nodes {
        if let Some((input, _)) = looked_at(node)
            && let Some(weights) = groups.remove(&input)
        {
            cuts.push((std::mem::take(&mut nodes), Some((input, weights))));
        }
        nodes.push(node);
    }
    cuts.push((nodes, None));

    let mut pieces = Vec::new();
    for at in 0..cuts.len() {
        let (nodes, then) = &cuts[at];
        // What anybody behind it needs.
        let mut needed: BTreeSet<Value> = data.carry.iter().copied().collect();
        needed.extend(then.iter().map(|(input, _)| *input));
        for (nodes, then) in &cuts[at + 1..] {
            needed.extend(nodes.iter().flat_map(|&node| graph.nodes[node].op.values()));
            needed.extend(then.iter().map(|(input, _)| *input));
        }
        pieces.push(piece(graph, nodes, &needed, then.clone())?);
    }
    Ok(pieces)
}

/// The input of an operation whose inputs are to be known, and the weights that it multiplies it
/// by.
fn inputs_of(op: &Op, is_looked_at: &dyn Fn(Weight) -> bool) -> Option<Seen> {
    match *op {
        Op::Linear { input, weight, .. } if is_looked_at(weight) => Some((input, vec![weight])),
        // What experts work on inside is seen by nobody.
        Op::Mix { input, up, .. } if is_looked_at(up) => Some((input, vec![up])),
        _ => None,
    }
}

fn piece(
    graph: &Graph,
    nodes: &[Node],
    needed: &BTreeSet<Value>,
    then: Option<Seen>,
) -> Result<Piece, TypeError> {
    let made: BTreeSet<Value> =
        nodes.iter().flat_map(|&node| graph.nodes[node].results.iter().copied()).collect();
    let used = nodes.iter().flat_map(|&node| graph.nodes[node].op.values());
    let takes: BTreeSet<Value> = used.filter(|value| !made.contains(value)).collect();
    let takes: Vec<Value> = takes.into_iter().collect();
    let is_real = |value: &&Value| graph.values[**value].ty.width.is_some();
    let gives: Vec<Value> =
        made.iter().filter(is_real).copied().filter(|v| needed.contains(v)).collect();

    let mut own = Graph::new();
    own.rank = Stretch::rank();
    let place = own.make_place(PlaceKind::Block(0));
    let mut values: BTreeMap<Value, Value> = BTreeMap::new();
    if !takes.is_empty() {
        let widths = takes.iter().map(|&v| graph.values[v].ty.width.unwrap_or_default()).collect();
        let node = own.append(place, Op::Receive { widths })?;
        values.extend(takes.iter().copied().zip(own.nodes[node].results.iter().copied()));
    }
    let mut weights: Vec<Weight> = Vec::new();
    let mut states: BTreeMap<State, State> = BTreeMap::new();
    for &node in nodes {
        let mut op = graph.nodes[node].op.clone();
        op.map_values(|value| *value = values[value]);
        op.map_weights(|weight| {
            let known = weights.iter().position(|known| known == weight);
            let at = known.unwrap_or_else(|| {
                let WeightData { name, axes, .. } = graph.weights[*weight].clone();
                own.make_weight(place, WeightData::plain(name, DType::F32, axes));
                weights.push(*weight);
                weights.len() - 1
            });
            *weight = Weight::from_u32(at as u32);
        });
        if let Some(rotary) = op.rotary_mut() {
            *rotary = own.make_rotary(graph.rotaries[*rotary].clone());
        }
        if let Some(state) = op.state_mut() {
            let data = graph.states[*state];
            *state = *states.entry(*state).or_insert_with(|| own.states.push(data));
        }
        let new = own.append(place, op)?;
        let results = own.nodes[new].results.clone();
        values.extend(graph.nodes[node].results.iter().copied().zip(results));
    }
    own.places[place].carry = gives.iter().map(|value| values[value]).collect();
    Ok(Piece { graph: own, takes, gives, weights, then })
}

#[cfg(test)]
mod tests {
    use super::*;
    use engraft_ir::parse;

    const TEXT: &str = r#"graph 1
place embed {
    w0 = weight "e" f16 [10 vocabulary, 8]
    v0 = tokens
    v1 = embedding v0, w0
    return v1
}
place block 0 {
    w1 = weight "n" f16 [8]
    w2 = weight "up" f16 [12 feed_forward, 8]
    w3 = weight "gate" f16 [12 feed_forward, 8]
    w4 = weight "down" f16 [8, 12 feed_forward]
    v2 = rms_norm v1, w1, epsilon=0.00001
    v3 = linear v2, w3
    v4 = activate v3, silu
    v5 = linear v2, w2
    v6 = multiply v4, v5
    v7 = linear v6, w4
    v8 = add v1, v7
    return v8
}
place head {
    w5 = weight "o" f16 [10 vocabulary, 8]
    v9 = linear v8, w5
    return v9
}
"#;

    #[test]
    fn a_block_is_cut_before_what_its_products_take() {
        let graph = parse(TEXT).unwrap();
        let names = |weights: &[Weight]| -> Vec<&str> {
            weights.iter().map(|&weight| graph.weights[weight].name.as_str()).collect()
        };
        let block = Place::from_u32(1);
        let pieces = pieces(&graph, block, &|_| true).unwrap();
        let value = Value::from_u32;
        let found: Vec<_> =
            pieces.iter().map(|p| (p.takes.clone(), p.gives.clone(), names(&p.weights))).collect();
        assert_eq!(
            found,
            [
                (vec![value(1)], vec![value(2)], vec!["n"]),
                (vec![value(2)], vec![value(6)], vec!["gate", "up"]),
                (vec![value(1), value(6)], vec![value(8)], vec!["down"]),
            ]
        );
        let then: Vec<_> = pieces
            .iter()
            .map(|p| p.then.as_ref().map(|(input, weights)| (*input, names(weights))))
            .collect();
        let both = vec!["gate", "up"];
        assert_eq!(then, [Some((value(2), both)), Some((value(6), vec!["down"])), None]);

        let embed = super::pieces(&graph, Place::from_u32(0), &|_| true).unwrap();
        assert_eq!((embed.len(), embed[0].takes.len()), (1, 0));
        assert_eq!(embed[0].gives, [value(1)]);
    }
}
