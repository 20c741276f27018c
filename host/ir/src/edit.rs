//! What passes need: how often a value is used, and dense numbers again at the end. Each is
//! linear in the size of the graph.

use crate::entities::{Place, Rotary, State, Value, Weight};
use crate::graph::{Graph, NodeData, PlaceData, ValueData};
use cranelift_entity::packed_option::ReservedValue;
use cranelift_entity::{EntityRef, SecondaryMap};

impl Graph {
    /// How many operands of running nodes, and carries, each value is.
    pub fn uses(&self) -> SecondaryMap<Value, u32> {
        let mut uses = SecondaryMap::with_capacity(self.values.len());
        for (_, node) in self.schedule() {
            for value in self.nodes[node].op.values() {
                uses[value] += 1;
            }
        }
        for &value in self.places.values().flat_map(|place| &place.carry) {
            uses[value] += 1;
        }
        uses
    }

    /// The same graph with dense numbers in textual order, without what no place runs: nodes and
    /// their values, states that nothing uses, rotary embeddings that nothing turns by.
    /// Weights stay: that none is unused is the verifier's to say.
    ///
    /// What pointed to nothing points to nothing still, and the verifier says so.
    pub fn renumber(&self) -> Graph {
        let mut to = Renumber::default();
        to.graph.rank = self.rank;
        to.rotaries(self);
        to.weights(self);
        for place in self.places.values() {
            let new = to.graph.make_place(place.kind);
            to.nodes(self, place, new);
            let carry = place.carry.iter().map(|&value| to.values[value].0).collect();
            to.graph.places[new].carry = carry;
        }
        to.graph
    }
}

/// What an entity is called in the new graph; at first, the name of nothing.
#[derive(Clone)]
struct Renamed<E>(E);

impl<E: ReservedValue> Default for Renamed<E> {
    fn default() -> Self {
        Renamed(E::reserved_value())
    }
}

/// The new graph so far, and what is called what in it.
#[derive(Default)]
struct Renumber {
    graph: Graph,
    values: SecondaryMap<Value, Renamed<Value>>,
    weights: SecondaryMap<Weight, Renamed<Weight>>,
    states: SecondaryMap<State, Renamed<State>>,
    rotaries: SecondaryMap<Rotary, Renamed<Rotary>>,
}

impl Renumber {
    fn rotaries(&mut self, from: &Graph) {
        let mut used: SecondaryMap<Rotary, bool> = SecondaryMap::new();
        for (_, node) in from.schedule() {
            if let Some(rotary) = from.nodes[node].op.rotary()
                && from.rotaries.is_valid(rotary)
            {
                used[rotary] = true;
            }
        }
        for (rotary, data) in from.rotaries.iter().filter(|(rotary, _)| used[*rotary]) {
            self.rotaries[rotary] = Renamed(self.graph.rotaries.push(data.clone()));
        }
    }

    fn weights(&mut self, from: &Graph) {
        // A stable sort: within a place, the order of declaration. Homeless ones come last.
        let mut weights: Vec<Weight> = from.weights.keys().collect();
        weights.sort_by_key(|&weight| from.homes[weight].map_or(usize::MAX, EntityRef::index));
        for &weight in &weights {
            let new = self.graph.weights.push(from.weights[weight].clone());
            self.graph.homes[new] = from.homes[weight];
            self.weights[weight] = Renamed(new);
        }
        for data in self.graph.weights.values_mut() {
            data.tied = data.tied.map(|tied| self.weights[tied].0);
            if let Some(coding) = &mut data.coding {
                coding.map_weights(|weight| *weight = self.weights[*weight].0);
            }
        }
    }

    fn nodes(&mut self, from: &Graph, place: &PlaceData, new_place: Place) {
        for &node in &place.nodes {
            let NodeData { op, results } = &from.nodes[node];
            let mut op = op.clone();
            op.map_values(|value| *value = self.values[*value].0);
            op.map_weights(|weight| *weight = self.weights[*weight].0);
            if let Some(rotary) = op.rotary_mut() {
                *rotary = self.rotaries[*rotary].0;
            }
            if let Some(state) = op.state_mut() {
                *state = self.state(from, *state);
            }
            let new_node = self.graph.nodes.next_key();
            let mut new_results = Vec::with_capacity(results.len());
            for &result in results {
                let ty = from.values[result].ty.clone();
                let new = self.graph.values.push(ValueData { ty, node: new_node });
                if let Some(label) = &from.labels[result] {
                    self.graph.labels[new] = Some(label.clone());
                }
                self.values[result] = Renamed(new);
                new_results.push(new);
            }
            self.graph.nodes.push(NodeData { op, results: new_results });
            self.graph.places[new_place].nodes.push(new_node);
        }
    }

