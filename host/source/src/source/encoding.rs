//! How the elements of a tensor lie in files; one module a way.
//!
//! Whoever opens a source has checked that all of a tensor's bytes are inside of its files. What
//! is held beside the rows that are asked for is a chunk.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use engraft_files::{FileError, interrupt};
use engraft_ir::DType;

use super::TensorInfo;
use crate::SourceError;
use crate::gguf::BlockType;

mod blocks;
pub(crate) mod grid;
mod pieces;
mod strided;

use grid::Grid;
pub(crate) use pieces::Piece;

/// How many bytes of a file are held while they are brought into order.
pub(super) const CHUNK: u64 = 1 << 20;

/// The files that hold weights, by [`TensorInfo::file`] and [`Piece::file`].
pub(crate) type Weights = Vec<(PathBuf, File)>;

/// How the elements of a tensor lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As they are handed out.
    Plain,
    /// In ggml's blocks.
    Blocks(BlockType),
    /// As they are handed out, but for the order: by how many elements each axis steps.
    Strided(Vec<u64>),
    /// As they are handed out, but in several places, sorted by where they begin in the tensor.
    Pieces(Vec<Piece>),
    /// As they are handed out, but in chunks of one shape, which may be packed, and with the axes
    /// in any order. They say for themselves in which files they lie.
    Grid(Arc<Grid>),
}

impl Encoding {
    /// How many elements make up the least that a file can hold, and of how many bytes, where
    /// elements are handed out as `dtype`.
    pub(crate) fn unit(&self, dtype: DType) -> (u64, u64) {
        match self {
            Encoding::Blocks(block) => (block.elements() as u64, block.bytes() as u64),
            _ => (1, dtype.size() as u64),
        }
    }

    /// The float type that a tensor is best kept in whose elements are handed out as `dtype`.
    pub(crate) fn kept(&self, dtype: DType) -> DType {
        match self {
            Encoding::Blocks(_) => DType::BF16,
            _ => dtype,
        }
    }
}

/// Appends `elements` of a tensor, which has such, to `out`.
pub(crate) fn read(
    weights: &[(PathBuf, File)],
    info: &TensorInfo,
    elements: Range<u64>,
    out: &mut Vec<u8>,
) -> Result<(), SourceError> {
    interrupt::check()?;
    match &info.encoding {
        Encoding::Plain => {
            let size = info.dtype.size() as u64;
            let room = append(out, (elements.end - elements.start) * size);
            exactly(&weights[info.file], info.start + elements.start * size, room)?;
        }
        Encoding::Blocks(kind) => {
            blocks::read(&weights[info.file], info.start, *kind, elements, out)?;
        }
        Encoding::Strided(strides) => by_rows(info, elements, out, |rows, out| {
            Ok(strided::read(&weights[info.file], info, strides, rows, out)?)
        })?,
        Encoding::Pieces(pieces) => {
            let size = info.dtype.size() as u64;
            let room = append(out, (elements.end - elements.start) * size);
            pieces::read(weights, pieces, size, elements, room)?;
        }
        Encoding::Grid(grid) => by_rows(info, elements, out, |rows, out| {
            let bytes = (rows.end - rows.start) * info.row() * info.dtype.size() as u64;
            grid::read(grid, rows, append(out, bytes))
        })?,
    }
    Ok(())
}

/// Reads whole rows, and drops what of the first and the last was not asked for.
fn by_rows(
    info: &TensorInfo,
    elements: Range<u64>,
    out: &mut Vec<u8>,
    read: impl FnOnce(Range<u64>, &mut Vec<u8>) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let (row, size) = (info.row().max(1), info.dtype.size());
    let rows = elements.start / row..elements.end.div_ceil(row);
    let (at, skip) = (out.len(), (elements.start - rows.start * row) as usize);
    read(rows, out)?;
    out.drain(at..at + skip * size);
    out.truncate(at + (elements.end - elements.start) as usize * size);
    Ok(())
}

/// So many more bytes of `out`, zero.
fn append(out: &mut Vec<u8>, bytes: u64) -> &mut [u8] {
    let at = out.len();
    out.resize(at + bytes as usize, 0);
    &mut out[at..]
}

/// Fills `room` from a file.
fn exactly((path, file): &(PathBuf, File), at: u64, room: &mut [u8]) -> Result<(), FileError> {
    file.read_exact_at(room, at).map_err(FileError::io("read", path))
}

#[cfg(test)]
mod tests;
