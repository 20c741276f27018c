//! `engraft.json`: where a checkpoint comes from, and what it is like when nobody has touched it.
//!
//! ```json
//! {
//!   "format": 1, "engraft": "0.1.0", "provenance": …,
//!   "config": …,
//!   "files": { "tokenizer.json": "…" },
//!   "ranks": [{ "lm_head.weight": "…" }, …]
//! }
//! ```
//! `config` is config.json as it was written. Digests are BLAKE3, in hex: of the other files, and
//! of each tensor's bytes as they lie in the file of its rank.

use crate::CheckpointError;
use engraft_files::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The only format there is so far.
const FORMAT: u64 = 1;

/// The record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u64,
    /// The version of the tool that wrote it.
    engraft: String,
    pub(crate) provenance: Value,
    /// config.json; nothing of a record of the first versions.
    #[serde(default)]
    pub(crate) config: Option<Value>,
    /// Name to digest, of the files besides weights and config.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    /// Name to digest of every tensor, a map a rank. The first versions wrote that of the one
    /// rank that there was as `digests`.
    #[serde(default)]
    pub(crate) ranks: Vec<BTreeMap<String, String>>,
    #[serde(default, skip_serializing)]
    digests: Option<BTreeMap<String, String>>,
}

impl Record {
    /// A record of this version's.
    pub(crate) fn new(
        provenance: Value,
        config: Value,
        text_files: &BTreeMap<String, Vec<u8>>,
        ranks: Vec<BTreeMap<String, String>>,
    ) -> Record {
        let engraft = env!("CARGO_PKG_VERSION").to_owned();
        let digest = |(name, bytes): (&String, &Vec<u8>)| (name.clone(), digest::blake3_hex(bytes));
        let files = text_files.iter().map(digest).collect();
        let (config, digests) = (Some(config), None);
        Record { format: FORMAT, engraft, provenance, config, files, ranks, digests }
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
        if record.ranks.is_empty() {
            return Err(malformed("it has no digests".to_owned()));
        }
        Ok(record)
    }
}
