//! A checkpoint as it lies on disk, whoever wrote it.

use crate::engraft_json::Record;
use crate::{
    CONFIG_FILE, CheckpointError, Config, EMBEDDING, HEAD, RECORD_FILE, TEXT_FILES, WEIGHTS_FILE,
};
use engraft_files::read::{TEXT_LIMIT, whole};
use engraft_files::{FileError, TensorEntry, header, interrupt};
use engraft_ir::{Axis, Meaning};
use engraft_weights::{Listing, Provider, Supply, WeightError, finite};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How many bytes are read at a time.
const PIECE: usize = 8 << 20;

/// Tables that a checkpoint may hold and that whoever runs it computes by itself, by the last
/// part of their names; those with `_short_factors` or `_long_factors` in them are such too.
const COMPUTED: [&str; 6] = [
    "alibi_slopes",
    "embed_positions",
    "embed_positions_for_gpt_attention",
    "rotary_inv_freq",
    "short_inv_freq",
    "long_inv_freq",
];

/// An open checkpoint of one rank. As a [`Provider`] it hands out what is in the file, bit for
/// bit and in the file's types, and in the order of places.
pub struct Reader {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    config: Config,
    tensors: BTreeMap<String, TensorEntry>,
    names: Vec<String>,
    supplies: BTreeMap<String, Supply>,
    text_files: BTreeMap<String, Vec<u8>>,
    record: Option<Record>,
    piece: usize,
}

impl Reader {
    /// Opens the checkpoint in `directory`. Reads the small files and the header of the weight
    /// file, and, where the head is tied and in the file all the same, compares the two.
    ///
    /// # Errors
    /// What is missing or malformed; a quantised or split checkpoint; a tied head that is not the
    /// embedding.
    pub fn open(directory: &Path) -> Result<Reader, CheckpointError> {
        let config = read_config(&directory.join(CONFIG_FILE))?;
        let path = directory.join(WEIGHTS_FILE);
        let (file, header) = header::read(&path)?;
        let mut text_files = BTreeMap::new();
        for name in TEXT_FILES {
            if let Some(bytes) = whole_if_there(&directory.join(name))? {
                text_files.insert(name.to_owned(), bytes);
            }
        }
        let record_path = directory.join(RECORD_FILE);
        let record = whole_if_there(&record_path)?
            .map(|bytes| Record::parse(&bytes, &record_path))
            .transpose()?;

        let mut names: Vec<String> = header.tensors.keys().cloned().collect();
        names.sort_by_key(|name| (place_rank(name), header.tensors.get(name).map(|t| t.start)));
        let mut supplies: BTreeMap<String, Supply> = header
            .tensors
            .iter()
            .map(|(name, entry)| {
                let axes = entry.shape.iter().map(|&n| Axis::new(n, Meaning::Plain)).collect();
                (name.clone(), Supply { dtype: entry.dtype, axes, tied: None })
            })
            .collect();
        if config.is_tied()
            && let Some(embedding) = supplies.get(EMBEDDING).cloned()
        {
            if !supplies.contains_key(HEAD) {
                names.push(HEAD.to_owned());
            }
            let tied = Supply { tied: Some(EMBEDDING.to_owned()), ..embedding };
            supplies.insert(HEAD.to_owned(), tied);
        }
        let reader = Reader {
            directory: directory.to_owned(),
            path,
            file,
            config,
            tensors: header.tensors,
            names,
            supplies,
            text_files,
            record,
            piece: PIECE,
        };
        reader.check_tied()?;
        Ok(reader)
    }

