//! Which codes and scales stand for weights best, given the inputs that they meet.
//!
//! [`run`] runs a model over samples, piece by piece, and hands each weight with what is known of
//! its inputs to a [`Quantiser`], which puts what it finds into a [`Spill`]. All else here is the
//! mathematics of one matrix: pure functions over slices, without a model or a file.
//!
//! `inputs` gathers what samples show of a product's inputs. `gptq` hands the error of a weight on
//! to those that follow, with scales that are searched; `awq` looks for scales of inputs before,
//! and `smooth` does so for activations of eight bits. `fp8` is for floats of eight bits, `range`
//! for scales of activations. `measure` says what it cost.
//!
//! All of it gives the same bits on any machine, for any number of threads.

mod awq;
mod cholesky;
mod codes;
mod drive;
mod error;
mod fp8;
mod gptq;
mod inputs;
mod matrix;
mod measure;
mod method;
mod piece;
mod product;
mod range;
mod run_error;
mod search;
mod smooth;
mod spill;
#[cfg(test)]
mod testing;

pub use drive::{Progress, run};
pub use error::CalibrateError;
pub use method::{Quantiser, Report, Settings};
pub use run_error::RunError;
pub use spill::{Calibrated, Spill};

use inputs::Inputs;
use matrix::Matrix;
use measure::Distance;
