//! What would be written, from headers alone: every file with its exact length, every tensor of
//! every rank, and what it takes to write them.

use crate::ConvertError;
use crate::quantise::EXCLUDED;
use engraft_compile::Input;
use engraft_ir::DType;
use engraft_weights::{Effort, Provider, Share, WeightError, held, jobs};
use std::collections::BTreeSet;

/// What would be written.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Files by name, each with its bytes.
    pub files: Vec<(String, u64)>,
    /// The tensors of each rank, in the order of its file.
    pub ranks: Vec<Vec<Tensor>>,
    /// About how many bytes of weights are in memory at a time.
    pub held: u64,
}

/// A tensor of a rank's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Of its elements.
    pub dtype: DType,
    /// Its lengths, outermost first.
    pub shape: Vec<u64>,
    /// Why no quantisation would touch it, if so.
    pub kept: Option<&'static str>,
}

impl Tensor {
    /// How long it is; saturates.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().fold(self.dtype.size() as u64, |n, &d| n.saturating_mul(d))
    }
}

impl Forecast {
    /// All files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

/// Why a parameter stays as it is; `keep` are those whose precision the plugin holds.
fn kept(source: &str, shape: &[u64], keep: &BTreeSet<String>) -> Option<&'static str> {
    let module = source.rsplit_once('.').map_or(source, |(module, _)| module);
    if EXCLUDED.iter().any(|name| module.ends_with(name.trim_start_matches('*'))) {
        Some("excluded by default")
    } else if shape.len() < 2 {
        Some("a vector")
    } else if keep.contains(source) {
        Some("its precision matters")
    } else {
        None
    }
}

/// What a rank's shares come to.
fn tensors(
    provider: &dyn Provider,
    shares: &[Share],
    keep: &BTreeSet<String>,
) -> Result<Vec<Tensor>, WeightError> {
    let declared = engraft_weights::layout(provider, shares)?;
    let tensors = declared.into_iter().zip(shares).map(|((name, dtype, shape), share)| {
        let kept = kept(&share.source, &shape, keep);
        Tensor { name, dtype, shape, kept }
    });
    Ok(tensors.collect())
}

/// Of a checkpoint.
pub(crate) fn checkpoint(
    files: Vec<(String, u64)>,
    provider: &dyn Provider,
    shares: &[Vec<Share>],
    keep: &BTreeSet<String>,
    effort: &Effort<'_>,
) -> Result<Forecast, ConvertError> {
    let all: Vec<&[Share]> = shares.iter().map(Vec::as_slice).collect();
    let held = held(provider, &jobs(provider, &all)?, effort)?;
    forecast(files, provider, shares, keep, held)
}

/// Of an engine.
pub(crate) fn engine(input: Input<'_>, keep: &BTreeSet<String>) -> Result<Forecast, ConvertError> {
    let provider = input.provider;
    let predicted = engraft_compile::predict(input)?;
    forecast(predicted.files, provider, &predicted.shares, keep, predicted.held)
}

fn forecast(
    files: Vec<(String, u64)>,
    provider: &dyn Provider,
    shares: &[Vec<Share>],
    keep: &BTreeSet<String>,
    held: u64,
) -> Result<Forecast, ConvertError> {
    let ranks = shares.iter().map(|shares| tensors(provider, shares, keep));
    let ranks = ranks.collect::<Result<_, _>>()?;
    Ok(Forecast { files, ranks, held })
}
