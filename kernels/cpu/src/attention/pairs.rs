//! Keys and values each by themselves, as [`crate::KvCache::new`] lays them out.

#![allow(unsafe_code, reason = "threads write disjoint heads of one arena")]
#![allow(clippy::needless_range_loop, reason = "several arrays by one index, all unrolled")]

use super::{Heads, Tile};
use crate::cache::{BLOCK, CacheView};
use crate::lanes::{LANES, Lanes};
use crate::{isa::Kernel, rows::View};
use std::ops::Range;

/// Queries that are taken together.
pub(super) const QUERIES: usize = 6;

/// A tile's whole way.
pub(super) struct Attend<'a> {
    pub(super) query: View,
    pub(super) cache: &'a CacheView,
    pub(super) heads: Heads<'a>,
    pub(super) output: View,
    pub(super) scratch: &'a mut [f32],
    pub(super) tile: &'a Tile<'a, QUERIES>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: as promised to `attend`.
        unsafe {
            match self.tile.count {
                0 => {}
                1 => self.queries::<L, 1>(),
                2 => self.queries::<L, 2>(),
                3 => self.queries::<L, 3>(),
                4 => self.queries::<L, 4>(),
                5 => self.queries::<L, 5>(),
                _ => self.queries::<L, QUERIES>(),
            }
        }
    }
}

