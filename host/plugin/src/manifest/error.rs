//! What can be wrong with a manifest, alone or together with its plugin and a model.

use engraft_diagnostic::{Code, Diagnostic, Fault};

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no TOML, or has other keys or values than a manifest.
    #[error("{what}")]
    Syntax {
        /// What the parser says.
        what: String,
        /// Line and column, from 1.
        at: Option<(usize, usize)>,
    },
    /// A later version of manifests.
    #[error("it is a manifest of version {found}; this engraft reads version 1")]
    Version {
        /// What it says.
        found: i64,
    },
    /// What it says of itself cannot be.
    #[error("{0}")]
    Identity(String),
    /// The plugin that it stands on is not there.
    #[error("it stands on the plugin `{name}`, and there is none")]
    NoPlugin {
        /// As the manifest has it.
        name: String,
        /// A plugin of a like name.
        near: Option<String>,
        /// Where was looked.
        looked: Vec<String>,
    },
    /// The plugin that it stands on is a manifest.
    #[error("it stands on `{name}`, which is a manifest itself")]
    OnManifest {
        /// As the manifest has it.
        name: String,
    },
    /// The plugin knows no such architecture or dialect.
    #[error("`{key} = \"{value}\"`: the plugin {plugin} knows {known}")]
    Unknown {
        /// The manifest's key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The plugin.
        plugin: String,
        /// What it knows.
        known: String,
    },
    /// A rename that is none.
    #[error("the rename of `{rename}` is none: {why}")]
    Malformed {
        /// Its left side.
        rename: String,
        /// What is wrong.
        why: String,
    },
    /// Two renames are about one name, and neither says more of it.
    #[error("`{first}` and `{second}` both rename `{name}`")]
    Ambiguous {
        /// The plugin's name.
        name: String,
        /// One rename's left side.
        first: String,
        /// The other's.
        second: String,
    },
    /// It names a field that the plugin does not read.
    #[error("the plugin {plugin} reads no field `{field}`")]
    NoField {
        /// The field.
        field: String,
        /// The plugin.
        plugin: String,
        /// A field of a like name.
        near: Option<String>,
        /// Which table of the manifest.
        table: &'static str,
    },
    /// A rename whose tensors the model has and the plugin has not.
    #[error("`{known}` is no tensor of the plugin's, but the model has `{found}`")]
    NoTensor {
        /// The rename's left side.
        known: String,
        /// A tensor of the model's that it leads to.
        found: String,
    },
    /// Two of the plugin's names become one of the model's.
    #[error("`{first}` and `{second}` of the plugin would both be `{called}` of the model")]
    Clash {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// The model's.
        called: String,
        /// Which table of the manifest.
        table: &'static str,
    },
    /// A field is in two tables.
    #[error("the field `{field}` stands in `[{first}]` and in `[{second}]`")]
    Twice {
        /// The field.
        field: String,
        /// One table.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A value of another kind than the field's.
    #[error("the field `{field}` should be {expected}, and is {found}")]
    Kind {
        /// The field.
        field: String,
        /// What the plugin declared.
        expected: String,
        /// What the manifest says.
        found: String,
        /// Which table of the manifest.
        table: &'static str,
    },
    /// The model's config has a field that the manifest says is constant, with another value.
    #[error("`{key}` is {found} in the model's config, and always {constant} by the manifest")]
    Contradicted {
        /// The config's key.
        key: String,
        /// The config's value.
        found: String,
        /// The manifest's.
        constant: String,
    },
}

impl Diagnostic for ManifestError {
    fn code(&self) -> Code {
        Code(match self {
            ManifestError::Syntax { .. }
            | ManifestError::Version { .. }
            | ManifestError::Identity(_) => 240,
            ManifestError::NoPlugin { .. }
            | ManifestError::OnManifest { .. }
            | ManifestError::Unknown { .. } => 241,
            ManifestError::Malformed { .. } => 242,
            ManifestError::NoField { .. } | ManifestError::NoTensor { .. } => 243,
            ManifestError::Ambiguous { .. }
            | ManifestError::Clash { .. }
            | ManifestError::Twice { .. } => 244,
            ManifestError::Kind { .. } => 245,
            ManifestError::Contradicted { .. } => 246,
        })
    }

    fn fault(&self) -> Fault {
        match self {
            ManifestError::Contradicted { .. } => Fault::Input,
            _ => Fault::Plugin,
        }
    }

    fn location(&self) -> Option<String> {
        Some(match self {
            ManifestError::Syntax { at, .. } => {
                let (line, column) = (*at)?;
                format!("line {line}, column {column}")
            }
            ManifestError::Version { .. } => "key `manifest`".into(),
            ManifestError::Identity(_) => return None,
            ManifestError::NoPlugin { looked, .. } => format!("looked in {}", looked.join(", ")),
            ManifestError::OnManifest { .. } => "key `plugin`".into(),
            ManifestError::Unknown { key, .. } => format!("key `{key}`"),
            ManifestError::Malformed { rename, .. } => format!("the rename of `{rename}`"),
            ManifestError::Ambiguous { first, .. } => format!("the rename of `{first}`"),
            ManifestError::NoField { field, table, .. }
            | ManifestError::Kind { field, table, .. } => format!("`[{table}]`, `{field}`"),
            ManifestError::NoTensor { known, .. } => format!("`[tensors]`, `{known}`"),
            ManifestError::Clash { table, .. } => format!("`[{table}]`"),
            ManifestError::Twice { field, second, .. } => format!("`[{second}]`, `{field}`"),
            ManifestError::Contradicted { key, .. } => format!("key `{key}` of the config"),
        })
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            ManifestError::Syntax { .. } | ManifestError::Identity(_) => {
                "docs/manifests.md has every key of a manifest".into()
            }
            ManifestError::Version { .. } => {
                "write `manifest = 1`, or use the engraft that it was made for".into()
            }
            ManifestError::NoPlugin { near: Some(near), .. } => {
                format!("write `plugin = \"{near}\"`")
            }
            ManifestError::NoPlugin { .. } => {
                "write a bundled plugin's name (`engraft plugin list`), or the path of a component \
                 from the manifest's folder, as in `plugin = \"mine.wasm\"`"
                    .into()
            }
            ManifestError::OnManifest { .. } => {
                "name the component that the other one stands on, and copy its renames".into()
            }
            ManifestError::Unknown { key, .. } => format!("write one of those as `{key}`"),
            ManifestError::Malformed { .. } => {
                "write dotted names with as many `*` on the right as on the left, as in \
                 `\"model.layers.*.mlp\" = \"blocks.*.ffn\"`"
                    .into()
            }
            ManifestError::Ambiguous { name, .. } => format!("add a rename of `{name}` itself"),
            ManifestError::NoField { near: Some(near), .. } => format!("write `{near}`"),
            ManifestError::NoField { .. } => "the left side is the plugin's name of a field: \
                 `engraft inspect PLUGIN` lists all"
                .into(),
            ManifestError::NoTensor { known, .. } => format!(
                "make the left side a name that the plugin has, or take `{known}` out of \
                 `[tensors]` and its tensors into `[unused]`"
            ),
            ManifestError::Clash { .. } => "rename one of them to something else".into(),
            ManifestError::Twice { field, second, .. } => {
                format!("take `{field}` out of `[{second}]`")
            }
            ManifestError::Kind { field, expected, .. } => format!("make `{field}` {expected}"),
            ManifestError::Contradicted { key, .. } => format!(
                "a constant is for what a config does not say: put `{key}` into `[defaults]`, or \
                 take it out of the manifest"
            ),
        })
    }
}
