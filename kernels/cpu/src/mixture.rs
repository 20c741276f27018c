//! A mixture of experts: each row goes to a few of many feed-forward layers.
//!
//! Rows are taken in blocks. Of a block, first the rows are routed, and each thread sorts the
//! pairs of a row and an expert by expert. Then, expert by expert, the rows that chose it are
//! brought together and go through the matrix kernel, into the gated values of all pairs; then,
//! expert by expert, from there through the second matrix, and are added to the output.
//!
//! - An expert that no row chose is not read. Of each that is, threads share the rows of both
//!   matrices, so that one token is enough work for all of them.
//! - A row's sum goes by the order of experts, and its products are those of
//!   [`crate::linear`]: its bits do not depend on what else is in the batch.

#![allow(unsafe_code, reason = "threads write disjoint columns of one arena")]

use crate::elementwise::{Gating, accumulate, gate_stretch};
use crate::lanes::LANES;
use crate::routing::{self, Routing};
use crate::{Isa, Team, Weights, linear, rows::View};
use std::ops::Range;

/// Rows that are routed and sorted at a time: enough for each expert's rows to be many, few
/// enough for what lies between the matrices to be small.
const BLOCK: usize = 512;

/// Rows of an expert that go through a matrix at a time.
const CHUNK: usize = 96;

/// Columns that go through a matrix at a time.
const COLUMNS: usize = 128;

/// What an expert's part costs beside its rows, in rows: reading and widening the weights.
const READING: usize = 4;

/// The experts of a mixture: as many as the router has logits, or a stretch of those.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    /// `[experts, 2 · inner, k]`: of each, the rows of `up` and then those of the gate.
    pub up: Weights<'a>,
    /// `[experts, n, inner]`
    pub down: Weights<'a>,
    /// `[experts, 2 · inner]`
    pub up_bias: Option<&'a [f32]>,
    /// `[experts, n]`
    pub down_bias: Option<&'a [f32]>,
    /// Columns between the two matrices.
    pub inner: usize,
    /// What the two halves become.
    pub gating: Gating,
    /// Where they are a stretch: the number of the first among all that are chosen from, and how
    /// many they are. The others add nothing.
    pub stretch: Option<[usize; 2]>,
}

impl Experts<'_> {
    /// Which of the router's experts these are.
    pub(crate) fn here(&self, all: usize) -> Range<usize> {
        self.stretch.map_or(0..all, |[first, count]| first..first.saturating_add(count))
    }
}

/// Floats of the workspace that all threads share, for so many rows; at least one.
pub fn workspace(rows: usize, chosen: usize, inner: usize) -> Option<usize> {
    let pairs = rows.min(BLOCK).checked_mul(chosen)?.checked_next_multiple_of(LANES)?;
    let width = inner.checked_next_multiple_of(LANES)?;
    // Of each pair: the expert, the weight and the gated values.
    Some(width.checked_add(2)?.checked_mul(pairs)?.max(LANES))
}

/// Floats of scratch that a thread needs.
pub(crate) fn scratch(
    rows: usize,
    experts: usize,
    chosen: usize,
    [k, inner]: [usize; 2],
) -> Option<usize> {
    let chunk = rows.min(CHUNK);
    let pairs = rows.min(BLOCK).checked_mul(chosen)?;
    let sorted = sorting(pairs, experts)?;
    let gathered = chunk.checked_mul(k)?;
    let matrix = linear::scratch(chunk, k.max(inner));
    let work = gathered.checked_add(2 * chunk * COLUMNS)?.checked_add(matrix)?;
    // Routing is over when the matrices begin.
    sorted.checked_add(work.max(routing::scratch(experts)?))
}

/// Numbers that sorting needs, in whole cache lines.
fn sorting(pairs: usize, experts: usize) -> Option<usize> {
    pairs.checked_add(experts)?.checked_add(1)?.checked_next_multiple_of(LANES)
}

/// What the threads share.
#[derive(Clone, Copy)]
pub(crate) struct Mixture<'a> {
    pub(crate) isa: Isa,
    pub(crate) input: View,
    /// `[rows, experts]`: the router's logits.
    pub(crate) scores: View,
    pub(crate) routing: Routing<'a>,
    pub(crate) experts: Experts<'a>,
    /// One row of [`workspace`] floats.
    pub(crate) work: View,
    pub(crate) output: View,
}

/// Pairs of a row and an expert, sorted by expert, of one block of rows.
struct Pairs<'a> {
    /// Where each expert's begin, and where the last one's end.
    starts: &'a [u32],
    /// Pairs by their number: `row · chosen + place`.
    sorted: &'a [u32],
}

impl Pairs<'_> {
    /// Where the pairs of an expert are.
    fn of(&self, expert: usize) -> Range<usize> {
        self.starts[expert] as usize..self.starts[expert + 1] as usize
    }
}