    /// Its config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The directory that it was opened with.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The tokenizer's files and their like, as far as there are such.
    pub fn text_files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.text_files
    }

    /// Where it comes from, if we wrote it.
    pub fn provenance(&self) -> Option<&Value> {
        self.record.as_ref().map(|record| &record.provenance)
    }

    /// The BLAKE3 digests (hex) that were noted when it was written, by tensor; none of a
    /// checkpoint that another tool wrote.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let noted = self.record.iter().flat_map(|record| record.ranks.first()).flatten();
        noted
            .map(|(name, hex)| (name.clone(), hex.as_str().unwrap_or_default().to_owned()))
            .collect()
    }

    /// Holds the tensors of the file against those that a model needs.
    ///
    /// # Errors
    /// All that are missing, superfluous, of another shape or no floats, in one error.
    pub fn expect(&self, expected: &[(String, Vec<u64>)]) -> Result<(), CheckpointError> {
        let mut missing = Listing::default();
        let mut shapes = Listing::default();
        for (name, shape) in expected {
            match self.supplies.get(name) {
                None => missing.0.push(format!("`{name}` {shape:?}")),
                Some(found) if found.shape() != *shape => {
                    shapes.0.push(format!("`{name}` {:?}, not {shape:?}", found.shape()));
                }
                Some(found) if !found.dtype.is_float() => {
                    shapes.0.push(format!("`{name}` holds {} elements", found.dtype));
                }
                Some(_) => {}
            }
        }
        let needed: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let extra = self
            .names
            .iter()
            .filter(|name| !needed.contains(name.as_str()) && !is_computed(name))
            .filter_map(|name| Some(format!("`{name}` {:?}", self.supplies.get(name)?.shape())))
            .collect();
        let extra = Listing(extra);
        if missing.0.is_empty() && extra.0.is_empty() && shapes.0.is_empty() {
            return Ok(());
        }
        Err(CheckpointError::Tensors { path: self.path.clone(), missing, extra, shapes })
    }

    /// Computes the digest of every tensor again; how many there were.
    ///
    /// # Errors
    /// All tensors that changed, were added or are gone since the checkpoint was written, in one
    /// error; a checkpoint without digests.
    pub fn verify(&self) -> Result<usize, CheckpointError> {
        if self.record.is_none() {
            return Err(CheckpointError::NoDigests { path: self.directory.clone() });
        }
        let noted = self.digests();
        let mut changed = Vec::new();
        for (name, entry) in &self.tensors {
            let mut hasher = blake3::Hasher::new();
            self.pieces(entry, |_, bytes| {
                hasher.update(bytes);
                Ok::<(), FileError>(())
            })?;
            match noted.get(name) {
                Some(hex) if *hex == hasher.finalize().to_hex().as_str() => {}
                Some(_) => changed.push(format!("`{name}`")),
                None => changed.push(format!("`{name}` was added")),
            }
        }
        let gone = noted.keys().filter(|name| !self.tensors.contains_key(*name));
        changed.extend(gone.map(|name| format!("`{name}` is gone")));
        if changed.is_empty() {
            return Ok(self.tensors.len());
        }
        Err(CheckpointError::Changed { path: self.path.clone(), tensors: Listing(changed) })
    }

    /// Hands the bytes of a tensor to `take`, with the number of the first byte of each piece.
    fn pieces<E: From<FileError>>(
        &self,
        entry: &TensorEntry,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let length = entry.end - entry.start;
        let mut piece = vec![0; self.piece.min(usize::try_from(length).unwrap_or(usize::MAX))];
        let mut at = 0;
        while at < length {
            interrupt::check()?;
            let count = (piece.len() as u64).min(length - at) as usize;
            self.read(entry.start + at, &mut piece[..count])?;
            take(at, &piece[..count])?;
            at += count as u64;
        }
        Ok(())
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), FileError> {
        self.file.read_exact_at(out, at).map_err(FileError::io("read", &self.path))
    }

    /// A tied head in the file has the embedding's bytes.
    fn check_tied(&self) -> Result<(), CheckpointError> {
        let tied = self.supplies.get(HEAD).is_some_and(|head| head.tied.is_some());
        let (Some(head), Some(embedding)) = (self.tensors.get(HEAD), self.tensors.get(EMBEDDING))
        else {
            return Ok(());
        };
        if !tied {
            return Ok(());
        }
        let differs = |how: String| CheckpointError::TiedDiffers {
            path: self.path.clone(),
            head: HEAD,
            embedding: EMBEDDING,
            how,
        };
        if (head.dtype, &head.shape) != (embedding.dtype, &embedding.shape) {
            return Err(differs(format!(
                "it is {} {:?}, not {} {:?}",
                head.dtype, head.shape, embedding.dtype, embedding.shape
            )));
        }
        let mut other = Vec::new();
        self.pieces(head, |at, bytes| {
            other.resize(bytes.len(), 0);
            self.read(embedding.start + at, &mut other)?;
            match bytes.iter().zip(&other).position(|(a, b)| a != b) {
                None => Ok(()),
                Some(i) => {
                    let element = (at + i as u64) / head.dtype.size() as u64;
                    let row = element / head.shape.last().copied().unwrap_or(1).max(1);
                    Err(differs(format!("row {row} is another")))
                }
            }
        })
    }
}

impl Provider for Reader {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.supplies.get(name)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let supply = self.supplies.get(name);
        let stored = supply.and_then(|supply| supply.tied.as_deref()).unwrap_or(name);
        let entry = self
            .tensors
            .get(stored)
            .ok_or_else(|| WeightError::Unknown { parameter: name.to_owned() })?;
        self.pieces(entry, |at, bytes| {
            let first = at / entry.dtype.size() as u64;
            finite(stored, &entry.shape, entry.dtype, first, bytes, &self.path)?;
            Ok(sink(bytes)?)
        })
    }
}

fn read_config(path: &Path) -> Result<Config, CheckpointError> {
    let bytes = whole(path, TEXT_LIMIT)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| {
        CheckpointError::Malformed { path: path.to_owned(), reason: error.to_string() }
    })?;
    let in_file = |error| CheckpointError::ConfigFile { path: path.to_owned(), error };
    let config = Config::from_json(&value).map_err(in_file)?;
    config.check_supported().map_err(in_file)?;
    Ok(config)
}

fn whole_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match whole(path, TEXT_LIMIT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Where the place of a tensor comes: embedding, blocks, head.
fn place_rank(name: &str) -> (u8, u64) {
    let block = name
        .strip_prefix("transformer.layers.")
        .and_then(|rest| rest.split('.').next())
        .and_then(|number| number.parse().ok());
    match block {
        Some(number) => (1, number),
        None if name.starts_with("lm_head.") || name.starts_with("transformer.ln_f.") => (2, 0),
        None => (0, 0),
    }
}

fn is_computed(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let scaled = ["_short_factors", "_long_factors"].iter().any(|part| last.contains(part));
    scaled || COMPUTED.contains(&last)
}

#[cfg(test)]
mod tests;
