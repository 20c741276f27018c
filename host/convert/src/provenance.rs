//! Where an engine comes from, written into checkpoint and engine alike.

use crate::ConvertError;
use engraft_files::{FileError, digest};
use engraft_plugin::{Identity, Plugin};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What stands for the first bytes of a file.
pub(crate) type Digest = fn(&Path, u64) -> Result<String, FileError>;

/// The digest of them.
pub(crate) fn of_content(path: &Path, bytes: u64) -> Result<String, FileError> {
    digest::blake3_head(path, bytes)
}

/// As long as a digest, with nothing read.
pub(crate) fn blank(_: &Path, _: u64) -> Result<String, FileError> {
    Ok("0".repeat(64))
}

/// Of files larger than this that are no safetensors and no GGUF, only the beginning is hashed.
const LARGEST: u64 = 64 << 20;
/// That beginning.
const BEGINNING: u64 = 1 << 20;

/// Plugin, source files with their sizes and BLAKE3 digests, and the options that decide about
/// bytes. Nothing of the machine, the time or the place on disk: the same input gives the same
/// text.
///
/// Files are not read a second time for that: of weights, only what stands before the tensors is
/// hashed, and the tensors themselves have their digests in the output. `data_start` says where
/// tensors begin in a file whose header does not.
pub(crate) fn of_source(
    plugin: &Plugin,
    dialect: &str,
    files: &[PathBuf],
    data_start: Option<u64>,
    digest: Digest,
    options: Value,
) -> Result<Value, ConvertError> {
    let mut listed = Vec::new();
    for path in files {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let size = fs::metadata(path).map_err(FileError::io("read", path))?.len();
        let (part, bytes) = if path.extension().is_some_and(|ext| ext == "safetensors") {
            (Some("header"), header_length(path)?)
        } else if let Some(start) = data_start {
            (Some("header"), start)
        } else if size > LARGEST {
            (Some("beginning"), BEGINNING)
        } else {
            (None, size)
        };
        let mut entry = json!({ "name": name, "size": size });
        if let Some(part) = part {
            entry["part"] = part.into();
        }
        entry["blake3"] = digest(path, bytes)?.into();
        listed.push(entry);
    }
    Ok(json!({
        "engraft": env!("CARGO_PKG_VERSION"),
        "plugin": of_plugin(plugin),
        "source": { "dialect": dialect, "files": listed },
        "options": options,
    }))
}

/// Where the tensors of a safetensors file begin.
fn header_length(path: &Path) -> Result<u64, FileError> {
    let mut length = [0; 8];
    let mut file = File::open(path).map_err(FileError::io("open", path))?;
    file.read_exact(&mut length).map_err(FileError::io("read", path))?;
    Ok(u64::from_le_bytes(length).saturating_add(8))
}

/// When files were changed last, and how long they are: what an interrupted run's work is worth
/// to the next depends on it.
pub(crate) fn stamps(files: &[PathBuf]) -> Result<String, FileError> {
    let mut text = String::new();
    for path in files {
        let about = fs::metadata(path).map_err(FileError::io("read", path))?;
        let (seconds, nanoseconds) = (about.mtime(), about.mtime_nsec());
        text += &format!("{} {} {seconds}.{nanoseconds:09}\n", path.display(), about.len());
    }
    Ok(text)
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
