//! An array in chunks of one shape, each in a place of its own and packed or not, handed out with
//! its axes in any order: what JAX's libraries write.
//!
//! What is packed is unpacked chunk by chunk, once; see [`store`].

use std::ops::Range;
use std::sync::Arc;

use engraft_files::interrupt;

use crate::SourceError;

mod copy;
pub(crate) mod store;

use copy::Dimension;
use store::{Chunk, Store};

/// An array as it lies in files.
#[derive(Debug)]
pub(crate) struct Grid {
    /// The bytes of an element.
    pub(crate) size: u64,
    /// Its extents there, outermost first.
    pub(crate) extents: Vec<u64>,
    /// The extents of a chunk, each at least one; the last chunk of an axis may stick out.
    pub(crate) chunk: Vec<u64>,
    /// The chunks, the last axis fastest.
    pub(crate) chunks: Vec<Chunk>,
    /// Axis `i` of the tensor is axis `order[i]` here.
    pub(crate) order: Vec<usize>,
    /// The files.
    pub(crate) store: Arc<Store>,
}

impl PartialEq for Grid {
    fn eq(&self, other: &Grid) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Grid {}

impl Grid {
    /// The tensor's extents.
    pub(crate) fn shape(&self) -> Vec<u64> {
        self.order.iter().map(|&axis| self.extents[axis]).collect()
    }

    /// The bytes of a chunk once it is unpacked, where that can be said in 64 bits.
    pub(crate) fn chunk_bytes(size: u64, chunk: &[u64]) -> Option<u64> {
        chunk.iter().try_fold(size, |product, extent| product.checked_mul(*extent))
    }
}

/// Fills `room` with `rows` of the tensor.
pub(super) fn read(grid: &Grid, rows: Range<u64>, room: &mut [u8]) -> Result<(), SourceError> {
    if room.is_empty() {
        return Ok(());
    }
    let rank = grid.extents.len();
    // What is asked for, and how far apart neighbours are in `room`, by the grid's axes.
    let mut wanted: Vec<Range<u64>> = grid.extents.iter().map(|&extent| 0..extent).collect();
    if let Some(&outermost) = grid.order.first() {
        wanted[outermost] = rows;
    }
    let mut steps = vec![0; rank];
    let mut step = 1;
    for &axis in grid.order.iter().rev() {
        steps[axis] = step;
        step *= wanted[axis].end - wanted[axis].start;
    }
    let mut chunk_steps = vec![1; rank];
    for axis in (1..rank).rev() {
        chunk_steps[axis - 1] = chunk_steps[axis] * grid.chunk[axis];
    }
    let touched: Vec<Range<u64>> = wanted
        .iter()
        .zip(&grid.chunk)
        .map(|(wanted, chunk)| wanted.start / chunk..wanted.end.div_ceil(*chunk))
        .collect();
    let mut at: Vec<u64> = touched.iter().map(|range| range.start).collect();
    loop {
        interrupt::check()?;
        let (mut number, mut from, mut to) = (0, 0, 0);
        let mut dimensions = Vec::with_capacity(rank);
        for axis in 0..rank {
            let (chunk, wanted) = (grid.chunk[axis], &wanted[axis]);
            number = number * grid.extents[axis].div_ceil(chunk) + at[axis];
            let first = at[axis] * chunk;
            let (start, end) =
                (wanted.start.max(first), wanted.end.min(first.saturating_add(chunk)));
            from += (start - first) * chunk_steps[axis];
            to += (start - wanted.start) * steps[axis];
            dimensions.push(Dimension {
                extent: end - start,
                from: chunk_steps[axis],
                to: steps[axis],
            });
        }
        let bytes = Grid::chunk_bytes(grid.size, &grid.chunk).unwrap_or(u64::MAX);
        let chunk = grid.store.unpacked(&grid.chunks[number as usize], bytes)?;
        let mut fetch = |at: u64, into: &mut [u8]| grid.store.read(&chunk, at, into);
        copy::copy(
            &mut fetch,
            grid.size,
            dimensions,
            from,
            &mut room[(to * grid.size) as usize..],
        )?;
        // The next chunk, the last axis fastest.
        let Some(axis) = (0..rank).rev().find(|&axis| at[axis] + 1 < touched[axis].end) else {
            return Ok(());
        };
        at[axis] += 1;
        for later in axis + 1..rank {
            at[later] = touched[later].start;
        }
    }
}

#[cfg(test)]
mod tests;
