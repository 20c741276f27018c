//! The ranks that a model is spread over: as its config says it, and what each has of it.

use crate::ConvertError;
use engraft_checkpoint::{CheckpointError, Config};
use engraft_compile::partition::Options;
use engraft_compile::{Part, partition};
use engraft_ir::{Graph, Mapping};
use engraft_weights::Share;

/// Writes into a config which ranks its checkpoint is for.
pub(crate) fn set(config: &mut Config, mapping: Mapping, parallel_embedding: Option<u8>) {
    config.mapping = mapping.into();
    config.use_parallel_embedding = parallel_embedding.is_some();
    config.embedding_sharding_dim = parallel_embedding.unwrap_or(0).into();
}

/// What each rank has of a model, as the config of its checkpoint says, in the order of ranks.
///
/// # Errors
/// A mapping that contradicts itself, or that the model cannot be spread over.
pub(crate) fn parts(graph: &Graph, config: &Config) -> Result<Vec<Part>, ConvertError> {
    let mapping = config.mapping.ir().map_err(CheckpointError::from)?;
    let axis = u8::try_from(config.embedding_sharding_dim).unwrap_or(1);
    let options = Options { parallel_embedding: config.use_parallel_embedding.then_some(axis) };
    let parts = mapping.ranks().map(|rank| partition(graph, rank, &options));
    Ok(parts.collect::<Result<Vec<Part>, _>>()?)
}

/// The tensors of each rank's file.
pub(crate) fn stored(parts: &[Part]) -> Vec<Vec<Share>> {
    parts.iter().map(|part| part.stored.clone()).collect()
}
