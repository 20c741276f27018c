//! Plugins: what an architecture is, said by a sandboxed WebAssembly component.
//!
//! This is the only room that names wasmtime, and [`v0_1`] the only module that names what is
//! generated from the contract in `wit/v0.1`. What is promised to the rest:
//!
//! - a plugin reaches nothing: no WASI, no clock, no randomness, no weight; what it uses up is
//!   bounded by [`Limits`], and whatever it does, what comes out is a [`Refusal`], a
//!   [`PluginError`] that says who, where and why, or an answer that was checked;
//! - a graph that [`Session::write`] returns verifies: each call on the builder was checked as it
//!   was made;
//! - the same component and the same settings give the same answers ([`Plugin::check_determinism`]
//!   tries to show the contrary), and in every dialect the same model
//!   ([`Plugin::check_dialects`]);
//! - one session is one store, never used again after a trap;
//! - a [`Manifest`] stands on a plugin and changes nothing but names that a source has.

mod budget;
mod bulk;
mod compile;
mod determinism;
mod dialects;
mod error;
mod find;
mod limits;
mod load;
mod manifest;
mod reading;
mod recorder;
mod session;
mod settings;
mod thread;
mod v0_1;

pub use budget::Used;
pub use bulk::Bulk;
pub use error::{Exhausted, PluginError, Problem, Refusal};
pub use find::{FindError, Found, Shelf};
pub use limits::{Limits, LimitsError};
pub use load::{Identity, Plugin};
pub use manifest::{Manifest, ManifestError, Rename, is_manifest};
pub use reading::{Reading, Said, readings};
pub use session::{Outline, Session};
pub use settings::{Fallback, Field, Kind, Setting, SettingsError, Value, nest, resolve, unread};