impl Attend<'_> {
    /// The whole way of `Q` queries.
    #[inline(always)]
    unsafe fn queries<L: Lanes, const Q: usize>(self) {
        let shape = self.cache.shape;
        let padded = shape.padded;
        // Of the longest, which is the last; no longer than `scratch` counted with.
        let length = self.tile.queries[Q - 1].length;
        let stride = length.next_multiple_of(LANES) + 2 * BLOCK;
        debug_assert!(self.scratch.len() >= Q * (padded + stride));
        let turned = self.scratch.as_mut_ptr();
        // SAFETY: the scratch holds `Q` padded heads and their scores.
        unsafe {
            let scores = turned.add(Q * padded);
            for q in 0..Q {
                let query = self.tile.queries[q];
                let from = self.query.row(query.row).add(query.head * shape.head_width);
                let to = turned.add(q * padded);
                self.heads.turn::<L>(self.tile.reach, query, from, to, shape.head_width);
            }
            if L::MANY_REGISTERS {
                self.scores::<L, Q, 2>(turned, scores, stride);
            } else {
                self.scores::<L, Q, 1>(turned, scores, stride);
            }
            let mut sums = [0.0; Q];
            for q in 0..Q {
                sums[q] = self.heads.weigh::<L>(self.tile.queries[q], scores.add(q * stride));
            }
            let mut first = 0;
            while L::MANY_REGISTERS && first + 4 * LANES <= padded {
                self.values::<L, Q, 4>(scores, stride, sums, first);
                first += 4 * LANES;
            }
            while first < padded {
                self.values::<L, Q, 1>(scores, stride, sums, first);
                first += LANES;
            }
        }
    }

    /// Scores of `Q` queries at all positions that one of them sees, `B` blocks of keys at a time.
    #[inline(always)]
    unsafe fn scores<L: Lanes, const Q: usize, const B: usize>(
        &self,
        turned: *const f32,
        scores: *mut f32,
        stride: usize,
    ) {
        let shape = self.cache.shape;
        let length = self.tile.queries[Q - 1].length;
        let mut position = self.tile.queries[0].first;
        while position < length {
            // A block that is not there is the last one again, written where it already is.
            let mut blocks = [(self.cache.keys.cast_const(), position); B];
            for block in &mut blocks {
                let next = position.min(length - 1);
                let (keys, _, token) = self.cache.block(self.tile.pages, self.tile.key_head, next);
                let begin = next - token;
                // SAFETY: the page is in the cache.
                *block = (unsafe { self.cache.keys.add(keys) }, begin);
                let left = shape.page_tokens - begin % shape.page_tokens;
                position = begin + left.min(BLOCK);
            }
            // SAFETY: blocks hold sixteen tokens of each element; scores have room for a block
            // behind the last position.
            unsafe {
                let mut sums = [[L::splat(0.0); B]; Q];
                for element in 0..shape.head_width {
                    let mut keys = [L::splat(0.0); B];
                    for b in 0..B {
                        keys[b] = L::load(blocks[b].0.add(element * BLOCK));
                    }
                    for q in 0..Q {
                        let query = L::splat(*turned.add(q * shape.padded + element));
                        for b in 0..B {
                            sums[q][b] = keys[b].mul_add(query, sums[q][b]);
                        }
                    }
                }
                for q in 0..Q {
                    for b in 0..B {
                        sums[q][b].store(scores.add(q * stride + blocks[b].1));
                    }
                }
            }
        }
    }

    /// `C` vectors of the result, from element `first` on.
    #[inline(always)]
    unsafe fn values<L: Lanes, const Q: usize, const C: usize>(
        &self,
        scores: *const f32,
        stride: usize,
        sums: [f32; Q],
        first: usize,
    ) {
        let shape = self.cache.shape;
        let queries = &self.tile.queries;
        // What all see together, if anything, is from `begin` to `end`.
        let end = queries[0].length;
        let begin = queries[Q - 1].first.min(end);
        // SAFETY: all positions are in pages of the cache; the heads are in the output.
        unsafe {
            let mut results = [[L::splat(0.0); C]; Q];
            for q in 0..Q - 1 {
                let scores = scores.add(q * stride);
                self.value_by_value(scores, queries[q].first..begin, first, &mut results[q]);
            }
            let mut position = begin;
            while position < end {
                let values = self.value(position).add(first);
                let run = shape.page_tokens - position % shape.page_tokens;
                let run = run.min(end - position);
                for token in 0..run {
                    let value = values.add(token * shape.padded);
                    let mut vectors = [L::splat(0.0); C];
                    for c in 0..C {
                        vectors[c] = L::load(value.add(c * LANES));
                    }
                    for q in 0..Q {
                        let weight = L::splat(*scores.add(q * stride + position + token));
                        for c in 0..C {
                            results[q][c] = vectors[c].mul_add(weight, results[q][c]);
                        }
                    }
                }
                position += run;
            }
            for q in 1..Q {
                let (scores, from) = (scores.add(q * stride), queries[q].first.max(end));
                self.value_by_value(scores, from..queries[q].length, first, &mut results[q]);
            }
            for q in 0..Q {
                let query = self.tile.queries[q];
                let output = self.output.row(query.row).add(query.head * shape.head_width);
                for c in 0..C {
                    let from = first + c * LANES;
                    let n = (shape.head_width - from).min(LANES);
                    results[q][c].div(L::splat(sums[q])).store_part(output.add(from), n);
                }
            }
        }
    }

    /// Adds what one query sees at some positions, of which there may be none.
    #[inline(always)]
    unsafe fn value_by_value<L: Lanes, const C: usize>(
        &self,
        scores: *const f32,
        positions: Range<usize>,
        first: usize,
        result: &mut [L; C],
    ) {
        for position in positions {
            // SAFETY: the position is in a page of the cache.
            unsafe {
                let value = self.value(position).add(first);
                let weight = L::splat(*scores.add(position));
                for c in 0..C {
                    result[c] = L::load(value.add(c * LANES)).mul_add(weight, result[c]);
                }
            }
        }
    }

    /// The value at a position.
    #[inline(always)]
    unsafe fn value(&self, position: usize) -> *const f32 {
        let (_, values, token) = self.cache.block(self.tile.pages, self.tile.key_head, position);
        // SAFETY: the page is in the cache.
        unsafe { self.cache.values.add(values + token * self.cache.shape.padded) }
    }
}
