//! Where an engine comes from, written into checkpoint and engine alike.

use crate::ConvertError;
use engraft_files::{FileError, digest};
use engraft_plugin::{Identity, Plugin};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What stands for a file.
pub(crate) type Digest = fn(&Path) -> Result<String, FileError>;

/// The digest of what is in it.
pub(crate) fn of_content(path: &Path) -> Result<String, FileError> {
    digest::blake3_file(path)
}

/// As long as a digest, with nothing read.
pub(crate) fn blank(_: &Path) -> Result<String, FileError> {
    Ok("0".repeat(64))
}

/// Plugin, source files with their BLAKE3 digests, and the options that decide about bytes.
/// Nothing of the machine, the time or the place on disk: the same input gives the same text.
pub(crate) fn of_source(
    plugin: &Plugin,
    dialect: &str,
    files: &[PathBuf],
    digest: Digest,
    options: Value,
) -> Result<Value, ConvertError> {
    let mut listed = Vec::new();
    for path in files {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        listed.push(json!({ "name": name, "blake3": digest(path)? }));
    }
    Ok(json!({
        "engraft": env!("CARGO_PKG_VERSION"),
        "plugin": of_plugin(plugin),
        "source": { "dialect": dialect, "files": listed },
        "options": options,
    }))
}

/// Name, version and SHA-256 of a plugin; of a manifest its own, and those of what it stands on.
pub(crate) fn of_plugin(plugin: &Plugin) -> Value {
    let of = |identity: &Identity, sha256: &str| json!({ "name": identity.name, "version": identity.version, "sha256": sha256 });
    let component = of(plugin.component(), plugin.sha256());
    let Some(manifest) = plugin.manifest() else { return component };
    let mut all = of(plugin.identity(), manifest.sha256());
    all["stands_on"] = component;
    all
}

/// Whether the graph of what has this provenance is by a plugin: by itself, or by its component.
pub(crate) fn is_by(provenance: &Value, plugin: &Plugin) -> bool {
    let wrote = |plugin: &Value| plugin.get("stands_on").unwrap_or(plugin).clone();
    provenance.get("plugin").map(wrote) == Some(wrote(&of_plugin(plugin)))
}
