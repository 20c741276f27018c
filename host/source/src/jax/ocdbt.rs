//! The keys of an OCDBT database, TensorStore's B+tree in files, and where their values are.
//!
//! ```text
//! manifest.ocdbt ── the newest version's root ──► d/… ── nodes ──► d/… ── leaves: key, value
//! ```
//! A node is a piece of a data file. A small value stands in its leaf, others are pieces of data
//! files themselves. Everything but values has a checksum, and may be packed with zstd. The format
//! is TensorStore's "OCDBT" page, of which this is the part that reading needs.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use engraft_files::{FileError, interrupt, read};

use super::JaxError;
use crate::SourceError;
use crate::source::grid::store::Place;

mod decode;

use decode::{Decoder, unwrapped};

/// The file that a database begins with.
pub(super) const MANIFEST: &str = "manifest.ocdbt";

const MANIFEST_MAGIC: u32 = 0x0cdb_3a2a;
const NODE_MAGIC: u32 = 0x0cdb_20de;

/// How large a manifest or a node may be, unpacked.
pub(super) const LIMIT: u64 = 128 << 20;
/// How many nodes there may be, and how large all of them and all keys may be together.
const NODES: usize = 1 << 16;
const TOGETHER: u64 = 1 << 30;

/// The keys of the newest version, with their values; the data files that hold them.
pub(super) struct Database {
    pub(super) values: BTreeMap<String, Place>,
    pub(super) files: Vec<PathBuf>,
}

/// Reads the database in `directory`, all but its values.
pub(super) fn open(directory: &Path) -> Result<Database, SourceError> {
    let path = directory.join(MANIFEST);
    let bytes = read::whole(&path, LIMIT)?;
    let fault = |fault| SourceError::Jax { path: path.clone(), fault };
    let root = manifest(&bytes).map_err(fault)?;
    let mut walk = Walk {
        directory,
        numbers: BTreeMap::new(),
        database: Database { values: BTreeMap::new(), files: Vec::new() },
        nodes: 0,
        bytes: 0,
    };
    if let Some(root) = root {
        walk.node(&root, Vec::new())?;
    }
    Ok(walk.database)
}

/// Where a node is.
struct Reference {
    file: DataFile,
    offset: u64,
    length: u64,
    height: u8,
}

/// A data file, as a node above it says.
#[derive(Clone)]
struct DataFile {
    /// What paths below it begin with.
    base: Vec<u8>,
    path: Vec<u8>,
}

/// The newest root that a manifest speaks of; none of an empty database.
fn manifest(bytes: &[u8]) -> Result<Option<Reference>, JaxError> {
    let body = unwrapped(bytes, MANIFEST_MAGIC, "its manifest")?;
    let mut decoder = Decoder::new(&body, "its manifest");
    decoder.bytes(16)?;
    match decoder.varint()? {
        0 => {}
        1 => {
            let what = "its manifest is in numbered files".to_owned();
            return Err(JaxError::DatabaseKind { what });
        }
        kind => {
            return Err(JaxError::DatabaseKind { what: format!("its manifest is of kind {kind}") });
        }
    }
    decoder.varint()?;
    decoder.varint()?;
    decoder.byte()?;
    match decoder.varint()? {
        0 => {}
        1 => drop(decoder.bytes(4)?),
        method => {
            let what = format!("it is packed by method {method}");
            return Err(JaxError::DatabaseKind { what });
        }
    }
    let files = decoder.data_files(b"")?;
    let count = decoder.count("versions")?;
    decoder.varints(count)?;
    let heights = decoder.bytes(count)?;
    let numbers = decoder.varints(count)?;
    let offsets = decoder.varints(count)?;
    let lengths = decoder.varints(count)?;
    let keys = decoder.varints(count)?;
    let Some(last) = count.checked_sub(1) else {
        return Err(decoder.wrong("there is no version"));
    };
    if keys[last] == 0 {
        return Ok(None);
    }
    let file = decoder.data_file(&files, numbers[last])?;
    let (offset, length) = (offsets[last], lengths[last]);
    Ok(Some(Reference { file, offset, length, height: heights[last] }))
}

struct Walk<'a> {
    directory: &'a Path,
    numbers: BTreeMap<Vec<u8>, usize>,
    database: Database,
    nodes: usize,
    bytes: u64,
}

