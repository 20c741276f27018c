//! The rules of a graph. What verifies, every other room may rely on.
//!
//! # Tables
//! - Whatever is named exists.
//! - A node runs at most once. Each value is a result of the one node that it names.
//!
//! # Places
//! - They are embed, block 0, block 1, …, head, in this order; of a rank of several stages, those
//!   of its stage, blocks counted from 0.
//! - Each returns something: a block as many values as the place before it, the head one, the
//!   logits, of f32 with a width.
//! - Token ids come from one `tokens`, in embed.
//! - A stage that is not the first begins with one `receive`, and no other has one.
//!
//! # Values
//! - A value is used after the node that defines it, in the same place or, where its place
//!   returns it, in the next.
//! - Its type is what inference gives.
//! - A label has at most 256 bytes.
//!
//! # Weights
//! - Each is declared by one place, and used there and nowhere else.
//! - Its name has 1 to 512 bytes, no control characters, and no other weight has it.
//! - Its lengths are at least 1; all of it has fewer than 2⁶³ bytes.
//! - One of codes is as [`crate::coding`] says: what its codes are told by is declared by the same
//!   place, fits its shape, and is neither tied nor of codes. It is not tied, and nothing to it.
//! - One that is tied has the shape and the element type of an earlier weight, which is not tied
//!   itself.
//!
//! # States and rotary embeddings
//! - A state belongs to exactly one operation.
//! - Numbers are finite and as [`RotaryData::check`](crate::RotaryData::check) says, also where
//!   nothing turns by them.

use crate::coding::{self, Coding};
use crate::entities::{AnyEntity, Node, Place, State, Value, Weight};
use crate::graph::{Graph, NodeData, PlaceData, PlaceKind, WeightData};
use crate::infer::infer;
use crate::op::Op;
use crate::shape::{Type, display_axes};
use crate::verifier_errors::{VerifierError, VerifierErrors};
use cranelift_entity::SecondaryMap;
use std::collections::BTreeSet;

/// The longest label, in bytes.
pub const MAX_LABEL: usize = 256;

/// The longest name of a weight, in bytes.
pub const MAX_NAME: usize = 512;

/// After so many errors the verifier stops.
const MAX_ERRORS: usize = 100;

/// Whether a graph keeps every rule.
///
/// # Errors
/// Each rule that it breaks, with where.
pub fn verify(graph: &Graph) -> Result<(), VerifierErrors> {
    let mut verifier = Verifier {
        graph,
        errors: Vec::new(),
        ran: SecondaryMap::with_capacity(graph.nodes.len()),
        seen: SecondaryMap::with_capacity(graph.values.len()),
        used: SecondaryMap::with_capacity(graph.weights.len()),
        kept: SecondaryMap::with_capacity(graph.states.len()),
        tokens: None,
        received: false,
    };
    verifier.rotaries();
    verifier.declarations();
    verifier.places();
    verifier.leftovers();
    if verifier.errors.is_empty() { Ok(()) } else { Err(VerifierErrors(verifier.errors)) }
}

/// What is known of the graph so far, and what is wrong with it.
struct Verifier<'a> {
    graph: &'a Graph,
    errors: Vec<VerifierError>,
    /// Nodes that have run.
    ran: SecondaryMap<Node, bool>,
    /// The last place that a value can be used in.
    seen: SecondaryMap<Value, Option<Place>>,
    /// Weights that an operation of their place uses.
    used: SecondaryMap<Weight, bool>,
    /// What the operation gives that a state belongs to.
    kept: SecondaryMap<State, Option<Value>>,
    /// The node that gives the token ids.
    tokens: Option<Node>,
    /// Whether what the stage before returns is taken.
    received: bool,
}