impl Mixture<'_> {
    /// This thread's share of all.
    ///
    /// # Safety
    /// Shapes as checked; the output and the workspace are apart from all else; `scratch` as
    /// [`scratch`] says.
    pub(crate) unsafe fn run(&self, scratch: &mut [f32], team: &Team<'_>) {
        let (experts, chosen) = (self.scores.width, self.routing.chosen);
        let rows = self.input.rows;
        let pairs = rows.min(BLOCK) * chosen;
        let sorting = sorting(pairs, experts).unwrap_or(usize::MAX);
        let (sorted, scratch) = scratch.split_at_mut(sorting);
        let sorted: &mut [u32] = bytemuck::cast_slice_mut(sorted);
        let (starts, sorted) = sorted.split_at_mut(experts + 1);
        for first in (0..rows).step_by(BLOCK) {
            let block = first..rows.min(first + BLOCK);
            let pairs = block.len() * chosen;
            // SAFETY: as promised by the caller; between two phases all threads meet, and what
            // one of them writes in a phase is written by no other.
            unsafe {
                if first > 0 {
                    team.wait();
                }
                self.route(block.clone(), scratch, team);
                team.wait();
                let chosen = std::slice::from_raw_parts(self.chosen(), pairs);
                sort(chosen, starts, &mut sorted[..pairs]);
                let pairs = Pairs { starts, sorted: &sorted[..pairs] };
                self.up(block.start, &pairs, scratch, team);
                team.wait();
                self.down(block, &pairs, scratch, team);
            }
        }
    }

    /// The experts of all pairs of a block.
    fn chosen(&self) -> *mut u32 {
        self.work.data.cast()
    }

    /// Pairs of a full block, as the workspace is divided.
    fn pairs(&self) -> usize {
        (self.input.rows.min(BLOCK) * self.routing.chosen).next_multiple_of(LANES)
    }

    /// The weights of all pairs of a block.
    unsafe fn weights(&self) -> *mut f32 {
        // SAFETY: the workspace has two numbers for each pair before the gated values.
        unsafe { self.work.data.add(self.pairs()) }
    }

    /// The gated values of all pairs of a block, sorted by expert.
    unsafe fn gated(&self, pairs: Range<usize>, columns: Range<usize>) -> View {
        let stride = self.experts.inner.next_multiple_of(LANES);
        // SAFETY: the workspace has room for them behind the weights.
        let first = unsafe { self.work.data.add(2 * self.pairs()) };
        // SAFETY: the same.
        let data = unsafe { first.add(pairs.start * stride + columns.start) };
        View { data, rows: pairs.len(), width: columns.len(), stride }
    }

    /// Chooses experts; threads share the rows.
    unsafe fn route(&self, block: Range<usize>, scratch: &mut [f32], team: &Team<'_>) {
        let (experts, chosen) = (self.scores.width, self.routing.chosen);
        for row in team.part(block.len(), 1) {
            // SAFETY: the row has a logit for each expert; its pairs are this thread's.
            unsafe {
                let logits = self.scores.row(block.start + row).cast_const();
                let logits = std::slice::from_raw_parts(logits, experts);
                let to = self.chosen().add(row * chosen);
                let to = std::slice::from_raw_parts_mut(to, chosen);
                let weights = self.weights().add(row * chosen);
                let weights = std::slice::from_raw_parts_mut(weights, chosen);
                routing::route(self.isa, &self.routing, logits, scratch, to, weights);
            }
        }
    }

    /// The first matrix and the gate; threads share the columns of all experts by what they
    /// cost.
    unsafe fn up(&self, first: usize, pairs: &Pairs<'_>, scratch: &mut [f32], team: &Team<'_>) {
        let grains = self.experts.inner.div_ceil(LANES);
        let costs = |expert| match pairs.of(expert).len() {
            0 => 0,
            rows => rows + READING,
        };
        let here = self.experts.here(self.scores.width);
        let total: usize = here.clone().map(costs).sum::<usize>() * grains;
        let mine = team.part(total, 1);
        let mut before = 0;
        for expert in here {
            let cost = costs(expert);
            if cost == 0 {
                continue;
            }
            // The grains whose first unit of cost is this thread's.
            let grain = |bound: usize| bound.saturating_sub(before).div_ceil(cost).min(grains);
            let columns = grain(mine.start) * LANES..grain(mine.end) * LANES;
            let columns = columns.start..columns.end.min(self.experts.inner);
            if !columns.is_empty() {
                // SAFETY: as promised to `run`; the columns are this thread's.
                unsafe { self.up_of(expert, columns, first, pairs, scratch) };
            }
            before += cost * grains;
        }
    }

    /// Some columns of one expert, for all rows that chose it.
    unsafe fn up_of(
        &self,
        expert: usize,
        columns: Range<usize>,
        first: usize,
        pairs: &Pairs<'_>,
        scratch: &mut [f32],
    ) {
        let Experts { up, up_bias, inner, gating, .. } = self.experts;
        let matrix = expert - self.experts.here(self.scores.width).start;
        let k = self.input.width;
        let chunk = self.input.rows.min(CHUNK);
        let (gathered, scratch) = scratch.split_at_mut(chunk * k);
        let (halves, scratch) = scratch.split_at_mut(2 * chunk * COLUMNS);
        let halves = halves.as_mut_ptr();
        let all = pairs.of(expert);
        for start in all.clone().step_by(CHUNK) {
            let part = start..all.end.min(start + CHUNK);
            let row = |at: usize| first + pairs.sorted[at] as usize / self.routing.chosen;
            // SAFETY: rows are the input's, the gathered ones as many as a chunk at most.
            let input = unsafe {
                match part.len() {
                    1 => View { data: self.input.row(row(start)), rows: 1, width: k, stride: k },
                    rows => {
                        for (at, to) in part.clone().zip(gathered.chunks_exact_mut(k)) {
                            let from = self.input.row(row(at)).cast_const();
                            std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), k);
                        }
                        View { data: gathered.as_mut_ptr(), rows, width: k, stride: k }
                    }
                }
            };
            for column in columns.clone().step_by(COLUMNS) {
                let n = COLUMNS.min(columns.end - column);
                let half = |half: usize| View {
                    data: halves.wrapping_add(half * chunk * COLUMNS),
                    rows: part.len(),
                    width: n,
                    stride: COLUMNS,
                };
                // SAFETY: as promised to `run`: both halves of the expert's columns are there;
                // what is gated is this thread's.
                unsafe {
                    for i in 0..2 {
                        let at = (2 * matrix + i) * inner + column;
                        let weights = up.part(at * k..(at + n) * k);
                        let bias = up_bias.map(|bias| &bias[at..at + n]);
                        let to = half(i);
                        linear::columns(self.isa, input, weights, bias, to, 0..n, scratch);
                    }
                    let gated = self.gated(part.clone(), column..column + n);
                    for row in 0..part.len() {
                        let operands = [half(1), half(0)].map(|half| half.row(row).cast_const());
                        gate_stretch(self.isa, gating, operands, gated.row(row), n);
                    }
                }
            }
        }
    }

    /// The second matrix and the sum; threads share the columns, and each goes through the
    /// experts in their order.
    unsafe fn down(
        &self,
        block: Range<usize>,
        pairs: &Pairs<'_>,
        scratch: &mut [f32],
        team: &Team<'_>,
    ) {
        let Experts { down, down_bias, inner, .. } = self.experts;
        let (width, chosen) = (self.output.width, self.routing.chosen);
        let mine = team.part(width, LANES);
        let chunk = self.input.rows.min(CHUNK);
        let (made, scratch) = scratch.split_at_mut(chunk * COLUMNS);
        // SAFETY: as promised to `run`; the columns are this thread's.
        let output =
            |row: usize, column: usize| unsafe { self.output.row(block.start + row).add(column) };
        for row in 0..block.len() {
            // SAFETY: the same.
            unsafe { std::slice::from_raw_parts_mut(output(row, mine.start), mine.len()) }
                .fill(0.0);
        }
        for (matrix, expert) in self.experts.here(self.scores.width).enumerate() {
            let all = pairs.of(expert);
            for start in all.clone().step_by(CHUNK) {
                let part = start..all.end.min(start + CHUNK);
                for column in mine.clone().step_by(COLUMNS) {
                    let n = COLUMNS.min(mine.end - column);
                    let at = matrix * width + column;
                    let weights = down.part(at * inner..(at + n) * inner);
                    let bias = down_bias.map(|bias| &bias[at..at + n]);
                    let (rows, data) = (part.len(), made.as_mut_ptr());
                    let to = View { data, rows, width: n, stride: COLUMNS };
                    // SAFETY: as promised to `run`; all threads are done with what is gated.
                    unsafe {
                        let input = self.gated(part.clone(), 0..inner);
                        linear::columns(self.isa, input, weights, bias, to, 0..n, scratch);
                        for (row, at) in part.clone().enumerate() {
                            let pair = pairs.sorted[at] as usize;
                            let weight = *self.weights().add(pair);
                            let output = output(pair / chosen, column);
                            accumulate(self.isa, weight, to.row(row), output, n);
                        }
                    }
                }
            }
        }
    }
}

/// Sorts pairs by their expert, those of one expert by their row.
fn sort(chosen: &[u32], starts: &mut [u32], sorted: &mut [u32]) {
    starts.fill(0);
    for &expert in chosen {
        starts[expert as usize + 1] += 1;
    }
    for expert in 1..starts.len() {
        starts[expert] += starts[expert - 1];
    }
    for (pair, &expert) in chosen.iter().enumerate() {
        let place = &mut starts[expert as usize];
        sorted[*place as usize] = pair as u32;
        *place += 1;
    }
    // Each start has moved to the next one's place.
    starts.copy_within(0..starts.len() - 1, 1);
    starts[0] = 0;
}

#[cfg(test)]
mod tests;
