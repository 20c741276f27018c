//! Opening an engine.
#![allow(unsafe_code, reason = "the file is mapped; see `map`")]

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::format;
use engraft_files::header::{self, Header, TensorEntry};
use engraft_files::{FileError, read};
use engraft_ir::{Graph, Mapping, Rank, Weight, WeightData};
use memmap2::Mmap;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An engine, mapped. Its pages are the file's own: the system loads them when they are first
/// read and may drop them again.
#[derive(Debug)]
pub struct Engine {
    pub(crate) path: PathBuf,
    pub(crate) map: Mmap,
    pub(crate) header: Header,
    pub(crate) digests: BTreeMap<String, String>,
    pub(crate) files: BTreeMap<String, String>,
    graph: Graph,
    /// Where the bytes of each weight are in the map; a tied one has those of its storage.
    ranges: Vec<Range<usize>>,
    config: EngineConfig,
    provenance: Value,
}

impl Engine {
    /// Opens an engine: a directory, or the file in it.
    ///
    /// Checks the version, the digest of the header, that the graph parses and verifies, and
    /// that every weight has its tensor. It reads no weight; that is for [`Engine::verify`].
    ///
    /// # Errors
    /// [`EngineError`], a variant a reason.
    ///
    /// Of an engine of several ranks, a directory means rank 0.
    pub fn open(path: &Path) -> Result<Engine, EngineError> {
        Engine::open_file(locate(path, None)?)
    }

    /// Opens one rank's engine: in a directory, or beside a file of it.
    ///
    /// # Errors
    /// As [`Engine::open`], and where the rank's file is missing or is another rank's.
    pub fn open_rank(path: &Path, rank: u32) -> Result<Engine, EngineError> {
        Engine::open_file(locate(path, Some(rank))?)
    }

    /// Opens the engines of all ranks, in their order; mostly there is one.
    ///
    /// # Errors
    /// As [`Engine::open_rank`], and where one is of another mapping than rank 0.
    pub fn open_all(path: &Path) -> Result<Vec<Engine>, EngineError> {
        let first = Engine::open(path)?;
        if !first.rank().mapping.is_split() {
            return Ok(vec![first]);
        }
        let first = if first.rank().number == 0 { first } else { Engine::open_rank(path, 0)? };
        let mapping = first.rank().mapping;
        let mut engines = vec![first];
        for expected in mapping.ranks().skip(1) {
            let engine = Engine::open_rank(path, expected.number)?;
            if engine.rank() != expected {
                let (path, found) = (engine.path, engine.graph.rank);
                return Err(EngineError::OtherRank { path, expected: expected.to_string(), found });
            }
            engines.push(engine);
        }
        Ok(engines)
    }

    fn open_file(path: PathBuf) -> Result<Engine, EngineError> {
        let file = File::open(&path).map_err(FileError::io("open", &path))?;
        let map = map(&file, &path)?;
        let header = header::read_bytes(&path, &map)?;
        let format = metadata(&header, &path, format::KEY_FORMAT)
            .map_err(|_| EngineError::NotAnEngine { path: path.clone() })?;
        if format != format::VERSION {
            let found = format.chars().take(16).collect();
            return Err(EngineError::UnknownVersion { path, found });
        }
        check_header(&map, &header, &path)?;

        let text = metadata(&header, &path, format::KEY_GRAPH)?;
        let graph = engraft_ir::parse(text)
            .map_err(|e| EngineError::GraphText { path: path.clone(), problem: e.to_string() })?;
        engraft_ir::verify(&graph).map_err(|e| EngineError::GraphInvalid {
            path: path.clone(),
            problem: e.to_string(),
        })?;
        let ranges = graph
            .weights
            .keys()
            .map(|weight| range(&graph.weights[graph.storage(weight)], &header, &path))
            .collect::<Result<_, _>>()?;

        let config = json(&header, &path, format::KEY_CONFIG)?;
        check_rank(&path, graph.rank, &config)?;
        check_copy(&path, &config)?;
        let engine = Engine {
            digests: json(&header, &path, format::KEY_DIGESTS)?,
            files: json(&header, &path, format::KEY_FILES)?,
            provenance: json(&header, &path, format::KEY_PROVENANCE)?,
            config,
            graph,
            ranges,
            header,
            map,
            path,
        };
        Ok(engine)
    }

