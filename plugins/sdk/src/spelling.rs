//! Dialects beside HuggingFace's and GGUF's: what Meta publishes, what training programs write.
//!
//! Few plugins know such a dialect, so its words are the plugin's: names of tensors as a
//! [`Spelling`], and the config in `spelled_fields` and `spelled_settings` of
//! [`Architecture`](crate::Architecture).

use crate::{Fallback, Field, Setting, SettingValue, dotted, join, set};

/// How a dialect names and lays out tensors.
#[derive(Debug)]
pub struct Spelling {
    /// The dialect's name.
    pub dialect: &'static str,
    /// What sources in it say that their architecture is; none where they say what HuggingFace's do.
    pub accepts: &'static [&'static str],
    /// What stands before a block's number.
    pub blocks: &'static str,
    /// The checkpoint's names of layers and the dialect's: within a block, or whole. `LAYER.weight`
    /// and `LAYER.bias` may stand here as well, and come first.
    pub names: &'static [(&'static str, &'static str)],
    /// Whether neighbours turn together in queries and keys, and not halves.
    pub pairs: bool,
    /// Whether queries, keys and values are in one tensor, a group of them for each key head.
    pub grouped: bool,
    /// Whether both halves of a gated layer are in one tensor, that with the activation first.
    pub gated: bool,
    /// Tensors that are left out on purpose (`*` stands for anything), with the reasons.
    pub unused: &'static [(&'static str, &'static str)],
}

impl Spelling {
    /// What the dialect calls a layer's tensor, in a block or outside of all.
    #[inline(never)]
    pub(crate) fn name(&self, block: Option<u32>, layer: &str, kind: &str) -> String {
        let whole = dotted(layer, kind);
        let find = |name: &str| self.names.iter().find(|(ours, _)| *ours == name);
        let name = match (find(&whole), find(layer)) {
            (Some((_, theirs)), _) => (*theirs).into(),
            (None, Some((_, theirs))) => dotted(theirs, kind),
            (None, None) => whole,
        };
        match block {
            Some(i) => join(&[self.blocks, &i.to_string(), ".", &name]),
            None => name,
        }
    }

    /// What is left out, as the host asks for it.
    pub(crate) fn unused(&self) -> Vec<(String, String)> {
        self.unused.iter().map(|&(tensors, why)| (tensors.into(), why.into())).collect()
    }
}

/// What a plugin said in HuggingFace's words, with what these words default to.
#[inline(never)]
pub(crate) fn filled(mut said: Vec<Setting>, fields: Vec<Field>) -> Vec<Setting> {
    let value = |said: &[Setting], path: &str| -> Option<SettingValue> {
        said.iter().find(|setting| setting.path == path)?.value.clone()
    };
    for field in fields {
        if value(&said, &field.path).is_none() {
            let usual = match field.fallback {
                Fallback::Value(usual) => Some(usual),
                Fallback::SameAs(other) => value(&said, &other),
                _ => None,
            };
            said.retain(|setting| setting.path != field.path);
            said.push(set(&field.path, usual));
        }
    }
    said
}
