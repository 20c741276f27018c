//! What passes need: who uses a value, uses moved from one value to another, and dense numbers
//! again at the end. Each is linear in the size of the graph.

use crate::entities::{Place, Rotary, State, Value, Weight};
use crate::graph::{Graph, NodeData, PlaceData, ValueData};
use crate::op::Op;
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

    /// Lets every node and carry that used `old` use `new`.
    pub fn replace_uses(&mut self, old: Value, new: Value) {
        let replace = |value: &mut Value| {
            if *value == old {
                *value = new;
            }
        };
        self.nodes.values_mut().for_each(|data| data.op.map_values(replace));
        self.places.values_mut().for_each(|data| data.carry.iter_mut().for_each(replace));
    }

    /// The same graph with dense numbers in textual order, without what no place runs: nodes and
    /// their values, states that no attention uses, rotary embeddings that nothing turns by.
    /// Weights stay: that none is unused is the verifier's to say.
    ///
    /// What pointed to nothing points to nothing still, and the verifier says so.
    pub fn renumber(&self) -> Graph {
        let mut to = Renumber::default();
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
        for (rotary, &data) in from.rotaries.iter().filter(|(rotary, _)| used[*rotary]) {
            self.rotaries[rotary] = Renamed(self.graph.rotaries.push(data));
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
            if let Op::Attend { cache, .. } = &mut op {
                *cache = self.state(from, *cache);
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
