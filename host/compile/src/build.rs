//! The build itself.

use crate::build_config::BuildOptions;
use crate::error::{CompileError, Mismatch};
use crate::partition::Part;
use crate::passes;
use crate::select::Target;
use engraft_checkpoint::Config;
use engraft_engine::{BuildConfig, Contents, EngineConfig, EngineError};
use engraft_ir::{Graph, verify};
use engraft_weights::{Effort, Provider, Share, execute, held, jobs, total};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What an engine is made of.
pub struct Input<'a> {
    /// Of each rank, in order: its graph before any pass, and what it keeps of the weights.
    pub parts: Vec<Part>,
    /// Has all of the model's weights, of which every one is in some rank's share.
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
    /// How hard to work, and whom to tell how far it is.
    pub effort: Effort<'a>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// Bytes of the engine files.
    pub bytes: u64,
    /// Weights in them; tied ones count once a rank.
    pub weights: usize,
    /// What it was built for, defaults filled in.
    pub build_config: BuildConfig,
}

/// What an engine would be.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// Its files, each with its bytes.
    pub files: Vec<(String, u64)>,
    /// Of each rank, what it keeps of the weights, in the order of its file.
    pub shares: Vec<Vec<Share>>,
    /// About how many bytes of weights would be in memory at a time.
    pub held: u64,
    /// What it would be built for, defaults filled in.
    pub build_config: BuildConfig,
}

/// What is settled before the first byte is written.
struct Prepared {
    graphs: Vec<Graph>,
    shares: Vec<Vec<Share>>,
    config: EngineConfig,
}

/// Builds an engine: passes, checks, then one stream of weights into the files of all ranks.
///
/// # Errors
/// [`CompileError`]. All but those of the disk and of the weights' numbers come before a byte
/// is written.
pub fn build(mut input: Input<'_>) -> Result<Built, CompileError> {
    let Prepared { graphs, shares, config } = prepare(&mut input)?;
    let graphs: Vec<&Graph> = graphs.iter().collect();
    let slices: Vec<&[Share]> = shares.iter().map(Vec::as_slice).collect();
    let jobs = jobs(input.provider, &slices)?;
    let mut facts = vec![
        config.pretrained_config.to_string(),
        format!("{:?}", config.build_config),
        input.provenance.to_string(),
        format!("{shares:?}"),
    ];
    facts.extend(graphs.iter().map(ToString::to_string));
    let facts: Vec<&str> = facts.iter().map(String::as_str).collect();
    let bytes = total(input.provider, &jobs);
    let journal =
        input.effort.journal(input.directory, &facts, bytes).map_err(EngineError::from)?;
    let contents = contents(&input, &graphs, &config, journal.is_some());
    let written = engraft_engine::write(input.directory, &contents, |files| {
        execute(input.provider, &jobs, files, &input.effort, journal.as_ref())?;
        Ok::<(), CompileError>(())
    })?;
    let build_config = config.build_config;
    Ok(Built { bytes: written.bytes, weights: written.weights, build_config })
}

/// What [`build`] would write. Nothing is read but headers, and the directory is not looked at.
///
/// # Errors
/// As [`build`], but for those of the disk and of the weights' numbers.
pub fn predict(mut input: Input<'_>) -> Result<Predicted, CompileError> {
    let Prepared { graphs, shares, config } = prepare(&mut input)?;
    let graphs: Vec<&Graph> = graphs.iter().collect();
    let files = engraft_engine::predict(&contents(&input, &graphs, &config, false))?;
    let all: Vec<&[Share]> = shares.iter().map(Vec::as_slice).collect();
    let held = held(input.provider, &jobs(input.provider, &all)?, &input.effort)?;
    Ok(Predicted { files, shares, held, build_config: config.build_config })
}

fn contents<'a>(
    input: &Input<'a>,
    graphs: &'a [&'a Graph],
    config: &'a EngineConfig,
    reopen: bool,
) -> Contents<'a> {
    let (provenance, text_files) = (input.provenance, input.text_files);
    Contents { graphs, config, provenance, text_files, reopen }
}

/// Passes and checks.
fn prepare(input: &mut Input<'_>) -> Result<Prepared, CompileError> {
    for part in &input.parts {
        verify(&part.graph)?;
    }
    // What the model says of itself, and what its tables of learned positions hold.
    let tables = input.parts.iter().filter_map(|part| part.graph.positions()).max();
    let positions = [input.config.max_position_embeddings, tables];
    let positions = positions.into_iter().flatten().min();
    let build_config =
        input.build.resolve(positions.map(|n| u32::try_from(n).unwrap_or(u32::MAX)))?;
    let target = Target::from_name(&build_config.target)?;
    let mut graphs = Vec::with_capacity(input.parts.len());
    let mut shares = Vec::with_capacity(input.parts.len());
    for part in std::mem::take(&mut input.parts) {
        let graph = passes::run(part.graph)?;
        target.check(&graph)?;
        graphs.push(graph);
        shares.push(part.shares);
    }
    check_supplies(&graphs, &shares, input.provider)?;
    let config = EngineConfig {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pretrained_config: input.config.to_json(),
        build_config,
    };
    Ok(Prepared { graphs, shares, config })
}

/// Every weight of each rank's graph is supplied as it declares it, and nothing is supplied that
/// no rank has a share of.
fn check_supplies(
    graphs: &[Graph],
    shares: &[Vec<Share>],
    provider: &dyn Provider,
) -> Result<(), CompileError> {
    let mut missing = BTreeSet::new();
    let mut different = Vec::new();
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for (graph, shares) in graphs.iter().zip(shares) {
        used.extend(shares.iter().map(|share| share.source.as_str()));
        let shares: BTreeMap<&str, &Share> =
            shares.iter().map(|share| (share.name.as_str(), share)).collect();
        for weight in graph.weights.values() {
            let declared = format!("{} {:?}", weight.dtype, weight.stored_shape());
            let differs =
                |found| Mismatch { name: weight.name.clone(), declared: declared.clone(), found };
            let share = shares.get(weight.name.as_str());
            let source = share.map_or(weight.name.as_str(), |share| share.source.as_str());
            match (provider.get(source), share) {
                // A tied weight needs no bytes of its own.
                (None, _) if weight.tied.is_some() => {}
                (None, _) => {
                    missing.insert(format!("{source} {declared}"));
                }
                (Some(supply), Some(share)) => {
                    let shape = share.cut.shape();
                    if supply.dtype != weight.dtype || shape != weight.stored_shape() {
                        different.push(differs(format!("{} {shape:?}", supply.dtype)));
                    }
                }
                (Some(_), None) if weight.tied.is_some() => {}
                (Some(_), None) => different.push(differs("in no share".to_owned())),
            }
        }
    }
    // What is tied is used where that is which it is tied to.
    let is_used = |name: &str| {
        let tied = provider.get(name).and_then(|supply| supply.tied.as_deref());
        used.contains(name) || tied.is_some_and(|to| used.contains(to))
    };
    let unused: Vec<String> =
        provider.names().iter().filter(|name| !is_used(name)).cloned().collect();
    if missing.is_empty() && different.is_empty() && unused.is_empty() {
        return Ok(());
    }
    let missing = missing.into_iter().collect();
    Err(CompileError::Supplies { missing, different, unused })
}

#[cfg(test)]
mod tests;
