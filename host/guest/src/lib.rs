//! Making plugins: the crate of a new one, a toolchain that compiles it, and the component.
//!
//! The command line and this repository's own tasks use the same three steps, so what
//! `engraft plugin build` makes of a crate is what the bundled plugins are made of theirs. What is
//! promised:
//!
//! - [`create`] writes a crate that builds as it stands, wherever it lies: the SDK and the contract
//!   are embedded here and written beside it;
//! - the same sources give the same component on every machine: no path of it is in there;
//! - a component that [`component()`] returns imports the contract and nothing else.

mod compile;
mod component;
mod create;
mod embedded;
mod error;
mod toolchain;

pub use compile::{Compiled, compile};
pub use component::component;
pub use create::{Created, create};
pub use error::GuestError;
pub use toolchain::{PACKAGES, TARGET, Toolchain};

/// The SDK's version, as a new plugin pins it.
pub const SDK_VERSION: &str = embedded::VERSION;
