//! From a graph and its weights to an engine.
//!
//! [`build()`](build()) runs the [`passes`] over the graph, checks that each weight that is left
//! is supplied as the graph declares it, and streams all of them into an engine. It knows no
//! plugin and no source: once a graph is written it is data, and whoever implements
//! [`engraft_weights::Provider`] will do. What is promised:
//!
//! - the same graph, weights and options give the same bytes;
//! - no more of the weights is held than the provider's pieces;
//! - the graph verifies after every pass, or the build stops and names the pass.

mod build;
mod build_config;
mod error;
pub mod partition;
pub mod passes;
mod quantise;
mod select;

pub use build::{Built, Input, Predicted, build, predict};
pub use build_config::BuildOptions;
pub use engraft_engine::{BuildConfig, KvCacheType};
pub use error::{CompileError, Mismatch};
pub use partition::{Part, PartitionError, partition};
pub use quantise::quantise;
pub use select::Target;
