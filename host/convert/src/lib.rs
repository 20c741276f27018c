//! The pipeline: a source and a plugin become a checkpoint or, without one on disk, an engine.
//!
//! [`Pipeline::open`] does all that needs headers only: it finds the plugin, settles the
//! checkpoint's config, asks for parameters and graph, and plans every weight. Whatever can be
//! wrong with a model, but for the values of its weights, is found there, before a byte is
//! written. [`Pipeline::write_checkpoint`] and [`Pipeline::compile`] then stream.
//! [`build::Checkpoint`] is the second half alone, and ends at the same bytes.

pub mod build;
mod calibrate;
mod error;
mod forecast;
mod model;
mod pipeline;
mod provenance;
mod quantise;
mod ranks;

pub use calibrate::{Calibrated, Calibration};
pub use engraft_calibrate::{Progress, Report};
pub use engraft_weights::{Effort, Resume};
pub use error::ConvertError;
pub use forecast::{Forecast, Tensor};
pub use pipeline::{Cost, Options, Pipeline};
pub use quantise::Quantise;

/// `llama 0.1.0`, as a plugin is named to people; `mine 0.1.0 on llama 0.1.0` for a manifest.
fn display_name(plugin: &engraft_plugin::Plugin) -> String {
    let (own, component) = (plugin.identity(), plugin.component());
    let name = format!("{} {}", own.name, own.version);
    match plugin.manifest() {
        None => name,
        Some(_) => format!("{name} on {} {}", component.name, component.version),
    }
}
