//! Weights of few bits: schemes, how their codes lie in a checkpoint, and what they stand for.
//!
//! A [`Scheme`] is a value. [`Stored`] says which tensors stand for a quantised weight, of which
//! shape, and what of them a rank keeps. [`codes`] has the one way in which codes of four bits lie
//! in a checkpoint here, that of TensorRT-LLM's portable AWQ form. [`Rounded`] shows whoever
//! provides floats as one that provides their codes, each rounded to the nearest; [`Recovered`]
//! gets back codes that a source has already.

pub mod codes;
mod error;
mod floats;
mod labelled;
mod made;
mod recovered;
mod rounded;
pub mod rtn;
mod scheme;
pub mod stored;
#[cfg(test)]
mod testing;

pub use error::QuantError;
pub use floats::weights;
pub use labelled::Labelled;
pub use made::{Blank, Made, Tensors};
pub use recovered::{Recovered, Views};
pub use rounded::{Rounded, widen};
pub use scheme::{Activations, BY_BUILDER, Grouping, Scheme};
pub use stored::{Coded, Role, Stored};
