//! The engine file: written once, read for ever.
//!
//! [`mod@format`] is the specification. [`write()`](write()) makes a directory of it, [`Engine::open`]
//! maps one and hands out its graph and weights, [`Engine::verify`] reads every byte and compares.
//!
//! Opening reads the header and no weight: it costs milliseconds, whatever the model weighs.

mod config;
mod error;
pub mod format;
mod read;
mod verify;
mod write;

pub use config::{BuildConfig, EngineConfig, KvCacheType};
pub use error::EngineError;
pub use read::Engine;
pub use verify::Verified;
pub use write::{Contents, Written, predict, write};

#[cfg(test)]
mod tests;
