//! `adapter_config.json`: how large an update is and how much of it is added.
//!
//! PEFT adds `scaling · B·A`, where `scaling` is `lora_alpha / r`, or `lora_alpha / √r` with
//! `use_rslora`; `rank_pattern` and `alpha_pattern` give single modules their own numbers. What
//! would make it anything else than such a sum is turned down by its key.

use std::path::Path;

use engraft_diagnostic::escape;
use serde_json::{Map, Value};

use super::LoraError;
use crate::{SourceError, hf};

/// What of an adapter's config decides about the sum.
pub(super) struct Config {
    rank: u64,
    alpha: f64,
    rooted: bool,
    ranks: Vec<(String, u64)>,
    alphas: Vec<(String, f64)>,
    /// Weights are stored as `[in, out]`, where the shapes leave it open.
    pub(super) transposed: bool,
    /// Rows are scaled to a learned length after the sum (DoRA).
    pub(super) magnitudes: bool,
    /// The model that it was trained on, as its author called it.
    pub(super) base: Option<String>,
}

/// Keys that must be absent, null, false or empty, and what they would mean.
const UNSUPPORTED: [(&str, &str); 6] = [
    ("layer_replication", "its layers are copies of the model's in another order"),
    ("lora_bias", "its B matrices have biases of their own"),
    ("target_parameters", "it changes parameters that are no module's weight"),
    ("alora_invocation_tokens", "it acts only after certain tokens"),
    ("use_qalora", "its A matrices are for groups of inputs"),
    ("trainable_token_indices", "it replaces single tokens"),
];

impl Config {
    /// Reads the config at `path`.
    pub(super) fn read(path: &Path) -> Result<Config, SourceError> {
        let json = hf::read_json(path)?;
        let unsupported = |what: String| {
            Err(SourceError::Lora { path: path.to_owned(), fault: LoraError::Unsupported(what) })
        };
        let kind = |key: &str, expected| SourceError::Kind {
            path: path.to_owned(),
            key: key.to_owned(),
            expected,
        };
        match json.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(other) => {
                return unsupported(format!("it is of the type {}, not LORA", escape(other)));
            }
            None => return Err(kind("peft_type", "the adapter's type, such as LORA")),
        }
        for (key, meaning) in UNSUPPORTED {
            if !json.get(key).is_none_or(is_empty) {
                return unsupported(format!("{meaning} (`{key}`)"));
            }
        }
        let rank = |key: &str, value: &Value| {
            value.as_u64().filter(|rank| *rank > 0).ok_or_else(|| kind(key, "a positive integer"))
        };
        let alpha = |key: &str, value: &Value| {
            value.as_f64().filter(|x| x.is_finite()).ok_or_else(|| kind(key, "a number"))
        };
        let flag = |key: &str| match json.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| kind(key, "true or false")),
        };
        let null = Value::Null;
        let get = |key: &str| json.get(key).unwrap_or(&null);
        let mut config = Config {
            rank: rank("r", get("r"))?,
            alpha: alpha("lora_alpha", get("lora_alpha"))?,
            rooted: flag("use_rslora")?,
            ranks: Vec::new(),
            alphas: Vec::new(),
            transposed: flag("fan_in_fan_out")?,
            magnitudes: flag("use_dora")?,
            base: get("base_model_name_or_path").as_str().map(str::to_owned),
        };
        for (key, value) in patterns(&json, "rank_pattern").map_err(|key| kind(key, OBJECT))? {
            let Some(name) = literal(key) else { return unsupported(no_literal(key)) };
            config.ranks.push((name, rank("rank_pattern", value)?));
        }
        for (key, value) in patterns(&json, "alpha_pattern").map_err(|key| kind(key, OBJECT))? {
            let Some(name) = literal(key) else { return unsupported(no_literal(key)) };
            config.alphas.push((name, alpha("alpha_pattern", value)?));
        }
        Ok(config)
    }

    /// The rank that the matrices of a module have.
    pub(super) fn rank(&self, module: &str) -> u64 {
        first(&self.ranks, module).unwrap_or(self.rank)
    }

    /// What the product of a module's matrices is multiplied by.
    pub(super) fn scale(&self, module: &str) -> f64 {
        let alpha = first(&self.alphas, module).unwrap_or(self.alpha);
        let rank = self.rank(module) as f64;
        alpha / if self.rooted { rank.sqrt() } else { rank }
    }
}

const OBJECT: &str = "an object of numbers by modules";

fn no_literal(key: &str) -> String {
    format!("its pattern {} is a regular expression, and only names are read", escape(key))
}

/// Whether a value says no.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The entries of an object that may be absent; its key where it is something else.
fn patterns<'a>(
    json: &'a Value,
    key: &'static str,
) -> Result<Vec<(&'a str, &'a Value)>, &'static str> {
    let entries = |map: &'a Map<String, Value>| map.iter().map(|(k, v)| (k.as_str(), v)).collect();
    match json.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(map)) => Ok(entries(map)),
        Some(_) => Err(key),
    }
}

/// The module that a pattern names, if it is a name: PEFT takes patterns for regular
/// expressions that match the end of a module's path, from a dot or from its beginning.
fn literal(pattern: &str) -> Option<String> {
    let name = pattern.replace("\\.", ".");
    let name = name.strip_prefix('^').unwrap_or(&name);
    let name = name.strip_suffix('$').unwrap_or(name);
    let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    (!name.is_empty() && name.chars().all(plain)).then(|| name.to_owned())
}

/// What the first pattern that matches a module has.
fn first<T: Copy>(patterns: &[(String, T)], module: &str) -> Option<T> {
    let matches = |name: &str| {
        module.strip_suffix(name).is_some_and(|head| head.is_empty() || head.ends_with('.'))
    };
    patterns.iter().find(|(name, _)| matches(name)).map(|(_, value)| *value)
}
