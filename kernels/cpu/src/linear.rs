//! Rows times a matrix of weights: the kernel that nearly all time is spent in.
//!
//! Every element of the output is one dot product over `k` in the one order: sixteen lanes, each
//! taking every sixteenth element with multiply-adds, the tail filled with zeros, then the tree.
//! A tile computes several rows and columns at once, which changes who shares what is read, never
//! the order of a sum. One row reads the weights as they lie, at the speed of memory. Few rows
//! widen each weight once a tile; many rows widen a panel of columns once and run all rows over
//! it while it is in the cache.

#![allow(unsafe_code, reason = "threads write disjoint columns of one arena")]
#![allow(clippy::needless_range_loop, reason = "several arrays by one index, all unrolled")]

use crate::columns::{Columns, Floats, walk, with_columns};
use crate::lanes::{LANES, Lanes};
use crate::{Isa, Team, Weights, isa::Kernel, rows::View};
use std::ops::Range;

/// Floats of a panel: half of a small second-level cache.
const PANEL: usize = 128 * 1024;

/// From so many rows on, panels pay.
const PANEL_ROWS: usize = 24;

/// How much of `k` is gone through at a time: rows of a tile stay in the first-level cache.
const PART: usize = 768;

/// The most rows and columns of a tile of a panel.
const MOST_ROWS: usize = 6;
const MOST_COLUMNS: usize = 4;

/// Floats of scratch that a thread needs for a matrix with rows of `k`.
pub(crate) fn scratch(rows: usize, k: usize) -> usize {
    if rows < PANEL_ROWS {
        return 0;
    }
    PANEL.max((k.next_multiple_of(LANES) + MOST_ROWS * LANES) * MOST_COLUMNS)
}

/// `output = input · weightsᵀ + bias`; threads share the columns.
///
/// # Safety
/// Shapes as checked; the output is apart from the input; `scratch` as [`scratch`] says.
pub(crate) unsafe fn linear(
    isa: Isa,
    input: View,
    weights: Weights<'_>,
    bias: Option<&[f32]>,
    output: View,
    scratch: &mut [f32],
    team: &Team<'_>,
) {
    let part = team.part(output.width, LANES);
    // SAFETY: as promised by the caller.
    unsafe { columns(isa, input, weights, bias, output, part, scratch) }
}

/// The same for some of the columns, on the calling thread.
///
/// # Safety
/// As of [`linear`].
pub(crate) unsafe fn columns(
    isa: Isa,
    input: View,
    weights: Weights<'_>,
    bias: Option<&[f32]>,
    output: View,
    columns: Range<usize>,
    scratch: &mut [f32],
) {
    if columns.is_empty() {
        return;
    }
    if let Weights::Coded(coded) = weights
        && coded.splits_pair(columns.start)
    {
        // Tiles of several columns begin with the first of a pair.
        let first = columns.start;
        // SAFETY: as promised by the caller.
        unsafe {
            alone(isa, input, weights, bias, output, first..first + 1, scratch);
            return alone(isa, input, weights, bias, output, first + 1..columns.end, scratch);
        }
    }
    // SAFETY: as promised by the caller.
    unsafe { alone(isa, input, weights, bias, output, columns, scratch) }
}

/// The same, where a tile may begin with the first of the columns.
///
/// # Safety
/// As of [`linear`].
unsafe fn alone(
    isa: Isa,
    input: View,
    weights: Weights<'_>,
    bias: Option<&[f32]>,
    output: View,
    columns: Range<usize>,
    scratch: &mut [f32],
) {
    // SAFETY: as promised by the caller.
    unsafe {
        with_columns!(weights, input.width, |weights| isa.run(Linear {
            input,
            weights,
            bias,
            output,
            columns,
            scratch
        }))
    }
}

/// `output = input · weightsᵀ` within another kernel: all columns, fewer than [`PANEL_ROWS`] rows.
///
/// # Safety
/// As of [`linear`]; the machine has the instructions of `L`.
#[inline(always)]
pub(crate) unsafe fn products<L: Lanes>(input: View, weights: *const f32, output: View) {
    debug_assert!(input.rows < PANEL_ROWS);
    let columns = 0..output.width;
    let weights = Floats { first: weights, k: input.width };
    let products = Linear { input, weights, bias: None, output, columns, scratch: &mut [] };
    // SAFETY: as promised by the caller; rows so few need no scratch.
    unsafe { products.run::<L>() }
}

