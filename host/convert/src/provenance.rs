//! Where an engine comes from, written into checkpoint and engine alike.

use crate::ConvertError;
use engraft_files::digest;
use engraft_plugin::Plugin;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Plugin, source files with their BLAKE3 digests, and the options that decide about bytes.
/// Nothing of the machine, the time or the place on disk: the same input gives the same text.
pub(crate) fn of_source(
    plugin: &Plugin,
    dialect: &str,
    files: &[PathBuf],
    options: Value,
) -> Result<Value, ConvertError> {
    let mut listed = Vec::new();
    for path in files {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        listed.push(json!({ "name": name, "blake3": digest::blake3_file(path)? }));
    }
    Ok(json!({
        "engraft": env!("CARGO_PKG_VERSION"),
        "plugin": of_plugin(plugin),
        "source": { "dialect": dialect, "files": listed },
        "options": options,
    }))
}

/// Name, version and SHA-256 of a plugin.
pub(crate) fn of_plugin(plugin: &Plugin) -> Value {
    let identity = plugin.identity();
    json!({ "name": identity.name, "version": identity.version, "sha256": plugin.sha256() })
}
