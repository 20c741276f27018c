//! The graph: tables of entities, and the order in which nodes run.
//!
//! *What* is computed (nodes, values, weights) is apart from *in which order* (the node lists of
//! the places), so that a pass can move or drop a node without touching what points to it.

use crate::DType;
use crate::coding::Coding;
use crate::entities::{Node, Place, Rotary, State, Value, Weight};
use crate::infer::{TypeError, infer};
use crate::mapping::Rank;
use crate::op::Op;
use crate::rotary::RotaryData;
use crate::shape::{Axis, Type};
use crate::state::StateData;
use cranelift_entity::{PrimaryMap, SecondaryMap};
use std::fmt;

/// A value: what it is and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueData {
    /// Its type, as inferred.
    pub ty: Type,
    /// The node that defines it.
    pub node: Node,
}

/// A node: an operation and the values that it defines.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeData {
    /// The operation.
    pub op: Op,
    /// At least one.
    pub results: Vec<Value>,
}

/// A parameter of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightData {
    /// Its name in the checkpoint, whole: `transformer.layers.0.attention.qkv.weight`.
    pub name: String,
    /// Its elements as stored.
    pub dtype: DType,
    /// Its axes, outermost first.
    pub axes: Vec<Axis>,
    /// The weight whose bytes it shares, as a tied head does; that one is not tied itself.
    pub tied: Option<Weight>,
    /// Where its elements are codes: what they stand for.
    pub coding: Option<Coding>,
}

impl WeightData {
    /// A weight of plain numbers that shares its bytes with no other.
    pub fn plain(name: String, dtype: DType, axes: Vec<Axis>) -> WeightData {
        WeightData { name, dtype, axes, tied: None, coding: None }
    }

    /// Its lengths, outermost first.
    pub fn shape(&self) -> Vec<u64> {
        self.axes.iter().map(Axis::size).collect()
    }

    /// The lengths of the tensor that holds it: [`WeightData::shape`], unless several elements
    /// share a byte.
    pub fn stored_shape(&self) -> Vec<u64> {
        let mut shape = self.shape();
        if let Some(coding) = &self.coding {
            coding.kind.pack(&mut shape);
        }
        shape
    }

    /// Its bytes; saturates.
    pub fn bytes(&self) -> u64 {
        self.stored_shape().iter().fold(self.dtype.size() as u64, |n, &d| n.saturating_mul(d))
    }

    /// Whether its shape can be: at least one axis, no length 0, fewer than 2⁶³ bytes.
    ///
    /// # Errors
    /// A clause that says what it must be.
    pub fn check(&self) -> Result<(), String> {
        if self.axes.is_empty() {
            return Err("it must have an axis".to_string());
        }
        let segments = || self.axes.iter().flat_map(|axis| &axis.segments);
        if self.axes.iter().any(|axis| axis.segments.is_empty()) || segments().any(|s| s.size == 0)
        {
            return Err("no length, and no part of one, may be 0".to_string());
        }
        if self.bytes() > i64::MAX as u64 {
            return Err("it must have fewer than 2^63 bytes".to_string());
        }
        Ok(())
    }
}

/// Which stretch of the model a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlaceKind {
    /// From token ids to what the first block takes.
    Embed,
    /// One block.
    Block(u32),
    /// From what the last block gives to logits.
    Head,
}

impl fmt::Display for PlaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlaceKind::Embed => f.write_str("embed"),
            PlaceKind::Block(i) => write!(f, "block {i}"),
            PlaceKind::Head => f.write_str("head"),
        }
    }
}

/// A place: its nodes in the order in which they run, and what it hands to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaceData {
    /// Which stretch.
    pub kind: PlaceKind,
    /// In order.
    pub nodes: Vec<Node>,
    /// What the next place takes; the logits where this is the head.
    pub carry: Vec<Value>,
}

/// A whole model, written once for one device; or what one rank of several has of it.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Whose it is; of a whole model, the only one.
    pub rank: Rank,
    /// All values.
    pub values: PrimaryMap<Value, ValueData>,
    /// All nodes, also those that no place runs any more.
    pub nodes: PrimaryMap<Node, NodeData>,
    /// All weights.
    pub weights: PrimaryMap<Weight, WeightData>,
    /// All states.
    pub states: PrimaryMap<State, StateData>,
    /// All rotary embeddings.
    pub rotaries: PrimaryMap<Rotary, RotaryData>,
    /// The places, in the order in which they run.
    pub places: PrimaryMap<Place, PlaceData>,
    /// Which place declares a weight.
    pub homes: SecondaryMap<Weight, Option<Place>>,
    /// Names of values for people.
    pub labels: SecondaryMap<Value, Option<String>>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Opens the next place.
    pub fn make_place(&mut self, kind: PlaceKind) -> Place {
        self.places.push(PlaceData { kind, nodes: Vec::new(), carry: Vec::new() })
    }

    /// Declares a weight in a place.
    pub fn make_weight(&mut self, home: Place, data: WeightData) -> Weight {
        let weight = self.weights.push(data);
        self.homes[weight] = Some(home);
        weight
    }

    /// The rotary embedding with these options; equal ones are one.
    pub fn make_rotary(&mut self, data: RotaryData) -> Rotary {
        match self.rotaries.iter().find(|(_, known)| **known == data) {
            Some((rotary, _)) => rotary,
            None => self.rotaries.push(data),
        }
    }

    /// Appends an operation to a place. Its operands are checked and its results typed at once.
    ///
    /// # Errors
    /// [`TypeError`] where the operands do not fit; the graph is as it was.
    pub fn append(&mut self, place: Place, op: Op) -> Result<Node, TypeError> {
        let types = infer(self, &op)?;
        let node = self.nodes.next_key();
        let results =
            types.into_iter().map(|ty| self.values.push(ValueData { ty, node })).collect();
        self.nodes.push(NodeData { op, results });
        self.places[place].nodes.push(node);
        Ok(node)
    }

    /// The first result of a node.
    pub fn result(&self, node: Node) -> Value {
        self.nodes[node].results[0]
    }

    /// The nodes of all places, in the order in which they run.
    pub fn schedule(&self) -> impl Iterator<Item = (Place, Node)> + '_ {
        self.places.iter().flat_map(|(place, data)| data.nodes.iter().map(move |&n| (place, n)))
    }

    /// The logits: what the head hands on. None where another stage has the head.
    pub fn output(&self) -> Option<Value> {
        let (_, last) = self.places.iter().next_back()?;
        if last.kind != PlaceKind::Head {
            return None;
        }
        last.carry.first().copied()
    }

    /// How many positions every table of learned positions has; `None` where there is no table.
    pub fn positions(&self) -> Option<u64> {
        let tables = self.schedule().filter_map(|(_, node)| match self.nodes.get(node)?.op {
            Op::Positions { stretch: Some(stretch), .. } => Some(stretch.of),
            Op::Positions { table, .. } => self.weights.get(table)?.axes.first().map(Axis::size),
            _ => None,
        });
        tables.min()
    }

    /// The weight whose bytes stand for this one: itself, or the one that it is tied to.
    pub fn storage(&self, weight: Weight) -> Weight {
        self.weights[weight].tied.unwrap_or(weight)
    }
}
