//! The weight file of one rank.

use crate::join::supply;
use crate::read::Files;
use crate::{CheckpointError, EMBEDDING, HEAD};
use engraft_files::{FileError, TensorEntry, header, interrupt};
use engraft_ir::{PlaceKind, Rank};
use engraft_weights::{Provider, Supply, WeightError, block_of, full_name};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An open weight file; names are as it has them, blocks counted from the first of its stage.
#[derive(Debug)]
pub(crate) struct RankFile {
    pub(crate) path: PathBuf,
    pub(crate) tensors: BTreeMap<String, TensorEntry>,
    /// The blocks of its stage.
    pub(crate) blocks: Range<u32>,
    file: File,
}

/// The name of the weight file of a rank.
pub fn weights_file(rank: u32) -> String {
    format!("rank{rank}.safetensors")
}

impl RankFile {
    /// Reads the header of a rank's file in `directory`; `blocks` are those of the whole model.
    pub(crate) fn open(
        directory: &Path,
        rank: Rank,
        blocks: u64,
    ) -> Result<RankFile, CheckpointError> {
        let path = directory.join(weights_file(rank.number));
        let (file, header) = header::read(&path)?;
        // More blocks than that have no model; the header's names decide in the end.
        let blocks = rank.blocks(u32::try_from(blocks).unwrap_or(u32::MAX));
        let found = RankFile { path, tensors: header.tensors, blocks, file };
        if rank.mapping.is_split() {
            found.check_blocks()?;
        }
        Ok(found)
    }

    /// No block's number is beyond the stage's.
    fn check_blocks(&self) -> Result<(), CheckpointError> {
        let share = self.blocks.end - self.blocks.start;
        let beyond = self.tensors.keys().find(|n| block_of(n).is_some_and(|(n, _)| n >= share));
        match beyond {
            None => Ok(()),
            Some(name) => Err(CheckpointError::StageBlocks {
                path: self.path.clone(),
                name: name.clone(),
                share,
                first: self.blocks.start,
            }),
        }
    }

    /// What a tensor of this file is called in the whole model.
    pub(crate) fn global(&self, name: &str) -> String {
        match block_of(name) {
            Some((number, rest)) => {
                full_name(PlaceKind::Block(number.saturating_add(self.blocks.start)), rest)
            }
            None => name.to_owned(),
        }
    }

    /// Its name without the directory.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Fills `out` with the bytes at `at`.
    pub(crate) fn read(&self, at: u64, out: &mut [u8]) -> Result<(), FileError> {
        self.file.read_exact_at(out, at).map_err(FileError::io("read", &self.path))
    }

    /// Hands the bytes of a tensor to `take` in pieces of at most `piece` bytes, with the number
    /// of the first byte of each.
    pub(crate) fn pieces<E: From<FileError>>(
        &self,
        entry: &TensorEntry,
        piece: usize,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let length = entry.end - entry.start;
        let mut buffer = vec![0; piece.min(usize::try_from(length).unwrap_or(usize::MAX))];
        let mut at = 0;
        while at < length {
            interrupt::check()?;
            let count = (buffer.len() as u64).min(length - at) as usize;
            self.read(entry.start + at, &mut buffer[..count])?;
            take(at, &buffer[..count])?;
            at += count as u64;
        }
        Ok(())
    }
}

/// The tensors of one rank's file: a [`Provider`] of what is there, and no more. A head that is
/// tied and not there is the embedding.
pub struct RankTensors<'a> {
    file: &'a RankFile,
    piece: usize,
    names: Vec<String>,
    supplies: BTreeMap<String, Supply>,
}

impl<'a> RankTensors<'a> {
    pub(crate) fn new(file: &'a RankFile, files: &Files) -> RankTensors<'a> {
        let mut supplies: BTreeMap<String, Supply> = file
            .tensors
            .iter()
            .map(|(name, entry)| (name.clone(), supply(entry.dtype, &entry.shape)))
            .collect();
        if files.config.is_tied()
            && !supplies.contains_key(HEAD)
            && let Some(embedding) = supplies.get(EMBEDDING).cloned()
        {
            let tied = Supply { tied: Some(EMBEDDING.to_owned()), ..embedding };
            supplies.insert(HEAD.to_owned(), tied);
        }
        let mut names: Vec<String> = supplies.keys().cloned().collect();
        names.sort_by_key(|name| (place_rank(name), file.tensors.get(name).map(|t| t.start)));
        RankTensors { file, piece: files.piece, names, supplies }
    }
}

impl Provider for RankTensors<'_> {
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
        let unknown = || WeightError::Unknown { parameter: name.to_owned() };
        let entry = self.file.tensors.get(stored).ok_or_else(unknown)?;
        self.file.pieces(entry, self.piece, |_, bytes| Ok(sink(bytes)?))
    }
}

/// Where the place of a tensor comes: embedding, blocks, head.
pub(crate) fn place_rank(name: &str) -> (u8, u32) {
    match block_of(name) {
        Some((number, _)) => (1, number),
        None if name.starts_with("lm_head.") || name.starts_with("transformer.ln_f.") => (2, 0),
        None => (0, 0),
    }
}