/// One thread's columns.
struct Linear<'a, W> {
    input: View,
    weights: W,
    bias: Option<&'a [f32]>,
    output: View,
    columns: Range<usize>,
    scratch: &'a mut [f32],
}

impl<W: Columns> Kernel for Linear<'_, W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: as promised to `linear`.
        unsafe {
            if self.input.rows == 1 {
                match L::LONE_COLUMNS {
                    8 => self.direct::<L, 8>(),
                    _ => self.direct::<L, 4>(),
                }
            } else if self.input.rows < PANEL_ROWS {
                match L::TILE_COLUMNS {
                    4 => self.direct::<L, 4>(),
                    _ => self.direct::<L, 1>(),
                }
            } else {
                match L::TILE_COLUMNS {
                    4 => self.panels::<L, 4>(),
                    _ => self.panels::<L, 1>(),
                }
            }
        }
    }
}

impl<W: Columns> Linear<'_, W> {
    /// Weights read where they lie, `C` columns at a time.
    #[inline(always)]
    unsafe fn direct<L: Lanes, const C: usize>(&self) {
        let Range { start: mut column, end } = self.columns;
        // SAFETY: the columns are in the weights.
        unsafe {
            while column + C <= end {
                self.rows::<L, C>(column);
                column += C;
            }
            self.rest::<L>(column);
        }
    }

    /// Weights widened into panels, `C` columns at a time. Where the rows of a tile are too long
    /// to stay in the first-level cache, `k` is gone through in parts, and the lanes of each
    /// sum wait in the scratch between two parts.
    #[inline(always)]
    unsafe fn panels<L: Lanes, const C: usize>(self) {
        let k = self.input.width;
        let padded = k.next_multiple_of(LANES);
        let waiting = L::TILE_ROWS * LANES;
        let panel = (self.scratch.len() / (padded + waiting) / C * C).max(C);
        let part = k.div_ceil(k.div_ceil(PART)).next_multiple_of(LANES);
        let whole = self.columns.end - self.columns.len() % C;
        let widened = self.scratch.as_mut_ptr();
        // SAFETY: the columns are in the weights; the scratch holds `panel` columns and lanes.
        unsafe {
            let lanes = widened.add(panel * padded);
            for start in self.columns.clone().step_by(panel) {
                let end = (start + panel).min(whole);
                for column in (start..end).step_by(C) {
                    let to = widened.add((column - start) * padded);
                    widen::<L, W, C>(self.weights, column, k, to);
                }
                let mut row = 0;
                while row < self.input.rows {
                    let rows = share(self.input.rows - row, L::TILE_ROWS);
                    for from in (0..k).step_by(part) {
                        let to = (from + part).min(k);
                        for column in (start..end).step_by(C) {
                            let first = widened.add((column - start) * padded);
                            let lanes = lanes.add((column - start) * waiting);
                            let place = Place { row, column, from, to, lanes };
                            self.tiles::<L, _, C>(Panel { first }, place, rows);
                        }
                    }
                    row += rows;
                }
            }
            self.rest::<L>(whole);
        }
    }

    /// Columns that fill no tile.
    #[inline(always)]
    unsafe fn rest<L: Lanes>(&self, first: usize) {
        for column in first..self.columns.end {
            // SAFETY: the columns are in the weights.
            unsafe { self.rows::<L, 1>(column) }
        }
    }

    /// All rows of some columns, read where they lie.
    #[inline(always)]
    unsafe fn rows<L: Lanes, const C: usize>(&self, column: usize) {
        let mut row = 0;
        while row < self.input.rows {
            let rows = share(self.input.rows - row, L::TILE_ROWS);
            // SAFETY: as promised to `linear`.
            unsafe {
                let (to, lanes) = (self.input.width, std::ptr::null_mut());
                let place = Place { row, column, from: 0, to, lanes };
                self.tiles::<L, W, C>(self.weights, place, rows);
            }
            row += rows;
        }
    }

    /// Some rows of some columns, by the tile that fits.
    #[inline(always)]
    unsafe fn tiles<L: Lanes, T: Columns, const C: usize>(
        &self,
        weights: T,
        place: Place,
        rows: usize,
    ) {
        // SAFETY: as promised to `linear`. Tiles of more rows than there ever are, are not made.
        unsafe {
            match rows {
                1 => self.tile::<L, T, 1, C>(weights, place),
                2 => self.tile::<L, T, 2, C>(weights, place),
                3 if L::TILE_ROWS >= 3 => self.tile::<L, T, 3, C>(weights, place),
                4 if L::TILE_ROWS >= 4 => self.tile::<L, T, 4, C>(weights, place),
                5 if L::TILE_ROWS >= 5 => self.tile::<L, T, 5, C>(weights, place),
                6 if L::TILE_ROWS >= 6 => self.tile::<L, T, 6, C>(weights, place),
                _ => unreachable!("a tile of {rows} rows"),
            }
        }
    }

    /// `R` rows of `C` columns: one accumulator each.
    #[inline(always)]
    unsafe fn tile<L: Lanes, T: Columns, const R: usize, const C: usize>(
        &self,
        weights: T,
        place: Place,
    ) {
        let Place { row, column, from, to, lanes } = place;
        // SAFETY: rows, columns and `k` elements of each are there; and lanes, unless all of
        // `k` is gone through at once.
        unsafe {
            let input = self.input.row(row).cast_const();
            let stride = self.input.stride;
            let mut sums = [[L::splat(0.0); C]; R];
            if from > 0 {
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c] = L::load(lanes.add((r * C + c) * LANES));
                    }
                }
            }
            walk!(<L, C>, weights, column, from, to, |i, n, w| {
                for r in 0..R {
                    let x = input.add(r * stride + i);
                    let x = if n == LANES { L::load(x) } else { L::load_part(x, n) };
                    for c in 0..C {
                        sums[r][c] = x.mul_add(w[c], sums[r][c]);
                    }
                }
            });
            if to < self.input.width {
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c].store(lanes.add((r * C + c) * LANES));
                    }
                }
                return;
            }
            for r in 0..R {
                let mut row_sums = [0.0; C];
                for c in (0..C - C % 4).step_by(4) {
                    let four = [sums[r][c], sums[r][c + 1], sums[r][c + 2], sums[r][c + 3]];
                    L::sum_four(four, row_sums.as_mut_ptr().add(c));
                }
                for c in C - C % 4..C {
                    row_sums[c] = sums[r][c].sum();
                }
                if let Some(bias) = self.bias {
                    for (sum, bias) in row_sums.iter_mut().zip(&bias[column..]) {
                        *sum += bias;
                    }
                }
                let output = self.output.row(row + r).add(column);
                output.cast::<[f32; C]>().write_unaligned(row_sums);
            }
        }
    }
}