    /// The engine file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that the engine file is in.
    pub fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Bytes of the engine file.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The graph, after all passes; it has been verified.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Which rank it is of, and how the model is spread over ranks.
    pub fn rank(&self) -> Rank {
        self.graph.rank
    }

    /// The graph's text, as the file has it.
    pub fn graph_text(&self) -> &str {
        self.header.metadata.get(format::KEY_GRAPH).map_or("", String::as_str)
    }

    /// What `config.json` holds.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Where it comes from.
    pub fn provenance(&self) -> &Value {
        &self.provenance
    }

    /// Digest of each weight's bytes by name: BLAKE3, hexadecimal.
    pub fn digests(&self) -> &BTreeMap<String, String> {
        &self.digests
    }

    /// The bytes of a weight of [`Engine::graph`], page-aligned, as long as its shape and dtype
    /// say. A tied one gives those of the weight that it is tied to.
    ///
    /// # Panics
    /// If the weight is of another graph.
    pub fn weight(&self, weight: Weight) -> &[u8] {
        &self.map[self.ranges[weight.as_u32() as usize].clone()]
    }

    /// The names of the text files that were written beside the engine.
    pub fn text_files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// A text file beside the engine, such as `tokenizer.json`; nothing where there is none.
    ///
    /// # Errors
    /// Where there is one that cannot be read.
    pub fn text_file(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        read_beside(&self.directory().join(name))
    }

    /// Asks the system to load the weights ahead of their use.
    pub fn prefetch(&self) {
        // A hint: where it is refused, pages are loaded when they are read.
        let _ = self.map.advise(memmap2::Advice::WillNeed);
    }
}

/// The engine file of a directory, or the path itself; a regular file in any case. Where a rank is
/// asked for, it is that rank's file in the directory, or in the one that the path is in.
fn locate(path: &Path, rank: Option<u32>) -> Result<PathBuf, EngineError> {
    let about = |path: &Path| match fs::metadata(path) {
        Ok(about) => Ok(Some(about)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(FileError::io("look at", path)(e)),
    };
    let missing = || EngineError::Missing { path: path.to_owned() };
    let first = about(path)?.ok_or_else(missing)?;
    let (file, about) = if first.is_dir() {
        let file = path.join(format::engine_file(rank.unwrap_or(0) as usize));
        let inner = about(&file)?.ok_or_else(|| match rank {
            None | Some(0) => missing(),
            Some(rank) => EngineError::MissingRank { path: file.clone(), rank },
        })?;
        (file, inner)
    } else if let Some(rank) = rank
        && let Some(named) = path.file_name().and_then(|name| format::rank_of(name.to_str()?))
        && named != rank
    {
        let file = path.with_file_name(format::engine_file(rank as usize));
        let about = about(&file)?;
        let about = about.ok_or_else(|| EngineError::MissingRank { path: file.clone(), rank })?;
        (file, about)
    } else {
        (path.to_owned(), first)
    };
    // A pipe would block, a device would lie about its length.
    if !about.is_file() {
        return Err(EngineError::NotAFile { path: file });
    }
    Ok(file)
}

fn map(file: &File, path: &Path) -> Result<Mmap, EngineError> {
    let about = file.metadata().map_err(FileError::io("look at", path))?;
    if !about.is_file() {
        return Err(EngineError::NotAFile { path: path.to_owned() });
    }
    // SAFETY: the map is private and only read. What the type system cannot promise is that
    // nobody else writes to the file or cuts it while it is mapped. engraft itself never does:
    // an output appears under its name by a rename, which leaves the mapped file as it was. No
    // value is given a meaning by its type alone: the bytes are read as numbers, for which every
    // bit pattern is valid, after their bounds were checked against the length mapped.
    let map = unsafe { Mmap::map(file) }.map_err(FileError::io("map", path))?;
    Ok(map)
}

/// Compares the header with its digest.
fn check_header(map: &Mmap, header: &Header, path: &Path) -> Result<(), EngineError> {
    let damaged = || EngineError::HeaderDamaged { path: path.to_owned() };
    let length = usize::try_from(header.data_start).map_err(|_| damaged())?;
    let bytes = map.get(..length).ok_or_else(damaged)?;
    let position = format::digest_position(bytes).ok_or_else(damaged)?;
    let digest = format::header_digest(bytes, position);
    if bytes[position..position + format::DIGEST_LEN] != *digest.as_bytes() {
        return Err(damaged());
    }
    Ok(())
}

fn metadata<'a>(
    header: &'a Header,
    path: &Path,
    key: &'static str,
) -> Result<&'a str, EngineError> {
    header.metadata.get(key).map(String::as_str).ok_or_else(|| EngineError::Metadata {
        path: path.to_owned(),
        key,
        problem: "is missing".to_owned(),
    })
}