    fn state(&mut self, from: &Graph, state: State) -> State {
        let Some(&data) = from.states.get(state) else { return State::reserved_value() };
        if self.states[state].0.is_reserved_value() {
            self.states[state] = Renamed(self.graph.states.push(data));
        }
        self.states[state].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, AnyEntity, Node, Op, parse, verify};

    const TEXT: &str = r#"graph 1
r0 = rotary head_width=8 rotated=8 base=10.0
r1 = rotary head_width=8 rotated=8 base=20.0
place embed {
    w0 = weight "e" f32 [10 vocabulary, 8]
    v0 = tokens
    v1 = embedding v0, w0
    return v1
}
place block 0 {
    s0 = cache key_heads=1 head_width=8
    v2 = rotate v1, r0
    v3 = attend v2, v2, v1, s0, query_heads=1 scale=1.0
    v4 = rotate v3, r1
    return v4
}
place head {
    w1 = weight "n" f32 [8]
    w2 = weight "o" f32 [10 vocabulary, 8] tied w0
    v5 = rms_norm v4, w1, epsilon=1e-5
    v6 = linear v5, w2
    return v6
}
"#;

    fn v(i: u32) -> Value {
        Value::from_u32(i)
    }

    /// Lets every node and carry that used `old` use `new`.
    fn replace_uses(graph: &mut Graph, old: Value, new: Value) {
        let replace = |value: &mut Value| {
            if *value == old {
                *value = new;
            }
        };
        graph.nodes.values_mut().for_each(|data| data.op.map_values(replace));
        graph.places.values_mut().for_each(|data| data.carry.iter_mut().for_each(replace));
    }

    #[test]
    fn operands_and_carries_are_uses() {
        let uses = parse(TEXT).expect("it parses").uses();
        let uses: Vec<u32> = (0..7).map(|i| uses[v(i)]).collect();
        assert_eq!(uses, [1, 3, 2, 1, 2, 1, 1]);
    }

    #[test]
    fn renumbering_drops_what_no_place_runs_and_numbers_in_order() {
        let mut graph = parse(TEXT).expect("it parses");
        let block = Place::from_u32(1);
        graph.labels[v(3)] = Some("kept".to_string());
        // Without the attention and the first turn; something new between the rest.
        replace_uses(&mut graph, v(3), v(1));
        graph.places[block].nodes.drain(..2);
        let silu = Op::Activate { input: v(1), activation: Activation::Silu };
        let node = graph.append(block, silu).expect("it fits");
        let new = graph.result(node);
        graph.labels[new] = Some("new".to_string());
        graph.places[block].nodes.rotate_right(1);
        graph.nodes[Node::from_u32(4)].op.map_values(|value| *value = new);

        let dense = graph.renumber();
        assert_eq!(verify(&dense), Ok(()));
        assert!(dense.states.is_empty());
        assert_eq!(dense.rotaries.len(), 1);
        assert_eq!(dense.labels[v(2)].as_deref(), Some("new"));
        let lines: Vec<String> =
            dense.nodes.keys().filter_map(|n| dense.line(AnyEntity::Node(n))).collect();
        assert_eq!(
            lines,
            [
                "v0 = tokens",
                "v1 = embedding v0, w0",
                "v2 = activate v1, silu",
                "v3 = rotate v2, r0",
                "v4 = rms_norm v3, w1, epsilon=1e-5",
                "v5 = linear v4, w2",
            ]
        );
        let text = dense.to_string();
        let read = parse(&text).expect("it parses");
        assert_eq!(read.to_string(), text.replace(" \"new\"", ""), "all but labels");
    }

    #[test]
    fn weights_are_numbered_by_place() {
        let mut graph = parse(TEXT).expect("it parses");
        graph.homes[Weight::from_u32(1)] = Some(Place::from_u32(0));
        graph.homes[Weight::from_u32(0)] = Some(Place::from_u32(2));
        let dense = graph.renumber();
        let names: Vec<&str> = dense.weights.values().map(|data| data.name.as_str()).collect();
        assert_eq!(names, ["n", "e", "o"]);
        assert_eq!(dense.weights[Weight::from_u32(2)].tied, Some(Weight::from_u32(1)));
    }

    #[test]
    fn what_pointed_to_nothing_does_so_still() {
        let mut graph = parse(TEXT).expect("it parses");
        replace_uses(&mut graph, v(4), v(99));
        assert!(verify(&graph.renumber()).is_err());
    }
}
