//! Weights of few bits: schemes, how their codes lie in a checkpoint, and what they stand for.
//!
//! A [`Scheme`] is a value. [`codes`] has the one way in which codes of four bits lie in a
//! checkpoint here, that of TensorRT-LLM's portable AWQ form. [`Floats`] shows whoever provides
//! a quantised checkpoint's tensors as one that provides the weights that they stand for.

pub mod codes;
mod error;
mod floats;
mod scheme;
mod stored;

pub use error::QuantError;
pub use floats::Floats;
pub use scheme::Scheme;
pub use stored::Stored;
