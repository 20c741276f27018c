//! The graph: entities, operations, shapes, verifier, and a text form that parses back.
//!
//! A graph is written once, for one device, and from then on is data: passes rewrite it, the
//! engine file holds it as text, the runtime plans from it. What is promised:
//! - what [`Graph::append`] took has the types that [`infer()`] gives; no index, size or number
//!   from outside can panic it;
//! - what [`verify()`] passes, every other room may rely on: its rules are in that module's doc;
//! - what verifies and is numbered densely ([`Graph::renumber`]) prints to a text that
//!   [`parse()`] reads back as the same graph, but for labels, which are for people.

mod activation;
mod attention;
mod coding;
mod cursor;
mod dtype;
mod edit;
mod entities;
mod graph;
mod infer;
mod mapping;
mod mixture;
mod op;
mod operands;
mod options;
mod parse;
mod rotary;
mod shape;
mod state;
mod verifier_errors;
mod verify;
mod write;

pub use activation::Activation;
pub use attention::AttentionData;
pub use coding::{CodeKind, Coding};
pub use dtype::DType;
pub use entities::{AnyEntity, Node, Place, Rotary, State, Value, Weight};
pub use graph::{Graph, NodeData, PlaceData, PlaceKind, ValueData, WeightData};
pub use infer::{TypeError, infer};
pub use mapping::{Mapping, Rank};
pub use mixture::{Bounded, Groups, MixtureData};
pub use op::{Grid, Op, Stretch};
pub use parse::{ParseError, parse};
pub use rotary::{RotaryData, Scaling};
pub use shape::{Axis, Dim, Meaning, Segment, Type, display_axes};
pub use state::StateData;
pub use verifier_errors::{VerifierError, VerifierErrors, display_errors};
pub use verify::{MAX_LABEL, MAX_NAME, verify};
