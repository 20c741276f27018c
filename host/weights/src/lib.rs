//! From a parameter's origin to its bytes.
//!
//! A plugin says how each parameter of a checkpoint comes out of the tensors of a source
//! ([`Origin`]); [`Plan`] checks all of that before a byte is read, and then hands each
//! parameter out as a stream of pieces ([`Provider`]). What is promised:
//!
//! - every parameter is provided and every source tensor is used or explained, or there is an
//!   error that lists all that is not;
//! - a stream holds pieces of 1 MiB, and at most about one source tensor where its steps
//!   move elements across it; [`execute()`](execute()) begins no more streams than memory allows;
//! - every parameter is read once, however many ranks have a share of it;
//! - where no arithmetic is asked for, elements move in the source's own bits; casts round to
//!   the nearest, ties to even; arithmetic is in `f32`, in an order that no thread count changes;
//! - a NaN or an infinity never passes, wherever it came from.

mod arithmetic;
mod budget;
mod cast;
mod compare;
mod cut;
mod deal;
mod error;
mod execute;
mod finite;
mod moves;
mod origin;
mod plan;
mod provider;
mod steps;
mod stream;
mod trace;

pub use budget::resident;
pub use compare::{Distance, Named, distance};
pub use cut::{Cut, Piece, Share};
pub use error::{Listing, WeightError};
pub use execute::{Effort, Job, Outlet, Resume, execute, held, jobs, layout, total};
pub use finite::finite;
pub use origin::{
    Joint, Origin, OriginError, Parameter, Part, Pile, Precision, Step, block_of, full_name,
};
pub use plan::Plan;
pub use provider::{Provider, Supply};
pub use trace::trace;
