//! Writing an engine's directory.

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::format;
use engraft_files::{FileError, SafetensorsWriter, digest};
use engraft_ir::{Graph, WeightData};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Component, Path};

/// What goes into an engine beside its weights.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// Of each rank, after all passes, verified and numbered densely.
    pub graphs: &'a [&'a Graph],
    /// Becomes `config.json`.
    pub config: &'a EngineConfig,
    /// Where it comes from: any JSON whose members come in an order that does not vary.
    pub provenance: &'a Value,
    /// Text files by name, to stand beside the engine.
    pub text_files: &'a BTreeMap<String, Vec<u8>>,
    /// Whether weights that an earlier run left in the files stay until they are overwritten.
    pub reopen: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the engine files.
    pub bytes: u64,
    /// Weights in them; tied ones count once a rank.
    pub weights: usize,
}

/// Writes an engine's files into `directory`, which exists: that of an
/// [`engraft_files::OutputDir`], so that they appear whole or not at all.
///
/// `fill` gets the files of all ranks, in which every weight that has bytes of its own has its
/// place, and writes them: little-endian and row-major, in any order.
///
/// # Errors
/// What the disk says, a text file's name that cannot be, and what `fill` says. A `fill` that
/// leaves a weight out is [`FileError::Misuse`].
pub fn write<E: From<EngineError>>(
    directory: &Path,
    contents: &Contents<'_>,
    fill: impl FnOnce(&[SafetensorsWriter]) -> Result<(), E>,
) -> Result<Written, E> {
    for name in contents.text_files.keys() {
        if !is_plain(name) {
            return Err(EngineError::FileName { name: name.clone() }.into());
        }
    }
    let graphs = contents.graphs.iter().enumerate();
    let files = graphs.map(|(rank, graph)| begin(directory, contents, rank, graph));
    let files = files.collect::<Result<Vec<_>, _>>().map_err(EngineError::from)?;
    fill(&files)?;
    let mut written = Written { bytes: 0, weights: 0 };
    for (file, graph) in files.into_iter().zip(contents.graphs) {
        written.bytes += file.bytes();
        written.weights += own(graph).count();
        finish(file).map_err(EngineError::from)?;
    }

    let mut config = serde_json::to_vec_pretty(contents.config).expect(JSON);
    config.push(b'\n');
    put(&directory.join(format::CONFIG_FILE), &config).map_err(EngineError::from)?;
    for (name, bytes) in contents.text_files {
        put(&directory.join(name), bytes).map_err(EngineError::from)?;
    }
    Ok(written)
}

/// The weights that have bytes of their own.
fn own(graph: &Graph) -> impl Iterator<Item = &WeightData> {
    graph.weights.values().filter(|weight| weight.tied.is_none())
}

/// Why turning our own records into JSON cannot fail.
const JSON: &str = "records whose keys are text become JSON";

/// Opens a rank's file, with its layout and all metadata; digests are zeros of their length.
fn begin(
    directory: &Path,
    contents: &Contents<'_>,
    rank: usize,
    graph: &Graph,
) -> Result<SafetensorsWriter, FileError> {
    let zeros = "0".repeat(format::DIGEST_LEN);
    let digests = own(graph).map(|w| (w.name.clone(), zeros.clone())).collect();
    let files = contents.text_files.iter();
    let files = files.map(|(name, bytes)| (name.clone(), digest::blake3_hex(bytes))).collect();
    let metadata = [
        (format::KEY_FORMAT, format::VERSION.to_owned()),
        (format::KEY_HEADER, zeros),
        (format::KEY_GRAPH, graph.to_string()),
        (format::KEY_CONFIG, serde_json::to_string(contents.config).expect(JSON)),
        (format::KEY_PROVENANCE, contents.provenance.to_string()),
        (format::KEY_DIGESTS, digests_json(&digests)),
        (format::KEY_FILES, digests_json(&files)),
    ];
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let tensors = own(graph).map(|w| (w.name.clone(), w.dtype, w.shape())).collect();
    let path = directory.join(format::engine_file(rank));
    let open = if contents.reopen { SafetensorsWriter::reopen } else { SafetensorsWriter::create };
    open(&path, metadata, tensors, format::ALIGNMENT)
}

/// Puts in what is known only now, the header's own digest last.
fn finish(mut writer: SafetensorsWriter) -> Result<(), FileError> {
    let digests = digests_json(&writer.digests()?);
    writer.patch(format::KEY_DIGESTS, &digests)?;
    // The digest covers the length before the header too: all bytes up to the first tensor.
    let mut header = (writer.header().len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(writer.header());
    let position = format::digest_position(&header).expect("it was put there by `begin`");
    writer.patch(format::KEY_HEADER, &format::header_digest(&header, position))?;
    writer.finish()
}

fn digests_json(digests: &BTreeMap<String, String>) -> String {
    serde_json::to_string(digests).expect(JSON)
}

/// Whether a name is that of a file in the directory itself, and not one of the engine's.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    matches!(first, Some(Component::Normal(only)) if only == name)
        && components.next().is_none()
        && name != format::CONFIG_FILE
        && !name.ends_with(".engine")
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = File::create(path).map_err(FileError::io("create", path))?;
    file.write_all(bytes).map_err(FileError::io("write", path))
}