/// Where a tile is, and which part of `k` it takes.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    column: usize,
    from: usize,
    to: usize,
    /// Where its lanes wait between two parts.
    lanes: *mut f32,
}

/// How many of `left` rows the next tile takes: as even as can be, `most` at most.
#[inline(always)]
fn share(left: usize, most: usize) -> usize {
    left.div_ceil(left.div_ceil(most))
}

/// Columns of a panel: sixteen elements of each in turn, filled up with zeros. They have no
/// numbers: the first is that of the tile.
#[derive(Clone, Copy)]
struct Panel {
    first: *const f32,
}

impl Columns for Panel {
    type Held<L: Lanes, const C: usize> = ();

    #[inline(always)]
    fn stretch(self) -> usize {
        usize::MAX
    }

    #[inline(always)]
    unsafe fn hold<L: Lanes, const C: usize>(self, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn load<L: Lanes, const C: usize>(self, (): &(), _: usize, i: usize) -> [L; C] {
        // SAFETY: as promised by the caller.
        unsafe {
            let mut weights = [L::splat(0.0); C];
            for c in 0..C {
                weights[c] = L::load(self.first.add(i * C + c * LANES));
            }
            weights
        }
    }

    #[inline(always)]
    unsafe fn load_part<L: Lanes, const C: usize>(
        self,
        (): &(),
        column: usize,
        i: usize,
        _: usize,
    ) -> [L; C] {
        // SAFETY: the panel is filled up.
        unsafe { self.load(&(), column, i) }
    }
}

/// Makes `C` columns of a [`Panel`].
#[inline(always)]
unsafe fn widen<L: Lanes, W: Columns, const C: usize>(
    weights: W,
    column: usize,
    k: usize,
    to: *mut f32,
) {
    // SAFETY: `C` columns of `k` elements are there, and room for them.
    unsafe {
        walk!(<L, C>, weights, column, 0, k, |i, _n, w| {
            for c in 0..C {
                w[c].store(to.add(i * C + c * LANES));
            }
        });
    }
}

#[cfg(test)]
mod tests;
