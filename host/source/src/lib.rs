//! What people have on disk, as tensors by name, a config and a tokenizer.
//!
//! A [`Source`] is opened by its path alone; what it is (a HuggingFace directory, a GGUF file, what Meta
//! publishes, what training programs write) is found out by looking. Opening reads headers and small files and holds all of them against
//! the sizes of the files, so that what is wrong with a model is told in the first second and
//! not in the last. Weights are read later, row by row, with positioned reads: memory is bounded
//! by what is asked for, and nothing is mapped.
//!
//! No form that is read here can run code: pickles are read by a machine that knows the names of
//! tensors and nothing else.

mod deepspeed;
mod directory;
mod error;
mod gguf;
mod hf;
mod ignorable;
mod jax;
mod lora;
mod meta;
mod nemo;
mod packed;
mod source;
mod torch;

pub use error::SourceError;
pub use gguf::GgufError;
pub use jax::JaxError;
pub use lora::{LoraError, Merged};
pub use packed::{PackedError, Packing, View};
pub use source::{Source, TensorInfo};
pub use torch::TorchError;
