//! A plugin without code: a file that says which plugin an architecture is, by other names.
//!
//! Many models are an architecture that there is a plugin for, with other words in their config
//! and other names of their tensors. A manifest is a TOML file that stands on a component and says
//! which is which. What it changes is only what the plugin and a source say to each other: each
//! field and tensor that the plugin asks for is looked up by the model's name, and errors speak of
//! the model's names. The checkpoint and the graph are the plugin's own.

mod error;
mod load;
mod rename;
mod view;

pub use error::ManifestError;
pub use load::is_manifest;
pub(crate) use load::{is_toml, load};
pub use rename::Rename;

use crate::load::Identity;
use crate::settings::{Field, Value};
use rename::Renames;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// A manifest that fits the plugin that it stands on.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    identity: Identity,
    sha256: String,
    bytes: u64,
    /// The architecture that the plugin is told.
    architecture: String,
    /// Every field that the plugin reads.
    fields: Vec<ModelField>,
    tensors: Renames,
    unused: Vec<(String, String)>,
}

/// A field that the plugin reads, as the model has it.
#[derive(Clone, Debug, PartialEq)]
struct ModelField {
    /// The plugin's path.
    known: String,
    /// The declaration with the model's path, and with the manifest's default or constant.
    field: Field,
    /// What it always is.
    constant: Option<Value>,
}

impl Manifest {
    /// Who it is: as a plugin's, and shown as one.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The SHA-256 of the manifest's file, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The bytes of the manifest's file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The plugin's own name of the architecture, which is also the checkpoint's.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Fields of the plugin that the model's config has by another name: the plugin's, the model's.
    pub fn renamed_fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.fields.iter().map(|field| (field.known.as_str(), field.field.path.as_str()));
        all.filter(|(known, called)| known != called)
    }

    /// Fields that the manifest says, each with its value.
    pub fn constants(&self) -> impl Iterator<Item = (&str, &Value)> {
        let said = |field: &&ModelField| field.known != load::ARCHITECTURES;
        let all = self.fields.iter().filter(said);
        all.filter_map(|field| Some((&*field.known, field.constant.as_ref()?)))
    }

    /// The renames of tensors.
    pub fn renames(&self) -> &[Rename] {
        &self.tensors.0
    }

    /// All of it, for a report.
    pub fn to_json(&self) -> Json {
        let constants = self.constants().map(|(field, value)| (field, value.to_json()));
        let tensors = self.renames().iter().map(|rename| (rename.known(), rename.called()));
        json!({
            "as": self.architecture,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "fields": self.renamed_fields().collect::<BTreeMap<_, _>>(),
            "constants": constants.collect::<BTreeMap<_, _>>(),
            "tensors": tensors.collect::<BTreeMap<_, _>>(),
            "unused": self.unused.iter().cloned().collect::<BTreeMap<_, _>>(),
        })
    }
}

/// The model's names that a session has met, and what renames were for.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// The plugin's name of each tensor, by the model's.
    tensors: BTreeMap<String, String>,
    /// Whether each rename was about any tensor.
    used: Vec<bool>,
}
