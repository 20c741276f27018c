//! `quant_cfg.json`: which layer is quantised how, where they are not all alike.

use crate::CheckpointError;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The name of the file.
pub(crate) const FILE: &str = "quant_cfg.json";
/// What config.json calls it.
pub(crate) const ALGORITHM: &str = "MIXED_PRECISION";

/// The file. Layers that are not named stay in floating point.
#[derive(Debug, Deserialize)]
struct Layers {
    /// By module, such as `transformer.layers.0.attention.qkv`.
    quantized_layers: BTreeMap<String, Layer>,
}

/// What is said of a layer.
#[derive(Debug, Deserialize)]
struct Layer {
    quant_algo: Option<String>,
}

/// Reads the file at `path`, to say what this version would have to read: nothing mixed is.
pub(crate) fn refusal(bytes: &[u8], path: PathBuf) -> CheckpointError {
    let layers: Layers = match serde_json::from_slice(bytes) {
        Ok(layers) => layers,
        Err(error) => return CheckpointError::Malformed { path, reason: error.to_string() },
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for layer in layers.quantized_layers.values() {
        *counts.entry(layer.quant_algo.as_deref().unwrap_or("none")).or_default() += 1;
    }
    let counts: Vec<String> =
        counts.iter().map(|(scheme, count)| format!("{scheme} in {count} layers")).collect();
    CheckpointError::Mixed { path, schemes: counts.join(", ") }
}
