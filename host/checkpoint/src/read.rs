//! A checkpoint as it lies on disk, whoever wrote it.

use crate::engraft_json::Record;
use crate::join::{Joined, supply};
use crate::rank_file::{RankFile, RankTensors, place_rank, weights_file};
use crate::{
    CONFIG_FILE, CheckpointError, Config, ConfigError, EMBEDDING, HEAD, RECORD_FILE, TEXT_FILES,
    mixed,
};
use engraft_files::FileError;
use engraft_files::read::{TEXT_LIMIT, whole};
use engraft_ir::{Mapping, Rank};
use engraft_weights::{Listing, Share, Supply};
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many bytes are read at a time.
const PIECE: usize = 2 << 20;

/// What is open of a checkpoint.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) directory: PathBuf,
    pub(crate) config: Config,
    /// Each rank's, in order.
    pub(crate) ranks: Vec<RankFile>,
    /// What is odd and harms nobody.
    pub(crate) warnings: Vec<String>,
    pub(crate) piece: usize,
}

/// An open checkpoint. Its parameters are put together by [`Reader::join`]; what one rank's file
/// holds is [`Reader::rank`]'s.
pub struct Reader {
    files: Arc<Files>,
    names: Vec<String>,
    supplies: BTreeMap<String, Supply>,
    text_files: BTreeMap<String, Vec<u8>>,
    record: Option<Record>,
}

impl Reader {
    /// Opens the checkpoint in `directory`. Reads the small files and the headers of the weight
    /// files, and, where the head is tied and in a file of a single rank all the same, compares
    /// the two.
    ///
    /// # Errors
    /// What is missing or malformed; a checkpoint that this version cannot read; a tied head that
    /// is not the embedding.
    pub fn open(directory: &Path) -> Result<Reader, CheckpointError> {
        let config = open_config(directory)?;
        let mapping = config.mapping.ir().map_err(in_config(directory))?;
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
        let ranks = open_ranks(directory, mapping, config.num_hidden_layers)?;
        let mut warnings = Vec::new();
        let next = weights_file(mapping.world_size());
        if directory.join(&next).exists() {
            warnings.push(format!(
                "{next} is there, but `mapping` is of {} ranks: it is left alone",
                mapping.world_size()
            ));
        }
        let directory = directory.to_owned();
        let files = Files { directory, config, ranks, warnings, piece: PIECE };
        let (names, supplies) = union(&files);
        let reader = Reader { files: Arc::new(files), names, supplies, text_files, record };
        if !mapping.is_split() && reader.files.config.is_tied() {
            reader.files.compare_tied(0)?;
        }
        Ok(reader)
    }

    /// The names of all tensors in the whole model, in the order of places.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What the first rank that has a tensor says of it.
    pub fn get(&self, name: &str) -> Option<&Supply> {
        self.supplies.get(name)
    }

    /// Its config.
    pub fn config(&self) -> &Config {
        &self.files.config
    }

    /// The directory that it was opened with.
    pub fn directory(&self) -> &Path {
        &self.files.directory
    }

    /// The tokenizer's files and their like, as far as there are such.
    pub fn text_files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.text_files
    }

    /// Where it comes from, if we wrote it.
    pub fn provenance(&self) -> Option<&Value> {
        self.record.as_ref().map(|record| &record.provenance)
    }

    /// What is odd and harms nobody, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.files.warnings
    }

    /// Every weight file, in the order of ranks.
    pub fn weight_files(&self) -> impl Iterator<Item = &Path> {
        self.files.ranks.iter().map(|file| file.path.as_path())
    }

    /// What is in the file of one rank, under the names that it has there and bit for bit, NaN
    /// and infinity included.
    pub fn rank(&self, rank: usize) -> Option<RankTensors<'_>> {
        Some(RankTensors::new(self.files.ranks.get(rank)?, &self.files))
    }

    /// The record that lies beside it, if we wrote it.
    pub(crate) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// Puts the parameters together: `shares` are what each rank keeps of them, a list a rank,
    /// and `wholes` their names with their shapes. What it gives hands them out whole.
    ///
    /// # Errors
    /// All tensors that are missing, superfluous, of another shape or no floats, in one error,
    /// each with its file; a tied head that is not the embedding.
    pub fn join(
        &self,
        shares: &[Vec<Share>],
        wholes: &[(String, Vec<u64>)],
    ) -> Result<Joined, CheckpointError> {
        Joined::new(self.files.clone(), shares, wholes, self.files.piece)
    }
}

