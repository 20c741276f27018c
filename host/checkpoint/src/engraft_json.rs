//! `engraft.json`: where a checkpoint comes from, and a digest of each of its tensors.
//!
//! ```json
//! { "format": 1, "engraft": "0.1.0", "provenance": …, "ranks": [{ "lm_head.weight": "…" }, …] }
//! ```
//! Digests are BLAKE3, in hex, of a tensor's bytes as they lie in the rank's file, in the file's
//! order. Records of before there were several ranks have `"digests": {…}`, those of rank 0.

use crate::CheckpointError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The only format there is so far.
const FORMAT: u64 = 1;

/// The record, as it is written and read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u64,
    /// The version of the tool that wrote it.
    engraft: String,
    pub(crate) provenance: Value,
    /// Of each rank's file, name to digest.
    #[serde(default)]
    pub(crate) ranks: Vec<Map<String, Value>>,
    /// The same of rank 0, as it was once.
    #[serde(default, skip_serializing)]
    digests: Option<Map<String, Value>>,
}

impl Record {
    /// A record of this version's.
    pub(crate) fn new(provenance: Value, ranks: Vec<Map<String, Value>>) -> Record {
        let engraft = env!("CARGO_PKG_VERSION").to_owned();
        Record { format: FORMAT, engraft, provenance, ranks, digests: None }
    }

    /// Reads a record; `path` is for errors.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Record, CheckpointError> {
        let malformed =
            |reason: String| CheckpointError::Malformed { path: path.to_owned(), reason };
        let mut record: Record =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if record.format != FORMAT {
            return Err(malformed(format!("its format is {}, not {FORMAT}", record.format)));
        }
        record.ranks.extend(record.digests.take());
        Ok(record)
    }
}
