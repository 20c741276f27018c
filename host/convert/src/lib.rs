//! The pipeline: a source and a plugin become a checkpoint or, without one on disk, an engine.
//!
//! [`Pipeline::open`] does all that needs headers only: it finds the plugin, settles the
//! checkpoint's config, asks for parameters and graph, and plans every weight. Whatever can be
//! wrong with a model, but for the values of its weights, is found there, before a byte is
//! written. [`Pipeline::write_checkpoint`] and [`Pipeline::compile`] then stream.
//! [`build::Checkpoint`] is the second half alone, and ends at the same bytes.

pub mod build;
mod error;
mod model;
mod pipeline;
mod provenance;

pub use error::ConvertError;
pub use pipeline::{Options, Pipeline};

/// `llama 0.1.0`, as a plugin is named to people.
fn display_name(plugin: &engraft_plugin::Plugin) -> String {
    let identity = plugin.identity();
    format!("{} {}", identity.name, identity.version)
}
