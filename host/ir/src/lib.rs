//! The graph: entities, operations, shapes, verifier, and a text form that parses back.

mod dtype;
mod entities;
mod graph;
mod op;
mod shape;

pub use dtype::DType;