/// All tensors by their names in the whole model, of each what the first rank that has it says;
/// and their order, by place and then as the files have them.
fn union(files: &Files) -> (Vec<String>, BTreeMap<String, Supply>) {
    let mut order = Vec::new();
    let mut supplies = BTreeMap::new();
    for (rank, file) in files.ranks.iter().enumerate() {
        for (name, entry) in &file.tensors {
            let name = file.global(name);
            if let Entry::Vacant(vacant) = supplies.entry(name.clone()) {
                vacant.insert(supply(entry.dtype, &entry.shape));
                order.push(((place_rank(&name), rank, entry.start), name));
            }
        }
    }
    order.sort();
    let mut names: Vec<String> = order.into_iter().map(|(_, name)| name).collect();
    if files.config.is_tied()
        && let Some(embedding) = supplies.get(EMBEDDING).cloned()
    {
        if !supplies.contains_key(HEAD) {
            names.push(HEAD.to_owned());
        }
        let tied = Supply { tied: Some(EMBEDDING.to_owned()), ..embedding };
        supplies.insert(HEAD.to_owned(), tied);
    }
    (names, supplies)
}

/// Opens the files of all ranks.
fn open_ranks(
    directory: &Path,
    mapping: Mapping,
    blocks: u64,
) -> Result<Vec<RankFile>, CheckpointError> {
    let name = |rank: Rank| weights_file(rank.number);
    let missing: Vec<String> =
        mapping.ranks().map(name).filter(|name| !directory.join(name).exists()).collect();
    if !missing.is_empty() {
        return Err(CheckpointError::MissingRanks {
            path: directory.to_owned(),
            world_size: mapping.world_size(),
            missing: Listing(missing),
        });
    }
    mapping.ranks().map(|rank| RankFile::open(directory, rank, blocks)).collect()
}

impl Files {
    /// What stands before a tensor's name in a list: its file, where there is more than one.
    pub(crate) fn at(&self, rank: usize) -> String {
        match self.ranks.len() {
            1 => String::new(),
            _ => format!("rank{rank}.safetensors: "),
        }
    }

    /// The weight file, or the directory where there are more.
    pub(crate) fn place(&self) -> PathBuf {
        match self.ranks.as_slice() {
            [file] => file.path.clone(),
            _ => self.directory.clone(),
        }
    }

    /// A head that is in a rank's file, and is its embedding, has the embedding's bytes.
    pub(crate) fn compare_tied(&self, rank: usize) -> Result<(), CheckpointError> {
        let file = &self.ranks[rank];
        let (Some(head), Some(embedding)) = (file.tensors.get(HEAD), file.tensors.get(EMBEDDING))
        else {
            return Ok(());
        };
        let differs = |how: String| CheckpointError::TiedDiffers {
            path: file.path.clone(),
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
        file.pieces(head, self.piece, |at, bytes| {
            other.resize(bytes.len(), 0);
            file.read(embedding.start + at, &mut other)?;
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

/// Reads a checkpoint's config and turns it down where this version cannot read the checkpoint.
fn open_config(directory: &Path) -> Result<Config, CheckpointError> {
    let config = read_config(&directory.join(CONFIG_FILE))?;
    let algorithm = config.quantization.quant_algo.as_deref().unwrap_or_default();
    if algorithm == mixed::ALGORITHM {
        let path = directory.join(mixed::FILE);
        return Err(mixed::refusal(&whole(&path, TEXT_LIMIT)?, path));
    }
    config.check_supported().map_err(in_config(directory))?;
    Ok(config)
}

/// Names the file of what is wrong with a config.
fn in_config(directory: &Path) -> impl Fn(ConfigError) -> CheckpointError {
    let path = directory.join(CONFIG_FILE);
    move |error| CheckpointError::ConfigFile { path: path.clone(), error }
}

fn read_config(path: &Path) -> Result<Config, CheckpointError> {
    let bytes = whole(path, TEXT_LIMIT)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| {
        CheckpointError::Malformed { path: path.to_owned(), reason: error.to_string() }
    })?;
    let in_file = |error| CheckpointError::ConfigFile { path: path.to_owned(), error };
    Config::from_json(&value).map_err(in_file)
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

#[cfg(test)]
mod tests;
