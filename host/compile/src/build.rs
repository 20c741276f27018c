//! The build itself.

use crate::build_config::BuildOptions;
use crate::error::{CompileError, Mismatch};
use crate::passes;
use crate::select::Target;
use engraft_checkpoint::Config;
use engraft_engine::{BuildConfig, Contents, EngineConfig};
use engraft_ir::{Graph, verify};
use engraft_weights::Provider;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What an engine is made of.
pub struct Input<'a> {
    /// As the plugin wrote it.
    pub graph: Graph,
    /// Has a weight for each that the graph declares, and no other.
    pub provider: &'a dyn Provider,
    /// The checkpoint's.
    pub config: &'a Config,
    /// What it is built for.
    pub build: BuildOptions,
    /// Where it comes from; nothing that differs from one build to the next.
    pub provenance: &'a Value,
    /// Tokenizer and the like, by name.
    pub text_files: &'a BTreeMap<String, Vec<u8>>,
    /// Exists, and will hold the engine: that of an [`engraft_files::OutputDir`].
    pub directory: &'a Path,
    /// Called with bytes of weights written and bytes in all.
    pub progress: &'a dyn Fn(u64, u64),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// Bytes of the engine file.
    pub bytes: u64,
    /// Weights in it; tied ones count once.
    pub weights: usize,
    /// What it was built for, defaults filled in.
    pub build_config: BuildConfig,
}

/// Builds an engine: passes, checks, then one stream of weights.
///
/// # Errors
/// [`CompileError`]. All but those of the disk and of the weights' numbers come before a byte
/// is written.
pub fn build(input: Input<'_>) -> Result<Built, CompileError> {
    verify(&input.graph)?;
    // What the model says of itself, and what its tables of learned positions hold.
    let positions = [input.config.max_position_embeddings, input.graph.positions()];
    let positions = positions.into_iter().flatten().min();
    let build_config =
        input.build.resolve(positions.map(|n| u32::try_from(n).unwrap_or(u32::MAX)))?;
    let target = Target::from_name(&build_config.target)?;
    let graph = passes::run(input.graph)?;
    target.check(&graph)?;
    check_supplies(&graph, input.provider)?;

    let config = EngineConfig {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pretrained_config: input.config.to_json(),
        build_config: build_config.clone(),
    };
    let contents = Contents {
        graph: &graph,
        config: &config,
        provenance: input.provenance,
        text_files: input.text_files,
    };
    let own = graph.weights.values().filter(|weight| weight.tied.is_none());
    let total = own.fold(0u64, |sum, weight| sum.saturating_add(weight.bytes()));
    let mut done = 0u64;
    let written = engraft_engine::write(input.directory, &contents, |weight, sink| {
        input.provider.stream(&weight.name, &mut |bytes| {
            sink(bytes)?;
            done = done.saturating_add(bytes.len() as u64);
            (input.progress)(done, total);
            Ok(())
        })?;
        Ok::<(), CompileError>(())
    })?;
    Ok(Built { bytes: written.bytes, weights: written.weights, build_config })
}

/// Every weight of the graph is supplied as it declares it, and nothing is supplied that no
/// place declares.
fn check_supplies(graph: &Graph, provider: &dyn Provider) -> Result<(), CompileError> {
    let mut missing = Vec::new();
    let mut different = Vec::new();
    for weight in graph.weights.values() {
        let declared = format!("{} {:?}", weight.dtype, weight.shape());
        match provider.get(&weight.name) {
            // A tied weight needs no bytes of its own.
            None if weight.tied.is_some() => {}
            None => missing.push(format!("{} {declared}", weight.name)),
            Some(supply) if supply.dtype != weight.dtype || supply.shape() != weight.shape() => {
                let found = format!("{} {:?}", supply.dtype, supply.shape());
                different.push(Mismatch { name: weight.name.clone(), declared, found });
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<&str> = graph.weights.values().map(|w| w.name.as_str()).collect();
    let unused: Vec<String> =
        provider.names().iter().filter(|name| !known.contains(name.as_str())).cloned().collect();
    if missing.is_empty() && different.is_empty() && unused.is_empty() {
        return Ok(());
    }
    Err(CompileError::Supplies { missing, different, unused })
}

#[cfg(test)]
mod tests;