impl Verifier<'_> {
    fn error(&mut self, location: impl Into<AnyEntity>, message: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            let location = location.into();
            let context = self.graph.line(location);
            self.errors.push(VerifierError { location, context, message: message.into() });
        }
    }

    fn rotaries(&mut self) {
        for (rotary, data) in self.graph.rotaries.iter() {
            if let Err(message) = data.check() {
                self.error(rotary, message);
            }
        }
    }

    fn declarations(&mut self) {
        let graph = self.graph;
        let mut names = BTreeSet::new();
        for (weight, data) in graph.weights.iter() {
            if data.name.is_empty() || data.name.len() > MAX_NAME {
                self.error(weight, format!("its name must have 1 to {MAX_NAME} bytes"));
            }
            if data.name.contains(char::is_control) {
                self.error(weight, "its name must have no control characters");
            }
            if !names.insert(&data.name) {
                self.error(weight, "another weight has this name");
            }
            if let Err(message) = data.check() {
                self.error(weight, message);
            }
            if !graph.homes[weight].is_some_and(|home| graph.places.is_valid(home)) {
                self.error(weight, "no place declares it");
            }
            if let Some(tied) = data.tied {
                self.tie(weight, data, tied);
            }
            if let Err(message) = coding::check(graph, weight, data) {
                self.error(weight, message);
            }
        }
    }

    fn tie(&mut self, weight: Weight, data: &WeightData, tied: Weight) {
        let Some(base) = self.graph.weights.get(tied).filter(|_| tied < weight) else {
            return self
                .error(weight, format!("it is tied to {tied}, which is not an earlier one"));
        };
        if base.tied.is_some() {
            self.error(weight, format!("it is tied to {tied}, which is tied itself"));
        }
        if base.coding.is_some() || data.coding.is_some() {
            self.error(weight, format!("it is tied to {tied}, and codes are not tied"));
        }
        if (base.dtype, base.shape()) != (data.dtype, data.shape()) {
            let message = format!(
                "it is tied to {tied}, which is {} {}: it must have the same type and shape",
                base.dtype,
                display_axes(&base.axes)
            );
            self.error(weight, message);
        }
    }

    fn places(&mut self) {
        let graph = self.graph;
        let mut before: Option<(Place, &PlaceData)> = None;
        for (place, data) in graph.places.iter() {
            let expected = match before.map(|(_, before)| before.kind) {
                None if graph.rank.is_first() => [Some(PlaceKind::Embed), None],
                None => [Some(PlaceKind::Block(0)), Some(PlaceKind::Head)],
                Some(PlaceKind::Embed) => [Some(PlaceKind::Block(0)), Some(PlaceKind::Head)],
                Some(PlaceKind::Block(i)) => {
                    [i.checked_add(1).map(PlaceKind::Block), Some(PlaceKind::Head)]
                }
                Some(PlaceKind::Head) => [None, None],
            };
            if !expected.contains(&Some(data.kind)) {
                let message = match before {
                    None if !graph.rank.is_first() => {
                        "the first place of this stage must be block 0 or head".to_string()
                    }
                    None => "the first place must be embed".to_string(),
                    Some((_, before)) => format!("it must not come after {}", before.kind),
                };
                self.error(place, message);
            }
            for &value in before.into_iter().flat_map(|(_, before)| &before.carry) {
                if graph.values.is_valid(value) {
                    self.seen[value] = Some(place);
                }
            }
            for &node in &data.nodes {
                self.node(place, node);
            }
            self.carry(place, data, before.map(|(_, before)| before));
            before = Some((place, data));
        }
        let ends = before.is_some_and(|(_, before)| before.kind == PlaceKind::Head);
        if !ends && graph.rank.is_last() {
            self.error(AnyEntity::Graph, "the last place must be head");
        }
        if !graph.rank.is_last() && (ends || before.is_none()) {
            self.error(AnyEntity::Graph, "this stage must end before the head");
        }
        if !graph.rank.is_first() && !self.received {
            self.error(AnyEntity::Graph, "this stage must begin with `receive`");
        }
    }

    fn carry(&mut self, place: Place, data: &PlaceData, before: Option<&PlaceData>) {
        for &value in &data.carry {
            if let Err(message) = self.usable(place, value) {
                self.error(place, format!("it returns {message}"));
            }
        }
        let count = data.carry.len();
        match data.kind {
            _ if count == 0 => self.error(place, "it returns nothing"),
            PlaceKind::Embed => {}
            PlaceKind::Block(_) => {
                let taken = before.map_or(count, |before| before.carry.len());
                if count != taken {
                    self.error(place, format!("it takes {taken} values and returns {count}"));
                }
            }
            PlaceKind::Head => {
                let logits = data.carry.iter().filter_map(|&value| self.graph.values.get(value));
                let mut types = logits.map(|value| &value.ty);
                if count != 1 || !types.all(|ty| ty.dtype.is_float() && ty.width.is_some()) {
                    self.error(place, "it must return one value, the logits: f32 with a width");
                }
            }
        }
    }

    fn node(&mut self, place: Place, node: Node) {
        let graph = self.graph;
        let Some(NodeData { op, results }) = graph.nodes.get(node) else {
            return self.error(place, format!("it runs {node}, which does not exist"));
        };
        if std::mem::replace(&mut self.ran[node], true) {
            return self.error(node, "it runs twice");
        }
        for value in op.values() {
            if let Err(message) = self.usable(place, value) {
                self.error(node, format!("it uses {message}"));
            }
        }
        for weight in op.weights() {
            self.weight(place, node, weight);
        }
        if let Some(state) = op.state().filter(|&state| graph.states.is_valid(state)) {
            if let Some(other) = self.kept[state] {
                self.error(node, format!("{state} belongs to {other} already"));
            }
            self.kept[state] = results.first().copied();
        }
        match *op {
            Op::Tokens if graph.places[place].kind != PlaceKind::Embed => {
                self.error(node, "token ids come in embed alone");
            }
            Op::Receive { .. } => self.receive(place, node),
            Op::Tokens if self.tokens.replace(node).is_some() => {
                self.error(node, "token ids come once");
            }
            _ => {}
        }
        // Results are defined even where the operation is wrong: one error, not one a use.
        let types = infer(graph, op).unwrap_or_else(|error| {
            self.error(node, error.to_string());
            Vec::new()
        });
        if !types.is_empty() && types.len() != results.len() {
            let (given, name) = (types.len(), op.name());
            self.error(node, format!("it has {} results, {name} gives {given}", results.len()));
        }
        for (i, &result) in results.iter().enumerate() {
            self.result(place, node, result, types.get(i));
        }
    }

    fn receive(&mut self, place: Place, node: Node) {
        let first = self.graph.schedule().next() == Some((place, node));
        if self.graph.rank.is_first() || !first {
            self.error(node, "it is the first thing that a later stage does");
        }
        self.received = true;
    }

    fn result(&mut self, place: Place, node: Node, result: Value, inferred: Option<&Type>) {
        let Some(data) = self.graph.values.get(result) else {
            return self.error(node, format!("its result {result} does not exist"));
        };
        if data.node != node || self.seen[result].is_some() {
            return self.error(node, format!("its result {result} belongs to another node"));
        }
        self.seen[result] = Some(place);
        if let Some(ty) = inferred.filter(|&ty| *ty != data.ty) {
            self.error(result, format!("{result} is {}, its node gives {ty}", data.ty));
        }
        let label = self.graph.labels.get(result).and_then(Option::as_ref);
        if label.is_some_and(|label| label.len() > MAX_LABEL) {
            self.error(result, format!("its label must have at most {MAX_LABEL} bytes"));
        }
    }

    /// Whether a place can use a value by now.
    fn usable(&self, place: Place, value: Value) -> Result<(), String> {
        if !self.graph.values.is_valid(value) {
            return Err(format!("{value}, which does not exist"));
        }
        match self.seen[value] {
            Some(seen) if seen == place => Ok(()),
            Some(seen) => {
                let kind = self.graph.places[seen].kind;
                Err(format!("{value} of {kind}, which the place before does not return"))
            }
            None => Err(format!("{value} before it is defined")),
        }
    }

    fn weight(&mut self, place: Place, node: Node, weight: Weight) {
        let graph = self.graph;
        if !graph.weights.is_valid(weight) {
            return;
        }
        match graph.homes[weight].and_then(|home| Some((home, graph.places.get(home)?))) {
            Some((home, data)) if home != place => {
                self.error(node, format!("it uses {weight} of {}", data.kind));
            }
            // That no place declares it is said already.
            _ => {
                self.used[weight] = true;
                for told_by in graph.weights[weight].coding.iter().flat_map(Coding::weights) {
                    self.used[told_by] = true;
                }
            }
        }
    }

    fn leftovers(&mut self) {
        let graph = self.graph;
        for weight in graph.weights.keys() {
            if !self.used[weight] {
                self.error(weight, "nothing in its place uses it");
            }
        }
        for state in graph.states.keys() {
            if self.kept[state].is_none() {
                self.error(state, "no operation uses it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;
    use crate::{display_errors, parse};
    use engraft_diagnostic::Diagnostic;

    const TEXT: &str = r#"graph 1
place embed {
    w0 = weight "e" f32 [10 vocabulary, 8]
    v0 = tokens
    v1 = embedding v0, w0
    return v1
}
place head {
    w1 = weight "o" f32 [10 vocabulary, 8]
    v2 = activate v1, silu
    v3 = linear v2, w1
    return v3
}
"#;

    fn node(i: u32) -> Node {
        Node::from_u32(i)
    }

    fn value(i: u32) -> Value {
        Value::from_u32(i)
    }

    /// Breaks a graph that verifies and compares what the verifier says of it.
    #[track_caller]
    fn check(spoil: impl FnOnce(&mut Graph), expected: &[&str]) {
        let mut graph = parse(TEXT).expect("it parses");
        assert_eq!(verify(&graph), Ok(()));
        spoil(&mut graph);
        let errors = verify(&graph).expect_err("it is spoilt");
        let found: Vec<String> = errors.0.iter().map(VerifierError::to_string).collect();
        assert_eq!(found, expected);
        let shown = display_errors(&graph, &errors);
        for error in found {
            assert!(shown.contains(&format!("error: {error}\n")), "{shown}");
        }
    }

    #[test]
    fn a_value_is_used_after_it_is_defined() {
        let swap = |graph: &mut Graph| graph.places[Place::from_u32(1)].nodes.swap(0, 1);
        check(swap, &["n3: it uses v2 before it is defined"]);
    }

    #[test]
    fn a_node_runs_once() {
        let repeat = |graph: &mut Graph| graph.places[Place::from_u32(1)].nodes.push(node(3));
        check(repeat, &["n3: it runs twice"]);
    }

    #[test]
    fn what_is_named_exists() {
        check(
            |graph| {
                graph.places[Place::from_u32(0)].nodes.push(node(9));
                graph.places[Place::from_u32(1)].carry.push(value(8));
                graph.nodes[node(2)].op =
                    Op::Activate { input: value(7), activation: Activation::Silu };
                graph.nodes[node(3)].results = vec![value(6)];
            },
            &[
                "p0: it runs n9, which does not exist",
                "n2: it uses v7, which does not exist",
                "n2: activate: v7 does not exist",
                "n3: its result v6 does not exist",
                "p1: it returns v3 before it is defined",
                "p1: it returns v8, which does not exist",
                "p1: it must return one value, the logits: f32 with a width",
            ],
        );
    }

    #[test]
    fn a_value_belongs_to_one_node() {
        check(
            |graph| graph.nodes[node(2)].results = vec![value(1)],
            &["n2: its result v1 belongs to another node", "n3: it uses v2 before it is defined"],
        );
        check(
            |graph| graph.nodes[node(2)].results.push(value(3)),
            &[
                "n2: it has 2 results, activate gives 1",
                "n2: its result v3 belongs to another node",
            ],
        );
    }

    #[test]
    fn types_are_what_inference_gives() {
        check(
            |graph| graph.values[value(3)].ty.width = Some(11),
            &["v3: v3 is f32 [tokens, 11], its node gives f32 [tokens, 10]"],
        );
    }

    #[test]
    fn weights_have_a_home() {
        check(|graph| graph.homes[Weight::from_u32(1)] = None, &["w1: no place declares it"]);
    }

    #[test]
    fn labels_are_short() {
        let label = |graph: &mut Graph| graph.labels[value(2)] = Some("l".repeat(257));
        check(label, &["v2: its label must have at most 256 bytes"]);
    }

    #[test]
    fn a_state_has_an_operation() {
        let state = crate::StateData::Recurrence { channels: 8 };
        check(|graph| _ = graph.states.push(state), &["s0: no operation uses it"]);
    }

    #[test]
    fn errors_are_counted_up_to_a_limit() {
        let mut graph = parse(TEXT).expect("it parses");
        graph.places[Place::from_u32(1)].carry = vec![value(9); 1000];
        let errors = verify(&graph).expect_err("it is spoilt");
        assert_eq!(errors.0.len(), MAX_ERRORS);
        assert_eq!(
            errors.to_string(),
            "the graph does not verify: p1: it returns v9, which does not exist (99 more)"
        );
        assert_eq!(errors.location().as_deref(), Some("place head {"));
    }
}
