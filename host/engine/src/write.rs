//! Writing an engine's directory.

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::format;
use engraft_files::layout::Declared;
use engraft_files::{FileError, Layout, SafetensorsWriter, digest};
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
    check_names(contents)?;
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

    let config = config_text(contents.config);
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

/// The files of an engine, each with its bytes, as [`write`] would write them.
///
/// # Errors
/// A text file's name that cannot be; a graph whose weights cannot lie in a file.
pub fn predict(contents: &Contents<'_>) -> Result<Vec<(String, u64)>, EngineError> {
    check_names(contents)?;
    let mut all = Vec::new();
    for (rank, graph) in contents.graphs.iter().enumerate() {
        let name = format::engine_file(rank);
        let (metadata, tensors) = declared(contents, graph);
        let layout = Layout::new(&metadata, tensors, format::ALIGNMENT)
            .map_err(|what| FileError::Misuse { path: name.clone().into(), what })?;
        all.push((name, layout.bytes()));
    }
    all.push((format::CONFIG_FILE.to_owned(), config_text(contents.config).len() as u64));
    let texts = contents.text_files.iter();
    all.extend(texts.map(|(name, bytes)| (name.clone(), bytes.len() as u64)));
    Ok(all)
}

fn check_names(contents: &Contents<'_>) -> Result<(), EngineError> {
    match contents.text_files.keys().find(|name| !is_plain(name)) {
        Some(name) => Err(EngineError::FileName { name: name.clone() }),
        None => Ok(()),
    }
}

fn config_text(config: &EngineConfig) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(config).expect(JSON);
    text.push(b'\n');
    text
}

/// What stands in the header of a rank's file: all metadata, in which digests are zeros of their
/// length, and the tensors.
fn declared(contents: &Contents<'_>, graph: &Graph) -> (BTreeMap<String, String>, Vec<Declared>) {
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
    let tensors = own(graph).map(|w| (w.name.clone(), w.dtype, w.stored_shape())).collect();
    (metadata, tensors)
}

/// Opens a rank's file.
fn begin(
    directory: &Path,
    contents: &Contents<'_>,
    rank: usize,
    graph: &Graph,
) -> Result<SafetensorsWriter, FileError> {
    let (metadata, tensors) = declared(contents, graph);
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
