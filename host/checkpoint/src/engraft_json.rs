//! `engraft.json`: where a checkpoint comes from, and a digest of each of its tensors.
//!
//! ```json
//! { "format": 1, "engraft": "0.1.0", "provenance": …, "digests": { "lm_head.weight": "…" } }
//! { "format": 1, "engraft": "0.1.0", "provenance": …, "ranks": [{ "lm_head.weight": "…" }, …] }
//! ```
//! Digests are BLAKE3, in hex, of a tensor's bytes as they lie in the file, in the file's order.
//! The second form, an object a rank, is that of more than one rank.

use crate::CheckpointError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The only format there is so far.
const FORMAT: u64 = 1;

/// The record, as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    format: u64,
    /// The version of the tool that wrote it.
    engraft: String,
    provenance: Value,
    /// Name to digest, of one rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    digests: Option<Map<String, Value>>,
    /// The same of each of several ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    ranks: Option<Vec<Map<String, Value>>>,
}

/// The record, as it is read.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) provenance: Value,
    /// Name to digest, by rank.
    pub(crate) ranks: Vec<BTreeMap<String, String>>,
}

/// The record of a checkpoint that this version writes; `ranks` are name and digest of every
/// tensor of each rank.
pub(crate) fn record(provenance: Value, mut ranks: Vec<Map<String, Value>>) -> impl Serialize {
    let engraft = env!("CARGO_PKG_VERSION").to_owned();
    let digests = if ranks.len() == 1 { ranks.pop() } else { None };
    let ranks = digests.is_none().then_some(ranks);
    Written { format: FORMAT, engraft, provenance, digests, ranks }
}

impl Record {
    /// Reads a record; `path` is for errors.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Record, CheckpointError> {
        let malformed =
            |reason: String| CheckpointError::Malformed { path: path.to_owned(), reason };
        let record: Written =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if record.format != FORMAT {
            return Err(malformed(format!("its format is {}, not {FORMAT}", record.format)));
        }
        let text = |(name, hex): (String, Value)| (name, hex.as_str().unwrap_or_default().into());
        let ranks = record
            .ranks
            .or_else(|| record.digests.map(|digests| vec![digests]))
            .ok_or_else(|| malformed("it has neither `digests` nor `ranks`".to_owned()))?;
        let ranks = ranks.into_iter().map(|noted| noted.into_iter().map(text).collect()).collect();
        Ok(Record { provenance: record.provenance, ranks })
    }
}
