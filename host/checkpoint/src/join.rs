//! The whole parameters of a checkpoint, put together from the files of its ranks.
//!
//! What is promised: every share of every rank is in its file, with its shape, and nothing else
//! is that is not known to be harmless; the copies that several ranks have agree, byte for byte;
//! no more than a piece of a few MiB of each file is in memory. Ranks of which each adds the bias
//! of a matrix whose columns are cut write zeros for it on all but the first: that is no
//! disagreement.

mod cells;
mod check;
mod stream;

pub(crate) use check::supply;

use crate::read::Files;
use crate::{CheckpointError, Config, EMBEDDING, HEAD};
use cells::Layout;
use engraft_files::{FileError, TensorEntry};
use engraft_ir::DType;
use engraft_weights::{Provider, Share, Supply, WeightError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All parameters of a checkpoint of any mapping, whole: a [`Provider`].
#[derive(Debug)]
pub struct Joined {
    files: Arc<Files>,
    names: Vec<String>,
    supplies: BTreeMap<String, Supply>,
    wholes: BTreeMap<String, Whole>,
    warnings: Vec<String>,
    piece: usize,
}

/// A part of a parameter as it lies in a file.
#[derive(Debug)]
struct Part {
    /// Which rank's file.
    rank: usize,
    entry: TensorEntry,
    /// Its shape, which a scalar's entry need not have.
    shape: Vec<u64>,
    /// How many leading ones of its parameter's cut are zeros.
    padded: Vec<std::ops::Range<u64>>,
}

/// One parameter.
#[derive(Debug)]
struct Whole {
    dtype: DType,
    layout: Layout,
    parts: Vec<Part>,
    /// Whether ranks but the first may have zeros in place of it.
    may_be_zero: bool,
}

impl Joined {
    /// Joins what the ranks' files hold. `shares` are what each rank keeps of which parameter, a
    /// list a rank; `wholes` are the parameters, with their shapes.
    ///
    /// # Errors
    /// Tensors that are missing, superfluous, of another shape or type: all of them, each with
    /// its file; a tied head that is not the embedding.
    pub(crate) fn new(
        files: Arc<Files>,
        shares: &[Vec<Share>],
        wholes: &[(String, Vec<u64>)],
        piece: usize,
    ) -> Result<Joined, CheckpointError> {
        let mut joined = check::joined(files, shares, wholes, piece)?;
        joined.check_padding()?;
        joined.tie()?;
        Ok(joined)
    }

    /// The checkpoint's config.
    pub fn config(&self) -> &Config {
        &self.files.config
    }

    /// What is odd and harms nobody, a sentence each: tensors that are left alone, padding that
    /// is not zero.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where the config ties the head, or nothing says otherwise and the head is in no file, the
    /// embedding stands for it.
    fn tie(&mut self) -> Result<(), CheckpointError> {
        let (Some(head), Some(embedding)) = (self.supplies.get(HEAD), self.supplies.get(EMBEDDING))
        else {
            return Ok(());
        };
        if head.tied.is_some() || !self.files.config.is_tied() || head.shape() != embedding.shape()
        {
            return Ok(());
        }
        if self.files.ranks.len() > 1 {
            self.compare_tied()?;
        }
        if let Some(head) = self.supplies.get_mut(HEAD) {
            head.tied = Some(EMBEDDING.to_owned());
        }
        Ok(())
    }
}

impl Provider for Joined {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.supplies.get(name)
    }

    fn held(&self, name: &str) -> u64 {
        // A piece, and on its way there the part that one rank has of it.
        self.get(name).map_or(0, |supply| supply.bytes().min(self.piece as u64)).saturating_mul(2)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let tied = self.supplies.get(name).and_then(|supply| supply.tied.as_deref());
        let stored = tied.unwrap_or(name);
        let whole = self
            .wholes
            .get(stored)
            .ok_or_else(|| WeightError::Unknown { parameter: name.to_owned() })?;
        whole.stream(stored, &self.files, self.piece, sink)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one stretch is meant")]
mod tests;