fn json<T: DeserializeOwned>(
    header: &Header,
    path: &Path,
    key: &'static str,
) -> Result<T, EngineError> {
    serde_json::from_str(metadata(header, path, key)?).map_err(|e| EngineError::Metadata {
        path: path.to_owned(),
        key,
        problem: format!("does not parse: {e}"),
    })
}

/// Where the bytes of a weight are, after comparing its tensor with what the graph declares.
fn range(weight: &WeightData, header: &Header, path: &Path) -> Result<Range<usize>, EngineError> {
    let name = &weight.name;
    let Some(entry) = header.tensors.get(name) else {
        return Err(EngineError::MissingTensor { path: path.to_owned(), name: name.clone() });
    };
    let shape = weight.stored_shape();
    if entry.dtype != weight.dtype || entry.shape != shape {
        return Err(EngineError::TensorMismatch {
            path: path.to_owned(),
            name: name.clone(),
            declared: format!("{} {shape:?}", weight.dtype),
            found: format!("{} {:?}", entry.dtype, entry.shape),
        });
    }
    aligned(entry).ok_or_else(|| EngineError::Unaligned {
        path: path.to_owned(),
        name: name.clone(),
        start: entry.start,
    })
}

fn aligned(entry: &TensorEntry) -> Option<Range<usize>> {
    let start = usize::try_from(entry.start).ok()?;
    let end = usize::try_from(entry.end).ok()?;
    start.is_multiple_of(format::ALIGNMENT).then_some(start..end)
}

/// A file's name, its graph and its config must say the same of which rank it is.
fn check_rank(path: &Path, found: Rank, config: &EngineConfig) -> Result<(), EngineError> {
    let other =
        |expected: String| EngineError::OtherRank { path: path.to_owned(), expected, found };
    let named = path.file_name().and_then(|name| format::rank_of(name.to_str()?));
    if let Some(named) = named.filter(|&named| named != found.number) {
        return Err(other(format!("rank {named}")));
    }
    let mapping = config.pretrained_config.get("mapping");
    let said = |key: &str| {
        let said = mapping.and_then(|mapping| mapping.get(key)).and_then(Value::as_u64);
        said.unwrap_or(1)
    };
    let (tp, pp) = (said("tp_size"), said("pp_size"));
    let Mapping { tp_size, pp_size, .. } = found.mapping;
    if (tp, pp) != (u64::from(tp_size), u64::from(pp_size)) {
        return Err(other(format!("a rank of tp {tp}, pp {pp}, as its config says")));
    }
    Ok(())
}

/// A `config.json` beside the engine must say what the engine says: an edit of it would have no
/// effect, and whoever made it should know.
fn check_copy(engine: &Path, config: &EngineConfig) -> Result<(), EngineError> {
    let path = engine.with_file_name(format::CONFIG_FILE);
    let Some(bytes) = read_beside(&path)? else { return Ok(()) };
    match serde_json::from_slice::<EngineConfig>(&bytes) {
        Ok(copy) if copy == *config => Ok(()),
        Ok(_) => Err(EngineError::ConfigDiffers {
            path,
            problem: "does not say what the engine beside it says".to_owned(),
        }),
        Err(e) => Err(EngineError::ConfigDiffers { path, problem: format!("does not parse: {e}") }),
    }
}

/// A small file that may be missing.
fn read_beside(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match read::whole(path, read::TEXT_LIMIT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
