//! Runs engines: schedule, paged cache, batches, sampling, text.
//!
//! From the bottom up: a [`Device`] runs one step over a packed [`Batch`]; [`Model`] is an engine
//! on a device with its limits; [`Batcher`] lets requests join and leave between steps;
//! [`Generator`] adds sampling, stopping and text; [`evaluate`] asks for logits instead. Where a
//! model has several [`ranks`], each does all of this, and they meet within a step.
//!
//! What a request gives depends on the request alone: not on what else is in the batch, not on
//! how its prompt was cut into chunks, and not on the number of threads.

mod batcher;
mod chat;
mod cpu;
mod device;
mod error;
pub mod evaluate;
mod generate;
mod kv;
mod model;
pub mod ranks;
mod sampler;
mod stop;
mod stretch;
#[cfg(test)]
mod testing;
mod tokenizer;

pub use batcher::{Batcher, RequestId, Step};
pub use chat::{ChatTemplate, Message};
pub use device::{Batch, Device, Limits, Program, Span};
pub use error::RuntimeError;
pub use generate::{Event, Finish, Generation, Generator, Request, Stop};
pub use kv::{Blocks, Pages};
pub use model::{Isa, LoadOptions, Model};
pub use sampler::{Sampler, Sampling, argmax};
pub use stretch::Stretch;
pub use tokenizer::Tokenizer;
