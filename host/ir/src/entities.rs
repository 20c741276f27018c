//! What the graph's things are called.
//!
//! Indices and not references: a graph is a bag of tables that point into each other, passes
//! rewrite it while they walk it, and an error must be able to say *where* without holding on
//! to anything. A type each keeps them apart. The `Display` of an entity is its spelling in the
//! text form, so printing, parsing, errors and tests agree.

use cranelift_entity::entity_impl;
use std::fmt;

/// A tensor that flows through the graph.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(u32);
entity_impl!(Value, "v");

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(u32);
entity_impl!(Node, "n");

/// A parameter of the model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);
entity_impl!(Weight, "w");

/// What is kept between steps of one request: the keys and values of an attention, the last
/// inputs of a convolution.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State(u32);
entity_impl!(State, "s");

/// A rotary position embedding, shared by all that turn alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rotary(u32);
entity_impl!(Rotary, "r");

/// A stretch of the model that is placed as a whole: the embedding, one block, the head.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u32);
entity_impl!(Place, "p");

/// Any of them: the *where* of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnyEntity {
    /// The graph as a whole.
    Graph,
    /// A value.
    Value(Value),
    /// A node.
    Node(Node),
    /// A weight.
    Weight(Weight),
    /// A state.
    State(State),
    /// A rotary embedding.
    Rotary(Rotary),
    /// A place.
    Place(Place),
}

impl fmt::Display for AnyEntity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyEntity::Graph => f.write_str("graph"),
            AnyEntity::Value(e) => e.fmt(f),
            AnyEntity::Node(e) => e.fmt(f),
            AnyEntity::Weight(e) => e.fmt(f),
            AnyEntity::State(e) => e.fmt(f),
            AnyEntity::Rotary(e) => e.fmt(f),
            AnyEntity::Place(e) => e.fmt(f),
        }
    }
}

macro_rules! into_any {
    ($($entity:ident)*) => { $(
        impl From<$entity> for AnyEntity {
            fn from(e: $entity) -> Self { AnyEntity::$entity(e) }
        }
    )* };
}
into_any!(Value Node Weight State Rotary Place);
