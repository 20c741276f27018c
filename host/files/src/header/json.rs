//! The JSON of a header, name by name: a name that occurs twice must not pass unseen, and what
//! is wrong with an entry must be told with its name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use engraft_diagnostic::escape;
use serde::Deserialize;
use serde::de::{Error, MapAccess, Visitor};

use super::HeaderError;

/// One tensor as the header writes it.
#[derive(Deserialize)]
pub(super) struct Entry {
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    pub(super) data_offsets: [u64; 2],
}

/// All of a header, in the file's order.
pub(super) struct Entries {
    pub(super) tensors: Vec<(String, Entry)>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Entries { tensors: Vec::new(), metadata: BTreeMap::new() };
        while let Some(name) = map.next_key::<String>()? {
            let within = |error: A::Error| A::Error::custom(format!("`{name}`: {error}"));
            if name == "__metadata__" {
                entries.metadata = map.next_value().map_err(within)?;
            } else {
                let entry = map.next_value().map_err(within)?;
                entries.tensors.push((name, entry));
            }
        }
        Ok(entries)
    }
}

/// Parses the JSON `text` of the header of the file at `path`.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Entries, HeaderError> {
    serde_json::from_slice(text).map_err(|error| HeaderError::Malformed {
        path: path.to_owned(),
        reason: escape(&error.to_string()),
    })
}
