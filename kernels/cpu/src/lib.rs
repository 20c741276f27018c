//! CPU kernels: a plain reference, AVX2 and AVX-512, chosen at run time.
//!
//! A forward pass is data: a list of [`Step`]s over one arena of floats, which an [`Executor`]
//! runs on a [`Pool`] of threads with a barrier after each step. Steps are checked before any
//! of them runs, so the interface is safe; what is not safe is inside.
//!
//! # Promises
//! - **A row's result is the same, bit for bit,** whatever other rows are in the batch, whichever
//!   thread computes it and however work is divided. Every sum has one order: sixteen virtual
//!   lanes over the index in steps of sixteen, then one tree over the lanes.
//! - **Every instruction set gives the same bits** ([`Isa`]): all work is written once over the
//!   sixteen lanes, and multiply-add rounds once everywhere.
//! - Activations stay `f32`; halves are widened exactly, and codes ([`Coded`]) give the bits of
//!   the floats that they mean.
//!
//! This crate knows no other room.

mod arena;
mod attention;
pub mod bandwidth;
mod barrier;
mod cache;
mod check;
mod coded;
mod columns;
pub mod convert;
mod elementwise;
mod embedding;
mod exp;
pub mod fp8;
mod heads;
mod isa;
mod lanes;
mod linear;
mod mixture;
mod norm;
mod pool;
mod program;
mod recurrent;
mod rope;
mod rounding;
mod routing;
mod rows;
#[cfg(test)]
mod testing;
mod weights;

pub use arena::Arena;
pub use attention::AttentionOptions;
pub use cache::{KvCache, Span};
pub use coded::{CodeKind, Coded, Codes, Grouping, Misfit};
pub use elementwise::{Activation, Gating};
pub use isa::{Isa, UnknownIsa};
pub use mixture::{Experts, workspace};
pub use norm::Norm;
pub use pool::{Pool, Team, split_range};
pub use program::{Executor, Step};
pub use recurrent::convolution_state;
pub use rope::RopeTable;
pub use rounding::Grid;
pub use routing::{Routing, RoutingGroups};
pub use rows::Rows;
pub use weights::{WeightKind, Weights};