impl Walk<'_> {
    /// The number and path of a data file, which must not lead out of the directory.
    fn file(&mut self, file: &DataFile) -> Result<usize, SourceError> {
        if let Some(number) = self.numbers.get(&file.path) {
            return Ok(*number);
        }
        let inside = std::str::from_utf8(&file.path).ok().map(Path::new).filter(|path| {
            path.components().all(|component| matches!(component, Component::Normal(_)))
        });
        let Some(inside) = inside else {
            let name = String::from_utf8_lossy(&file.path).escape_debug().to_string();
            let what = format!("data file `{name}` is not inside of it");
            let path = self.directory.join(MANIFEST);
            return Err(SourceError::Jax { path, fault: JaxError::Database { what } });
        };
        let number = self.database.files.len();
        self.database.files.push(self.directory.join(inside));
        self.numbers.insert(file.path.clone(), number);
        Ok(number)
    }

    /// Takes in all keys of a node, which begin with `prefix`.
    fn node(&mut self, node: &Reference, prefix: Vec<u8>) -> Result<(), SourceError> {
        interrupt::check()?;
        let number = self.file(&node.file)?;
        let path = self.database.files[number].clone();
        let fault = |fault| SourceError::Jax { path: path.clone(), fault };
        self.nodes += 1;
        if self.nodes > NODES {
            let what = format!("it has more than {NODES} nodes");
            return Err(fault(JaxError::Database { what }));
        }
        let too_large = || {
            let what = format!("its nodes and keys have more than {TOGETHER} bytes");
            fault(JaxError::Database { what })
        };
        let bytes = read_range(&path, node.offset, node.length)?;
        let body = unwrapped(&bytes, NODE_MAGIC, "a node").map_err(fault)?;
        self.bytes += body.len() as u64;
        if self.bytes > TOGETHER {
            return Err(too_large());
        }
        let parsed = parse(&body, node, &prefix).map_err(fault)?;
        match parsed {
            Node::Leaf(entries) => {
                for (key, value) in entries {
                    let length = value.length;
                    let place = match value.kind {
                        Kind::Here(bytes) => Place::Inline(bytes),
                        Kind::File(file, start) => {
                            Place::File { file: self.file(&file)?, start, length }
                        }
                    };
                    // Arrays have names that are text; nothing else is one.
                    let Ok(key) = String::from_utf8(key) else { continue };
                    self.bytes += key.len() as u64;
                    if self.bytes > TOGETHER {
                        return Err(too_large());
                    }
                    self.database.values.insert(key, place);
                }
            }
            Node::Interior(children) => {
                for (prefix, child) in children {
                    self.node(&child, prefix)?;
                }
            }
        }
        Ok(())
    }
}

/// Some bytes of a file, if it has them.
fn read_range(path: &Path, offset: u64, length: u64) -> Result<Vec<u8>, SourceError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    if length > LIMIT || offset.checked_add(length).is_none_or(|end| end > size) {
        let what = format!("a node of {length} bytes at {offset} is not in the file's {size}");
        return Err(SourceError::Jax { path: path.into(), fault: JaxError::Database { what } });
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset).map_err(FileError::io("read", path))?;
    Ok(bytes)
}

enum Node {
    Leaf(Vec<(Vec<u8>, Value)>),
    /// Prefixes of all keys below, and where that is.
    Interior(Vec<(Vec<u8>, Reference)>),
}

struct Value {
    length: u64,
    kind: Kind,
}

enum Kind {
    Here(Arc<[u8]>),
    File(DataFile, u64),
}

/// A node's entries. Names of columns are those of the format's page.
fn parse(body: &[u8], node: &Reference, prefix: &[u8]) -> Result<Node, JaxError> {
    let mut decoder = Decoder::new(body, "a node");
    let height = decoder.byte()?;
    if height != node.height {
        return Err(decoder.wrong("it is not as high as its parent says"));
    }
    let files = decoder.data_files(&node.file.base)?;
    let count = decoder.count("entries")?;
    if (prefix.len() as u64).saturating_mul(count as u64) > LIMIT {
        return Err(decoder.wrong("its keys are too long"));
    }
    let prefixes = decoder.varints(count.saturating_sub(1))?;
    let suffixes = decoder.varints(count)?;
    let common = if height > 0 { decoder.varints(count)? } else { Vec::new() };
    let keys = decoder.prefixed(&prefixes, &suffixes)?;
    let full = |key: &[u8]| [prefix, key].concat();
    if height > 0 {
        let numbers = decoder.varints(count)?;
        let offsets = decoder.varints(count)?;
        let lengths = decoder.varints(count)?;
        let mut children = Vec::with_capacity(count);
        for (i, key) in keys.iter().enumerate() {
            let file = decoder.data_file(&files, numbers[i])?;
            let Some(shared) = usize::try_from(common[i]).ok().and_then(|end| key.get(..end))
            else {
                return Err(decoder.wrong("a key's common prefix is longer than the key"));
            };
            let (offset, length) = (offsets[i], lengths[i]);
            let child = Reference { file, offset, length, height: height - 1 };
            children.push((full(shared), child));
        }
        return Ok(Node::Interior(children));
    }
    let lengths = decoder.varints(count)?;
    let kinds = decoder.varints(count)?;
    if kinds.iter().any(|kind| *kind > 1) {
        return Err(decoder.wrong("a value is of an unknown kind"));
    }
    let apart = kinds.iter().filter(|kind| **kind == 1).count();
    let numbers = decoder.varints(apart)?;
    let offsets = decoder.varints(apart)?;
    let mut places = numbers.into_iter().zip(offsets);
    let mut entries = Vec::with_capacity(count);
    for (i, key) in keys.iter().enumerate() {
        let length = lengths[i];
        let place = if kinds[i] == 1 { places.next() } else { None };
        let kind = match place {
            Some((number, offset)) => Kind::File(decoder.data_file(&files, number)?, offset),
            None => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                Kind::Here(Arc::from(decoder.bytes(length)?))
            }
        };
        entries.push((full(key), Value { length, kind }));
    }
    Ok(Node::Leaf(entries))
}
